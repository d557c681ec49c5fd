"""What was measured, in words: a line as it comes, and a table for each part at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from r3core.bench.line import Ceiling, Line
from server.tables import table

if TYPE_CHECKING:
    from r3core.bench.results import Results

HEADINGS: Final = ("", "median", "least to most", "of the ceiling")
_SIZES: Final = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def about(results: Results) -> str:
    """What was measured, where, and what the machine can do."""
    machine, ceiling = results.machine, results.ceiling
    return "\n".join(
        [
            f"{results.checkpoint}, {results.dtype}, attention {results.attention}, r3core at {results.commit}",
            f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, computing threads: {machine['threads']}",
            f"malloc of {machine.get('malloc', 'libc')}",
            f"ceiling: {number(ceiling.gflop_per_s)} GFLOP/s, {number(ceiling.gbytes_per_s)} GB/s, measured",
            *results.notes,
        ]
    )


def told(line: Line, ceiling: Ceiling | None) -> str:
    """One line of text."""
    spread = f" ({between(line)})" if between(line) else ""
    share = f", {reached(line, ceiling)} of the ceiling" if reached(line, ceiling) else ""
    return f"{line.part}: {what(line)}: {middle(line)}{spread}{share}"


def tables(lines: Iterable[Line], ceiling: Ceiling | None) -> str:
    """A table for each part, in the order in which they came."""
    parts = groupby(lines, key=lambda line: line.part)
    return "\n\n".join(_table(part, list(of_it), ceiling) for part, of_it in parts)


def _table(part: str, lines: Sequence[Line], ceiling: Ceiling | None) -> str:
    rows = [[what(line), middle(line), between(line), reached(line, ceiling)] for line in lines]
    return table((part.upper(), *HEADINGS[1:]), rows, right=HEADINGS[1:])


def what(line: Line) -> str:
    """What was measured, and at which settings."""
    settings = at(line.settings, but=line.name)
    return f"{line.name} ({settings})" if settings else line.name


def at(settings: Mapping[str, float | str], but: str = "") -> str:
    """Settings in a row; one whose value is `but` is said already."""
    said = {name: value for name, value in settings.items() if value != but}
    return ", ".join(f"{name} {value if isinstance(value, str) else _plain(value)}" for name, value in said.items())


def middle(line: Line) -> str:
    """The median."""
    return _measure(line.unit, line.value)


def between(line: Line) -> str:
    """The least and the most; nothing where there is one value."""
    if len(line.values) < 2:
        return ""
    return _measure(line.unit, min(line.values), max(line.values))


def reached(line: Line, ceiling: Ceiling | None) -> str:
    """The share of what the machine can do; nothing where nothing was counted."""
    share = None if ceiling is None else ceiling.share(line)
    return "" if share is None else f"{share:.1%}".replace("%", " %")


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:g}"


def _measure(unit: str, *values: float) -> str:
    """One value, or two with a dash between them, in the unit."""
    size = 1.0
    if unit == "bytes":
        unit, size = next(((name, size) for name, size in _SIZES if abs(values[-1]) >= size), ("bytes", 1.0))
    digits = "–".join(number(value / size) for value in values)
    return f"{digits} {unit}" if unit not in ("times", "count") else digits + "×" * (unit == "times")
