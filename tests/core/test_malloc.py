"""Which malloc a worker is given, and what is told of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r3core import malloc
from tests.programs import needed_malloc


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A machine without a GPU that has a quicker one."""
    monkeypatch.setattr(malloc, "_GPUS", (tmp_path / "nvidiactl", tmp_path / "dxg"))
    monkeypatch.setattr(malloc, "quicker", lambda: "libtcmalloc_minimal.so.4")
    return "libtcmalloc_minimal.so.4"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", None])
def test_a_worker_on_a_cpu_is_given_it(found: str, device: str | None) -> None:
    assert malloc.preload({"PATH": "/bin"}, device) == {"LD_PRELOAD": found}


@pytest.mark.parametrize("given", ["", "libasan.so.8"])
def test_what_somebody_set_stays(found: str, given: str) -> None:
    assert malloc.preload({"LD_PRELOAD": given}, "cpu") == {}


def test_a_worker_that_may_take_a_gpu_is_not(found: str, tmp_path: Path) -> None:
    (tmp_path / "dxg").touch()
    assert malloc.preload({}, "cuda:0") == malloc.preload({}, None) == {}
    assert malloc.preload({}, "cpu") == {"LD_PRELOAD": found}


def test_a_machine_without_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "find_library", lambda _: None)
    assert malloc.preload({}, "cpu") == {}


def test_a_process_tells_whose_it_has() -> None:
    name = needed_malloc()
    told = {value: _said({malloc.VARIABLE: value}, "-c", _TELL) for value in ("", name)}
    assert told == {"": "libc", name: "tcmalloc"}


_TELL = "from r3core import malloc; print(malloc.in_use())"


def _said(variables: dict[str, str], *arguments: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name not in (malloc.VARIABLE, "R3_DEVICE")}
    return subprocess.run(
        [sys.executable, *arguments], env=plain | variables, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
