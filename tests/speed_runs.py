"""Runs of `r3 bench` as they might be measured: figures that are easy to reckon with, and nobody's."""

from __future__ import annotations

from typing import Any

from r3core.bench.line import Ceiling, Line
from r3core.bench.results import Results

MACHINE = {"cpu": "a processor", "cores": 2, "threads": 1, "memory_bytes": 8 * 2**30, "os": "Linux x86_64"}


def run(speed: float = 1.0, **changes: Any) -> Results:
    """A run of an engine that is so many times as fast; the ceiling is the machine's and stays."""
    made = {
        "command": "r3 bench --runs 3",
        "machine": MACHINE,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "0123456789ab",
        "date": "2026-01-01",
        "checkpoint": "r3-small 593a924e38855b41",
        "dtype": "float32",
        "attention": "sdpa",
        "ceiling": Ceiling(gflop_per_s=100.0, gbytes_per_s=10.0),
        "lines": tuple(lines(speed)),
        "notes": (),
    }
    return Results(**{**made, **changes})


def lines(speed: float) -> list[Line]:
    """A few of every part that a table or plot has a place for."""

    def took(seconds: float) -> tuple[float, ...]:
        return tuple(times * seconds / speed for times in (0.9, 1.0, 1.1))

    ways = {"every branch": 5.0, "straightforward": 4.0, "engine, one loop": 4.0 / speed}
    return [
        Line("ceiling", "matrix product", "GFLOP/s", (90.0, 100.0), {"side": 1024}),
        *(Line("ways", "one loop", "s", (seconds,), {"way": way, "loops": 1}, 20.0) for way, seconds in ways.items()),
        *(
            Line("ways", "speed-up", "times", (4.0 / seconds,), {"way": way, "loops": 1})
            for way, seconds in ways.items()
        ),
        Line("together", "one after another over at once", "times", (2.0 * speed,), {"loops": 8}),
        Line("together", "a queue, one after another over at once", "times", (2.2 * speed,), {"loops": 40, "batch": 8}),
        Line("phases", "reason", "s", took(0.5), {"rounds": 2, "phase": "reason"}, gflop=5.0, gbytes=1.0),
        *(Line("decode", "tokens decoded", "tokens/s", (speed * n,), {"batch": n}, 0.1, 0.2 / n) for n in (1, 2, 4)),
        *(Line("denoise", "edit steps", "steps/s", (speed * n,), {"batch": n}, 1.0) for n in (1, 2, 4)),
        *(Line("growth", "whole loop by rounds", "s", took(1.0 + n), {"rounds": n}) for n in range(4)),
        *(Line("growth", "whole loop by side", "s", took(1.0), {"side": side}) for side in (96,)),
        Line("load", "completion, p50", "s", took(2.0), {"loops": 32}),
        Line("overhead", "overhead, of what is allowed", "times", (0.5, 0.8, 1.4), {"rounds": 1}),
    ]
