"""The contact sheet of a measurement: loops whose first picture was wrong, and what became of them.

Not chosen by eye: of each category the first such loop that one edit mended; then the first that took two; and the
first that was never mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image as PILImage

from r3core.contact_sheet import contact_sheet
from training.figures import ROUNDS
from training.loops import Loop
from training.spec import CATEGORIES

_ABOUT: Final = {"one": "mended by one edit", "two": "mended by two edits", "never": "not mended"}


def sheet(loops: Sequence[Loop]) -> PILImage.Image | None:
    """The sheet, two narrow loops or a wide one in a row; None where no loop began wrong and was mended."""
    chosen = chosen_loops(loops)
    tiles = [_tile(loop, kind) for kind, loop in chosen]
    if not tiles:
        return None
    rows = _rows(tiles)
    width = max(sum(tile.width for tile in row) for row in rows)
    page = PILImage.new("RGB", (width, sum(max(tile.height for tile in row) for row in rows)), (255, 255, 255))
    top = 0
    for row in rows:
        left = 0
        for tile in row:
            page.paste(tile, (left, top))
            left += tile.width
        top += max(tile.height for tile in row)
    return page


def chosen_loops(loops: Sequence[Loop]) -> list[tuple[str, Loop]]:
    """What the sheet shows, each with the kind of its story."""
    kinds = [(_kind(loop), loop) for loop in loops]
    ones = {loop.case.category: loop for kind, loop in reversed(kinds) if kind == "one"}
    first = [("one", ones[category]) for category in CATEGORIES if category in ones]
    for kind in ("two", "never"):
        first += [(found, loop) for found, loop in kinds if found == kind][:1]
    return first


def _kind(loop: Loop) -> str | None:
    right = [shown.is_right for shown in loop.rounds]
    if right[0] or len(right) == 1 or len(right) > ROUNDS - 1:
        return None
    if not any(right):
        return "never"
    mended_last = right[-1] and not any(right[:-1])
    return {2: "one", 3: "two"}.get(len(right)) if mended_last and loop.is_finished else None


def _tile(loop: Loop, kind: str) -> PILImage.Image:
    pictures = {(0, index): shown.pixels for index, shown in enumerate(loop.rounds)}
    return contact_sheet([loop.trajectory()], pictures, f"{loop.case.category}: {_ABOUT[kind]}")


def _rows(tiles: Sequence[PILImage.Image]) -> list[list[PILImage.Image]]:
    """Tiles of the narrowest kind in twos, wider ones alone, in their order."""
    narrow = min(tile.width for tile in tiles)
    rows: list[list[PILImage.Image]] = []
    for tile in tiles:
        if rows and tile.width == narrow and rows[-1][-1].width == narrow and len(rows[-1]) < 2:
            rows[-1].append(tile)
        else:
            rows.append([tile])
    return rows
