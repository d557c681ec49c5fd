"""The example of docs/research.md is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

from server.research.compare import _report
from training.eval_set import quick_cases

PROJECT = Path(__file__).resolve().parents[2]
RESULT = PROJECT / "benchmarks" / "results" / "research_example.json"


def test_the_pages_tables_are_the_ones_that_were_printed() -> None:
    said = "\n\n".join(_report(json.loads(RESULT.read_text()))).splitlines()
    text = (PROJECT / "docs" / "research.md").read_text()
    [shown] = re.findall(r"^```\n( +PROMPTS .*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in shown.splitlines() if line]
    assert len(lines) == 9
    assert [line for line in lines if line not in said] == []


def test_it_was_measured_over_the_prompts_that_the_page_names() -> None:
    value = json.loads(RESULT.read_text())
    assert value["prompts"]["both"] == len(quick_cases())
    assert {one["prompt"] for one in value["differences"]} <= {case.prompt for case in quick_cases()}
    assert sum(one["wins"] == "first" for one in value["differences"]) == 6
