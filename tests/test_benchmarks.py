"""The benchmark harnesses run: what they measure is looked at by people, that they work is looked at here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from r3core.bench.results import Results

PROJECT = Path(__file__).resolve().parent.parent


def full_size(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/full_size.py", *options]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=110, check=False)


def test_the_full_size_harness_measures_everything_with_a_small_model(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = full_size("--sizes", "trial", "--results", str(path))
    assert done.returncode == 0, done.stderr
    run = Results.read(path)
    assert {line.part for line in run.lines} == {
        *("ceiling", "pictures", "decode", "choosing", "loops", "memory", "denoise")
    }
    assert {line.settings["side"] for line in run.of_part("pictures")} == {64, 128}
    assert not run.notes
    figures, _, targets = done.stdout.partition("targets")
    for line in run.lines:
        assert line.name in figures
    assert "512², text-to-image, 50 timesteps" in targets
    assert "not measured" in targets
    assert "met:" not in targets


def test_it_keeps_to_its_time_and_names_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = full_size("--sizes", "trial", "--budget", "0.001", "--results", str(path))
    assert done.returncode == 0, done.stderr
    run = Results.read(path)
    assert {line.part for line in run.lines} == {"ceiling"}
    assert len(run.notes) == 8
    assert run.notes[0].startswith("left out: pictures of 5 timesteps, which would take ")
    assert run.notes[0] in done.stdout


def test_the_true_size_is_refused_by_name_where_there_is_no_gpu() -> None:
    done = full_size("--device", "cpu")
    assert done.returncode == 2
    assert "needs a CUDA GPU; --sizes small" in done.stderr
