"""FakeRunner: the Runner interface without a model, deterministic, for tests and load tests of everything around it.

Texts and pictures are functions of prompt, seed and round. Words in the prompt steer it, so that a test can say what it
needs through the public door: `edits=2` (refinements before it is satisfied), `malformed=1` (that reflection lacks
</think>), `words=20` (length of each text), and which stage fails and how: `raise=refine` (it raises), `oom=refine` (it
runs out of memory), `lose=refine` (the device is lost with it), `hang=refine` (it does not come back), `kill=refine`
(it ends the process). Of scores: `scores=3152` (a digit for each round's pictures), `best=2` (the candidate that has
half a point more).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from r3core.engine.batch import (
    Batch,
    Begin,
    Drawn,
    Likened,
    Looked,
    MemoryPlan,
    Need,
    Output,
    Part,
    Piece,
    Shown,
    Stepped,
    Text,
    Took,
)
from r3core.engine.isolation import Isolation, Outputs
from r3core.engine.stopwatch import Stopwatch
from r3core.errors import PromptTooLong, StepFailed
from r3core.judge import Score, Scorer, WordLift
from r3core.prompts import THINK_CLOSE
from r3core.schedule import branches_per_step, preview_steps
from r3core.steps import Compare, Describe, Generate, Judge, Reason, Reconstruct, Refine, Reflect, Step, draws
from r3core.types import Trajectory

if TYPE_CHECKING:
    from r3core.events import Pixels

_ROWS_A_STEP = 100
_FOR_EVER_S = 10**9

Pace = Callable[[Part, int, int], float]
"""Seconds that a forward takes: its part, how many trajectories it serves, and the branches of a denoising one."""


@dataclass
class _State:
    begin: Begin
    pieces: Sequence[str] = ()
    branches: Sequence[int] = ()
    """Those of each denoising step."""
    done: int = 0


class FakeRunner:
    """Computes nothing, at a given pace: `step_s` seconds a turn whatever the batch, or as `pace` says of a forward."""

    def __init__(
        self,
        *,
        step_s: float = 0.0,
        pace: Pace | None = None,
        edits: int = 2,
        cache_rows: int = 6400,
        max_prompt_chars: int = 4000,
    ) -> None:
        self.cache_rows = cache_rows
        self.max_batch_rows = cache_rows
        self.batches: list[Batch] = []
        self._step_s, self._edits, self._max_prompt_chars = step_s, edits, max_prompt_chars
        self._pace = pace
        self._states: dict[str, _State] = {}
        self._isolation = Isolation()
        self._stopwatch = Stopwatch()

    def plan(self) -> MemoryPlan:
        """Nothing is held."""
        return MemoryPlan(
            "none (fake runner)", 0, 0, self.cache_rows, 0, None, batch_rows=0, forward_rows=0, kept_rows=0
        )

    def check(self, trajectory: Trajectory) -> None:
        """A prompt of more characters than allowed has too many tokens here."""
        length = len(trajectory.request.prompt)
        if length > self._max_prompt_chars:
            raise PromptTooLong(f"the prompt has {length} tokens, at most {self._max_prompt_chars} fit; shorten it")

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:  # noqa: ARG002 - the interface's
        """The same for every step."""
        return Need((_ROWS_A_STEP,), _ROWS_A_STEP, _ROWS_A_STEP * len(draws(step)))

    def run(self, batch: Batch) -> Outputs:
        """One token for each that writes, one Euler step for each that draws."""
        self.batches = [*self.batches[-999:], batch]
        for begin in batch.begin:
            self._states[begin.key] = _State(begin, _pieces(begin, self._edits), _branches(begin))
        writers = [key for key in batch.text if not draws(self._states[key].begin.step)]
        branches = sum(map(self._branches_now, batch.draw))
        pause_s = self._step_s / (2 if writers and batch.draw else 1)
        outputs = self._timed("text", writers, 0, self._write, pause_s)
        return outputs | self._timed("denoise", list(batch.draw), branches, self._draw, pause_s)

    def took(self) -> list[Took]:
        """What was pretended to be computed since this was last asked."""
        return self._stopwatch.took()

    def memory_used_bytes(self) -> None:
        """There is no device."""

    def _timed(
        self, part: Part, keys: list[str], branches: int, act: Callable[[_State], Output], pause_s: float
    ) -> Outputs:
        if not keys:
            return {}
        if self._pace is not None:
            pause_s = self._pace(part, len(keys), branches)
        with self._stopwatch.timing(part, len(keys), branches):
            if pause_s:
                time.sleep(pause_s)
            return self._isolation.together(keys, lambda some: self._forward(some, act))

    def _forward(self, keys: list[str], act: Callable[[_State], Output]) -> Outputs:
        """One packed forward: where one of them fails it fails as a whole, before anything has changed."""
        for key in keys:
            self.fault(self._states[key].begin, keys)
        return {key: act(self._states[key]) for key in keys}

    def fault(self, begin: Begin, company: Sequence[str]) -> None:  # noqa: ARG002 - for those that override it
        """Raise what is to go wrong in a forward over `company`: what the prompt asks for, or a test."""
        prompt, stage = begin.trajectory.request.prompt, type(begin.step).__name__.lower()
        if _word(prompt, "kill") == stage:
            os._exit(137)
        if _word(prompt, "hang") == stage:
            time.sleep(_FOR_EVER_S)
        if _word(prompt, "raise") == stage:
            raise StepFailed(f"{stage} failed because the prompt asked for it")
        if _word(prompt, "oom") == stage:
            raise MemoryError(f"no memory for {stage}")
        if _word(prompt, "lose") == stage:
            raise RuntimeError("CUDA error: device-side assert triggered")

    def free(self, key: str) -> None:
        """Forget a trajectory."""
        self._states.pop(key, None)

    def _branches_now(self, key: str) -> int:
        state = self._states[key]
        return state.branches[state.done] * len(draws(state.begin.step))

    def _write(self, state: _State) -> Output:
        begin = state.begin
        match begin.step:
            case Judge(round=index, candidates=candidates, scorers=scorers):
                return Looked(tuple(tuple(_score(begin, s, index, c) for s in scorers) for c in candidates))
            case Compare():
                return Likened((("self", 0.75), ("latent", 0.5), ("psnr", 20.0)))
        state.done += 1
        if state.done < len(state.pieces):
            return Piece(state.pieces[state.done - 1])
        text = "".join(state.pieces)
        return Text(text, state.pieces[-1], len(state.pieces), _verdict(begin, text))

    def _draw(self, state: _State) -> Output:
        begin, request = state.begin, state.begin.trajectory.request
        candidates, before, steps = draws(begin.step), state.done, len(state.branches)
        state.done += 1
        while state.done < steps and not state.branches[state.done]:  # what a step cache serves comes with it
            state.done += 1
        if state.done < steps:
            wanted = sorted(preview_steps(steps, request.previews) & set(range(before + 1, state.done + 1)))
            shown = (Shown(step, _pixels(begin, candidates[0], fade=step / steps)) for step in wanted)
            return Stepped(state.done, steps, tuple(shown))
        with self._stopwatch.timing("decode", len(candidates)):
            pictures = tuple(_pixels(begin, candidate, fade=1.0) for candidate in candidates)
            return Drawn(pictures, steps, sum(state.branches))


def _score(begin: Begin, scorer: Scorer, index: int, candidate: int) -> Score:
    """A number between 0 and 1 of its own for each seed, picture and scorer, or what the prompt asks for."""
    prompt, digits = begin.trajectory.request.prompt, _word(begin.trajectory.request.prompt, "scores")
    value = _fraction(f"{prompt}|{begin.trajectory.seed}|{index}|{candidate}|{scorer}")
    best = _word(prompt, "best")
    if digits is not None:
        value = float(digits[min(index, len(digits) - 1)])
    elif best is not None:
        value /= 2  # or half a point more would not make it the best
    if best == str(candidate):
        value += 0.5
    if scorer not in ("gvu", "lift"):
        return Score(scorer, value)
    words = tuple(WordLift(word, round(_fraction(f"{word}|{index}|{candidate}") - 0.5, 6)) for word in prompt.split())
    return Score(scorer, value, value, words)


def _verdict(begin: Begin, text: str) -> Score | None:
    step = begin.step
    if not isinstance(step, Reflect) or "verdict" not in begin.trajectory.request.scorers:
        return None
    if THINK_CLOSE not in text:
        return Score("verdict", None)
    return _score(begin, "verdict", step.round, step.candidate)


def _fraction(text: str) -> float:
    return round(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32, 6)


def _word(prompt: str, name: str) -> str | None:
    found = re.search(rf"\b{name}=(\w+)", prompt)
    return found.group(1) if found else None


def _pieces(begin: Begin, edits: int) -> list[str]:
    prompt = begin.trajectory.request.prompt
    wanted = int(_word(prompt, "edits") or edits)
    filler = "word " * int(_word(prompt, "words") or 0)
    match begin.step:
        case Reason():
            text = f"<think>{filler}A plan for seed {begin.trajectory.seed}.</think>"
        case Reflect(round=index) if _word(prompt, "malformed") == str(index):
            text = f"{filler}Nothing is enclosed in picture {index}."
        case Reflect(round=index) if index < wanted:
            text = f"<think>{filler}Picture {index} lacks something.</think> Add thing number {index + 1}."
        case Reflect(round=index):
            text = f"<think>{filler}Picture {index} is right.</think> No further edit needed."
        case Describe():
            text = f"{filler}{begin.trajectory.request.question or 'The picture'}: a gradient."
        case _:
            return []
    pieces = re.findall(r"\S+\s*", text)
    asked = begin.trajectory.request
    sampling = {Reason: asked.reason, Reflect: asked.reflect, Describe: asked.describe}[type(begin.step)]
    return pieces[: sampling.max_tokens]


def _branches(begin: Begin) -> list[int]:
    match begin.step:
        case Generate() | Reconstruct():
            return branches_per_step(begin.trajectory.request.generate, edit=False)
        case Refine():
            return branches_per_step(begin.trajectory.request.refine, edit=True)
        case _:
            return []


def _pixels(begin: Begin, candidate: int, fade: float) -> Pixels:
    """A soft gradient in a colour of its own for each prompt, seed, round and candidate."""
    trajectory, step = begin.trajectory, begin.step
    index = step.round if isinstance(step, Refine) else int(isinstance(step, Reconstruct))
    request = trajectory.request
    name = f"{request.prompt}|{trajectory.seed}|{index}" + (f"|{candidate}" if candidate else "")
    digest = hashlib.sha256(name.encode()).digest()
    colour = np.frombuffer(digest[:3], dtype=np.uint8).astype(np.float64)
    ramp = np.linspace(0.6, 1.0, request.height)[:, None, None] * np.linspace(0.8, 1.0, request.width)[None, :, None]
    return (ramp * (colour * fade + 128.0 * (1.0 - fade))).astype(np.uint8)
