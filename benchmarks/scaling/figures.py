"""From what was measured to figures: percentiles, fairness, and what the limit was. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

BUSY_MACHINE: Final = 0.90  # of all cores
BUSY_PROCESS: Final = 0.80  # of one core, of a process that turns on one core at a time and is not what is measured
BUSY_SERVER: Final = 0.90  # the same of one that is
LATE_S: Final = 0.1  # 99 % of the generator's own alarms ring within this time
TURNING: Final = 0.95  # of the time, the engines

MACHINE: Final = "the machine's cores were the limit"
GENERATOR: Final = "the generator was the limit"
SIMULATION: Final = "the simulated workers' processes were the limit"
REDIS: Final = "Redis was the limit"
API: Final = "an API process was the limit"
DEVICES: Final = "the devices were the limit, as they should be"
UNKNOWN: Final = "no limit was reached, and yet the devices had time left"
_UNUSABLE: Final = frozenset({MACHINE, GENERATOR, SIMULATION})


def spread(values: Sequence[float]) -> Json:
    """How many, and the middle, the 99th of a hundred and the largest; None where there are none."""
    if not values:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50": round(_quantile(ordered, 0.50), 4),
        "p99": round(_quantile(ordered, 0.99), 4),
        "max": round(ordered[-1], 4),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of all is not above."""
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(int(rank) - 1, 0)]


def jain(values: Iterable[float]) -> float | None:
    """Jain's index: 1 where all have the same, 1/n where one of n has everything. None for nothing at all."""
    held = list(values)
    squares = sum(value * value for value in held)
    return sum(held) ** 2 / (len(held) * squares) if squares else None


def fairness(tenants: Mapping[str, Json]) -> Json:
    """What each tenant had of the devices for its weight, among those that offered all they could."""
    greedy = {name: one for name, one in tenants.items() if not one["is_modest"]}
    had, due = sum(one["device_s"] for one in greedy.values()), sum(one["weight"] for one in greedy.values())
    shares = {
        name: {"due": one["weight"] / due, "had": one["device_s"] / had if had else 0.0} for name, one in greedy.items()
    }
    return {"jain": jain(one["device_s"] / one["weight"] for one in greedy.values()), "shares": shares}


def limits(cores: Json, lag_p99_s: float | None, turning: float) -> list[str]:
    """What was at its limit, by rule: the surroundings first, for then nothing is known of the server.

    `cores` holds cores in use: `all` of `there_are`, and the busiest process of each kind; `turning` is the part of the
    time that engines had a turn under way.
    """
    found = []
    if cores["all"] >= BUSY_MACHINE * cores["there_are"]:
        found.append(MACHINE)
    if cores["generator"] >= BUSY_PROCESS or (lag_p99_s or 0.0) >= LATE_S:
        found.append(GENERATOR)
    if cores["busiest_worker_process"] >= BUSY_PROCESS:
        found.append(SIMULATION)
    if cores["redis_main_thread"] >= BUSY_SERVER:
        found.append(REDIS)
    if cores["busiest_api"] >= BUSY_SERVER:
        found.append(API)
    if turning >= TURNING:
        found.append(DEVICES)
    return found or [UNKNOWN]


def is_usable(found: Sequence[str]) -> bool:
    """Whether a conclusion may be drawn: not where the surroundings were the limit."""
    return not _UNUSABLE.intersection(found)


def per_job(done: int, window_s: float, saw: Json, redis: Json, cores: Json) -> Json:
    """What one job costs, by which a larger fleet is computed."""
    if not done:
        return {}
    return {
        "events": sum(saw["events"].values()) / saw["followed_done"] if saw["followed_done"] else None,
        "stream_bytes": saw["received_bytes"] / saw["followed_done"] if saw["followed_done"] else None,
        "redis_commands": redis["commands"] / done,
        "redis_in_bytes": redis["in_bytes"] / done,
        "redis_out_bytes": redis["out_bytes"] / done,
        "redis_held_bytes": redis["held_bytes"] / done,
        "redis_cpu_ms": 1000 * cores["redis"] * window_s / done,
        "api_cpu_ms": 1000 * cores["apis"] * window_s / done,
        "worker_cpu_ms": 1000 * cores["workers"] * window_s / done,
        "generator_cpu_ms": 1000 * cores["generator"] * window_s / done,
    }
