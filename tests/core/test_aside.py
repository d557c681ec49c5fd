"""Finished pictures are decoded beside the next turns, and nobody waits for those of others."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from r3core.engine.aside import Aside
from r3core.engine.runner import ModelRunner
from r3core.errors import StepFailed
from r3core.events import Failed, Finished, ImageReady, TextDelta
from r3core.types import Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import ask
from tests.core.walking import by_key, drive


def test_work_is_done_at_once_where_there_is_no_thread() -> None:
    future = Aside(has_thread=False).start(threading.current_thread)
    assert future.done()
    assert future.result() is threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        Aside(has_thread=False).start(lambda: 1 // 0)


def test_a_thread_computes_as_the_engine_does() -> None:
    aside = Aside(has_thread=True)
    assert aside.start(torch.get_num_threads).result() == torch.get_num_threads()
    assert aside.start(torch.is_inference_mode_enabled).result()
    with pytest.raises(ZeroDivisionError):
        aside.start(lambda: 1 // 0).result()


def with_thread(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("r3core.engine.runner.usable_cores", lambda: torch.get_num_threads() + 1)
    return make_runtime().engine


def test_others_go_on_while_a_picture_is_decoded(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    others_wrote, decode = threading.Event(), ModelRunner._decode

    def slow(self: ModelRunner, *given: Any) -> Any:
        assert others_wrote.wait(60), "the engine waits for the picture while another text could be written"
        return decode(self, *given)

    monkeypatch.setattr(ModelRunner, "_decode", slow)
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
    decode, calls = ModelRunner._decode, []

    def sometimes(self: ModelRunner, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise ValueError("no such picture")
        return decode(self, *given)

    monkeypatch.setattr(ModelRunner, "_decode", sometimes)
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
    may, decode = threading.Event(), ModelRunner._decode

    def slow(self: ModelRunner, *given: Any) -> Any:
        may.wait(60)
        return decode(self, *given)

    monkeypatch.setattr(ModelRunner, "_decode", slow)
    engine = with_thread(make_runtime, monkeypatch)
    request = ask(think=False, max_rounds=0)
    engine.add("a", Trajectory(request))
    for _ in range(request.generate.num_timesteps - 1):
        engine.step()
    engine.abort("a")
    assert [type(event).__name__ for _, event in drive(engine)] == ["Cancelled"]
    may.set()
    engine.add("a", Trajectory(request))
    assert isinstance(drive(engine)[-1][1], Finished)
