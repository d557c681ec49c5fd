"""What every measure of the engine starts from: the running checkpoint, how often to run, and what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from r3core.bench.counting import Counter
from r3core.bench.loop_work import LoopCounter
from r3core.config import EngineConfig
from r3core.engine.engine import Engine
from r3core.errors import DeviceError
from r3core.model.tokenizer import Tokenizer
from r3core.runtime import Runtime, build
from r3core.types import EarlyStop, Request, Trajectory

# Of the small model's world, where some are hard enough for it to need a second try; to others they are words as any.
PROMPTS: Final = (
    "two yellow stars, one red circle and three blue hearts",
    "a photo of three red circles",
    "a blue square to the left of a green triangle",
    "a red circle above a blue square, and a green star",
    "two yellow stars and one red circle",
    "a purple heart",
    "four orange triangles",
    "a green circle below a yellow heart",
    "three purple squares and two green stars",
    "an orange star to the right of a blue circle",
    "five blue triangles",
    "a red heart, a yellow square and a purple circle",
)
FREELY: Final = EarlyStop()
TO_THE_END: Final = EarlyStop(on_satisfied=False)


class Setting:
    """One run of the bench on one machine. `quick` asks for the least that shows that a measure works."""

    def __init__(self, runtime: Runtime, *, runs: int, quick: bool, say: Callable[[str], None]) -> None:
        self.runtime, self.quick, self.say = runtime, quick, say
        self.runs = 1 if quick else runs
        self.description = runtime.description
        self._wide: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine as it was started."""
        return self.runtime.engine

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's."""
        return self.runtime.loaded.tokenizer

    @cached_property
    def count(self) -> LoopCounter:
        """What its phases take at the least."""
        model = self.runtime.loaded.model
        return LoopCounter(Counter(model.config, model.bagel.dtype), self.tokenizer, self.description)

    def engine_for(self, loops: int) -> Engine | None:
        """An engine that takes so many at once: a wider one where it must be. None where there is no room for it."""
        if self.engine.max_trajectories >= loops:
            return self.engine
        if self._wide is None or self._wide.max_trajectories < loops:
            self._wide = None
            loaded = self.runtime.loaded
            config = EngineConfig(loaded.files.llm_config.parent, max_trajectories=loops)
            try:
                self._wide = build(config, loaded, self.description, self.runtime.attention).engine
            except DeviceError as error:
                self.say(f"left out: {loops} at once ({error})")
        return self._wide

    def batches(self, *counts: int) -> list[tuple[int, Engine]]:
        """The counts that there is room for, each with an engine that takes so many."""
        some = [count for count in counts if count <= 2 or not self.quick]
        engine = self.engine_for(max(some))  # the widest serves the others, where it is not the one that was started
        found = [(count, self.engine_for(count) if count <= self.engine.max_trajectories else engine) for count in some]
        return [(count, own) for count, own in found if own is not None]

    def request(self, index: int = 0, **changes: Any) -> Request:
        """The prompt of that number with the checkpoint's own settings, every step computed, and no round by its own
        will.
        """
        own = self.description.defaults
        plain = self.description.request(PROMPTS[index % len(PROMPTS)], seed=index)
        every_step = {stage: replace(getattr(plain, stage), step_cache=1) for stage in ("generate", "refine")}
        plain = replace(plain, early_stop=TO_THE_END, **every_step)
        if self.quick:
            plain = replace(
                plain,
                max_rounds=1,
                reason=replace(own.reason, max_tokens=12),
                reflect=replace(own.reflect, max_tokens=12),
                generate=replace(plain.generate, num_timesteps=4),
                refine=replace(plain.refine, num_timesteps=4),
            )
        return replace(plain, **changes)

    def loop(self, index: int = 0, **changes: Any) -> Trajectory:
        """A trajectory of such a request, nothing made yet."""
        return Trajectory(self.request(index, **changes))
