"""Measure the small model as it is served: `make eval`.

    python -m training.evaluate --publish             the 640 test prompts; card, JSON, plot and sheet are written
    python -m training.evaluate --split validation    for choosing things: 192 other prompts, nothing published

The test prompts serve nothing but published figures: every use of them is counted in the JSON, before its first job.
What is not published goes to build/eval. `loops.jsonl` there holds every text, for reading what went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from training import report
from training.eval_set import DIGESTS, HeldOutSplit, cases, digest
from training.figures import Json
from training.loops import Loop
from training.measured import Measured, measure, sample
from training.plot import accuracy_plot
from training.served import AskFailed, ServeFailed, info, private_server
from training.sheet import sheet
from training.world import layout

PROJECT: Final = Path(__file__).resolve().parent.parent
CHECKPOINT: Final = PROJECT / "checkpoints" / "small"
RESULT: Final = PROJECT / "benchmarks" / "results" / "small_model.json"
IMAGES: Final = PROJECT / "docs" / "images"
UNPUBLISHED: Final = PROJECT / "build" / "eval"


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print the table, write what is to be written."""
    asked = _options(given)
    split: HeldOutSplit = asked.split
    if digest(split) != DIGESTS[split]:
        raise SystemExit(f"the {split} prompts are no longer those of the published figures; see training/eval_set.py")
    if asked.publish:
        report.put_between(_card().read_text(), "")  # a card without a place for them is found before, not after
    chosen = sample(cases(split), asked.limit)
    try:
        with _server(asked.url, asked.checkpoint) as url:
            about = report.about(chosen, split, digest(split), info(url))
            if asked.publish:
                about["uses_of_the_test_split"] = count_use(RESULT, about)
            measured = measure(url, chosen, _tell)
    except (AskFailed, ServeFailed) as error:
        raise SystemExit(f"not measured: {error}") from error
    words = report.table(measured, about)
    print(words)
    _keep(UNPUBLISHED, measured, report.record(measured, about), words)
    if asked.publish:
        _publish(measured, report.record(measured, about), words)
    return 0


def count_use(path: Path, about: Json) -> list[Json]:
    """Every use of the test split until now and this one; noted in the file at once, beside the figures it has."""
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    uses = [*earlier.get("uses_of_the_test_split", []), {"at": about["at"], "checkpoint": about["checkpoint"]["hash"]}]
    _write_json(path, {**earlier, "uses_of_the_test_split": uses})
    return uses


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("test", "validation"), help="which prompts [validation; test to publish]")
    parser.add_argument("--publish", action="store_true", help="measure the test prompts for the published figures")
    parser.add_argument("--limit", type=int, help="about so many prompts, as many of each category; not to publish")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to serve [checkpoints/small]")
    parser.add_argument("--url", help="measure a server that runs, in place of one of its own")
    asked = parser.parse_args(given)
    asked.split = asked.split or ("test" if asked.publish else "validation")
    if asked.publish != (asked.split == "test"):
        parser.error(
            "the test prompts are for published figures and nothing else; say --publish, or --split validation"
        )
    if asked.publish and (asked.limit or asked.url or asked.checkpoint != CHECKPOINT):
        parser.error("what is published is of all test prompts and of checkpoints/small; say --publish alone")
    return asked


@contextmanager
def _server(url: str | None, checkpoint: Path) -> Iterator[str]:
    """The server that runs, or a private one."""
    if url is not None:
        yield url.rstrip("/")
        return
    with private_server(checkpoint) as own:
        yield own


def _publish(measured: Measured, record: Json, words: str) -> None:
    card = _card()
    card.write_text(report.put_between(card.read_text(), words))
    _write_json(RESULT, record)
    _draw(measured, IMAGES / "small_accuracy.png", IMAGES / "small_sheet.png")


def _card() -> Path:
    return CHECKPOINT / "README.md"


def _keep(folder: Path, measured: Measured, record: Json, words: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "figures.json", record)
    (folder / "table.md").write_text(words + "\n")
    (folder / "loops.jsonl").write_text("".join(json.dumps(_story(loop)) + "\n" for loop in measured.loops))
    _draw(measured, folder / "accuracy.png", folder / "sheet.png")


def _draw(measured: Measured, plot: Path, loops: Path) -> None:
    accuracy_plot(measured).save(plot, "PNG", optimize=True)
    shown = sheet(measured.loops)
    if shown is not None:
        shown.save(loops, "PNG", optimize=True)


def _story(loop: Loop) -> Json:
    """A loop in words, for reading."""
    rounds = [
        {
            "is_right": shown.is_right,
            "is_reading_right": shown.is_reading_right,
            "scene": layout(shown.scene),
            "instruction": shown.instruction,
            "said": asdict(shown.said)["text"] if shown.said else None,
        }
        for shown in loop.rounds
    ]
    asked = {"category": loop.case.category, "prompt": loop.case.prompt, "seed": loop.case.seed}
    return {**asked, "plan": loop.reasoning, "rounds": rounds, "stop_reason": loop.stop_reason}


def _write_json(path: Path, value: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
