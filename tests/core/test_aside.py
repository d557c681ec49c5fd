"""Finished pictures are decoded beside the next turns, and nobody waits for those of others."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from r3core.engine.aside import Aside
from r3core.engine.feeds import Feeder
from r3core.engine.pictures import Pictures
from r3core.engine.threads import Threads
from r3core.errors import OutOfMemory, StepFailed
from r3core.events import Failed, Finished, ImageReady, Preview, Progress, TextDelta
from r3core.judge import Counts
from r3core.types import EarlyStop, ImageSampling, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import ask
from tests.core.walking import alone, by_key, drive


def test_work_is_done_at_once_where_there_is_no_thread() -> None:
    future = Aside(None).start(threading.current_thread)
    assert future.done()
    assert future.result() is threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        Aside(None).start(lambda: 1 // 0)


def test_a_thread_computes_as_the_engine_does_on_one_core() -> None:
    aside = Aside(Threads(1))
    assert aside.start(torch.get_num_threads).result() == 1
    assert aside.start(torch.is_inference_mode_enabled).result()
    with pytest.raises(ZeroDivisionError):
        aside.start(lambda: 1 // 0).result()


def test_the_thread_keeps_to_one_core_whatever_others_set_before_it_computes() -> None:
    before, aside = torch.get_num_threads(), Aside(Threads(1))
    aside.start(int).result()
    try:
        torch.set_num_threads(2)
        assert aside.start(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)


def test_it_is_busy_while_something_is_not_done() -> None:
    aside, may = Aside(Threads(1)), threading.Event()
    assert (aside.busy, aside.is_free) == (0, True)
    futures = [aside.start(may.wait, 60) for _ in range(2)]
    assert (aside.busy, aside.is_free) == (1, False)
    assert futures[1].cancel(), "what is not begun can be taken back"
    may.set()
    futures[0].result()
    assert (aside.busy, aside.is_free) == (0, True)
    nowhere = Aside(None)
    nowhere.start(int)
    assert (nowhere.busy, nowhere.is_free) == (0, False)


def with_thread(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("r3core.engine.aside.usable_cores", lambda: 2)
    return make_runtime().engine


def test_others_go_on_while_a_picture_is_decoded(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    others_wrote, decode = threading.Event(), Pictures.decode

    def slow(self: Pictures, *given: Any) -> Any:
        assert others_wrote.wait(60), "the engine waits for the picture while another text could be written"
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", slow)
    engine = with_thread(make_runtime, monkeypatch)
    engine.add("draws", Trajectory(ask(think=False, max_rounds=0)))
    engine.add("writes", Trajectory(ask(max_rounds=0)))
    seen: list[str] = []
    while engine.has_work:
        for key, event in engine.step():
            if isinstance(event, ImageReady | TextDelta):
                seen.append(f"{key} {type(event).__name__}")
            if key == "writes" and len(seen) > 3:
                others_wrote.set()
    assert seen.index("draws ImageReady") > seen.index("writes TextDelta")
    assert seen.count("draws ImageReady") == 1


def test_a_picture_that_cannot_be_decoded_fails_alone(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = Pictures.decode, []

    def sometimes(self: Pictures, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise ValueError("no such picture")
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", sometimes)
    engine = with_thread(make_runtime, monkeypatch)
    for key in "ab":
        engine.add(key, Trajectory(ask(think=False, max_rounds=0)))
    ends = {key: events[-1] for key, events in by_key(drive(engine)).items()}
    failed = [end for end in ends.values() if isinstance(end, Failed)]
    assert len(failed) == 1
    assert isinstance(failed[0].error, StepFailed)
    assert sum(isinstance(end, Finished) for end in ends.values()) == 1


def test_one_that_is_cancelled_while_it_is_decoded_is_gone(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, decode = threading.Event(), Pictures.decode

    def slow(self: Pictures, *given: Any) -> Any:
        may.wait(60)
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", slow)
    engine = with_thread(make_runtime, monkeypatch)
    request = ask(think=False, max_rounds=0)
    engine.add("writes", Trajectory(ask(max_rounds=0)))
    engine.add("a", Trajectory(request))
    for _ in range(request.generate.num_timesteps - 1):
        engine.step()
    engine.abort("a")
    assert ("a", "Cancelled") in [(key, type(event).__name__) for key, event in engine.step()]
    may.set()
    assert by_key(drive(engine)).keys() == {"writes"}
    engine.add("a", Trajectory(request))
    assert isinstance(drive(engine)[-1][1], Finished)


def test_who_has_nothing_else_to_do_decodes_what_waits_for_its_turn(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, both = Pictures.decode, threading.Barrier(2)
    threads: set[str] = set()

    def together(self: Pictures, *given: Any) -> Any:
        threads.add(threading.current_thread().name)
        both.wait(60)  # each waits until the other is decoded too
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", together)
    engine = with_thread(make_runtime, monkeypatch)
    for key in "ab":
        engine.add(key, Trajectory(ask(think=False, max_rounds=0)))
    assert all(isinstance(events[-1], Finished) for events in by_key(drive(engine)).values())
    assert len(threads) == 2


def test_what_goes_wrong_there_is_told_where_it_is_asked_for(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the engine itself decodes fails; the other is drawn."""
    decode, begun = Pictures.decode, threading.Event()

    def sometimes(self: Pictures, *given: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            begun.set()
            raise ValueError("no such picture")
        begun.wait(60)
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", sometimes)
    engine = with_thread(make_runtime, monkeypatch)
    for key in "ab":
        engine.add(key, Trajectory(ask(think=False, max_rounds=0)))
    ends = {key: type(events[-1]).__name__ for key, events in by_key(drive(engine)).items()}
    assert ends == {"a": "Finished", "b": "Failed"}


@pytest.mark.parametrize("others", [0, 1])
def test_all_previews_come_and_before_their_picture(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    engine = with_thread(make_runtime, monkeypatch)
    engine.add("a", Trajectory(ask(previews=20, max_rounds=1)))
    for i in range(others):
        engine.add(f"other {i}", Trajectory(ask()))
    events = by_key(drive(engine))["a"]
    for round_ in (0, 1):
        steps = [event.step for event in events if isinstance(event, Preview) and event.round == round_]
        settings = (ask().generate, ask().refine)[round_]
        assert steps == list(range(1, settings.num_timesteps - 1))
        last = max(i for i, event in enumerate(events) if isinstance(event, Preview) and event.round == round_)
        picture = next(i for i, e in enumerate(events) if isinstance(e, ImageReady) and e.round == round_)
        assert last < picture


def test_a_preview_that_failed_is_decoded_once_more(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, 1)
    engine = with_thread(make_runtime, monkeypatch)
    engine.add("a", Trajectory(ask(think=False, previews=2, max_rounds=0)))
    events = [event for _, event in drive(engine)]
    assert sum(isinstance(event, Preview) for event in events) == 2
    assert isinstance(events[-1], Finished)


def spoilt(monkeypatch: pytest.MonkeyPatch, *calls: int) -> list[str]:
    """Memory runs out in these calls; the names of the threads of all calls."""
    decode, threads = Pictures.decode, []

    def sometimes(self: Pictures, *given: Any) -> Any:
        threads.append(threading.current_thread().name)
        if len(threads) in calls:
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", sometimes)
    return threads


@pytest.mark.parametrize("calls", [(1, 2), (2, 3), (1, 2, 3)])
def test_memory_that_runs_out_twice_in_a_row_changes_no_picture(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, calls: tuple[int, ...]
) -> None:
    asked = ask(think=False, previews=2, max_rounds=0)
    expected = alone(make_runtime().engine, asked)
    spoilt(monkeypatch, *calls)
    found = alone(with_thread(make_runtime, monkeypatch), asked)
    if isinstance(found.events[-1], Finished):
        assert np.array_equal(found.pictures[0], expected.pictures[0])
        assert [e for e in found.events if isinstance(e, Progress)] == [
            e for e in expected.events if isinstance(e, Progress)
        ]
    else:
        assert isinstance(end := found.events[-1], Failed)
        assert isinstance(end.error, OutOfMemory)


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_preview_that_fails_twice_is_left_out_and_its_picture_is_drawn(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, has_thread: bool
) -> None:
    previews, decode, shown, tries = Pictures.previews, Pictures.decode, list[torch.Tensor](), list[torch.Tensor]()

    def noted(self: Pictures, drawing: Any, all_clean: Any) -> Any:
        cleans = list(all_clean)
        shown.extend(clean for _, clean in cleans)
        return previews(self, drawing, cleans)

    def fails_for_previews(self: Pictures, tokens: torch.Tensor, *given: Any) -> Any:
        if any(tokens is clean for clean in shown):
            tries.append(tokens)
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, tokens, *given)

    monkeypatch.setattr(Pictures, "previews", noted)
    monkeypatch.setattr(Pictures, "decode", fails_for_previews)
    monkeypatch.setattr("r3core.engine.aside.usable_cores", lambda: 2 if has_thread else 1)
    found = alone(make_runtime().engine, ask(think=False, previews=1, max_rounds=0))
    assert isinstance(found.events[-1], Finished)
    assert not any(isinstance(event, Preview) for event in found.events)
    assert (len(shown), len(tries)) == (1, 2)


def test_candidates_that_failed_once_each_are_all_decoded_once_more(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(think=False, max_rounds=0, candidates=Counts(2, 1), scorers=("lift",))
    expected = alone(make_runtime().engine, asked)
    spoilt(monkeypatch, 1, 2)
    found = alone(with_thread(make_runtime, monkeypatch), asked)
    assert isinstance(found.events[-1], Finished)
    for mine, theirs in zip(found.pictures, expected.pictures, strict=True):
        assert np.array_equal(mine, theirs)


def test_who_is_only_decoded_takes_no_turn_of_those_that_draw(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward holds two of the three: while two are decoded the third goes on alone."""
    decode, third_drew = Pictures.decode, threading.Event()

    def slow(self: Pictures, *given: Any) -> Any:
        assert third_drew.wait(60), "the engine waits for pictures while another one could be drawn"
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", slow)
    monkeypatch.setattr("r3core.engine.aside.usable_cores", lambda: 2)
    asked = ask(think=False, max_rounds=0)
    engine = make_runtime(max_batch_rows=2 * 2 * (16 + 2)).engine
    for key in "ab":
        engine.add(key, Trajectory(asked))
    engine.add("c", Trajectory(replace(asked, generate=replace(asked.generate, num_timesteps=40))))
    seen: list[str] = []
    while engine.has_work:
        for key, event in engine.step():
            if isinstance(event, Progress) and key == "c" and event.step == 30:
                third_drew.set()
            seen.append(f"{key} {type(event).__name__}")
    assert [seen.count(f"{key} ImageReady") for key in "abc"] == [1, 1, 1]


def test_previews_never_line_up(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, waiting = Pictures.decode, []
    engine = with_thread(make_runtime, monkeypatch)

    def slow(self: Pictures, *given: Any) -> Any:
        time.sleep(0.05)
        waiting.append(engine._runner._aside._pool._work_queue.qsize())
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", slow)
    engine.add("a", Trajectory(ask(think=False, previews=20, max_rounds=0, generate=ImageSampling(num_timesteps=12))))
    events = [event for _, event in drive(engine)]
    assert sum(isinstance(event, Preview) for event in events) == 10
    assert max(waiting) == 0


def test_what_is_cancelled_is_not_begun(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may, decode, calls = threading.Event(), threading.Event(), Pictures.decode, []

    def slow(self: Pictures, *given: Any) -> Any:
        calls.append(given)
        began.set()
        may.wait(60)
        return decode(self, *given)

    monkeypatch.setattr(Pictures, "decode", slow)
    engine = with_thread(make_runtime, monkeypatch)
    for key in "abc":
        engine.add(key, Trajectory(ask(think=False, previews=1, max_rounds=0)))
    while not engine._runner._aside.busy:
        engine.step()
    assert began.wait(60)
    assert len(engine._runner._aside._begun) == 3
    for key in "abc":
        engine.abort(key)
    drive(engine)
    may.set()
    engine._runner._aside._pool.shutdown()
    assert len(calls) == 1


@pytest.mark.parametrize("others", [0, 1])
def test_a_picture_is_encoded_ahead_where_its_trajectory_is_alone(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    latent, threads = Feeder.latent, []

    def noted(self: Feeder, *given: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return latent(self, *given)

    monkeypatch.setattr(Feeder, "latent", noted)
    engine = with_thread(make_runtime, monkeypatch)
    for i in range(1 + others):
        engine.add(str(i), Trajectory(ask(max_rounds=1, early_stop=EarlyStop(on_satisfied=False))))
    events = by_key(drive(engine))["0"]
    assert isinstance(events[-1], Finished)
    assert len(threads) == 1 + others, "each picture that is edited is encoded once"
    assert threads[0] == bool(others), "whoever comes last may be alone by then"
