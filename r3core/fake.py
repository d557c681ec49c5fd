"""FakeRunner: the Runner interface without a model, deterministic, for tests and load tests of everything around it.

Texts and pictures are functions of prompt, seed and round. Words in the prompt steer it, so that a test can say what it
needs through the public door: `edits=2` (refinements before it is satisfied), `malformed=1` (that reflection lacks
</think>), `words=20` (length of each text), and which stage fails and how: `raise=refine` (it raises), `oom=refine` (it
runs out of memory), `lose=refine` (the device is lost with it), `kill=refine` (it ends the process).
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
    MemoryPlan,
    Need,
    Output,
    Part,
    Piece,
    Stepped,
    Text,
    Took,
)
from r3core.engine.isolation import Isolation, Outputs
from r3core.engine.stopwatch import Stopwatch
from r3core.errors import PromptTooLong, StepFailed
from r3core.loop import Generate, Reason, Refine, Reflect, Step
from r3core.schedule import branches_per_step, preview_steps
from r3core.types import Trajectory

if TYPE_CHECKING:
    from r3core.events import Pixels

_ROWS_A_STEP = 100

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
        return MemoryPlan("none (fake runner)", 0, 0, self.cache_rows, 0, None)

    def check(self, trajectory: Trajectory) -> None:
        """A prompt of more characters than allowed has too many tokens here."""
        length = len(trajectory.request.prompt)
        if length > self._max_prompt_chars:
            raise PromptTooLong(f"the prompt has {length} tokens, at most {self._max_prompt_chars} fit; shorten it")

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:  # noqa: ARG002 - the interface's
        """The same for every step."""
        draws = isinstance(step, Generate | Refine)
        return Need((_ROWS_A_STEP,), _ROWS_A_STEP, _ROWS_A_STEP if draws else 0)

    def run(self, batch: Batch) -> Outputs:
        """One token for each that writes, one Euler step for each that draws."""
        self.batches = [*self.batches[-999:], batch]
        for begin in batch.begin:
            self._states[begin.key] = _State(begin, _pieces(begin, self._edits), _branches(begin))
        writers = [key for key in batch.text if isinstance(self._states[key].begin.step, Reason | Reflect)]
        branches = sum(self._states[key].branches[self._states[key].done] for key in batch.draw)
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
        if _word(prompt, "raise") == stage:
            raise StepFailed(f"{stage} failed because the prompt asked for it")
        if _word(prompt, "oom") == stage:
            raise MemoryError(f"no memory for {stage}")
        if _word(prompt, "lose") == stage:
            raise RuntimeError("CUDA error: device-side assert triggered")

    def free(self, key: str) -> None:
        """Forget a trajectory."""
        self._states.pop(key, None)

    def _write(self, state: _State) -> Output:
        state.done += 1
        if state.done < len(state.pieces):
            return Piece(state.pieces[state.done - 1])
        return Text("".join(state.pieces), state.pieces[-1], len(state.pieces))

    def _draw(self, state: _State) -> Output:
        state.done += 1
        request, step = state.begin.trajectory.request, state.begin.step
        settings = request.generate if isinstance(step, Generate) else request.refine
        steps = settings.num_timesteps - 1
        if state.done < steps:
            wanted = state.done in preview_steps(steps, request.previews)
            return Stepped(state.done, steps, _pixels(state.begin, fade=state.done / steps) if wanted else None)
        with self._stopwatch.timing("decode", 1):
            return Drawn(_pixels(state.begin, fade=1.0), steps, sum(state.branches))


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
        case _:
            return []
    pieces = re.findall(r"\S+\s*", text)
    sampling = begin.trajectory.request.reason if isinstance(begin.step, Reason) else begin.trajectory.request.reflect
    return pieces[: sampling.max_tokens]


def _branches(begin: Begin) -> list[int]:
    match begin.step:
        case Generate():
            return branches_per_step(begin.trajectory.request.generate, edit=False)
        case Refine():
            return branches_per_step(begin.trajectory.request.refine, edit=True)
        case _:
            return []


def _pixels(begin: Begin, fade: float) -> Pixels:
    """A soft gradient in a colour of its own for each prompt, seed and round."""
    trajectory, step = begin.trajectory, begin.step
    index = step.round if isinstance(step, Refine) else 0
    request = trajectory.request
    digest = hashlib.sha256(f"{request.prompt}|{trajectory.seed}|{index}".encode()).digest()
    colour = np.frombuffer(digest[:3], dtype=np.uint8).astype(np.float64)
    ramp = np.linspace(0.6, 1.0, request.height)[:, None, None] * np.linspace(0.8, 1.0, request.width)[None, :, None]
    return (ramp * (colour * fade + 128.0 * (1.0 - fade))).astype(np.uint8)
