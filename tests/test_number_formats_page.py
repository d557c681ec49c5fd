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
    """Twice as fast in two of three pairs, whatever the machine did in the third: of the medians it would be 1.33."""
    loops = [{"at_once": 8, "seconds": [[2.0, 4.0, 9.0], [1.0, 4.0, 3.0]], "tokens": [50, 51]}]
    text = table({**RECORD, "loops": [*loops, {**loops[0], "tokens": [50, 50]}]})
    assert "| 8 loops at once, 50 and 51 tokens | 4 s | 3 s | 2.00× (1.00–3.00) |" in text
    assert "| 8 loops at once, 50 tokens |" in text
