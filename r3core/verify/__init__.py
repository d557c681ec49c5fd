"""`r3 verify`: does this checkpoint, on this machine, compute what R3's reference recorded?

    golden.py     the recorded set, with an account of what has been used of it
    judging.py    tolerances and verdicts
    replaying.py  the engine that serves, on recorded noise, looked at while it works
    traces.py     what is run, and what is seen of it
    facts.py, texts.py, pictures.py, drawings.py, loops.py, scores.py    the kinds of cases

Everything recorded is compared by something, or is known to be informational, or fails by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from r3core.config import AttentionWanted, EngineConfig
from r3core.errors import CheckpointError, InvalidRequest
from r3core.verify.drawings import check_drawings
from r3core.verify.facts import check_facts
from r3core.verify.golden import GoldenSet, Missing, is_informational
from r3core.verify.judging import HEADER, Judge, Report, Row
from r3core.verify.loops import check_loops
from r3core.verify.pictures import check_pictures
from r3core.verify.replaying import Replay
from r3core.verify.scores import check_scores
from r3core.verify.texts import check_texts

__all__ = ["Report", "Row", "main", "verify"]

Dtype = Literal["bf16", "fp32"]
_DTYPES: Final[Mapping[str | None, Dtype | None]] = {None: None, "bf16": "bf16", "fp32": "fp32"}
_CHECKS: Final = {
    "facts": check_facts,
    "texts": check_texts,
    "pictures": check_pictures,
    "drawings": check_drawings,
    "loops": check_loops,
    "judge": check_scores,
}
_FOR_READING: Final = ("set", "compute_dtype", "legend", "tolerance_hint")


def verify(
    checkpoint: Path,
    golden: Path,
    *,
    base: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attention: AttentionWanted = "auto",
    on_row: Callable[[Row], None] | None = None,
) -> Report:
    """Replay a set of recorded numbers on a checkpoint; `on_row` is told every row as it comes.

    Raises CheckpointError where a file cannot be read, DeviceError where the device is not there.
    """
    recorded = GoldenSet(golden)
    try:
        config = EngineConfig(checkpoint, base, device, _known(dtype), attention=attention)
        replay = Replay(config, recorded)
    except Missing as missing:
        raise CheckpointError(f"{golden / 'golden.json'} cannot be replayed: {missing}") from missing
    judge = Judge(_honest_errors(recorded) if replay.is_bf16 else None, on_row)
    for name, check in _CHECKS.items():
        with judge.case(name):
            check(replay, judge)
    _account(recorded, judge)
    return Report(tuple(judge.rows))


def main(
    checkpoint: Path,
    golden: Path,
    device: str | None = None,
    dtype: str | None = None,
    base_checkpoint: Path | None = None,
    attention: AttentionWanted = "auto",
) -> int:
    """Print the report as it comes; 0 where every case holds, else 1."""
    lines = iter([HEADER])  # with the first row: what cannot be begun is no table

    def show(line: object) -> None:
        sys.stdout.writelines(f"{said}\n" for said in (*lines, line))

    report = verify(
        checkpoint, golden, base=base_checkpoint, device=device, dtype=dtype, attention=attention, on_row=show
    )
    show(report)
    return 0 if report.holds else 1


def _known(dtype: str | None) -> Dtype | None:
    if dtype not in _DTYPES:
        raise InvalidRequest(f"dtype {dtype!r} is not known; use bf16 or fp32")
    return _DTYPES[dtype]


def _honest_errors(golden: GoldenSet) -> Mapping[str, float]:
    """How far the reference itself is off in bf16, by case."""
    if "bf16_vs_fp32" not in golden.root:
        return {}
    stats: dict[str, Any] = golden.root["bf16_vs_fp32"]["stats"].plain()
    return {case: stat["max"] for case, stat in stats.items() if isinstance(stat, dict) and "max" in stat}


def _account(golden: GoldenSet, judge: Judge) -> None:
    """What nothing has used: informational, or a fault."""
    for name in _FOR_READING:
        if name in golden.root:
            golden.root.read(name)
            judge.inform(name, "for reading")
    for record in (golden.root, golden.scores):
        for name in () if record is None else record.unread():
            judge.fail(name, "the replay does not know this")
    for name in golden.excused:
        judge.inform(name, "after its loop's stop")
    for name in golden.unused():
        if is_informational(name):
            judge.inform(name)
        else:
            judge.fail(name, "nothing compares this tensor")
    for name in set(judge.honest_errors or ()) - judge.used_errors:
        judge.fail(f"bf16_vs_fp32.{name}", "nothing compares this case")
