"""A measurement in words: the table for people, the JSON with everything that is needed to make it again."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from training import figures
from training.eval_set import Case
from training.figures import ROUNDS, Json, Mean, Share
from training.measured import Measured, seeds
from training.served import CONCURRENCY

BEGIN: Final = "<!-- eval:begin -->"
END: Final = "<!-- eval:end -->"
_LIBRARIES: Final = ("torch", "transformers", "diffusers", "tokenizers", "numpy", "pillow", "fastapi", "redis")


def table(measured: Measured, about: Json) -> str:
    """The figures in Markdown: by round, what the model knows of pictures, controls, times."""
    parts = [_how(about), _by_round(measured), _known(measured), _controls(measured), _times(measured, about)]
    return "\n\n".join(parts)


def record(measured: Measured, about: Json) -> Json:
    """The JSON of a measurement."""
    return {**about, **measured.to_json()}


def about(cases: Sequence[Case], split: str, digest: str, model: Json) -> Json:
    """How it is measured: everything that is known before."""
    return {
        "split": split,
        "prompts": len(cases),
        "digest": digest,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m training.evaluate", *sys.argv[1:]]),
        "checkpoint": {"name": model["name"], "hash": model["hash"]},
        "settings": {"max_rounds": ROUNDS, "jobs_at_once": CONCURRENCY, "served_defaults": model["defaults"]},
        "seeds": seeds(cases),
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "system": platform.system()},
        "versions": {**model["versions"], **{name: version(name) for name in _LIBRARIES}},
    }


def put_between(text: str, inner: str, begin: str = BEGIN, end: str = END) -> str:
    """The text with `inner` between the markers of the figures; ValueError where it does not have both."""
    head, begun, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the figures have no place: the text lacks {begin} or, after it, {end}; put both in")
    return f"{head}{begin}\n{inner}\n{end}{tail}"


def percent(one: Share) -> str:
    """`95.2 % (93.2–96.6)`."""
    low, high = one.interval
    return f"{100 * one.value:.1f} % ({100 * low:.1f}–{100 * high:.1f})" if one.of else "none"


def _percent(one: Mean) -> str:
    return f"{100 * one.value:.1f} % ({100 * one.low:.1f}–{100 * one.high:.1f})"


def _how(how: Json) -> str:
    held = "held-out prompts" if how["split"] == "test" else f"{how['split']} prompts"
    return (
        f"{how['prompts']} {held}, checkpoint `{how['checkpoint']['hash']}`, through the public API at the served "
        f"defaults, at most {ROUNDS} refinements, {how['settings']['jobs_at_once']} jobs at once. Right is exact: what "
        "was asked and nothing else. In parentheses, 95 % intervals."
    )


def _by_round(measured: Measured) -> str:
    loops = measured.loops
    rows = [["right after round", *map(str, range(ROUNDS + 1))], ["---"] * (ROUNDS + 2)]
    for name, shares in figures.accuracy(loops).items():
        label = f"**all** ({shares[0].of})" if name == "all" else f"{name} ({shares[0].of})"
        rows.append([label, *(percent(s) if name == "all" else f"{100 * s.value:.0f} %" for s in shares)])
    done = figures.finished(loops)
    rows.append(["ended by the model, satisfied", *(f"{100 * s.value:.1f} %" for s in done), ""])
    by_round = figures.changes(loops)
    for label, name in (
        ("edited", "edited"),
        ("improved: wrong to right", "improved"),
        ("worse: right to wrong", "worse"),
        ("unchanged", "unchanged"),
    ):
        rows.append([label, "", *(f"{100 * getattr(change, name).value:.1f} %" for change in by_round)])
    blind = [f"{100 * one.picked.value:.1f} %" for one in measured.chance]
    rows.append(["control: as many first pictures, one picked blindly", *blind])
    rows.append(
        ["for comparison: a right one among them", *(f"{100 * one.any_right.value:.1f} %" for one in measured.chance)]
    )
    return markdown(rows)


def _known(measured: Measured) -> str:
    own = figures.sight(figures.reflected(measured.loops))
    rows = [["what the model says of a picture", "pictures", "verdict right", "reading right"], ["---"] * 4]
    for name, sight in (("its own, in the loops", own), *measured.sights.items()):
        rows.append([name, str(sight["verdict"].of), percent(sight["verdict"]), percent(sight["reading"])])
    right, wrong = own["verdict of a right picture"], own["verdict of a wrong picture"]
    form = figures.formats(measured.loops)
    return (
        f"{markdown(rows)}\n\n"
        f"Of its own right pictures it let be {percent(right)}, of its own wrong ones it edited {percent(wrong)}. "
        f"In R3's format: plans {percent(form['plan'])}, reflections {percent(form['reflection'])}. "
        f"Refinements a loop: {figures.refinements(measured.loops).value:.2f}."
    )


def _controls(measured: Measured) -> str:
    swap = measured.shuffled
    return (
        f"Control, the {swap.own.of} first pictures that were edited ({100 * swap.before.value:.1f} % of them right "
        f"before): right after their own instruction {percent(swap.own)}, after the instruction that another prompt's "
        f"picture was given {percent(swap.others)}; difference {_percent(swap.difference)}."
    )


def _times(measured: Measured, how: Json) -> str:
    seconds, cores = measured.seconds.to_json(), how["machine"]["cores"]
    return (
        f"Times on {cores} CPU cores: {seconds['two_refinements_alone_median']:.1f} s for a job of two refinements "
        f"alone (the longest of {len(measured.seconds.alone)}: {seconds['two_refinements_alone_longest']:.1f} s), "
        f"{seconds['loops_a_minute']:.0f} loops a minute with {how['settings']['jobs_at_once']} at once, "
        f"{seconds['everything'] / 60:.0f} minutes for all of this."
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table, the second of them its rule."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _processor() -> str:
    """The processor's name where the system tells it."""
    about_cpu = Path("/proc/cpuinfo")
    if about_cpu.is_file():
        for line in about_cpu.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
