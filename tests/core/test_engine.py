"""The engine over the fake runner: who runs when, what is said in which order, and that everything ends, once."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.engine.batch import Batch, Need, Output, Picture, Piece, Span, Stepped
from r3core.engine.engine import Engine
from r3core.errors import DeviceError, InvalidRequest, OutOfCapacity, PromptTooLong, StepFailed
from r3core.events import TERMINAL, Cancelled, Chose, Failed, Finished, ImageReady, Progress, Reasoned, TextDelta
from r3core.fake import FakeRunner
from r3core.judge import SCORERS, Counts, ScoreStop
from r3core.loop import needed
from r3core.steps import Generate, Reason, Refine, Step
from r3core.types import EarlyStop, Image, ImageSampling, Request, Trajectory
from tests.core.walking import Log, alone, by_key, check_order, drive, end_of, nameless, pictures, plain_picture

FAST = ImageSampling(num_timesteps=4)
SLOW = ImageSampling(num_timesteps=50)


def ask(prompt: str = "a cat", **changes: Any) -> Request:
    return replace(Request(prompt=prompt, width=64, height=64, seed=1, generate=FAST, refine=FAST), **changes)


def given_picture(request: Request) -> tuple[Picture, ...]:
    return (plain_picture(),) if request.given_image else ()


class SizedRunner(FakeRunner):
    """Steps take as many rows as `rows=` in the prompt says, and every batch is held against the limits."""

    def __init__(self, cache_rows: int, max_batch_rows: int = 10**6) -> None:
        super().__init__(cache_rows=cache_rows)
        self.max_batch_rows = max_batch_rows
        self.held: dict[str, tuple[Span, ...]] = {}  # of steps that are being run

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        found = re.search(r"\brows=(\d+)", trajectory.request.prompt)
        rows = int(found[1]) if found else 10
        spans = (rows, rows // 2) if isinstance(step, Refine) else (rows,)
        return Need(spans, 1 if keeps else sum(spans), 2 * rows if isinstance(step, Generate | Refine) else 0)

    def run(self, batch: Batch) -> dict[str, Output]:
        self._check_forward([self._need_of(b.key, b.step, b.trajectory).prefill_rows for b in batch.begin])
        for begin in batch.begin:
            self.held[begin.key] = begin.spans
        rows = [row for spans in self.held.values() for s in spans for row in range(s.start, s.start + s.rows)]
        assert len(rows) == len(set(rows)), "a row is lent to two steps at once"
        assert all(0 <= row < self.cache_rows for row in rows)
        assert {*batch.text, *batch.draw} >= {begin.key for begin in batch.begin}
        assert {*batch.text, *batch.draw} <= set(self.held)
        outputs = super().run(batch)
        drawing = [self._states[key].begin for key in batch.draw]
        self._check_forward([self._need_of(b.key, b.step, b.trajectory).draw_rows for b in drawing])
        for key, output in outputs.items():
            if not isinstance(output, Piece | Stepped):
                del self.held[key]
        return outputs

    def free(self, key: str) -> None:
        self.held.pop(key, None)
        super().free(key)

    def _need_of(self, key: str, step: Step, trajectory: Trajectory) -> Need:
        return self.need(step, trajectory, keeps=True)  # the fewest rows that it may have counted

    def _check_forward(self, rows: list[int]) -> None:
        assert len(rows) < 2 or sum(rows) <= self.max_batch_rows


@dataclass(frozen=True)
class Plan:
    """A request of a random mix: when it comes, and when its owner gives it up."""

    request: Request
    comes: int
    aborted: int | None


prompts = st.builds(
    "{} rows={} edits={} {} {}".format,
    st.sampled_from(["a cat", "two birds"]),
    st.integers(1, 60),
    st.integers(0, 4),
    st.sampled_from(["", "", "", "raise=reason", "raise=generate", "raise=reflect", "raise=refine"]),
    st.sampled_from(["", "malformed=0", "malformed=1", "words=9"]),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    given_image = draw(st.booleans())
    rounds = draw(st.integers(1 if given_image else 0, 3))
    scorers = tuple(draw(st.lists(st.sampled_from(SCORERS), max_size=2, unique=True)))
    judged = {
        "scorers": scorers,
        "candidates": Counts(draw(st.integers(1, 4)), draw(st.integers(1, 3))),
        "choose": draw(st.sampled_from(["last", "best"])),
        "on_regression": draw(st.sampled_from(["keep", "backtrack"])),
        "max_images": draw(st.none() | st.integers(1, 9)),
    }
    request = ask(
        draw(prompts),
        **(judged if scorers else {}),
        seed=draw(st.integers(0, 5)),
        max_rounds=rounds,
        min_rounds=draw(st.integers(0, rounds)),
        early_stop=EarlyStop(draw(st.booleans()), draw(st.integers(1, 3))),
        think=draw(st.booleans()),
        given_image=given_image,
        instruction=draw(st.sampled_from([None, "Make it blue."])) if given_image else None,
        previews=draw(st.integers(0, 2)),
        generate=ImageSampling(num_timesteps=draw(st.integers(2, 6))),
        refine=ImageSampling(num_timesteps=draw(st.integers(2, 6))),
    )
    return Plan(request, draw(st.integers(0, 12)), draw(st.none() | st.integers(0, 60)))


def run_mix(engine: Engine, mix: list[Plan]) -> Log:
    """Let requests come and be given up at their times; each waits for a place."""
    log: Log = []
    waiting = sorted(enumerate(mix), key=lambda pair: pair[1].comes)
    for turn in range(4_000):
        while waiting and waiting[0][1].comes <= turn and engine.room:
            number, plan = waiting.pop(0)
            engine.add(str(number), Trajectory(plan.request), given_picture(plan.request))
        for number, plan in enumerate(mix):
            if plan.aborted == turn:
                engine.abort(str(number))
        had_work = engine.has_work
        said = engine.step()
        assert said or not had_work, "there is work, and none of it is done"
        log += said
        if not engine.has_work and not waiting:
            return log
    raise AssertionError("the mix never came to an end")


@given(
    mix=st.lists(plans(), min_size=1, max_size=8),
    cache_rows=st.integers(60, 120),
    max_batch_rows=st.integers(1, 300),
    places=st.integers(1, 4),
)
def test_every_trajectory_ends_in_exactly_one_terminal_event(
    mix: list[Plan], cache_rows: int, max_batch_rows: int, places: int
) -> None:
    runner = SizedRunner(cache_rows, max_batch_rows)
    engine = Engine(runner, max_trajectories=places)
    events = by_key(run_mix(engine, mix))
    assert set(events) == {str(number) for number in range(len(mix))}
    for key, said in events.items():
        check_order(said)
        if isinstance(said[-1], Finished):
            request = mix[int(key)].request
            expected = alone(Engine(FakeRunner()), request, given_picture(request)).trajectory
            assert nameless(said[-1].trajectory) == nameless(expected)
    assert engine.room == places
    assert runner.held == {}
    assert runner._states == {}
    assert engine._scheduler._spans.free_rows == cache_rows


def test_the_events_of_a_trajectory_follow_the_loop() -> None:
    ran = alone(Engine(FakeRunner()), ask("a cat edits=2", previews=1))
    names = [type(event).__name__ for event in ran.events]
    assert [name for name in names if name not in ("TextDelta", "Progress", "Preview")] == [
        *("Reasoned", "ImageReady", "Reflected", "ImageReady", "Reflected", "ImageReady", "Reflected", "Finished")
    ]
    assert names.count("Preview") == 3
    check_order(ran.events)


def test_usage_counts_tokens_steps_and_branches() -> None:
    ran = alone(Engine(FakeRunner()), Request("a cat edits=1", 64, 64, seed=1))
    assert (ran.trajectory.usage.denoise_steps, ran.trajectory.usage.forwards) == (98, 90 + 131)
    texts = [ran.trajectory.reasoning, *(r.reflection.text for r in ran.trajectory.rounds if r.reflection)]
    assert ran.trajectory.usage.text_tokens == sum(len(text.split()) for text in texts if text)  # the fake's tokens


def test_a_given_picture_is_announced_first_under_its_own_name() -> None:
    picture = plain_picture(80, 48)
    ran = alone(Engine(FakeRunner()), ask("a cat edits=0", width=80, height=48, given_image=True), (picture,))
    first = ran.events[0]
    assert isinstance(first, ImageReady)
    assert (first.round, first.image, first.instruction) == (0, picture.image, None)
    assert first.pixels is picture.pixels
    assert ran.trajectory.reasoning is None
    assert ran.trajectory.stop_reason == "satisfied"
    assert ran.trajectory.usage.denoise_steps == 0


def test_an_abort_takes_effect_at_the_next_step_and_computes_nothing_more() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    engine.add("a", Trajectory(ask("a cat", generate=SLOW)))
    engine.add("b", Trajectory(ask("a bird", generate=SLOW)))
    for _ in range(20):
        engine.step()
    engine.abort("a")
    engine.abort("a")
    runner.batches.clear()
    events = by_key(engine.step())
    assert [type(event) for event in events["a"]] == [Cancelled]
    assert runner.batches[-1].draw == ("b",)
    assert "a" not in by_key(drive(engine))


def test_an_abort_before_the_first_step_ends_it_too_and_strangers_are_ignored() -> None:
    engine = Engine(FakeRunner())
    engine.add("a", Trajectory(ask(given_image=True)), (plain_picture(),))
    engine.abort("a")
    engine.abort("nobody")
    assert [type(event) for _, event in drive(engine)] == [ImageReady, Cancelled]
    engine.abort("a")
    assert engine.step() == []
    engine.add("a", Trajectory(ask()))
    assert isinstance(drive(engine)[-1][1], Finished)


def test_what_was_finished_is_kept_by_a_cancelled_and_by_a_failed_trajectory() -> None:
    engine = Engine(FakeRunner())
    engine.add("a", Trajectory(ask("a cat raise=refine")))
    engine.add("b", Trajectory(ask("a cat")))
    log: Log = []
    while "ImageReady" not in [type(event).__name__ for key, event in log if key == "b"]:
        log += engine.step()
    engine.abort("b")
    events = by_key(log + drive(engine))
    failed = events["a"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, StepFailed)
    assert isinstance(events["b"][-1], Cancelled)
    for key in "ab":
        assert len(end_of(events[key]).rounds) == 1
        assert end_of(events[key]).stop_reason is None


@pytest.mark.parametrize("stage", ["reason", "generate", "reflect", "refine"])
def test_a_failing_trajectory_leaves_its_batch_mates_as_they_would_be_alone(stage: str) -> None:
    requests = [ask("a cat"), ask(f"a dog raise={stage}"), ask("a bird", seed=9)]
    engine = Engine(FakeRunner())
    for number, request in enumerate(requests):
        engine.add(str(number), Trajectory(request))
    events = by_key(drive(engine))
    assert isinstance(events["1"][-1], Failed)
    for number in (0, 2):
        expected = alone(Engine(FakeRunner()), requests[number])
        assert nameless(end_of(events[str(number)])) == nameless(expected.trajectory)
        drawn = pictures(events[str(number)])
        assert all(np.array_equal(drawn[r], expected.pictures[r]) for r in expected.pictures)


def test_a_place_is_free_as_soon_as_a_trajectory_has_ended() -> None:
    engine = Engine(FakeRunner(), max_trajectories=2)
    engine.add("short", Trajectory(ask("a cat edits=0")))
    engine.add("long", Trajectory(ask("a cat", refine=SLOW)))
    with pytest.raises(OutOfCapacity, match="2 trajectories are running; add this one when one has ended"):
        engine.add("third", Trajectory(ask()))
    while engine.room == 0:
        ended = [key for key, event in engine.step() if isinstance(event, TERMINAL)]
    assert ended == ["short"]
    engine.add("third", Trajectory(ask("a cat edits=0")))
    assert [key for key, event in drive(engine) if isinstance(event, TERMINAL)] == ["third", "long"]


def test_a_large_request_among_small_ones_is_not_starved() -> None:
    engine = Engine(SizedRunner(cache_rows=100), max_trajectories=8)
    engine.add("small-0", Trajectory(ask("a cat rows=10")))
    engine.step()
    engine.add("large", Trajectory(ask("a cat rows=60 edits=1")))
    for turn in range(1, 400):
        if engine.room:
            engine.add(f"small-{turn}", Trajectory(ask("a cat rows=10")))
        if any(key == "large" and isinstance(event, Finished) for key, event in engine.step()):
            return
    raise AssertionError("small requests always went first")


def test_a_plan_that_holds_its_rows_does_not_wait_behind_a_step_that_wants_them() -> None:
    """There is room for one: the picture of the first must be drawn before the second can begin."""
    engine = Engine(SizedRunner(cache_rows=15))
    engine.add("a", Trajectory(ask("a cat rows=10", early_stop=EarlyStop(confirmations=2))))
    engine.add("b", Trajectory(ask("a cat rows=10", early_stop=EarlyStop(confirmations=2))))
    assert [type(event) for _, event in drive(engine) if isinstance(event, TERMINAL)] == [Finished, Finished]


def test_a_step_that_the_whole_cache_could_not_hold_ends_its_trajectory_and_no_other() -> None:
    engine = Engine(SizedRunner(cache_rows=100))
    engine.add("a", Trajectory(ask("a cat rows=80")))
    engine.add("b", Trajectory(ask("a cat rows=20")))
    events = by_key(drive(engine))
    failed = events["a"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutOfCapacity)
    assert "needs 120 cache rows and 100 were planned" in str(failed.error)
    assert len(failed.trajectory.rounds) == 1
    assert isinstance(events["b"][-1], Finished)


@pytest.mark.parametrize("fault", [KeyError("no such size"), PromptTooLong("too long")])
@pytest.mark.parametrize("stage", [Reason, Refine])
def test_a_step_that_cannot_be_counted_ends_its_trajectory_and_no_other(fault: Exception, stage: type[Step]) -> None:
    class Uncountable(FakeRunner):
        def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
            if "uncountable" in trajectory.request.prompt and isinstance(step, stage):
                raise fault
            return super().need(step, trajectory, keeps=keeps)

    engine = Engine(Uncountable())
    for key, prompt in {"a": "a cat", "b": "an uncountable cat", "c": "a bird"}.items():
        engine.add(key, Trajectory(ask(prompt)))
    events = by_key(drive(engine))
    failed = events["b"][-1]
    assert isinstance(failed, Failed)
    if isinstance(fault, PromptTooLong):
        assert failed.error is fault
    else:
        assert isinstance(failed.error, StepFailed)
        assert failed.error.__cause__ is fault
    assert [isinstance(events[key][-1], Finished) for key in "ac"] == [True, True]
    assert engine.room == engine.max_trajectories


def test_pictures_that_do_not_fit_one_forward_take_turns() -> None:
    runner = SizedRunner(cache_rows=1000, max_batch_rows=50)
    engine = Engine(runner)
    for number in range(5):
        engine.add(str(number), Trajectory(ask(f"{number} cats rows=10 edits=0", think=False, generate=SLOW)))
    for _ in range(60):
        engine.step()
    turns = [sum(key in batch.draw for batch in runner.batches) for key in "01234"]
    assert max(turns) - min(turns) <= 1
    drive(engine)


def stored(trajectory: Trajectory) -> Trajectory:
    """The trajectory as another worker reads it."""
    return Trajectory.from_json(json.loads(json.dumps(trajectory.to_json())))


@pytest.mark.parametrize("after_round", [0, 1, 2])
def test_a_stored_trajectory_goes_on_to_the_same_end(after_round: int) -> None:
    whole = alone(Engine(FakeRunner()), ask("a cat edits=3"))
    kept = next(e for e in whole.events if isinstance(e, ImageReady) and e.round == after_round)
    engine = Engine(FakeRunner())
    engine.add("a", stored(kept.trajectory), (Picture(kept.image, kept.pixels),))
    rest = by_key(drive(engine))["a"]
    assert not any(isinstance(event, Reasoned) for event in rest)
    assert sorted(pictures(rest)) == list(range(after_round + 1, 4))
    assert nameless(end_of(rest)) == nameless(whole.trajectory)
    assert end_of(rest).rounds[: after_round + 1] == whole.trajectory.rounds[: after_round + 1] or after_round == 3


JUDGED: dict[str, Any] = {
    "scorers": ("lift", "verdict"),
    "candidates": Counts(3, 2),
    "choose": "best",
    "on_regression": "backtrack",
}


def test_a_judged_trajectory_goes_on_from_any_of_its_pictures_to_the_same_end() -> None:
    whole = alone(Engine(FakeRunner()), ask("a cat edits=3 scores=5263", **JUDGED))
    check_order(whole.events)
    kept = [event for event in whole.events if isinstance(event, ImageReady)]
    assert [(event.round, event.candidate) for event in kept] == [
        *((0, c) for c in range(3)),
        *((r, c) for r in (1, 2, 3) for c in range(2)),
    ]
    assert [r.base for r in whole.trajectory.rounds] == [None, 0, 0, 2]
    pixels = {event.image.id: event.pixels for event in kept}
    for number, event in enumerate(kept):
        engine = Engine(FakeRunner())
        at_hand = tuple(Picture(image, pixels[image.id]) for image in needed(event.trajectory))
        engine.add("a", stored(event.trajectory), at_hand)
        rest = by_key(drive(engine))["a"]
        drawn = [(e.round, e.candidate) for e in rest if isinstance(e, ImageReady)]
        assert drawn == [(e.round, e.candidate) for e in kept[number + 1 :]]
        assert nameless(end_of(rest)) == nameless(whole.trajectory)
        if number < len(kept) - 1 and len(at_hand) > 1:
            with pytest.raises(InvalidRequest, match=r"pass every one of loop\.needed"):
                Engine(FakeRunner()).add("a", stored(event.trajectory), at_hand[1:])


def test_a_judged_trajectory_says_scores_and_choices() -> None:
    scored = {"scorers": ("lift",), "candidates": Counts(2, 1), "early_stop": EarlyStop(score=ScoreStop("lift", 5.0))}
    ran = alone(Engine(FakeRunner()), ask("a cat edits=3 scores=36 best=1", **scored))
    names = [type(event).__name__ for event in ran.events if not isinstance(event, TextDelta | Progress)]
    assert names == [
        *("Reasoned", "ImageReady", "ImageReady", "Scored", "Scored", "Chose"),
        *("Reflected", "ImageReady", "Scored", "Finished"),
    ]
    chose = next(event for event in ran.events if isinstance(event, Chose))
    assert (chose.round, chose.candidate, chose.value) == (0, 1, 3.5)
    assert ran.trajectory.stop_reason == "score"
    assert ran.trajectory.usage.images == 3
    assert (ran.trajectory.usage.discarded_images, ran.trajectory.usage.discarded_forwards) == (1, 6)


def test_a_trajectory_stored_at_its_end_only_says_that_it_is_finished() -> None:
    whole = alone(Engine(FakeRunner()), ask("a cat edits=1"))
    last = [e for e in whole.events if isinstance(e, ImageReady)][-1]
    engine = Engine(FakeRunner())
    engine.add("a", stored(whole.trajectory), (Picture(last.image, last.pixels),))
    assert engine.has_work
    assert drive(engine) == [("a", Finished(whole.trajectory))]


def test_a_plan_without_its_picture_is_written_again() -> None:
    engine = Engine(FakeRunner())
    engine.add("a", Trajectory(ask("a cat edits=0"), reasoning="half a plan"))
    events = by_key(drive(engine))["a"]
    check_order(events)
    assert end_of(events).reasoning == "<think>A plan for seed 1.</think>"


@pytest.mark.parametrize(
    "picture", [None, plain_picture(64, 48), replace(plain_picture(), image=Image("img_0", 48, 64))]
)
def test_a_picture_that_is_missing_or_of_another_size_is_refused(picture: Picture | None) -> None:
    engine = Engine(FakeRunner())
    with pytest.raises(InvalidRequest, match=r"pass it in `pictures`|and the request is for 64x64"):
        engine.add("a", Trajectory(ask(given_image=True)), () if picture is None else (picture,))
    assert not engine.has_work


def test_a_key_that_is_running_is_refused() -> None:
    engine = Engine(FakeRunner())
    engine.add("a", Trajectory(ask()))
    with pytest.raises(InvalidRequest, match="'a' is running already"):
        engine.add("a", Trajectory(ask()))
    assert len([event for _, event in drive(engine) if isinstance(event, TERMINAL)]) == 1


def test_what_the_runner_refuses_is_not_taken_in() -> None:
    engine = Engine(FakeRunner(max_prompt_chars=10))
    with pytest.raises(PromptTooLong, match="11 tokens, at most 10 fit"):
        engine.add("a", Trajectory(ask("elevenchars")))
    assert engine.room == engine.max_trajectories
    assert engine.step() == []


def test_a_lost_device_is_not_the_fault_of_any_trajectory() -> None:
    class Lost(FakeRunner):
        def run(self, batch: Batch) -> dict[str, Output]:
            raise DeviceError("gone")

    engine = Engine(Lost())
    engine.add("a", Trajectory(ask()))
    with pytest.raises(DeviceError, match="gone"):
        engine.step()
