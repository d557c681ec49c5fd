"""One request on an engine of its own: all of its trajectories end, and what ends it early keeps what is finished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from r3core.contact_sheet import contact_sheet
from r3core.engine.batch import Batch, Output
from r3core.engine.engine import Engine
from r3core.errors import DeviceError, InvalidRequest, OutOfCapacity
from r3core.events import Cancelled, Event, Failed, Finished, ImageReady
from r3core.fake import FakeRunner
from r3core.offline import Run
from r3core.types import ImageSampling, Request, Trajectory
from tests.core.walking import plain_picture

FAST = ImageSampling(num_timesteps=4)
REQUEST = Request("a cat edits=2", 64, 64, seed=5, n=2, generate=FAST, refine=FAST)


def run_all(run: Run) -> list[tuple[int, Event]]:
    return list(run)


def test_all_trajectories_run_to_their_end() -> None:
    run = Run(Engine(FakeRunner()), REQUEST)
    said = run_all(run)
    assert {index for index, event in said if isinstance(event, Finished)} == {0, 1}
    assert [t.stop_reason for t in run.trajectories] == ["satisfied", "satisfied"]
    assert [t.seed for t in run.trajectories] == [5, 6]
    assert (run.errors, run.ended_by) == ({}, None)


def test_a_given_picture_is_round_0_of_every_trajectory() -> None:
    run = Run(Engine(FakeRunner()), replace(REQUEST, given_image=True), plain_picture())
    run_all(run)
    assert {t.rounds[0].image for t in run.trajectories} == {plain_picture().image}


def test_cancelling_ends_after_the_step_in_hand_and_keeps_what_is_finished() -> None:
    run = Run(Engine(FakeRunner()), REQUEST)
    said: list[tuple[int, Event]] = []
    for index, event in run:
        said.append((index, event))
        if isinstance(event, ImageReady):
            run.cancel()
    assert run.ended_by == "cancel"
    assert [type(event) for _, event in said[-2:]] == [Cancelled, Cancelled]
    assert [len(t.rounds) for t in run.trajectories] == [1, 1]
    assert [t.stop_reason for t in run.trajectories] == [None, None]


@pytest.mark.parametrize(("deadline_s", "rounds"), [(0.0, 0), (0.5, 1)])
def test_a_deadline_keeps_the_newest_picture_as_the_result(deadline_s: float, rounds: int) -> None:
    slow = replace(REQUEST, prompt="a cat words=200", think=False)
    run = Run(Engine(FakeRunner(step_s=0.01)), slow, deadline_s=deadline_s)
    last = run_all(run)[-1][1]
    assert run.ended_by == "deadline"
    assert [len(t.rounds) for t in run.trajectories] == [rounds, rounds]
    assert isinstance(last, Finished if rounds else Cancelled)
    assert [t.stop_reason for t in run.trajectories] == ["deadline" if rounds else None] * 2


def test_one_failed_trajectory_leaves_the_others_and_is_named() -> None:
    class FailsForSeed6(FakeRunner):
        def run(self, batch: Batch) -> dict[str, Output]:
            for begin in batch.begin:
                if begin.trajectory.seed == 6:
                    prompt = replace(begin.trajectory.request, prompt="raise=refine edits=2")
                    object.__setattr__(begin, "trajectory", replace(begin.trajectory, request=prompt))
            return super().run(batch)

    run = Run(Engine(FailsForSeed6()), REQUEST)
    said = run_all(run)
    assert [index for index, event in said if isinstance(event, Failed)] == [1]
    assert run.errors[1].code == "step_failed"
    assert run.trajectories[0].stop_reason == "satisfied"
    assert len(run.trajectories[1].rounds) == 1


def test_what_cannot_be_run_is_refused_before_anything_is_begun() -> None:
    with pytest.raises(InvalidRequest, match="pass it in `pictures`"):
        Run(Engine(FakeRunner()), replace(REQUEST, given_image=True))
    with pytest.raises(OutOfCapacity, match="1 trajectories are running"):
        Run(Engine(FakeRunner(), max_trajectories=1), REQUEST)


def test_a_lost_device_is_raised_and_what_was_finished_stays() -> None:
    class LostLater(FakeRunner):
        def run(self, batch: Batch) -> dict[str, Output]:
            if len(self.batches) == 15:
                raise DeviceError("gone")
            return super().run(batch)

    run = Run(Engine(LostLater()), replace(REQUEST, n=1))
    with pytest.raises(DeviceError, match="gone"):
        run_all(run)
    assert len(run.trajectories[0].rounds) == 1


# --- the contact sheet

PICTURES = {(t, r): plain_picture().pixels for t in (0, 1) for r in (0, 1, 2)}


def finished_run() -> Run:
    run = Run(Engine(FakeRunner()), REQUEST)
    run_all(run)
    return run


def test_a_small_picture_is_enlarged_without_smoothing_so_that_each_of_its_pixels_shows() -> None:
    sheet = np.asarray(contact_sheet(finished_run().trajectories, PICTURES, "about"))
    picture = PICTURES[0, 0]
    enlarged = picture.repeat(5, axis=0).repeat(5, axis=1)
    rows = np.flatnonzero((sheet[:, 32:352] == enlarged[0]).all(axis=(1, 2)))
    assert len(rows) == 640  # one picture in each of the two rows of trajectories
    assert (np.diff(rows) == 1).sum() == 638


def test_a_large_picture_is_reduced_and_all_rounds_stand_side_by_side() -> None:
    trajectories = finished_run().trajectories
    large = {key: np.zeros((1024, 512, 3), np.uint8) for key in PICTURES}
    sheet = contact_sheet(trajectories, large, "about")
    assert sheet.width == 2 * 32 + 3 * 320 + 2 * 24
    assert (np.asarray(sheet).sum(axis=2) == 0).sum() > 6 * 500 * 250
    wide = {key: np.zeros((512, 1024, 3), np.uint8) for key in PICTURES}
    assert contact_sheet(trajectories, wide, "about").width == 2 * 32 + 3 * 512 + 2 * 24


@pytest.mark.parametrize("prompt", ["x" * 4000, "word " * 800, "Ein Café, 日本語, Привет 😀", "a\n\nb\tc", " "])
def test_any_prompt_can_be_drawn_and_stays_within_the_sheet(prompt: str) -> None:
    trajectories = [replace(t, request=replace(t.request, prompt=prompt)) for t in finished_run().trajectories]
    sheet = np.asarray(contact_sheet(trajectories, PICTURES, "about"))
    assert (sheet[:, -31:] == 255).all()
    assert (sheet[-31:] == 255).all()


def test_a_trajectory_without_pictures_still_has_its_line() -> None:
    sheet = contact_sheet([Trajectory(REQUEST, reasoning="<think>A plan.</think>")], {}, "about")
    assert sheet.height > 100
    assert (np.asarray(sheet) != 255).any()
