"""Measure what the model's own scores are worth, as it is served: `make judge`.

    python -m training.judged                  thresholds and the recommendation on validation prompts, figures on test
    python -m training.judged --write          table and plot anew from benchmarks/results/judge.json

About an hour on two cores. Every trajectory is kept in build/judge, and one that is there is not run again: an
interrupted measurement goes on. Each use of the test prompts is counted in the JSON before its first job.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from r3core.judge import rank
from training import judged_figures as figures
from training.eval_set import DIGESTS, Case, HeldOutSplit, cases, digest
from training.figures import Json, share
from training.judged_page import PAGE, PLOT, put, table
from training.judged_plot import judged_plot
from training.judged_runs import FIRSTS, ROUNDS, SCORERS, Told, firsts, forced, keep, kept, run, searches
from training.measured import sample
from training.served import AskFailed, ServeFailed, info, private_server
from training.spec import CATEGORIES

PROJECT: Final = Path(__file__).resolve().parent.parent
CHECKPOINT: Final = PROJECT / "checkpoints" / "small"
RESULT: Final = PROJECT / "benchmarks" / "results" / "judge.json"
KEPT: Final = PROJECT / "build" / "judge"
PROMPTS: Final[dict[HeldOutSplit, int]] = {"validation": 192, "test": 320}


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and write JSON, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="measure nothing; table and plot from the JSON")
    asked = parser.parse_args(given)
    if not asked.write:
        try:
            with private_server(CHECKPOINT) as url:
                _measure(url)
        except (AskFailed, ServeFailed) as error:
            raise SystemExit(f"not measured: {error}") from error
    record = json.loads(RESULT.read_text())
    PAGE.write_text(put(PAGE.read_text(), record))
    judged_plot(record).save(PLOT, "PNG", optimize=True)
    print(table(record))
    return 0


def _measure(url: str) -> None:
    model = info(url)
    record: Json = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    uses = record.get("uses_of_the_test_split", [])
    folder = KEPT / model["hash"]
    chosen = _chosen(url, folder)
    if not (folder / "test").is_dir():
        uses = [*uses, {"at": now, "checkpoint": model["hash"]}]
        RESULT.write_text(_dumped({**record, "uses_of_the_test_split": uses}))
    told, first = (_told(url, folder, "test", name, request) for name, request in _two().items())
    runs = {n: _told(url, folder, "test", n, request) for n, request in searches(chosen["scorer"]).items()}
    result = {
        "at": now,
        "command": "python -m training.judged",
        "checkpoint": {"name": model["name"], "hash": model["hash"]},
        "versions": model["versions"],
        "prompts": {split: len(_cases(split)) for split in PROMPTS},
        "digests": {split: digest(split) for split in PROMPTS},
        "rounds": ROUNDS,
        "firsts": FIRSTS,
        "uses_of_the_test_split": uses,
        "chosen_on_validation": chosen,
        "scorers": _scorers(told, first),
        "strategies": _strategies(told, first, runs, chosen),
    }
    RESULT.write_text(_dumped(result))


def _chosen(url: str, folder: Path) -> Json:
    """What is chosen on the validation prompts: the scorer, the thresholds, and the strategy."""
    told, first = (_told(url, folder, "validation", name, request) for name, request in _two().items())
    pictures = [p for one in told for r in one.rounds for p in r.pictures]
    by_area = {scorer: figures.areas(pictures, scorer) or 0.0 for scorer in SCORERS}
    scorer = max(by_area, key=lambda name: by_area[name])
    thresholds = {name: figures.threshold(told, name) for name in SCORERS}
    runs = {n: _told(url, folder, "validation", n, request) for n, request in searches(scorer).items()}
    found = _strategies(told, first, runs, {"scorer": scorer, "thresholds": thresholds})
    line = [one for one in found if one["kind"] == "text"]
    compared = [one for one in found if one["kind"] != "text" and one["against_text_at_equal_cost"] is not None]
    best = max(compared, key=lambda one: one["against_text_at_equal_cost"]["mean"])
    is_better = best["against_text_at_equal_cost"]["low"] > 0
    return {
        "scorer": scorer,
        "auc": {name: round(value, 4) for name, value in by_area.items()},
        "thresholds": thresholds,
        "best_against_text": best["name"],
        "is_better_on_validation": is_better,
        "recommended": best["name"] if is_better else line[-1]["name"],
    }


def _scorers(told: Sequence[Told], first: Sequence[Told]) -> Json:
    """What each scorer can tell apart."""
    found: Json = {}
    for scorer in SCORERS:
        looped = [p for one in told for r in one.rounds for p in r.pictures]
        drawn = [p for one in first for r in one.rounds for p in r.pictures]
        within, prompts = figures.area_within(first, scorer)
        wrong = [p for p in drawn if not p.is_right]
        right = sorted(v for p in drawn if p.is_right and (v := p.scores[scorer]) is not None)
        middle = right[len(right) // 2] if right else 0.0
        found[scorer] = {
            "auc_all_rounds": _rounded(figures.areas(looped, scorer)),
            "auc_first_pictures": _rounded(figures.areas(drawn, scorer)),
            "auc_within_prompt": round(within, 4),
            "prompts_with_both": prompts,
            "wrong_above_median_right": share(rank(p.scores[scorer]) >= middle for p in wrong).to_json(),
            "by_category": {
                c: _rounded(
                    figures.areas([p for t in first if t.category == c for r in t.rounds for p in r.pictures], scorer)
                )
                for c in CATEGORIES
            },
            "pictures": len(drawn),
            "wrong": len(wrong),
        }
    return found


def _strategies(told: Sequence[Told], first: Sequence[Told], runs: dict[str, list[Told]], chosen: Json) -> list[Json]:
    scorer, at = chosen["scorer"], chosen["thresholds"]
    line = figures.text_stopping(told)
    rule = figures.reached(scorer, at[scorer])
    others = {
        "score": [figures.stopped(f"{s} at least {at[s]:.4g}", told, figures.reached(s, at[s])) for s in SCORERS],
        "both": [
            figures.stopped(f"text or {scorer}", told, figures.both(figures.text, rule)),
            figures.stopped(f"text and {scorer}", told, figures.all_of(figures.text, rule)),
            figures.stopped(f"text stop, best by {scorer}", told, figures.text, best=scorer),
        ],
        "best of n": [
            figures.best_of(f"best of {n} first pictures by {s}", first, s, n) for n in (2, 4, FIRSTS) for s in SCORERS
        ],
        "search": [figures.as_run(f"{name}, by {scorer}", runs[name]) for name in runs],
    }
    found = [{"kind": "text", **figures.to_json(one, line)} for one in line]
    for kind, outcomes in others.items():
        found += [{"kind": kind, **figures.to_json(one, line)} for one in outcomes]
    return found


def _two() -> dict[str, Json]:
    return {"forced": forced(), "firsts": firsts()}


def _told(url: str, folder: Path, split: HeldOutSplit, name: str, request: Json) -> list[Told]:
    """Run it, or read what was run before."""
    path = folder / split / f"{name.replace(' ', '_')}.jsonl"
    if not path.is_file():
        _tell(f"{split}: {name}")
        keep(path, run(url, _cases(split), request, _tell))
    return kept(path)


def _cases(split: HeldOutSplit) -> list[Case]:
    if digest(split) != DIGESTS[split]:
        raise SystemExit(f"the {split} prompts are no longer those of the published figures; see training/eval_set.py")
    return sample(cases(split), PROMPTS[split])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _dumped(value: Json) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
