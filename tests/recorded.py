"""Figures that tests measure for docs/reliability.md. They are written down with R3_RECORD=1 alone.

A test says which row it proves with `@pytest.mark.row("R1")`, and what it measured with the fixture `record`:

    record("R1", "150 kills: no job lost; resumed after at most 1.9 s", kept=True)

A marked test that records nothing counts as holding; one that fails as a miss; one that is skipped as not run, with
the reason. The first thing recorded of a row replaces what was written of it before: a row's figures are of one run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from server import __version__
from server.embedded import find_binary
from tests.reliability_rows import PROMISES

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- begin: written by `make reliability` and `make soak` -->\n"
END: Final = "<!-- end -->\n"

State = Literal["kept", "missed", "not run"]
Results = dict[str, dict[str, Any]]


@dataclass
class Recorder:
    """Writes down what tests measured, at once: a test that is killed takes nothing with it."""

    results: Path = RESULTS
    page: Path = PAGE
    is_on: bool = field(default_factory=lambda: os.environ.get("R3_RECORD") == "1")
    _begun: set[str] = field(default_factory=set)
    _by_test: set[tuple[str, str]] = field(default_factory=set)

    def add(self, row: str, test: str, figure: str, state: State) -> None:
        """Of a row, by a test: a figure, empty where there is none but the test itself, and how the promise stands."""
        assert row in PROMISES, f"{row} is no row of docs/reliability.md"
        self._by_test.add((row, test))
        if not self.is_on:
            return
        results = read(self.results)
        if row not in self._begun:
            self._begun.add(row)
            today = datetime.now(UTC).date().isoformat()
            results[row] = {"date": today, "machine": machine(), "parts": []}
        results[row]["parts"].append({"test": test, "figure": figure, "state": state})
        self.results.parent.mkdir(parents=True, exist_ok=True)
        self.results.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")
        self.page.write_text(with_table(self.page.read_text(), results))

    def has_heard(self, row: str, test: str) -> bool:
        """Whether the test has recorded something of the row."""
        return (row, test) in self._by_test


@dataclass(frozen=True)
class Record:
    """What the fixture `record` gives a test."""

    recorder: Recorder
    test: str

    def __call__(self, row: str, figure: str, *, kept: bool = True) -> None:
        """What was measured, and whether it is within the promise."""
        self.recorder.add(row, self.test, figure, "kept" if kept else "missed")

    def not_run(self, row: str, why: str) -> None:
        """A part of the row that nothing here can try."""
        self.recorder.add(row, self.test, why, "not run")


def read(results: Path = RESULTS) -> Results:
    """What was recorded so far."""
    return dict(json.loads(results.read_text())) if results.exists() else {}


def with_table(page: str, results: Mapping[str, Any]) -> str:
    """The page with the table that the results make."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def table(results: Mapping[str, Any]) -> str:
    """One line a row; what nobody has recorded says so."""
    lines = ["| row | promised | measured | | on |", "|---|---|---|---|---|"]
    for row, promise in PROMISES.items():
        found = results.get(row)
        if found is None:
            lines.append(f"| {row} | {promise} | | not measured yet | |")
            continue
        where = f"{found['date']}, {found['machine']}"
        lines.append(f"| {row} | {promise} | {_figures(found['parts'])} | {_state(found['parts'])} | {where} |")
    return "\n".join(lines) + "\n"


def _figures(parts: list[dict[str, str]]) -> str:
    """Each figure once, in the order they came; tests without one are counted."""
    said = list(dict.fromkeys(_figure(part) for part in parts if part["figure"]))
    silent = sum(not part["figure"] for part in parts)
    if silent:
        said.append(f"{silent} {'tests hold' if silent > 1 else 'test holds'}")
    return "; ".join(said).replace("|", "\\|")


def _figure(part: dict[str, str]) -> str:
    return f"not run here: {part['figure']}" if part["state"] == "not run" else part["figure"]


def _state(parts: list[dict[str, str]]) -> str:
    states = {part["state"] for part in parts}
    if "missed" in states:
        return "**missed**"
    return "kept" if states == {"kept"} else "kept in part" if "kept" in states else "not run here"


def machine() -> str:
    """The class of this machine: what figures may be compared by."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\w+) server v=(\S+)", said)
    queue = f"{found[1]} {found[2]}" if found else "an unknown queue server"
    return f"{cores} cores, {platform.system()}, Python {platform.python_version()}, r3 {__version__}, {queue}"
