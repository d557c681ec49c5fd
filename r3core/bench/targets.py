"""What is aimed at on one H200, exact bf16, and how far a run of the full size is from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from r3core.bench.line import Ceiling, Line


@dataclass(frozen=True)
class Target:
    """A figure, which it is among a run's lines, and its limit."""

    words: str
    part: str
    name: str
    settings: Mapping[str, float | str]
    limit: float
    unit: str
    is_least: bool = False

    def line(self, lines: Iterable[Line]) -> Line | None:
        """The line that it is about; None where that was not measured."""
        for line in lines:
            same = line.part == self.part and line.name == self.name
            if same and all(line.settings.get(key) == value for key, value in self.settings.items()):
                return line
        return None

    def figure(self, line: Line) -> float:
        """The line's value in the target's unit."""
        if self.unit == "ms a token":
            return 1000 / line.value
        return line.value / 1e9 if self.unit == "GB" else line.value

    def verdict(self, lines: Iterable[Line]) -> str:
        """Met or missed, with the figure."""
        line = self.line(lines)
        if line is None:
            return "not measured"
        value = self.figure(line)
        is_met = value >= self.limit if self.is_least else value <= self.limit
        return f"{'met' if is_met else 'MISSED'}: {value:.4g} {self.unit}"


_T2I: Final = "text-to-image"
TARGETS: Final = (
    Target("512², text-to-image, 50 timesteps", "pictures", _T2I, {"side": 512, "steps": 49}, 2.0, "s"),
    Target("512², text-to-image, 20 timesteps", "pictures", _T2I, {"side": 512, "steps": 19}, 0.8, "s"),
    Target("512², refine, 50 timesteps", "pictures", "refine", {"side": 512, "steps": 49}, 3.0, "s"),
    Target("512², refine, 20 timesteps", "pictures", "refine", {"side": 512, "steps": 19}, 1.2, "s"),
    Target("1024², text-to-image, 50 timesteps", "pictures", _T2I, {"side": 1024, "steps": 49}, 8.7, "s"),
    Target("one decoded token, batch 1", "decode", "tokens decoded", {"batch": 1}, 3.7, "ms a token"),
    Target("decoding, batch 16", "decode", "tokens decoded", {"batch": 16}, 3000, "tokens/s", is_least=True),
    Target("idle inside a denoising loop", "device", "idle inside a denoising loop", {}, 0.03, "of the time"),
    Target("waits for the device a denoising step", "device", "waits for the device a step", {}, 0.0, "times"),
    Target("the most memory, eight requests at 512²", "memory", "taken by tensors at the most", {}, 40.0, "GB"),
    Target("the whole loop alone", "loops", "one loop", {"side": 512, "loops": 1}, 10.0, "s"),
    Target(
        "eight loops over the floor of their pictures",
        "loops",
        "over the floor of their pictures",
        {"loops": 8},
        2.2,
        "times",
    ),
)


def table(lines: Sequence[Line], ceiling: Ceiling, *, is_true_size: bool) -> str:
    """Every figure, and under them every target, which only the true size meets or misses."""
    rows = [("part", "", "median", "least to most", "floor", "share")]
    for line in lines:
        at = ", ".join(f"{key} {value}" for key, value in line.settings.items())
        floor_s, share = ceiling.floor_s(line), ceiling.share(line)
        rows.append(
            (
                line.part,
                f"{line.name} ({at})" if at else line.name,
                f"{line.value:.4g} {line.unit}",
                f"{min(line.values):.4g} to {max(line.values):.4g}",
                "" if floor_s is None else f"{floor_s:.4g} s",
                "" if share is None else f"{100 * share:.0f} %",
            )
        )
    rows += [("", "", "", "", "", ""), ("targets", "", "limit", "", "", "")]
    for target in TARGETS:
        limit = f"{'at least' if target.is_least else 'at most'} {target.limit:g} {target.unit}"
        rows.append(("", target.words, limit, target.verdict(lines if is_true_size else []), "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
