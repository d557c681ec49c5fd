"""What is decided before the first request: how many cores there are, and how many threads compute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r3core import cores as cores_
from r3core.cores import usable_cores, usual_threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity to ask for")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 6), ("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("?", 6)],
)
def test_cores_are_those_that_the_process_may_use(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores_, "_CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("asked", "threads"),
    [(None, 6), ("3", 3), (" 64 ", 64), ("4,2", 4), ("0", 6), ("-1", 6), ("two", 6), ("", 6)],
)
def test_threads_are_as_many_as_the_environment_asks_for_or_there_are_cores(
    asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores_, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usual_threads() == threads
