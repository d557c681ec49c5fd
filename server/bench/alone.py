"""The very same job in an engine that has nothing around it: what a service costs the engine itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from r3core.checkpoint import Description
from r3core.engine.engine import Engine
from r3core.events import TERMINAL, Event, Finished
from r3core.types import Trajectory
from server.bench.watching import NotMeasured
from server.resolve import read_generation, resolved


def seconds_alone(engine: Engine, description: Description, body: Mapping[str, Any]) -> tuple[float, Trajectory]:
    """What the engine takes for the body of POST /generate, which names a seed, and what came of it."""
    asked = resolved(read_generation(dict(body)).body, description, body["seed"])
    began_s = time.perf_counter()
    engine.add("alone", Trajectory(asked, 0))
    last: Event | None = None
    while not isinstance(last, TERMINAL):
        for _, event in engine.step():
            last = event
    took_s = time.perf_counter() - began_s
    if not isinstance(last, Finished):
        raise NotMeasured(f"a job in the engine alone ended with {type(last).__name__}")
    return took_s, last.trajectory


def is_same_work(usage: Mapping[str, float], trajectory: Trajectory) -> bool:
    """Whether the server's job wrote and drew as much: else their times cannot be compared."""
    spent = trajectory.usage
    return all(usage[name] == getattr(spent, name) for name in ("text_tokens", "denoise_steps", "forwards"))
