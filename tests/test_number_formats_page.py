"""docs/performance.md says of number formats what their run found."""

from __future__ import annotations

import json

import pytest

from benchmarks.number_formats import PAGE, RESULT, table, with_table

RECORD = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_page_has_the_table_that_the_run_makes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text, RECORD)


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="begin formats"):
        with_table("# Nothing", RECORD)


def test_a_gain_is_of_runs_beside_each_other() -> None:
    """Of two pairs of runs, one at half the machine's speed: twice as fast in both."""
    loops = [{"at_once": 8, "seconds": [[2.0, 4.0], [1.0, 2.0]]}]
    assert "| 8 loops at once | 3 s (2–4) | 1.5 s (1–2) | 2.00× |" in table({**RECORD, "loops": loops})
