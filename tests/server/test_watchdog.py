"""A worker's watchdog by itself: when it ends the process, and when it does not. Whole workers that hang are in
test_worker_faults.py.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from server.settings import Settings
from server.watchdog import Watchdog
from server.worker import _hung_after_s
from server.worker_health import Vitals


@pytest.mark.parametrize(("device", "hung_after_s"), [("cuda:1", 60), ("cpu", 900), ("none (fake runner)", 900)])
def test_a_turn_may_take_a_minute_or_on_a_cpu_a_quarter_of_an_hour_unless_it_is_said(
    device: str, hung_after_s: float
) -> None:
    assert _hung_after_s(Settings(), device) == hung_after_s
    assert _hung_after_s(Settings(hung_after_s=5), device) == 5


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that a watchdog ends this process with, which it does not."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr("server.watchdog.os._exit", end)
    return codes


def test_what_hangs_is_ended_whatever_becomes_of_giving_up(ended: list[int]) -> None:
    vitals = Vitals(hung_after_s=0.2)

    def give_up() -> None:
        assert vitals.broken == "the engine has not come back for 0 s"
        raise RuntimeError("Redis is away")

    with Watchdog(vitals, give_up, 7) as watchdog:
        for _ in range(10):
            time.sleep(0.05)
            vitals.beat()
        assert ended == []
        watchdog.thread.join(10)
    assert ended == [7]


def test_time_in_which_the_process_was_stopped_is_not_that_in_which_it_hangs(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vitals = Vitals(hung_after_s=2.0)
    gone_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + gone_s[0])
    monkeypatch.setattr("server.watchdog.time", clock)
    with Watchdog(vitals, lambda: None, 7) as watchdog:
        time.sleep(0.7)
        gone_s[0] = 1000.0
        time.sleep(0.7)
        assert watchdog.thread.is_alive()
    watchdog.thread.join(10)
    assert ended == []
