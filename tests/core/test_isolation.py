"""One trajectory's fault ends that trajectory alone: injected into engines over the fake runner, in torch's words."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from r3core.engine.batch import Begin, Raised, Stepped
from r3core.engine.engine import Engine
from r3core.engine.isolation import Isolation, Outputs
from r3core.errors import DeviceError, OutOfMemory, StepFailed
from r3core.events import Event, Failed, Finished
from r3core.fake import FakeRunner
from r3core.types import ImageSampling, Request, Trajectory
from tests.core.walking import by_key, drive, end_of, nameless, pictures

FAST = ImageSampling(num_timesteps=4)
STAGES = ["reason", "generate", "reflect", "refine"]
FULL: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
LOST: list[Exception] = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in the manual."),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("Triton Error [CUDA]: an illegal instruction was encountered"),
    RuntimeError("cuda runtime error: cudaErrorLaunchFailure"),
    RuntimeError("CUDA error: unknown error"),
    DeviceError("the device stopped answering: gone"),
]


class Faulty(FakeRunner):
    """Raises `error` in every forward that has the trajectory `bad` at `stage` in it, so often."""

    def __init__(self, error: Exception, stage: str = "generate", times: int = 10**9) -> None:
        super().__init__()
        self._error, self._stage, self._left = error, stage, times
        self.companies: list[int] = []

    def fault(self, begin: Begin, company: Sequence[str]) -> None:
        if begin.key == "bad" and type(begin.step).__name__.lower() == self._stage and self._left:
            self._left -= 1
            self.companies.append(len(company))
            raise self._error


def together(runner: FakeRunner, keys: Sequence[str] = ("a", "bad", "b")) -> dict[str, list[Event]]:
    """What comes of these trajectories, run side by side."""
    engine = Engine(runner)
    for number, key in enumerate(keys):
        asked = Request(f"a cat number {number}", 64, 48, seed=number, generate=FAST, refine=FAST)
        engine.add(key, Trajectory(asked))
    events = by_key(drive(engine))
    assert engine.room == engine.max_trajectories
    return events


def assert_untouched(events: dict[str, list[Event]], keys: Sequence[str]) -> None:
    """Those trajectories came out to the byte as in a company in which nothing fails."""
    expected = together(FakeRunner())
    for key in keys:
        assert nameless(end_of(events[key])) == nameless(end_of(expected[key]))
        ours, theirs = pictures(events[key]), pictures(expected[key])
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[index], theirs[index]) for index in theirs)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", FULL, ids=str)
def test_who_runs_out_of_memory_is_tried_once_more_alone_and_then_fails_alone(error: Exception, stage: str) -> None:
    runner = Faulty(error, stage)
    events = together(runner)
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "out_of_memory"
    assert "smaller size" in str(failed.error)
    assert runner.companies == [3, 1]
    assert_untouched(events, ["a", "b"])


@pytest.mark.parametrize("stage", STAGES)
def test_who_fits_alone_goes_on_as_if_nothing_had_been(stage: str) -> None:
    events = together(Faulty(FULL[0], stage, times=1))
    assert_untouched(events, ["a", "bad", "b"])


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), KeyError("x"), AssertionError(), StepFailed("no")])
def test_who_raises_in_company_and_again_alone_fails_alone(error: Exception) -> None:
    runner = Faulty(error)
    events = together(runner)
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert type(failed.error) is StepFailed
    assert runner.companies == [3, 1]
    assert_untouched(events, ["a", "b"])


def test_who_raises_alone_is_not_tried_again_unless_memory_ran_out() -> None:
    for error, tries in ((RuntimeError("size mismatch"), 1), (MemoryError(), 2)):
        runner = Faulty(error)
        assert isinstance(together(runner, ["bad"])["bad"][-1], Failed)
        assert len(runner.companies) == tries


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_device_ends_the_turn_and_blames_nobody(error: Exception) -> None:
    runner = Faulty(error)
    with pytest.raises(DeviceError, match="the device stopped answering") as raised:
        together(runner)
    assert runner.companies == [3]
    assert "\n" not in str(raised.value)


def test_a_device_error_is_found_behind_the_error_that_it_caused() -> None:
    def act(_keys: list[str]) -> Outputs:
        try:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        except RuntimeError:
            raise ValueError("while saying so, this went wrong too") from None

    with pytest.raises(DeviceError):
        Isolation().together(["a"], act)


def test_a_text_that_a_client_sent_is_not_taken_for_a_device_error() -> None:
    """It may stand in an error of Python's; the worker would end for it, and take others' jobs along."""
    events = together(Faulty(KeyError("CUDA error: device-side assert triggered, out of memory")))
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "step_failed"
    assert isinstance(events["a"][-1], Finished)


def test_a_device_that_no_longer_answers_is_lost_whatever_the_error_says() -> None:
    def act(_keys: list[str]) -> Outputs:
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")

    with pytest.raises(DeviceError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        Isolation(answers=lambda: False).together(["a", "b"], act)
    assert isinstance(Isolation().alone("a", lambda: act([]))["a"], Raised)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_what_a_failed_forward_held_is_let_go_before_the_next_try(error: type[Exception]) -> None:
    """An error's traceback holds the frames that it passed through, and these hold what the forward had computed."""
    held: list[weakref.ref[torch.Tensor]] = []
    seen: list[list[bool]] = []

    def look() -> None:
        seen.append([one() is not None for one in held])

    def forward(keys: list[str]) -> Outputs:
        if len(keys) == 1 and error is RuntimeError:
            look()
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        if "bad" in keys:
            raise error("no")
        return dict.fromkeys(keys, Stepped(1, 2))

    outputs = Isolation(free_memory=look).together(["a", "bad"], forward)
    assert seen[0] == [False]
    assert not any(one() is not None for one in held)
    assert outputs["a"] == Stepped(1, 2)
    failed = outputs["bad"]
    assert isinstance(failed, Raised)
    assert isinstance(failed.error, OutOfMemory) == (error is MemoryError)


def test_words_in_a_prompt_ask_the_fake_runner_for_a_fault() -> None:
    engine = Engine(FakeRunner())
    fast = Request("a cat", 64, 48, seed=1, generate=FAST, refine=FAST)
    for word in ("raise=refine", "oom=reflect"):
        engine.add(word, Trajectory(replace(fast, prompt=f"a cat {word}")))
    ends = {key: events[-1] for key, events in by_key(drive(engine)).items()}
    assert {key: end.error.code for key, end in ends.items() if isinstance(end, Failed)} == {
        "raise=refine": "step_failed",
        "oom=reflect": "out_of_memory",
    }
    engine.add("c", Trajectory(replace(fast, prompt="a cat lose=generate")))
    with pytest.raises(DeviceError):
        drive(engine)
