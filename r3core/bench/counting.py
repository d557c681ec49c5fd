"""The model's arithmetic, counted from its sizes: operations, and the bytes of weights and K/V that must be read.

    count = Counter(config, dtype)
    count.forward(text(past=200, rows=1, logits=1)).gflop      one decoded token

A multiply-add is two operations. Linear layers are counted row by row for the expert that the row belongs to, attention
by the pairs of query and key that see each other, the VAE by running its module without numbers. Norms, activations and
embeddings are left out, and what a forward writes and reads again: some percent of either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from r3core.model.bagel import ModelConfig
from r3core.model.vae import VAEConfig, build
from r3core.model.vit import ViTConfig

Size = tuple[int, int]
"""Width and height in pixels."""

MARKERS: Final = 2  # around a picture
_SINUSOIDS: Final = 256
_COLOURS: Final = 3


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes that are read."""

    flop: float = 0.0
    nbytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.nbytes + other.nbytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flop * times, self.nbytes * times)

    @property
    def gflop(self) -> float:
        """In thousand millions."""
        return self.flop / 1e9

    @property
    def gbytes(self) -> float:
        """In thousand millions."""
        return self.nbytes / 1e9


@dataclass(frozen=True)
class Forward:
    """What one forward of the decoder takes in: rows of each expert, pairs of query and key that see each other, cache
    rows that are read, and rows whose logits are wanted.
    """

    und: int = 0
    gen: int = 0
    pairs: int = 0
    keys: int = 0
    logits: int = 0

    def __add__(self, other: Forward) -> Forward:
        return Forward(
            self.und + other.und,
            self.gen + other.gen,
            self.pairs + other.pairs,
            self.keys + other.keys,
            self.logits + other.logits,
        )


def text(past: int, rows: int, logits: int = 0) -> Forward:
    """Rows of a text after `past` others, each of which sees those before it."""
    return Forward(und=rows, pairs=rows * past + rows * (rows + 1) // 2, keys=past, logits=logits)


def seen(past: int, patches: int) -> Forward:
    """A picture as the eye sees it, whole, with its markers."""
    rows = patches + MARKERS
    return Forward(und=rows, pairs=rows * (past + rows), keys=past)


def drawn(past: int, latents: int) -> Forward:
    """A picture as latents, clean or noisy, with its markers: one branch of a denoising step, or a context."""
    rows = latents + MARKERS
    return Forward(und=MARKERS, gen=latents, pairs=rows * (past + rows), keys=past)


class Counter:
    """Counts for one model, whose numbers take `width` bytes each; the VAE's weights are float32 whatever they are."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.config = config
        self._width = torch.finfo(dtype).bits // 8

    @property
    def expert_weights(self) -> int:
        """Parameters of one expert in all layers, as far as they multiply."""
        d = self.config.decoder
        return d.layers * (2 * d.hidden**2 + 2 * d.hidden * d.kv_heads * d.head_dim + 3 * d.hidden * d.intermediate)

    def forward(self, taken: Forward) -> Work:
        """One forward of the decoder, the head where logits are wanted."""
        d = self.config.decoder
        head = d.vocab * d.hidden
        flop = 2 * self.expert_weights * (taken.und + taken.gen)
        flop += 4 * taken.pairs * d.hidden * d.layers + 2 * head * taken.logits
        weights = self.expert_weights * ((taken.und > 0) + (taken.gen > 0)) + head * (taken.logits > 0)
        cached = 2 * d.layers * d.kv_heads * d.head_dim * taken.keys
        return Work(flop, (weights + cached) * self._width)

    def written(self, past: int, tokens: int) -> Work:
        """`tokens` single tokens, one after another, the first after `past` rows.

        Where a text repeats what was said before, its tokens can be had several at a time, for less than this.
        """
        return total(self.forward(text(past + i, 1, logits=1)) for i in range(tokens))

    def denoise(self, pictures: Iterable[tuple[int, tuple[int, ...]]]) -> Work:
        """One step of pictures together: of each its latents, and for each branch the rows that it sees."""
        d, channels = self.config.decoder, self.config.token_channels
        taken, flop = Forward(), 0
        for latents, contexts in pictures:
            taken = sum((drawn(past, latents) for past in contexts), taken)
            flop += 2 * d.hidden * channels * latents * (1 + len(contexts))  # in once, out for each branch
            flop += 2 * d.hidden * (_SINUSOIDS + d.hidden)
        return self.forward(taken) + Work(flop)

    def look(self, patches: int) -> Work:
        """The ViT over one picture, and the connector."""
        vit, hidden = self.config.vit, self.config.decoder.hidden
        each = _vit_weights(vit) + vit.hidden * hidden + hidden**2
        return Work(2 * each * patches + 4 * patches**2 * vit.hidden * vit.layers, each * self._width)

    def encode(self, size: Size) -> Work:
        """A picture through the VAE."""
        return _vae_work(self.config.vae, size, to_pixels=False)

    def decode(self, size: Size) -> Work:
        """A latent through the VAE to a picture of this size."""
        return _vae_work(self.config.vae, size, to_pixels=True)


def total(works: Iterable[Work]) -> Work:
    """All of them together."""
    return sum(works, Work())


def _vit_weights(vit: ViTConfig) -> int:
    layer = 4 * vit.hidden**2 + 2 * vit.hidden * vit.intermediate
    return vit.patch**2 * _COLOURS * vit.hidden + vit.layers * layer


@lru_cache(maxsize=64)
def _vae_work(config: VAEConfig, size: Size, *, to_pixels: bool) -> Work:
    """Run on the meta device, where shapes are all there is."""
    with torch.device("meta"), torch.no_grad():
        module = build(config)
        half = module.decoder if to_pixels else module.encoder
        width, height = size
        side = config.downsample
        shape = (config.latent_channels, height // side, width // side) if to_pixels else (_COLOURS, height, width)
        with FlopCounterMode(display=False) as counted:
            half(torch.empty(1, *shape))
    return Work(counted.get_total_flops(), 4 * sum(p.numel() for p in half.parameters()))
