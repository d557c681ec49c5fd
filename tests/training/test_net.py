"""The forward that trains is the forward that serves."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from r3core.engine.packing import Cursor, Feed, pack
from r3core.model.attention import SdpaAttention
from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from r3core.model.vit import grid_ids, patchify
from training.batches import Clean, Eye, Noise, Sample, Text, collate, embed
from training.net import forward
from training.small import VIT_PATCHES, config, untrained

TOKENIZER = Path(__file__).parents[2] / "tests" / "golden" / "checkpoint" / "tokenizer.json"
TIME = 0.7


@pytest.fixture(scope="module")
def bagel() -> Bagel:
    model = untrained(config(704), seed=3, dtype=torch.float32)
    model.llm2vae.weight.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TOKENIZER)


def samples(tokenizer: Tokenizer) -> list[list[Text | Eye | Clean | Noise]]:
    draws = np.random.default_rng(0)

    def latent() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return draws.standard_normal((9, 64)).astype(np.float32)

    def text(words: str) -> Text:
        return Text(tokenizer.segment(words), learn=True)

    eye = Eye(draws.uniform(-1, 1, (3, 84, 84)).astype(np.float32))
    ones = np.ones(9, np.float32)
    prompt, plan, order = text("a red circle"), text("I will draw a red circle."), text("Add a star.")
    return [
        [text("system"), prompt, plan, Noise(latent(), ones, sum(len(t.ids) for t in (text("system"), prompt, plan)))],
        [text("system"), prompt, plan, Noise(latent(), ones, len(text("system").ids), frozenset({1, 2}))],
        [Noise(latent(), ones, 0)],
        [text("system"), eye, prompt, plan],
        [Clean(latent()), eye, order, Noise(latent(), ones, 2 + len(order.ids))],
        [Clean(latent()), eye, order, Noise(latent(), ones, 2, frozenset({2}))],
    ]


def served(bagel: Bagel, tokenizer: Tokenizer, sample: Sample) -> tuple[list[Tensor], Tensor | None]:
    """Hidden rows of every text, and the velocity of the noisy block, by the engine's packing and one forward each."""
    cache, at, texts, velocity = bagel.new_cache(512), Cursor(0), [], None
    markers = bagel.embed_text(torch.tensor([tokenizer.vision_start, tokenizer.vision_end]))
    places = grid_ids(3, 3, 3)
    hidden = next((s.unseen for s in sample if isinstance(s, Noise)), frozenset())
    for number, segment in enumerate(sample):
        if number in hidden:
            continue
        match segment:
            case Text(ids):
                feed = Feed(at, bagel.embed_text(torch.tensor(ids)), causal=True)
            case Eye(pixels):
                ids_ = grid_ids(6, 6, 6)
                rows = bagel.embed_vit(bagel.vit_model(patchify(torch.from_numpy(pixels), 14), ids_), ids_)
                feed = Feed(at, torch.cat((markers[:1], rows, markers[1:])))
            case Clean(tokens):
                feed = Feed(at, markers, bagel.embed_latents(torch.from_numpy(tokens), torch.zeros(1), places))
            case Noise(tokens):
                rows = bagel.embed_latents(torch.from_numpy(tokens), torch.tensor([TIME]), places)
                feed = Feed(at, markers, rows, stored=False)
        packed = pack([feed])
        out = bagel(packed.hidden, packed.rows, packed.positions, cache, packed.packing, SdpaAttention())
        if isinstance(segment, Text):
            texts.append(out)
        if isinstance(segment, Noise):
            assert segment.position == at.position
            velocity = bagel.velocity(out[packed.rows.und :])
        else:
            at = at.after(feed)
    return texts, velocity


def seen_rows(sample: Sequence[object], hidden: frozenset[int]) -> list[tuple[int, int]]:
    """(first row, rows) of every text that the noisy block sees, among the understanding rows."""
    spans, first = [], 0
    for number, segment in enumerate(sample):
        rows = len(segment.ids) if isinstance(segment, Text) else 2 + (VIT_PATCHES if isinstance(segment, Eye) else 0)
        if isinstance(segment, Text) and number not in hidden:
            spans.append((first, rows))
        first += rows
    return spans


def test_a_padded_batch_gives_what_the_engine_gives_for_each_sample_alone(bagel: Bagel, tokenizer: Tokenizer) -> None:
    batch = samples(tokenizer)
    collated = collate(batch, tokenizer, VIT_PATCHES)
    engines = deepcopy(bagel)  # what is served is trained no more
    engines.ready()
    with torch.inference_mode():
        engines.fuse()
        und, gen, _ = embed(bagel, collated, torch.full((len(batch),), TIME), None)
        und, gen = forward(bagel, und, gen, collated.layout)
        assert gen is not None
        assert collated.drawn is not None
        for number, sample in enumerate(batch):
            texts, velocity = served(engines, tokenizer, sample)
            hidden = next((s.unseen for s in sample if isinstance(s, Noise)), frozenset())
            for (first, rows), expected in zip(seen_rows(sample, hidden), texts, strict=True):
                torch.testing.assert_close(und[number, first : first + rows], expected, atol=2e-4, rtol=1e-4)
            if velocity is not None:
                own = gen[number][collated.drawn[number]]
                torch.testing.assert_close(bagel.velocity(own), velocity, atol=2e-4, rtol=1e-4)


def test_gradients_reach_every_weight(bagel: Bagel, tokenizer: Tokenizer) -> None:
    from training.batches import losses

    batch = collate(samples(tokenizer), tokenizer, VIT_PATCHES)
    bagel.requires_grad_(True)
    try:
        assert batch.latents is not None
        found = losses(bagel, batch, torch.full((6,), 0.5), torch.randn_like(batch.latents))
        assert found.text is not None
        assert found.flow is not None
        torch.autograd.backward(found.text + found.flow)
        without = [name for name, p in bagel.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert without == []
    finally:
        bagel.requires_grad_(False)
        bagel.zero_grad()
