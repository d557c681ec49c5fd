"""From samples to padded tensors: a sample is the list of segments of one context, as the server would feed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from r3core.model.vit import grid_ids, patchify
from training.net import NO_SEGMENT, Layout, forward

_IGNORE: Final = -100

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Text:
    """A text segment with its markers; `learn` asks for its ids to be predicted."""

    ids: list[int]
    learn: bool = False


@dataclass(frozen=True)
class Eye:
    """A picture as the ViT sees it: pixels float32 [3, h, w] after the checkpoint's transform."""

    pixels: Floats


@dataclass(frozen=True)
class Clean:
    """A picture as latent tokens [n, d]."""

    tokens: Floats


@dataclass(frozen=True)
class Noise:
    """The picture to draw, [n, d], and how much each token counts; it does not see the segments numbered `unseen`.

    `position` is its rope position: that of the context it sees.
    """

    tokens: Floats
    weight: Floats
    position: int
    unseen: frozenset[int] = frozenset()


Segment = Text | Eye | Clean | Noise
Sample = Sequence[Segment]


@dataclass
class _Rows:
    """The rows of one expert's part of a batch, as columns; one list a sample."""

    segment: list[list[int]] = field(default_factory=list)
    index: list[list[int]] = field(default_factory=list)
    causal: list[list[bool]] = field(default_factory=list)
    noise: list[list[bool]] = field(default_factory=list)
    unseen: list[list[bool]] = field(default_factory=list)
    position: list[list[int]] = field(default_factory=list)

    def open(self) -> None:
        for column in (self.segment, self.index, self.causal, self.noise, self.unseen, self.position):
            column.append([])

    def add(self, count: int, *, segment: int, first: int, kind: Segment, unseen: bool, position: int) -> None:
        text = isinstance(kind, Text)
        self.segment[-1] += [segment] * count
        self.index[-1] += range(first, first + count)
        self.causal[-1] += [text] * count
        self.noise[-1] += [isinstance(kind, Noise)] * count
        self.unseen[-1] += [unseen] * count
        self.position[-1] += range(position, position + count) if text else [position] * count


@dataclass(frozen=True)
class Collated:
    """A batch of B samples: U understanding rows and G latent rows each, padded."""

    layout: Layout
    ids: Tensor  # [B, U]; rows of pictures hold a marker's id and are overwritten
    targets: Tensor  # [B, U]: the id to predict at a row, or -100
    pixels: Tensor | None  # [pictures, 3, h, w]
    eyes: tuple[tuple[int, int], ...]  # (sample, first row) of each picture's patches
    latents: Tensor | None  # [B, G, d]: clean latents, or the picture to draw
    drawn: Tensor | None  # [B, G]: which rows are to be drawn
    weight: Tensor | None  # [B, G]

    def to(self, device: torch.device) -> Collated:
        """The same on `device`."""
        return replace(
            self,
            layout=self.layout.to(device),
            ids=self.ids.to(device),
            targets=self.targets.to(device),
            pixels=_on(self.pixels, device),
            latents=_on(self.latents, device),
            drawn=_on(self.drawn, device),
            weight=_on(self.weight, device),
        )

    @property
    def learnt(self) -> int:
        """How many ids are to be predicted."""
        return int((self.targets != _IGNORE).sum())

    @property
    def drawn_weight(self) -> float:
        """The weights of all rows that are to be drawn."""
        return 0.0 if self.weight is None or self.drawn is None else float(self.weight[self.drawn].sum())


def rows(sample: Sample) -> int:
    """How long a sample is, pictures counted alike: what a batch is sorted by."""
    return sum(len(segment.ids) if isinstance(segment, Text) else 12 for segment in sample)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, patches: int) -> Collated:
    """Lay samples out; `patches` is the number of ViT tokens of a picture."""
    und, gen = _Rows(), _Rows()
    ids: list[list[int]] = []
    targets: list[list[int]] = []
    pixels: list[Floats] = []
    eyes: list[tuple[int, int]] = []
    latents: list[list[Floats]] = []
    weights: list[list[Floats]] = []
    markers = [tokenizer.vision_start, tokenizer.vision_end]
    for number, sample in enumerate(samples):
        und.open()
        gen.open()
        ids.append([])
        targets.append([])
        latents.append([])
        weights.append([])
        position = 0
        hidden = next((s.unseen for s in sample if isinstance(s, Noise)), frozenset())
        for place, segment in enumerate(sample):
            at = segment.position if isinstance(segment, Noise) else position
            about = {"segment": place, "kind": segment, "unseen": place in hidden, "position": at}
            if isinstance(segment, Text):
                und.add(len(segment.ids), first=0, **about)  # type: ignore[arg-type]
                ids[-1] += segment.ids
                targets[-1] += [*segment.ids[1:], _IGNORE] if segment.learn else [_IGNORE] * len(segment.ids)
                position += len(segment.ids)
                continue
            position += 1
            between = patches if isinstance(segment, Eye) else 0
            if isinstance(segment, Eye):
                eyes.append((number, len(ids[-1]) + 1))
                pixels.append(segment.pixels)
            else:
                gen.add(len(segment.tokens), first=2, **about)  # type: ignore[arg-type]
                latents[-1].append(segment.tokens)
                weights[-1].append(
                    segment.weight if isinstance(segment, Noise) else np.zeros(len(segment.tokens), np.float32)
                )
            und.add(2 + between, first=0, **about)  # type: ignore[arg-type]
            ids[-1] += [markers[0], *[markers[0]] * between, markers[1]]
            targets[-1] += [_IGNORE] * (2 + between)
    layout = Layout(
        segment=_both(und.segment, gen.segment, NO_SEGMENT),
        index=_both(und.index, gen.index, 0),
        causal=_both(und.causal, gen.causal, 0).bool(),
        noise=_both(und.noise, gen.noise, 0).bool(),
        unseen=_both(und.unseen, gen.unseen, 0).bool(),
        position=_both(und.position, gen.position, 0),
    )
    has_latents = any(latents)
    return Collated(
        layout=layout,
        ids=_padded(ids, 0),
        targets=_padded(targets, _IGNORE),
        pixels=torch.from_numpy(np.stack(pixels)) if pixels else None,
        eyes=tuple(eyes),
        latents=_stacked(latents) if has_latents else None,
        drawn=_padded(gen.noise, 0).bool() if has_latents else None,
        weight=_stacked(weights)[..., 0] if has_latents else None,
    )


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropy of the learnt texts and weighted mean squared error of the velocity; None where there is
    none.
    """

    text: Tensor | None
    flow: Tensor | None


def losses(bagel: Bagel, batch: Collated, times: Tensor, noise: Tensor | None) -> Losses:
    """The losses of a batch at flow times [B] and with noise [B, G, d] for the rows that are drawn."""
    und, gen, velocity = embed(bagel, batch, times, noise)
    und, gen = forward(bagel, und, gen, batch.layout)
    text = flow = None
    learnt = batch.targets != _IGNORE
    if bool(learnt.any()):
        text = functional.cross_entropy(bagel.logits(und[learnt]), batch.targets[learnt])
    if gen is not None and batch.drawn is not None and bool(batch.drawn.any()):
        assert velocity is not None
        assert batch.weight is not None
        error = (bagel.velocity(gen[batch.drawn]) - velocity[batch.drawn]).square().mean(-1)
        weight = batch.weight[batch.drawn]
        flow = (error * weight).sum() / weight.sum()
    return Losses(text, flow)


def embed(
    bagel: Bagel, batch: Collated, times: Tensor, noise: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows of both experts and the velocity to be learnt, noise - latent."""
    und = bagel.embed_text(batch.ids)
    if batch.pixels is not None:
        und = _with_eyes(bagel, und, batch)
    if batch.latents is None:
        return und, None, None
    assert batch.drawn is not None
    t = times[:, None] * batch.drawn
    x, velocity = batch.latents, None
    if noise is not None:
        x = torch.where(batch.drawn[..., None], (1 - t)[..., None] * x + t[..., None] * noise, x)
        velocity = noise - batch.latents
    count, width = x.shape[1], x.shape[2]
    side = bagel.config.latent_side
    grid = side * side  # every picture of the small world fills its grid
    places = torch.arange(count, device=x.device) % grid
    rows = bagel.embed_latents(x.reshape(-1, width), t.reshape(-1), places.repeat(x.shape[0]))
    return und, rows.view(*x.shape[:2], -1), velocity


def _with_eyes(bagel: Bagel, und: Tensor, batch: Collated) -> Tensor:
    assert batch.pixels is not None
    patch, side = bagel.config.vit.patch, bagel.config.vit.side
    rows, columns = batch.pixels.shape[2] // patch, batch.pixels.shape[3] // patch
    learned = grid_ids(rows, columns, side, und.device)
    fixed = grid_ids(rows, columns, bagel.config.vit_side, und.device)
    patches = torch.stack([patchify(p, patch) for p in batch.pixels])
    features = look(bagel, patches, learned)
    seen = bagel.embed_vit(features, fixed)
    sample, first = torch.tensor(batch.eyes, device=und.device).unsqueeze(-1).unbind(1)
    row = first + torch.arange(rows * columns, device=und.device)
    return und.index_put((sample, row), seen)


def look(bagel: Bagel, patches: Tensor, ids: Tensor) -> Tensor:
    """The ViT over pictures of one size: patches [B, n, d] -> [B, n, Hv]; r3core's `ViT.forward` sees one at a time."""
    model = bagel.vit_model.vision_model
    embeddings = model.embeddings
    embedded = embeddings.patch_embedding(patches.to(bagel.dtype)) + embeddings.position_embedding(ids)
    out: Tensor = model.post_layernorm(model.encoder(inputs_embeds=embedded).last_hidden_state)
    return out


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _both(und: Sequence[Sequence[int]], gen: Sequence[Sequence[int]], fill: int) -> Tensor:
    return torch.cat((_padded(und, fill), _padded(gen, fill)), dim=1)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(len(r) for r in rows)
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return torch.from_numpy(out)


def _stacked(parts: Sequence[Sequence[Floats]]) -> Tensor:
    """[B, G, d] of lists of [n, d] (or [n]) blocks, zeros behind the shorter ones."""
    rows = [np.concatenate([p if p.ndim == 2 else p[:, None] for p in blocks]) if blocks else None for blocks in parts]
    width = next(r.shape[1] for r in rows if r is not None)
    longest = max(0 if r is None else len(r) for r in rows)
    out = np.zeros((len(rows), longest, width), dtype=np.float32)
    for number, row in enumerate(rows):
        if row is not None:
            out[number, : len(row)] = row
    return torch.from_numpy(out)
