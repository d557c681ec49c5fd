"""A worker's watchdog by itself: when it ends the process, and when it does not. Whole workers that hang are in
test_worker_faults.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from server.settings import Settings
from server.watchdog import Watchdog
from server.worker import _hung_after_s
from server.worker_health import Vitals
from tests.server.waiting import until


@pytest.mark.parametrize(("device", "hung_after_s"), [("cuda:1", 60), ("cpu", 3600), ("none (fake runner)", 3600)])
def test_a_turn_may_take_a_minute_or_on_a_cpu_an_hour_unless_it_is_said(device: str, hung_after_s: float) -> None:
    assert _hung_after_s(Settings(), device) == hung_after_s
    assert _hung_after_s(Settings(hung_after_s=5), device) == 5


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that a watchdog ends this process with, which it does not."""
    codes: list[int] = []
    monkeypatch.setattr("server.watchdog.os._exit", codes.append)
    return codes


def begun(watchdog: Watchdog, act: Callable[[], object]) -> threading.Thread:
    """A thread that has a turn in which it does this."""

    def turn() -> None:
        with watchdog.turn():
            act()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    return thread


def test_who_hangs_is_given_up_and_stays_where_it_is(ended: list[int]) -> None:
    vitals, release, told = Vitals(hung_after_s=0.4), threading.Event(), []

    def give_up() -> None:
        told.append((vitals.broken, vitals.livez()[0]))
        raise RuntimeError("Redis is away")

    with Watchdog(vitals, give_up, 7) as watchdog:
        hanging = begun(watchdog, release.wait)
        until(lambda: bool(ended))
    assert told == [("the engine has not come back for 0 s", False)]
    watchdog.thread.join(10)
    assert ended == [7]
    release.set()  # too late: what it would do now is done already
    hanging.join(0.3)
    assert hanging.is_alive()


def test_many_turns_and_what_lies_between_them_may_take_longer(ended: list[int]) -> None:
    with Watchdog(Vitals(hung_after_s=1.0), lambda: None, 7) as watchdog:
        for pause_s in (0.1,) * 15:
            begun(watchdog, lambda: time.sleep(0.02)).join()
            time.sleep(pause_s)
        time.sleep(1.5)
    assert ended == []


def test_a_log_that_nobody_reads_does_not_keep_it_from_ending(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watchdog.ENDED_WITHIN_S", 0.1)
    blocked = threading.Event()
    monkeypatch.setattr("server.watchdog.log", SimpleNamespace(critical=lambda *_, **__: blocked.wait()))
    with Watchdog(Vitals(hung_after_s=0.2), lambda: None, 7) as watchdog:
        begun(watchdog, blocked.wait)
        until(lambda: ended == [7])
    blocked.set()
    watchdog.thread.join(10)  # it ends the process once more, which must not be another test's


def test_time_in_which_the_process_was_stopped_is_not_that_in_which_it_hangs(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_s, release = [0.0], threading.Event()
    monkeypatch.setattr("server.watchdog.time", SimpleNamespace(monotonic=lambda: time.monotonic() + gone_s[0]))
    with Watchdog(Vitals(hung_after_s=40.0), lambda: None, 7) as watchdog:
        begun(watchdog, release.wait)
        for _ in range(3):
            time.sleep(0.5)
            gone_s[0] += 1000.0
        time.sleep(1.5)
        assert watchdog.thread.is_alive()
        release.set()
    assert ended == []
