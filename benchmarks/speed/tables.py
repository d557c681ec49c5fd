"""The tables of docs/performance.md: every figure before and after, and how far it is from its floor."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.pairs import Pair, pairs
from r3core.bench.line import Line
from r3core.bench.results import Results
from r3core.bench.targets import TARGETS
from server.bench.shown import between, middle, number, reached, what

NOTHING = "Not measured yet.\n"


def part_table(before: Results | None, after: Results | None, part: str) -> str:
    """A part's figures side by side."""
    found = list(pairs(before, after, part))
    if not found:
        return NOTHING
    has_share = any(_share(pair.after, after) or _share(pair.before, before) for pair in found)
    headings = ["", "before", "after", "least to most, after", "faster"] + ["of the ceiling, before, after"] * has_share
    rows = [_row(pair, before, after, has_share=has_share) for pair in found]
    return markdown(headings, rows)


def floor_table(before: Results | None, after: Results | None) -> str:
    """All that was counted: what it took, the least that this machine could take for it, and how many times that is."""
    rows = []
    parts = dict.fromkeys(line.part for run in (after, before) if run for line in run.lines)
    for part in parts:
        for pair in pairs(before, after, part):
            run = after if pair.after is not None else before
            floor_s = run.ceiling.floor_s(pair.any) if run else None
            if floor_s:
                times = [_times_floor(pair.before, before), _times_floor(pair.after, after)]
                rows.append([f"{part}: {what(pair.any)}", _seconds(floor_s), *times])
    if not rows:
        return NOTHING
    return markdown(["", "floor", "before", "after"], rows)


def targets_table(run: Results | None) -> str:
    """What is aimed at on a GPU, and how far a run is from it."""
    rows = []
    for target in TARGETS:
        limit = f"at {'least' if target.is_least else 'most'} {target.limit:,g} {target.unit}"
        rows.append([target.words, limit, "never run" if run is None else target.verdict(run.lines)])
    return markdown(["", "target", ""], rows)


def figures_table(run: Results) -> str:
    """All figures of a run."""
    rows = [[line.part, what(line), middle(line), between(line), reached(line, run.ceiling)] for line in run.lines]
    return markdown(["part", "", "median", "least to most", "of the ceiling"], rows)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(headings)} |", f"|---|{'---|' * (len(headings) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _row(pair: Pair, before: Results | None, after: Results | None, *, has_share: bool) -> list[str]:
    gain = "" if pair.gain is None else f"{number(pair.gain)}×"
    row = [what(pair.any), _middle(pair.before), _middle(pair.after), between(pair.after) if pair.after else "", gain]
    if has_share:
        row.append(f"{_share(pair.before, before) or '—'}, {_share(pair.after, after) or '—'}")
    return row


def _middle(line: Line | None) -> str:
    return "—" if line is None else middle(line)


def _share(line: Line | None, run: Results | None) -> str:
    return "" if line is None or run is None else reached(line, run.ceiling)


def _times_floor(line: Line | None, run: Results | None) -> str:
    if line is None or run is None or not (share := run.ceiling.share(line)):
        return "—"
    return f"{number(1 / share)}×"


def _seconds(value_s: float) -> str:
    """A time in the unit in which it has a few digits."""
    return f"{number(value_s)} s" if value_s >= 1 else f"{number(1000 * value_s)} ms"
