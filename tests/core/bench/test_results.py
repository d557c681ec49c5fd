"""The file of a run is read as it was written, and says nothing of whose machine it was."""

from __future__ import annotations

import json
import platform
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from r3core.bench import results
from r3core.bench.line import Ceiling, Line
from r3core.bench.results import Results
from r3core.runtime import Runtime

LINES = (
    Line("ways", "one loop", "s", (1.5, 1.25), {"way": "straightforward", "loops": 1}, 12.5, 0.25),
    Line("load", "throughput", "jobs/s", (1.0,)),
)


def made(runtime: Runtime) -> Results:
    return Results.of(runtime, "r3 bench", Ceiling(100.0, 10.0), LINES, ["left out: the weather"])


def test_a_run_is_read_as_it_was_written(random_engine: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.json"
    run = made(random_engine)
    run.write(path)
    run.write(path)
    assert Results.read(path) == run
    assert run.of_part("load") == LINES[1:]
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]


def test_it_names_the_machine_and_neither_host_nor_folder(random_engine: Runtime) -> None:
    told = json.dumps(made(random_engine).to_json())
    run = json.loads(told)
    assert run["machine"].keys() >= {"cpu", "cores", "threads", "memory_bytes", "os"}
    assert run["versions"].keys() >= {"python", "torch"}
    assert str(Path.home()) not in told
    assert str(Path(__file__).parents[3]) not in told
    assert platform.node() not in told
    assert run["dtype"] == "float32"


def test_a_run_outside_a_source_tree_names_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert results.commit().startswith("version ")


def test_numbers_are_rounded_to_what_can_be_read(random_engine: Runtime, tmp_path: Path) -> None:
    line = Line("phases", "reason", "s", (0.123456789,), gflop=1 / 3)
    run = Results.of(random_engine, "r3 bench", Ceiling(100.0, 10.0), [line])
    run.write(tmp_path / "bench.json")
    (read,) = Results.read(tmp_path / "bench.json").lines
    assert (read.values, read.gflop) == ((0.123457,), 0.333333)


def test_a_tree_without_git_that_is_not_installed_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its results are written all the same."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(metadata, "version", missing)
    assert results.commit() == "unknown"
