"""The prompts that two runs do not do equally well, their last pictures side by side."""

from __future__ import annotations

from typing import Final

from PIL import Image as PILImage

from r3core.contact_sheet import Compared, side_by_side
from server.misconfigured import Misconfigured
from server.research.comparison import Comparison, Difference, Side
from server.research.runs import Entry

MOST: Final = 24  # rows; more of them nobody looks at


def difference_sheet(comparison: Comparison) -> PILImage.Image:
    """The largest differences, as a sheet. Raises Misconfigured for a picture that cannot be read."""
    found = comparison.differences[:MOST]
    rows = [_row(comparison, one) for one in found]
    heading = f"{comparison.first.run.path.name} and {comparison.second.run.path.name}"
    of = f"{len(found)} of {len(comparison.differences)}" if len(found) < len(comparison.differences) else len(found)
    return side_by_side(rows, heading, f"{of} prompts that differ in {comparison.by}, as they stand in the last round")


def _row(comparison: Comparison, one: Difference) -> Compared:
    first, second, last = comparison.first, comparison.second, comparison.last
    sample = _sample(comparison, one)
    sides = (("first", first, one.gain < 0), ("second", second, one.gain > 0))
    pictures = [
        (picture, f"{name}: {_said(comparison, side, one.number, sample)}", is_better)
        for name, side, is_better in sides
        if (picture := _picture(side.run.entries[one.number], sample, last)) is not None
    ]
    entry = first.run.entries[one.number]
    return Compared(f"{entry.name} · {entry.prompt}", pictures)


def _sample(comparison: Comparison, one: Difference) -> int:
    """Of several tries the one that shows the difference best."""
    number = one.number
    both = min(len(side.run.entries[number].samples) for side in (comparison.first, comparison.second))

    def gain(sample: int) -> float:
        a, b = (_value(comparison, side, number, sample) for side in (comparison.first, comparison.second))
        return 0.0 if a is None or b is None else (b - a) * one.gain

    return max(range(both), key=lambda sample: (gain(sample), -sample))


def _value(comparison: Comparison, side: Side, number: int, sample: int) -> float | None:
    entry, what = side.run.entries[number], comparison.by
    if what == "accuracy":
        is_right = side.truth.of(entry, sample, comparison.last)
        return None if is_right is None else float(is_right)
    made = entry.made(sample, comparison.last)
    return None if made is None or what is None else made.score(what)


def _said(comparison: Comparison, side: Side, number: int, sample: int) -> str:
    entry = side.run.entries[number]
    made, value = entry.made(sample, comparison.last), _value(comparison, side, number, sample)
    words = "unknown" if value is None else f"{comparison.by} {value:.4f}"
    if comparison.by == "accuracy" and value is not None:
        words = "right" if value else "wrong"
    stopped = entry.job.trajectories[sample].stop_reason or "none"
    told = [words, *([f"picture of round {made.index}"] if made is not None else []), f"stopped: {stopped}"]
    return " · ".join(told)


def _picture(entry: Entry, sample: int, round_: int) -> PILImage.Image | None:
    made = entry.made(sample, round_)
    if made is None or made.image is None:
        return None
    path = entry.file(made.image)
    try:
        with PILImage.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError) as error:  # PIL's own of a broken PNG is a SyntaxError
        told = f"{path} cannot be read ({error}); delete {path.parent} and run r3 batch again, or say --no-sheet"
        raise Misconfigured(told) from error
