"""What `r3 compare` says: two runs of the same prompts in tables, or as JSON, and a sheet of where they differ.

Exit codes: 0 they were compared; 2 a folder or a file is not what it should be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from server.misconfigured import Misconfigured
from server.research.comparison import Comparison, Side, to_json
from server.research.runs import Run, read_run
from server.research.truth import Truth, found_truth, read_truth
from server.tables import plain, table

Json = dict[str, Any]
LISTED: Final = 10  # wins and losses each
SHOWN: Final = 60  # characters of a prompt


def run_compare(first: Path, second: Path, truths: Sequence[Path], sheet: Path | None, *, as_json: bool) -> int:
    """Compare the runs in two folders, print what comes of it and draw the sheet. Raises Misconfigured."""
    runs = (read_run(first), read_run(second))
    one, other = (Side(run, truth) for run, truth in zip(runs, _truths(runs, truths), strict=True))
    comparison = Comparison.of(one, other)
    value = to_json(comparison)
    drawn = None if sheet is None else _draw(comparison, sheet)
    if as_json:
        typer.echo(json.dumps({**value, "sheet": None if drawn is None else str(drawn)}, ensure_ascii=False, indent=2))
    else:
        typer.echo("\n\n".join([*_report(value), *([f"differences: {drawn}"] if drawn is not None else [])]))
    return 0


def _truths(runs: tuple[Run, Run], given: Sequence[Path]) -> list[Truth]:
    if len(given) > len(runs):
        raise Misconfigured(f"--truth was given {len(given)} times; give one file for each run, or one for both")
    if not given:
        return [found_truth(run) for run in runs]
    if len(given) == 1 and runs[0].path.resolve().name == runs[1].path.resolve().name:
        raise Misconfigured(f"both runs are called {runs[0].path.resolve().name}; give --truth twice, a file for each")
    files = [given[0], given[-1]]
    pairs = zip(files, runs, reversed(runs), strict=True)
    return [read_truth(file, run, other, is_shared=len(given) == 1) for file, run, other in pairs]


def _draw(comparison: Comparison, path: Path) -> Path | None:
    """The sheet of differences; None where there are none."""
    if not comparison.differences:
        return None
    from server.research.difference_sheet import difference_sheet

    temporary = path.with_name(f".{path.name}.part")
    try:
        difference_sheet(comparison).save(temporary, "PNG")
        temporary.replace(path)
    except OSError as error:
        raise Misconfigured(
            f"--sheet {path} cannot be written ({error.strerror or error}); name another file"
        ) from error
    return path


def _report(value: Json) -> Iterator[str]:
    yield _runs(value["runs"])
    yield _prompts(value["prompts"])
    if any(value["truth"]) and not all(value["truth"]):
        known, unknown = ("first", "second") if value["truth"][0] else ("second", "first")
        yield f"what is right is known of the {known} alone; have the {unknown} scored too, and accuracy is compared"
    for what in [name for name in value["rounds"][-1] if name != "round"]:
        yield _rounds(value, what)
    if value["by"] is None:
        yield "nothing to compare by: no score is in both runs, and no file says what is right (--truth)"
        return
    if value["tags"]:
        yield _tags(value)
    yield from _differences(value)


def _runs(runs: Sequence[Json]) -> str:
    names = ("first", "second")
    lines = [f"{name}   {run['path']}{_model(run)}" for name, run in zip(names, runs, strict=True)]
    rows = [_run_row(name, run) for name, run in zip(names, runs, strict=True)]
    headings = ("", "PROMPTS", "FAILED", "LOOPS", "PICTURES", "A LOOP", "DISCARDED", "SECONDS", "STOPS")
    return "\n".join([*(plain(line) for line in lines), "", table(headings, rows, right=set(headings[1:-1]))])


def _model(run: Json) -> str:
    return f"   {run['model']['name']} ({run['model']['hash']})" if run["model"] else ""


def _run_row(name: str, run: Json) -> list[str]:
    discarded = run["pictures_discarded"]
    stops = ", ".join(f"{reason} {count}" for reason, count in run["stops"].items())
    counts = (run["finished"], len(run["failed"]), run["loops"], run["pictures"])
    a_loop = f"{run['pictures_a_loop'][-1]:.2f}"
    more = (a_loop, "" if discarded is None else str(discarded), f"{run['compute_s']:.0f}", stops)
    return [name, *map(str, counts), *more]


def _prompts(prompts: Json) -> str:
    told = f"{prompts['both']} prompts are in both"
    for side in ("first", "second"):
        if only := prompts[f"only_{side}"]:
            more = f" and {len(only) - LISTED} more" if len(only) > LISTED else ""
            told += f"; left out, for they are in the {side} alone: {', '.join(only[:LISTED])}{more}"
    return told


_PAIRED: Final = ("FIRST", "SECOND", "DIFFERENCE", "95 %", "WINS", "LOSSES", "TIES", "P", "OF")


def _rounds(value: Json, what: str) -> str:
    one, other = (run["pictures_a_loop"] for run in value["runs"])
    rows = [
        [str(row["round"]), *_paired(row[what], what), f"{one[row['round']]:.2f}", f"{other[row['round']]:.2f}"]
        for row in value["rounds"]
    ]
    headings = ("ROUND", *_PAIRED, "1ST DREW", "2ND DREW")
    return f"{what} by round, and pictures a loop until then\n{table(headings, rows, right=set(headings))}"


def _tags(value: Json) -> str:
    rows = [[tag, *_paired(result, value["by"])] for tag, result in value["tags"].items()]
    known = [result for result in value["tags"].values() if result is not None]
    lines = [f"{value['by']} by tag, last round", table(("TAG", *_PAIRED), rows, right=set(_PAIRED))]
    if known and value["by"] == "accuracy":
        first, second = (sum(result[side] for result in known) / len(known) for side in ("first", "second"))
        lines.append(f"mean over tags, as GenEval has it: {first:.4f} and {second:.4f}")
    return "\n".join(lines)


def _paired(result: Json | None, what: str) -> list[str]:
    if result is None:
        return ["", *[""] * (len(_PAIRED) - 2), "0"]
    shown = _percent if what == "accuracy" else _number
    means = [shown(result["first"]), shown(result["second"]), shown(result["difference"], sign="+")]
    interval = f"{shown(result['low'], sign='+')} … {shown(result['high'], sign='+')}"
    counts = [str(result[name]) for name in ("wins", "losses", "ties")]
    return [*means, interval, *counts, f"{result['p']:.3g}", str(result["of"])]


def _percent(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} %"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}"


def _differences(value: Json) -> Iterator[str]:
    shown = _percent if value["by"] == "accuracy" else _number
    for winner, heading in (("second", "won by the second"), ("first", "won by the first")):
        found = [one for one in value["differences"] if one["wins"] == winner]
        if found:
            rows = [
                [f"{one['index']:05}", shown(one["first"]), shown(one["second"]), one["prompt"][:SHOWN]]
                for one in found[:LISTED]
            ]
            more = f", {LISTED} of {len(found)}" if len(found) > LISTED else ""
            listed = table(("PROMPT", "FIRST", "SECOND", ""), rows, right={"FIRST", "SECOND"})
            yield f"{heading}, the largest differences{more}\n{listed}"
