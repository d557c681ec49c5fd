"""Which parts there are, and which of them are measured: those of the engine first, then those of the whole system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.misconfigured import Misconfigured

SYSTEM_PARTS: Final = ("system", "overhead", "system load")


@dataclass(frozen=True)
class Parts:
    """What is measured, in this order."""

    engine: tuple[str, ...]
    system: tuple[str, ...]


def chosen(only: Sequence[str], *, has_engine: bool, engine_only: bool) -> Parts:
    """The parts that were asked for, all there are where none was. `has_engine`: one can be loaded here.

    Raises Misconfigured for a name that is no part, and for a part that cannot be measured as it was asked.
    """
    engine = engine_parts() if has_engine else ()
    there = engine + (() if engine_only else SYSTEM_PARTS)
    if not there:
        raise Misconfigured("R3_RUNNER=fake has no engine to measure; leave it out, or leave out --engine-only")
    if strange := [name for name in only if name not in there]:
        raise Misconfigured(f"--only {strange[0]} is no part that can be measured here; there are {', '.join(there)}")
    wanted = [name for name in there if not only or name in only]
    return Parts(
        tuple(name for name in wanted if name not in SYSTEM_PARTS),
        tuple(name for name in wanted if name in SYSTEM_PARTS),
    )


def engine_parts() -> tuple[str, ...]:
    """Those of the engine alone. Raises Misconfigured where the worker's packages are not installed."""
    try:
        from r3core.bench.engine_alone import PARTS
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{error.name} is not installed, without which no engine is measured; pip install '.[worker]' in the clone "
            "brings it, or measure a running server with --url"
        ) from error
    return PARTS
