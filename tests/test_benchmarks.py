"""The benchmark harnesses run: what they measure is looked at by people, that they work is looked at here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def test_the_full_size_harness_runs_a_loop_alone_and_several_together_with_a_small_model() -> None:
    command = [sys.executable, "benchmarks/full_size.py", "--sizes", "small", "--timesteps", "4", "--together", "2"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("phase", 1)[1]
    for phase in ("reason", "generate 0", "reflect 0", "refine 1", "reflect 1", "refine 2", "whole loop"):
        assert phase in table
    assert "2 loops together" in table


def test_the_true_size_is_refused_by_name_where_there_is_no_gpu() -> None:
    command = [sys.executable, "benchmarks/full_size.py", "--device", "cpu"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "needs a CUDA GPU; --sizes small" in done.stderr
