"""One loop alone: what each phase takes, and how long until there is something to see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from r3core.bench.counting import Work, total
from r3core.bench.driving import Driven, Seen, drive
from r3core.bench.line import Line
from r3core.bench.loop_work import PHASES
from r3core.bench.setting import Setting

_ROUNDS: Final = 2
_PREVIEWS: Final = 3


def measure_phases(setting: Setting) -> Iterator[Line]:
    """The same loop every time, of two refinements; where a phase comes twice in it, the mean of the two."""
    rounds = 1 if setting.quick else _ROUNDS
    drive(setting.engine, [setting.loop(max_rounds=rounds)])
    driven = [drive(setting.engine, [setting.loop(max_rounds=rounds)]) for _ in range(setting.runs)]
    at = {"rounds": rounds}
    work = _work_of(setting, driven[0].seen[0])
    for phase in PHASES:
        found = work[phase]
        each = total(found) * (1 / len(found))
        values = [_mean(d.seen[0].of(phase)) for d in driven]
        yield Line("phases", phase, "s", tuple(values), {**at, "phase": phase}, each.gflop, each.gbytes)
    size = setting.description.default_size
    decode = setting.count.count.decode(size)
    values = [_mean([t.seconds for t in d.took if t.part == "decode"]) for d in driven]
    yield Line("phases", "decode", "s", tuple(values), {**at, "phase": "decode"}, decode.gflop, decode.gbytes)
    whole = total(total(found) for found in work.values())
    yield Line("phases", "whole loop", "s", tuple(d.seconds for d in driven), at, whole.gflop, whole.gbytes)
    yield from _waits(setting, driven)


def _waits(setting: Setting, driven: list[Driven]) -> Iterator[Line]:
    """How long until there is something to see. Previews are extra work, so the first one has runs of its own."""
    asked, at = setting.loop(max_rounds=0, previews=_PREVIEWS), {"previews": _PREVIEWS}
    alone = [d.seen[0] for d in driven]
    shown = [drive(setting.engine, [asked]).seen[0] for _ in range(setting.runs)]
    yield from _wait("time to first token", [s.first_token_s for s in alone], {})
    yield from _wait("time to first preview", [s.first_preview_s for s in shown], at)
    yield from _wait("time to first image", [s.first_image_s for s in alone], {})


def _wait(name: str, values: list[float | None], at: Mapping[str, float]) -> Iterator[Line]:
    """None where nothing was shown: random weights write what is no text."""
    found = tuple(value for value in values if value is not None)
    if found:
        yield Line("phases", name, "s", found, at)


def _work_of(setting: Setting, seen: Seen) -> dict[str, list[Work]]:
    found = defaultdict(list)
    for phase, work in setting.count.phases(seen.trajectory, seen.texts):
        found[phase].append(work)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
