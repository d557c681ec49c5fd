"""The measures at the true size, with random weights, within a time: benchmarks/full_size.py runs it.

The parts are measured in the order of what they are worth. What one will take is told beforehand from how fast a first,
short loop went, and a part that would not end in time is left out and named.

None of this has ever run on a GPU. It runs on a CPU with a small model; what only CUDA has (device_waits.py, the peak
of its memory) was written from torch's documentation.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch

from r3core.bench.choosing import measure_choosing
from r3core.bench.counting import total
from r3core.bench.device_waits import TIMESTEPS, idle_share, waits_a_step
from r3core.bench.driving import drive, drop_all
from r3core.bench.line import Ceiling, Line
from r3core.bench.random_weights import random_runtime
from r3core.bench.rates import INSTRUCTION, a_picture, drawing, measure_decode, measure_denoise
from r3core.bench.setting import Setting
from r3core.runtime import Runtime
from r3core.schedule import branches_per_step
from r3core.types import TextSampling, Trajectory

_MARGIN: Final = 1.2
_SHORT: Final = 8  # timesteps where only their pace is wanted


@dataclass(frozen=True)
class Sizes:
    """What is measured: sides in pixels, timesteps, how many loops and sequences at once, and how often."""

    side: int
    large_side: int
    timesteps: tuple[int, int]
    loops: int
    batches: tuple[int, ...]
    runs: int


TRUE: Final = Sizes(512, 1024, (50, 20), 8, (1, 2, 4, 8, 16), 3)
SMALL: Final = Sizes(64, 128, (50, 20), 8, (1, 2, 4, 8, 16), 3)
TRIAL: Final = Sizes(64, 128, (5, 4), 2, (1, 2), 1)


@dataclass
class Budget:
    """Seconds, counted from `began_s` by time.perf_counter, and what there was no time for."""

    seconds: float
    began_s: float
    left_out: list[str] = field(default_factory=list)

    def has(self, seconds: float) -> bool:
        """Whether so many seconds are left, and some to spare."""
        return seconds * _MARGIN <= self._left_s

    def allows(self, what: str, seconds: float) -> bool:
        """Whether there is time for it; it is named among what was left out where there is not."""
        if not (has := self.has(seconds)):
            self.left_out.append(f"left out: {what}, which would take {seconds:.0f} s of the {self._left_s:.0f} s left")
        return has

    @property
    def _left_s(self) -> float:
        return self.began_s + self.seconds - time.perf_counter()


@dataclass(frozen=True)
class Pace:
    """Seconds that one guidance branch of a picture of the plain side takes, and one token alone."""

    forward_s: float
    token_s: float


@dataclass(frozen=True)
class Part:
    """Something to measure, and what it takes: guidance branches of a picture of the plain side, and tokens."""

    name: str
    forwards: float
    tokens: float
    lines: Callable[[], Iterator[Line]]

    def seconds(self, pace: Pace) -> float:
        """What it should take."""
        return self.forwards * pace.forward_s + self.tokens * pace.token_s


class FullSize:
    """All measures over one model."""

    def __init__(self, runtime: Runtime, sizes: Sizes, ceiling: Ceiling, say: Callable[[str], None]) -> None:
        self.runtime, self._sizes, self._ceiling, self._say = runtime, sizes, ceiling, say
        self._setting = self._set(runtime, sizes.runs)
        self._device = runtime.loaded.model.bagel.device

    def measure(self, budget: Budget) -> Iterator[Line]:
        """The lines of every part that there is time for."""
        try:
            pace = self._pace()
        except Exception as error:  # noqa: BLE001 - the first picture that is ever drawn there
            self._failed("the first loop, without which nothing else is tried", error, budget)
            return
        self._say(f"a branch takes {1000 * pace.forward_s:.2f} ms, a token {1000 * pace.token_s:.2f} ms")
        for part in self._parts(budget, pace):
            if budget.allows(part.name, part.seconds(pace)):
                self._say(part.name)
                yield from self._measured(part, budget)
                gc.collect()  # an engine that was wider than the first is let go

    def _measured(self, part: Part, budget: Budget) -> Iterator[Line]:
        """The lines of a part as far as it comes: what never ran on a GPU may fail there, and the others need not."""
        try:
            yield from part.lines()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is named with the results
            self._failed(part.name, error, budget)
            drop_all(self.runtime.engine)

    def _failed(self, name: str, error: Exception, budget: Budget) -> None:
        budget.left_out.append(f"failed: {name}: {type(error).__name__}: {error}")
        self._say("".join(traceback.format_exception(error)))  # there may be no second run

    def _parts(self, budget: Budget, pace: Pace) -> Iterator[Part]:
        sizes, times = self._sizes, self._sizes.runs + 1
        longest, shorter = sizes.timesteps
        drawn, edited = self._forwards(longest)
        ends = tuple(sorted({min(sizes.batches), max(sizes.batches)}))
        between = tuple(batch for batch in sizes.batches if batch not in ends)
        some = tuple(batch for batch in sizes.batches if batch <= 8)
        larger = (sizes.large_side / sizes.side) ** 2
        yield self._pictures_of(longest)
        if self._device.type == "cuda":
            yield Part("waits for the device", 3 * TIMESTEPS, 0, self._waits)
        yield self._pictures_of(shorter)
        yield self._decode(ends)
        yield Part("choosing tokens", 0, 0, partial(measure_choosing, self._setting))
        yield Part("the whole loop", 3 * (drawn + 2 * edited), 3 * self._tokens, self._whole)
        loops = [self._at_once(*kind) for kind in ((longest, 2), (shorter, 2), (shorter, 1))]
        yield next((part for part in loops if budget.has(part.seconds(pace))), loops[-1])
        yield Part(f"a picture of {sizes.large_side} pixels", 1.2 * larger * times * drawn, 0, self._large)
        if between:
            yield self._decode(between)
        yield Part("denoising by batch", 10 * _SHORT * sum(some) + drawn, 0, partial(self._denoise, some))
        if self._device.type == "cuda":  # the profiler last: it may slow what comes after it
            yield Part("idle time of the device", 6 * TIMESTEPS, 0, self._idle)

    @property
    def _tokens(self) -> int:
        """Of the texts of a loop with two refinements."""
        own = self._setting.description.defaults
        return own.reason.max_tokens + 2 * own.reflect.max_tokens

    def _pictures_of(self, timesteps: int) -> Part:
        forwards = (self._sizes.runs + 1) * sum(self._forwards(timesteps))
        return Part(f"pictures of {timesteps} timesteps", forwards, 0, partial(self._pictures, timesteps))

    def _at_once(self, timesteps: int, rounds: int) -> Part:
        loops = self._sizes.loops
        drawn, edited = self._forwards(timesteps)
        name = f"{loops} loops at once, {timesteps} timesteps, refinements: {rounds}"
        lines = partial(self._loops, timesteps, rounds)
        return Part(name, loops * (drawn + rounds * edited), self._tokens, lines)

    def _forwards(self, timesteps: int) -> tuple[int, int]:
        """Branches of a first picture and of an edit."""
        own = self._setting.request()
        drawn, edited = (replace(one, num_timesteps=timesteps) for one in (own.generate, own.refine))
        return sum(branches_per_step(drawn, edit=False)), sum(branches_per_step(edited, edit=True))

    def _set(self, runtime: Runtime, runs: int) -> Setting:
        return Setting(runtime, runs=runs, quick=False, say=self._say)

    def _asked(self, timesteps: int, **changes: Any) -> Trajectory:
        own = self._setting.request()
        drawn, edited = (replace(one, num_timesteps=timesteps) for one in (own.generate, own.refine))
        return self._setting.loop(**{"generate": drawn, "refine": edited, **changes})

    def _pace(self) -> Pace:
        """From the second of two short loops."""
        text = TextSampling(max_tokens=32, temperature=0.3)
        asked = self._asked(_SHORT, max_rounds=1, reason=text, reflect=text)
        seen = [drive(self.runtime.engine, [asked]).seen[0] for _ in range(2)][-1]
        drawn_s = sum(seconds for name, seconds in seen.phases if name in ("generate", "refine"))
        written_s = sum(seconds for name, seconds in seen.phases if name in ("reason", "reflect"))
        usage = seen.trajectory.usage
        return Pace(drawn_s / usage.forwards, written_s / usage.text_tokens)

    def _pictures(self, timesteps: int) -> Iterator[Line]:
        setting = self._setting
        picture = a_picture(setting)
        drawn = self._asked(timesteps, max_rounds=0, think=False)
        edited = self._asked(timesteps, max_rounds=1, given_image=True, instruction=INSTRUCTION)
        yield self._timed("text-to-image", self.runtime, drawn)
        seen = [drive(setting.engine, [edited], [picture]).seconds for _ in range(setting.runs + 1)][1:]
        end = drive(setting.engine, [edited], [picture]).seen[0].trajectory
        work = setting.count.refine(edited.request, end.rounds[1])
        at = {"side": self._sizes.side, "steps": timesteps - 1}
        yield Line("pictures", "refine", "s", tuple(seen), at, work.gflop, work.gbytes)

    def _timed(self, name: str, runtime: Runtime, asked: Trajectory) -> Line:
        setting = self._set(runtime, self._sizes.runs)
        driven = [drive(runtime.engine, [asked]) for _ in range(setting.runs + 1)][1:]
        work = setting.count.loop(driven[0].seen[0].trajectory, driven[0].seen[0].texts)
        at = {"side": asked.request.width, "steps": asked.request.generate.num_timesteps - 1}
        return Line("pictures", name, "s", tuple(d.seconds for d in driven), at, work.gflop, work.gbytes)

    def _large(self) -> Iterator[Line]:
        side = self._sizes.large_side
        runtime = random_runtime(self.runtime.loaded, side, 1)
        asked = self._asked(self._sizes.timesteps[0], max_rounds=0, think=False, width=side, height=side)
        yield self._timed("text-to-image", runtime, asked)

    def _waits(self) -> Iterator[Line]:
        asked = drawing(self._setting, TIMESTEPS)
        yield Line("device", "waits for the device a step", "count", (waits_a_step(self.runtime.engine, asked),))

    def _idle(self) -> Iterator[Line]:
        asked = drawing(self._setting, TIMESTEPS)
        if (share := idle_share(self.runtime.engine, asked)) is not None:
            yield Line("device", "idle inside a denoising loop", "times", (share,))

    def _decode(self, batches: tuple[int, ...]) -> Part:
        tokens = self._setting.description.defaults.reflect.max_tokens
        each = 1.5 * (self._sizes.runs + 1) * tokens * len(batches)
        named = f"decoding, batch {', '.join(map(str, batches))}"
        return Part(named, self._forwards(50)[0], each, partial(self._decoded, batches))

    def _decoded(self, batches: tuple[int, ...]) -> Iterator[Line]:
        yield from measure_decode(self._set(self.runtime, self._sizes.runs), batches)

    def _denoise(self, batches: tuple[int, ...]) -> Iterator[Line]:
        yield from measure_denoise(self._set(self.runtime, 1), batches, _SHORT)

    def _whole(self) -> Iterator[Line]:
        asked = [self._asked(self._sizes.timesteps[0])]
        drive(self.runtime.engine, asked)  # not counted: whatever happens once for a length happens here
        yield from self._looped(asked, runs=2)

    def _loops(self, timesteps: int, rounds: int) -> Iterator[Line]:
        asked = [self._asked(timesteps, seed=i, max_rounds=rounds) for i in range(self._sizes.loops)]
        on_cuda = self._device.type == "cuda"
        if on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        yield from self._looped(asked, runs=1)
        at = {"loops": len(asked), "side": self._sizes.side}
        plan = self.runtime.engine.plan()
        planned = plan.weights_bytes + plan.kv_cache_bytes + plan.activation_bytes
        yield Line("memory", "planned", "bytes", (planned,), at)
        if on_cuda:
            taken = torch.cuda.max_memory_allocated(self._device)
            yield Line("memory", "taken by tensors at the most", "bytes", (taken,), at)

    def _looped(self, asked: Sequence[Trajectory], runs: int) -> Iterator[Line]:
        driven = [drive(self.runtime.engine, asked) for _ in range(runs)]
        seconds = tuple(d.seconds for d in driven)
        phases = [phase for s in driven[0].seen for phase in self._setting.count.phases(s.trajectory, s.texts)]
        work = total(own for _, own in phases)
        drawn = total(own for name, own in phases if name in ("generate", "refine"))
        request = asked[0].request
        at: dict[str, float | str] = {
            "side": self._sizes.side,
            "steps": request.generate.num_timesteps - 1,
            "rounds": request.max_rounds,
            "loops": len(asked),
        }
        name = "one loop" if len(asked) == 1 else "loops at once"
        yield Line("loops", name, "s", seconds, at, work.gflop, work.gbytes)
        if len(asked) > 1:
            floor_s = drawn.gflop / self._ceiling.gflop_per_s
            yield Line("loops", "over the floor of their pictures", "times", tuple(s / floor_s for s in seconds), at)
