"""What docs/reliability.md is made of: nothing unless asked, figures of one run, a table that says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recorded import BEGIN, END, PAGE, ROOT, Record, Recorder, read, table, with_table
from tests.reliability_rows import PROMISES


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "reliability.md"
    page.write_text(f"Before.\n\n{BEGIN}{END}\nAfter.\n")
    return page


def recorder(page: Path, *, is_on: bool = True) -> Recorder:
    return Recorder(page.parent / "results" / "reliability.json", page, is_on)


def line(page: Path, row: str) -> list[str]:
    [found] = [text for text in page.read_text().splitlines() if text.startswith(f"| {row} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_page_has_the_table_that_the_results_make() -> None:
    text = PAGE.read_text()
    assert text == with_table(text, read())


def test_nothing_is_written_unless_asked(page: Path) -> None:
    before = page.read_text()
    Record(recorder(page, is_on=False), "a test")("R1", "nothing")
    assert page.read_text() == before
    assert not (page.parent / "results").exists()


def test_every_row_is_there_and_says_how_it_stands(page: Path) -> None:
    record = Record(recorder(page), "a test")
    record("R1", "3 s")
    record("R1", "4 s")
    record("S1", "p99 900 ms", kept=False)
    record("S5", "`curl -N` streams")
    record.not_run("S5", "no browser")
    record.not_run("S4", "no nginx")
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    assert [line(page, row)[0] for row in PROMISES] == list(PROMISES)
    assert line(page, "R1")[2:4] == ["3 s; 4 s", "kept"]
    assert line(page, "S1")[2:4] == ["p99 900 ms", "**missed**"]
    assert line(page, "S5")[2:4] == ["`curl -N` streams; not run here: no browser", "kept in part"]
    assert line(page, "S4")[2:4] == ["not run here: no nginx", "not run here"]
    assert line(page, "P1")[2:4] == ["", "not measured yet"]


def test_a_rows_figures_are_of_one_run(page: Path) -> None:
    first = recorder(page)
    Record(first, "a test")("R1", "old")
    Record(first, "a test")("R2", "kept from then")
    again = recorder(page)
    Record(again, "a test")("R1", "new")
    Record(again, "another")("R1", "newer")
    assert line(page, "R1")[2] == "new; newer"
    assert line(page, "R2")[2] == "kept from then"


def test_a_row_that_is_none_is_refused(page: Path) -> None:
    with pytest.raises(AssertionError, match="R99"):
        Record(recorder(page, is_on=False), "a test")("R99", "x")


def test_tests_without_a_figure_are_counted(page: Path) -> None:
    for test in ("one", "another"):
        recorder(page, is_on=False).add("T1", test, "", "kept")
    parts = [{"test": test, "figure": "", "state": "kept"} for test in ("one", "another")]
    assert "| 2 tests hold | kept |" in table({"T1": {"date": "d", "machine": "m", "parts": parts}})


CONFTEST = """
import os
from pathlib import Path
from tests import conftest
from tests.conftest import pytest_addoption, pytest_runtest_makereport, record
from tests.recorded import Recorder

def pytest_configure(config):
    config.addinivalue_line("markers", "row(name): a row")
    where = Path(os.environ["WHERE"])
    config.stash[conftest._RECORDER] = Recorder(where / "results.json", where / "reliability.md", True)
"""
MARKED = """
import pytest

@pytest.mark.row("T1")
def test_holds(): pass

@pytest.mark.row("T2")
def test_fails(): assert False

@pytest.mark.row("T3")
def test_is_skipped(): pytest.skip("no such thing")

@pytest.mark.row("W1")
def test_records(record): record("W1", "7 refused")
"""


def test_what_comes_of_a_marked_test_is_recorded(page: Path) -> None:
    """Passed, failed and skipped, in a pytest of its own."""
    folder = page.parent
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_marked.py").write_text(MARKED)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WHERE": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=folder)
    assert "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert line(page, "T1")[2:4] == ["1 test holds", "kept"]
    assert line(page, "T2")[2:4] == ["`test_fails` fails", "**missed**"]
    assert line(page, "T3")[2:4] == ["not run here: no such thing", "not run here"]
    assert line(page, "W1")[2:4] == ["7 refused", "kept"]
