"""Plain text for terminals and pipes: tables, lists of facts, times; and no orders to the terminal in any of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def plain(text: str) -> str:
    """The text on one line, with escapes in place of whatever would move the cursor, colour, or turn the line round."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; the headings in `right` name those that end alike."""
    cells = [list(headings), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    alike = [heading in right for heading in headings]
    lines = (
        "  ".join(
            cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, alike, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def lines_of(facts: Mapping[str, str]) -> str:
    """One fact a line, the names in a column."""
    named = {plain(name): plain(value) for name, value in facts.items()}
    width = max(len(name) for name in named)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in named.items())


def age(seconds: float) -> str:
    """A length of time in its largest unit, such as 4 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
