"""Lessons: samples of every task as the server would feed them, from pools of rendered and of the model's own pictures.

Nothing here is used by a served model; the parser and the oracle label what it learns from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r3core import prompts
from r3core.model import flow, vae
from r3core.model.bagel import Bagel
from r3core.model.image_processing import preprocess
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE
from r3core.schedule import is_guided, timesteps
from r3core.types import ImageSampling
from training.batches import Clean, Collated, Eye, Floats, Noise, Sample, Text, collate, embed
from training.held_out import check_pictures, check_prompts, training_prompt
from training.language import match_question
from training.net import forward
from training.parse import parse
from training.progress import Report
from training.render import render, repaint
from training.sampler import Pair, Sampler, relabel
from training.small import TRANSFORMS, VIT_PATCHES
from training.spec import Spec, satisfies
from training.world import Scene

# How the model is served, and so how it draws what it learns from: 16 Euler steps.
SERVED_DRAW: Final = ImageSampling(17, 2.5, 1.0, (0.0, 1.0), "global", 0.0, 1.5)
SERVED_EDIT: Final = ImageSampling(17, 2.0, 1.0, (0.0, 1.0), "global", 0.0, 1.5)

_ENCODE_BATCH: Final = 64
_DRAW_BATCH: Final = 100
_CHANGED_WEIGHT: Final = 4.0
_PATCH: Final = 4


@dataclass(frozen=True)
class Picture:
    """A picture with its latent tokens [9, d]."""

    pixels: NDArray[np.uint8]
    tokens: Floats


@dataclass(frozen=True)
class EditLesson:
    """A picture, an instruction, and the tokens of what it should become."""

    source: Picture
    instruction: str
    target: Floats


@dataclass(frozen=True)
class Own:
    """How often the model's own pictures were right: at once, and after the right instruction was carried out."""

    right_at_once: float
    right_after: float


class Teacher:
    """Makes lessons on one rank."""

    vit_patches = VIT_PATCHES

    def __init__(self, tokenizer: Tokenizer, painter: VAE, seed: str, pool: int) -> None:
        self._tokenizer, self._vae = tokenizer, painter
        self._device = next(painter.parameters()).device
        self._rng = Random(seed)
        self._sampler = Sampler(seed)
        self._pool = pool
        self._drawings: list[tuple[Spec, str, Floats]] = []  # spec, plan, tokens
        self._pairs: list[tuple[Pair, EditLesson | None, Picture]] = []
        self._edits: list[EditLesson] = []
        self._own: list[tuple[Pair, EditLesson | None, Picture]] = []
        self._next = 0
        self._systems = [tokenizer.segment(s) for s in (prompts.GENERATE_SYSTEM, prompts.REFLECT_SYSTEM)]

    def fill(self, report: Report) -> None:
        """Fill the pools; minutes of encoding."""
        for first in range(0, self._pool, _ENCODE_BATCH):
            count = min(_ENCODE_BATCH, self._pool - first)
            self._add(count)
            report("pools", first + count, self._pool)

    def refresh(self, count: int = 2) -> None:
        """Put a few new samples in the place of the oldest."""
        drawings, pairs, edits = self._drawings, self._pairs, self._edits
        del drawings[:count], pairs[:count], edits[: count // 2]
        self._add(count)

    def draw_lessons(self, count: int) -> list[Sample]:
        """To plan and to draw: a tenth without the text, for guidance, and a tenth without a plan."""
        chosen = self._rng.choices(self._drawings, k=count)
        return [self._draw_lesson(spec, plan, tokens) for spec, plan, tokens in chosen]

    def look_lessons(self, count: int) -> list[Sample]:
        """To reflect for the most part, and to describe and to judge."""
        return [self._look_lesson() for _ in range(count)]

    def edit_lessons(self, count: int) -> list[Sample]:
        """To carry out an instruction on a picture."""
        return [self._edit_lesson() for _ in range(count)]

    def learn_from_own_pictures(self, bagel: Bagel, count: int) -> Own:
        """Draw, read what came of it, carry out the right edits, read again; all of it becomes lessons."""
        bagel.eval()
        asked = [self._sampler.drawing() for _ in range(count)]
        samples = [self._drawn_from(d.prompt, d.reason) for d in asked]
        first = self._draw(bagel, samples, SERVED_DRAW)
        scenes = parse(first)
        right = [satisfies(d.spec, s) for d, s in zip(asked, scenes, strict=True)]
        pairs = self._own_pairs([d.prompt for d in asked], first, scenes)
        wrong = [(p, lesson) for p, lesson, _ in pairs if lesson is not None]
        edited = self._draw(bagel, [self._edited_from(lesson) for _, lesson in wrong], SERVED_EDIT)
        after = parse(edited) if wrong else []
        mended = [satisfies(p.spec, s) for (p, _), s in zip(wrong, after, strict=True)]
        more = self._own_pairs([p.prompt for p, _ in wrong], edited, after)
        self._own = [*self._own, *pairs, *more][-6000:]
        return Own(float(np.mean(right)), float(np.mean(mended)) if mended else 1.0)

    # --- lessons

    def _draw_lesson(self, spec: Spec, plan: str, tokens: Floats) -> Sample:
        prompt = training_prompt(spec, self._rng)
        how = self._rng.random()
        ones = np.ones(len(tokens), np.float32)
        if how < 0.1:
            text = Text(self._tokenizer.segment(prompt))
            hidden = frozenset({0}) if how < 0.02 else frozenset()
            return [text, Noise(tokens, ones, 0 if hidden else len(text.ids), hidden)]
        context = self._context(prompt, plan)
        if how < 0.2:
            return [*context, Noise(tokens, ones, len(self._systems[0]), frozenset({1, 2}))]
        return [*context, Noise(tokens, ones, sum(len(s.ids) for s in context))]

    def _context(self, prompt: str, plan: str) -> list[Text]:
        segment = self._tokenizer.segment
        return [Text(self._systems[0]), Text(segment(prompt)), Text(segment(plan), learn=True)]

    def _look_lesson(self) -> Sample:
        how = self._rng.random()
        segment = self._tokenizer.segment
        if how < 0.1:
            described = self._sampler.description()
            eye = self._eye(render([described.scene])[0])
            return [eye, Text(segment(prompts.DESCRIBE_QUESTION)), Text(segment(described.text), learn=True)]
        if how < 0.2:
            judged = self._sampler.judgement()
            eye = self._eye(render([judged.scene])[0])
            return [eye, Text(segment(match_question(judged.prompt))), Text(segment(judged.answer), learn=True)]
        own = self._own and how < 0.2 + 0.8 * 0.4
        pair, _, picture = self._rng.choice(self._own if own else self._pairs)
        prompt = training_prompt(pair.spec, self._rng)
        question = segment(prompts.reflect_question(prompt))
        return [
            Text(self._systems[1]),
            self._eye(picture.pixels),
            Text(question),
            Text(segment(pair.reflection), learn=True),
        ]

    def _edit_lesson(self) -> Sample:
        how = self._rng.random()
        if self._own and how < 0.4:
            lesson = self._some_edit(self._own)
        elif how < 0.85:
            lesson = self._some_edit(self._pairs)
        else:
            lesson = self._rng.choice(self._edits)
        drop = self._rng.random()
        if drop < 0.04:  # without the picture
            text = Text(self._tokenizer.segment(lesson.instruction))
            return [text, self._edit_noise(lesson, len(text.ids), frozenset())]
        context = self._edit_context(lesson)
        if drop < 0.14:  # without the text
            return [*context, self._edit_noise(lesson, 2, frozenset({2}))]
        return [*context, self._edit_noise(lesson, 2 + len(context[2].ids), frozenset())]  # type: ignore[union-attr]

    def _some_edit(self, pairs: Sequence[tuple[Pair, EditLesson | None, Picture]]) -> EditLesson:
        while True:
            lesson = self._rng.choice(pairs)[1]
            if lesson is not None:
                return lesson

    def _edit_context(self, lesson: EditLesson) -> list[Clean | Eye | Text]:
        eye = self._eye(lesson.source.pixels)
        return [Clean(lesson.source.tokens), eye, Text(self._tokenizer.segment(lesson.instruction))]

    def _edit_noise(self, lesson: EditLesson, position: int, hidden: frozenset[int]) -> Noise:
        moved = np.square(lesson.target - lesson.source.tokens).mean(-1) > 0.05
        weight = np.where(moved, np.float32(_CHANGED_WEIGHT), np.float32(1.0)).astype(np.float32)
        return Noise(lesson.target, weight, position, hidden)

    def _eye(self, pixels: NDArray[np.uint8]) -> Eye:
        return Eye(preprocess(pixels, TRANSFORMS["vit"]))

    # --- pools

    def _add(self, count: int) -> None:
        drawings = [self._sampler.drawing() for _ in range(count)]
        pairs = [self._sampler.pair() for _ in range(count)]
        edits = [self._sampler.edit() for _ in range(count // 2)]
        scenes: list[Scene] = [d.scene for d in drawings]
        for pair in pairs:
            scenes += [pair.scene, pair.target]
        for edit in edits:
            scenes += [edit.scene, edit.target]
        check_prompts([d.prompt for d in drawings] + [p.prompt for p in pairs])
        check_pictures(scenes)
        pictures = render(scenes)
        tokens = self._encode(pictures)
        self._drawings += [(d.spec, d.reason, t) for d, t in zip(drawings, tokens, strict=False)]
        at = count
        for pair in pairs:
            source = Picture(pictures[at], tokens[at])
            lesson = EditLesson(source, pair.instruction, tokens[at + 1]) if pair.ops else None
            self._pairs.append((pair, lesson, source))
            at += 2
        for edit in edits:
            self._edits.append(EditLesson(Picture(pictures[at], tokens[at]), edit.instruction, tokens[at + 1]))
            at += 2

    def _own_pairs(
        self, asked: Sequence[str], pictures: NDArray[np.uint8], scenes: Sequence[Scene]
    ) -> list[tuple[Pair, EditLesson | None, Picture]]:
        kept = [(i, p) for i, (prompt, s) in enumerate(zip(asked, scenes, strict=True)) if (p := relabel(prompt, s))]
        if not kept:
            return []
        check_prompts([p.prompt for _, p in kept])
        check_pictures([scene for _, p in kept for scene in (p.scene, p.target)])
        tokens = self._encode(pictures[[i for i, _ in kept]])
        targets = self._encode(np.stack([repaint(pictures[i], p.scene, p.target) for i, p in kept]))
        out: list[tuple[Pair, EditLesson | None, Picture]] = []
        for (i, pair), own, target in zip(kept, tokens, targets, strict=True):
            source = Picture(pictures[i], own)
            out.append((pair, EditLesson(source, pair.instruction, target) if pair.ops else None, source))
        return out

    @torch.inference_mode()
    def _encode(self, pictures: NDArray[np.uint8]) -> Floats:
        """Latent tokens [B, 9, d], as the server encodes a picture."""
        parts = []
        for first in range(0, len(pictures), _ENCODE_BATCH):
            batch = pictures[first : first + _ENCODE_BATCH]
            pixels = torch.from_numpy(np.stack([preprocess(p, TRANSFORMS["vae"]) for p in batch]))
            latent = self._vae.encode(pixels.to(self._device))
            parts.append(torch.stack([vae.pack(one, _PATCH) for one in latent]).cpu().numpy())
        return np.concatenate(parts)

    # --- drawing with the weights as they are

    def _drawn_from(self, prompt: str, plan: str) -> tuple[Sample, Sample]:
        """With the text, and without."""
        context = self._context(prompt, plan)
        blank, ones = _blank()
        rows, system = sum(len(s.ids) for s in context), len(self._systems[0])
        return [*context, Noise(blank, ones, rows)], [context[0], Noise(blank, ones, system)]

    def _edited_from(self, lesson: EditLesson) -> tuple[Sample, Sample]:
        context = self._edit_context(lesson)
        blank, ones = _blank()
        text = context[2]
        assert isinstance(text, Text)
        return [*context, Noise(blank, ones, 2 + len(text.ids))], [*context[:2], Noise(blank, ones, 2)]

    @torch.inference_mode()
    def _draw(
        self, bagel: Bagel, samples: Sequence[tuple[Sample, Sample]], settings: ImageSampling
    ) -> NDArray[np.uint8]:
        """Pictures uint8 [B, 96, 96, 3] by guided Euler steps."""
        parts = []
        for first in range(0, len(samples), _DRAW_BATCH):
            some = samples[first : first + _DRAW_BATCH]
            branches = [collate([s[i] for s in some], self._tokenizer, VIT_PATCHES).to(bagel.device) for i in range(2)]
            x = torch.randn(len(some), *_blank()[0].shape, device=bagel.device)
            times = timesteps(settings.num_timesteps, settings.timestep_shift)
            for t, t_next in pairwise(times):
                v = _velocity(bagel, branches[0], x, t)
                if is_guided(t, settings):
                    without = _velocity(bagel, branches[1], x, t)
                    v = torch.stack([flow.guide(settings, a, b) for a, b in zip(v, without, strict=True)])
                x = flow.euler(x, v, t, t_next)
            latent = torch.stack([vae.unpack(one, (3, 3), _PATCH) for one in x])
            parts.append(vae.to_uint8(self._vae.decode(latent)).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 96, 96, 3), np.uint8)


def _blank() -> tuple[Floats, Floats]:
    return np.zeros((9, 64), np.float32), np.ones(9, np.float32)


def _velocity(bagel: Bagel, batch: Collated, x: Tensor, t: float) -> Tensor:
    """The velocity [B, 9, d] of the noisy block x [B, 9, d] at time t."""
    assert batch.latents is not None
    assert batch.drawn is not None
    latents = batch.latents.clone()
    latents[batch.drawn] = x.flatten(0, 1)
    und, gen, _ = embed(bagel, replace(batch, latents=latents), torch.full((len(x),), t, device=x.device), None)
    _, gen = forward(bagel, und, gen, batch.layout)
    assert gen is not None
    return bagel.velocity(gen[batch.drawn]).view(x.shape)
