"""Faults inside the real model's turns: memory that runs out at any place, and the pictures of those beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from r3core.engine.feeds import Feeder
from r3core.engine.runner import ModelRunner
from r3core.events import Event, Failed, Finished
from r3core.model.attention import Packing
from r3core.model.vae import VAE
from r3core.runtime import Runtime
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import APPLES, MIX, ask, run_together
from tests.core.walking import end_of, nameless, pictures

pytestmark = pytest.mark.row("R9")

Spoil = Callable[[Runtime, pytest.MonkeyPatch], None]
BAD = ask(APPLES, seed=11, max_rounds=1)
MATES = {name: MIX[name] for name in ("plain", "wide, sampled, another renorm", "no plan, previews")}


def first_call(of: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """The same function, which runs out of memory the first time that it is called so."""
    left = iter([torch.OutOfMemoryError("CUDA out of memory")])

    def cramped(*args: Any, **options: Any) -> Any:
        if when(*args) and (error := next(left, None)) is not None:
            raise error
        return of(*args, **options)

    return cramped


def full_begin(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half-way into the beginning of a picture that goes on from its plan.
    monkeypatch.setattr(ModelRunner, "_noise", first_call(ModelRunner._noise, lambda *args: args[1].key == "bad"))


def full_eye(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feeder, "look", first_call(Feeder.look))


def full_text(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    cramped = first_call(runtime.attention.attention, lambda *args: len(args[4].pieces) > 2)
    monkeypatch.setattr(runtime.runner, "_attention", cramped)


def full_denoising(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    cramped = first_call(runtime.attention.attention, lambda *args: not all(piece.stored for piece in args[4].pieces))
    monkeypatch.setattr(runtime.runner, "_attention", cramped)


def full_decoding(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAE, "decode", first_call(VAE.decode))


@pytest.fixture(scope="module")
def in_company(make_runtime: MakeRuntime) -> dict[str, list[Event]]:
    """What each comes to beside the others where nothing fails."""
    return run_together(make_runtime(), {"bad": BAD, **MATES})


def assert_same(events: list[Event], expected: list[Event]) -> None:
    """Texts and decisions are equal, pictures within rounding: who shares a forward moves the last bits of a product,
    and truncation can flip a value by one.
    """
    assert isinstance(events[-1], Finished)
    assert nameless(end_of(events)) == nameless(end_of(expected))
    ours, theirs = pictures(events), pictures(expected)
    assert ours.keys() == theirs.keys()
    for index, pixels in theirs.items():
        assert np.abs(ours[index].astype(int) - pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("spoil", [full_begin, full_eye, full_text, full_denoising, full_decoding])
def test_memory_that_runs_out_once_changes_nothing(
    spoil: Spoil, make_runtime: MakeRuntime, in_company: dict[str, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime()
    spoil(runtime, monkeypatch)
    events = run_together(runtime, {"bad": BAD, **MATES})
    for key, expected in in_company.items():
        assert_same(events[key], expected)
    assert runtime.runner._states == {}


class Raising:
    """Attention that raises in every forward over noisy latents of the trajectory `bad`."""

    def __init__(self, runtime: Runtime, error: Exception) -> None:
        self.name = runtime.attention.attention.name
        self._attend, self._running, self._error = runtime.attention.attention, runtime.engine._scheduler, error

    def __call__(self, q: Any, k: Any, v: Any, cache: Any, packing: Packing) -> Any:
        spans = self._running["bad"].spans if "bad" in self._running else ()
        starts = {piece.start for piece in packing.pieces if not piece.stored and not piece.causal}
        if starts & {span.start for span in spans}:
            raise self._error
        return self._attend(q, k, v, cache, packing)


@pytest.mark.parametrize(
    ("error", "code"),
    [(torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"), (ValueError("a shape"), "step_failed")],
)
def test_the_pictures_beside_a_failing_request_are_the_same_as_beside_one_that_succeeds(
    error: Exception,
    code: str,
    make_runtime: MakeRuntime,
    in_company: dict[str, list[Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime()
    monkeypatch.setattr(runtime.runner, "_attention", Raising(runtime, error))
    events = run_together(runtime, {"bad": BAD, **MATES})
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == code
    for key in MATES:
        assert_same(events[key], in_company[key])
    assert runtime.engine.room == runtime.engine.max_trajectories
    assert runtime.runner._states == {}
