"""The example of docs/research.md, run as anyone would: `python -m benchmarks.research_example`, two minutes.

Eight validation prompts of each category, the small model, a server of r3 batch's own. Three rounds are held against
the best of four first pictures; right and wrong is what the exact parser of the small model's world says. Writes
benchmarks/results/research_example.json, which is what `r3 compare --json` prints, and docs/images/differences.png,
the first three rows of its sheet. A test holds the page against the JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from training.eval_set import Case, quick_cases
from training.parse import parse
from training.spec import satisfies

PROJECT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = PROJECT / "benchmarks" / "results" / "research_example.json"
SHEET: Final = PROJECT / "docs" / "images" / "differences.png"
JUDGED: Final = ("--set", "judge.scorers=vqa,lift")
RUNS: Final = {
    "rounds": ("--rounds", "3", *JUDGED),
    "best4": ("--rounds", "0", "--set", "candidates.first=4", *JUDGED),
}
_SHOWN_PX: Final = 1332  # of the sheet's height: three rows


def main() -> None:
    """Run both, compare them, and write what the page shows."""
    cases = quick_cases()
    with tempfile.TemporaryDirectory(prefix="r3-example-") as name:
        folder = Path(name)
        lines = [{"prompt": case.prompt, "tag": case.category, "seed": case.seed} for case in cases]
        _write(folder / "prompts.jsonl", lines)
        for run, settings in RUNS.items():
            checkpoint = ("--checkpoint", str(PROJECT / "checkpoints" / "small"))
            _r3(folder, "batch", "prompts.jsonl", "--out", run, *settings, *checkpoint)
            _write(folder / f"{run}.jsonl", _truth(folder, run, cases))
        truths = [part for run in RUNS for part in ("--truth", f"{run}.jsonl")]
        said = _r3(folder, "compare", *RUNS, *truths, "--json")
        RESULT.write_text(said, encoding="utf-8")
        with Image.open(folder / "differences.png") as sheet:
            sheet.crop((0, 0, sheet.width, min(sheet.height, _SHOWN_PX))).save(SHEET, "PNG", optimize=True)


def _truth(folder: Path, run: str, cases: Sequence[Case]) -> list[dict[str, object]]:
    paths = sorted((folder / run).glob("round_*/*/samples/*.png"))
    scenes = parse(np.stack([np.array(Image.open(path).convert("RGB")) for path in paths]))
    return [
        {
            "filename": str(path.relative_to(folder)),
            "correct": satisfies(cases[int(path.parts[-3])].spec, scene),
        }
        for path, scene in zip(paths, scenes, strict=True)
    ]


def _write(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _r3(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    environment["PYTHONPATH"] = str(PROJECT)
    command = [sys.executable, "-P", "-m", "server.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
