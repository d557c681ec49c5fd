"""What the scores of a picture cost, beside drawing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r3core.bench.counting import Work
from r3core.bench.driving import Seen, drive
from r3core.bench.line import Line
from r3core.bench.rates import a_picture
from r3core.bench.setting import Setting
from r3core.engine.batch import Picture
from r3core.judge import SCORERS
from r3core.types import Trajectory


def measure_scoring(setting: Setting) -> Iterator[Line]:
    """Each score by itself, of a picture that is given: the eye's part is in every one, and in `verdict` the reflection
    that it is read from, which stands beside it alone.
    """
    picture = a_picture(setting)
    given: dict[str, Any] = {"given_image": True, "max_rounds": 0}
    asked: dict[str, tuple[Trajectory, list[Picture]]] = {
        "the picture itself": (setting.loop(max_rounds=0, think=False), [])
    }
    for scorer in SCORERS:
        asked[scorer] = setting.loop(kind="score", scorers=(scorer,), **given), [picture]
    asked["the reflection alone"] = setting.loop(kind="reflect", **given), [picture]
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    works = {name: _work(setting, drive(setting.engine, [own], with_).seen[0]) for name, (own, with_) in asked.items()}
    for _ in range(setting.runs):
        for name, (trajectory, pictures) in asked.items():
            seconds[name].append(drive(setting.engine, [trajectory], pictures).seconds)
    for name, own in seconds.items():
        yield Line("scoring", name, "s", tuple(own), gflop=works[name].gflop, gbytes=works[name].gbytes)


def _work(setting: Setting, seen: Seen) -> Work:
    """What it takes at the least."""
    request = seen.trajectory.request
    if request.kind == "generate":
        return setting.count.generate(request, None)
    if request.kind == "reflect":
        return setting.count.reflect(request, seen.texts[0])
    if "verdict" in request.scorers:
        return setting.count.verdict(request, seen.texts[0])
    return setting.count.judge(request, request.scorers)
