"""Judging and candidates in the engine's turns: what a forward holds, whose rows are written, faults, and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r3core.engine.batch import Batch, Picture
from r3core.engine.feeds import Feeder
from r3core.engine.pictures import Pictures
from r3core.engine.runner import ModelRunner
from r3core.errors import InvalidRequest, PromptTooLong, R3Error
from r3core.events import Event, Finished
from r3core.judge import SCORERS, Counts
from r3core.model.bagel import Bagel
from r3core.model.vae import VAE
from r3core.types import EarlyStop, Image, Request, TextSampling, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import APPLES, CAT, GREEDY, MIX, Forwards, ask, forwards  # noqa: F401 - a fixture
from tests.core.test_isolation_model import first_call
from tests.core.test_judge_model import pixels_of, run, scores_of, to_score
from tests.core.walking import end_of, nameless, plain_picture

pytestmark = pytest.mark.row("R9")

Jobs = Mapping[str, tuple[Request, Sequence[Picture]]]
SHORT = TextSampling(max_tokens=30, temperature=0)


def turned(picture: Picture, times: int) -> Picture:
    return Picture(replace(picture.image, id=f"img_{times}"), np.rot90(picture.pixels, times).copy())


SEARCH = ask(
    CAT,
    scorers=SCORERS,
    candidates=Counts(first=3, refine=2),
    early_stop=EarlyStop(on_satisfied=False),
    max_rounds=1,
    reflect=SHORT,
)
JUDGED: Jobs = {
    "search": (SEARCH, ()),
    "score": (to_score(APPLES), [turned(plain_picture(), times) for times in range(4)]),
    "describe": (to_score(APPLES, (), kind="describe", describe=SHORT), (plain_picture(),)),
    "trip": (to_score(APPLES, (), kind="roundtrip", describe=SHORT, generate=SEARCH.generate), (plain_picture(),)),
    "plain": (MIX["plain"], ()),
}


@pytest.fixture(scope="module")
def in_company(make_runtime: MakeRuntime) -> dict[str, list[Event]]:
    """What each comes to beside the others where nothing fails."""
    return run(make_runtime(), JUDGED)


def assert_same_bytes(events: list[Event], expected: list[Event]) -> None:
    assert isinstance(events[-1], Finished)
    assert nameless(end_of(events)) == nameless(end_of(expected))
    ours, theirs = pixels_of(events), pixels_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert scores_of(events) == scores_of(expected)


def full_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half-way into the beginning of several candidates.
    monkeypatch.setattr(ModelRunner, "_noise", first_call(ModelRunner._noise, lambda *args: args[5] == 1))


def full_eye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feeder, "look", first_call(Feeder.look))


def full_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bagel, "likelihoods", first_call(Bagel.likelihoods))


def full_denoising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bagel, "velocity", first_call(Bagel.velocity, lambda *args: len(args[1]) > 60))


def full_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first of several candidates is decoded already."""
    decode = Pictures.decode
    left = iter([None, torch.OutOfMemoryError("CUDA out of memory")])

    def cramped(self: Pictures, tokens: Tensor, grid: tuple[int, int]) -> Any:
        if (error := next(left, None)) is not None:
            raise error
        return decode(self, tokens, grid)

    monkeypatch.setattr(Pictures, "decode", cramped)


def full_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAE, "encode", first_call(VAE.encode))


FAULTS = [full_begin, full_eye, full_reading, full_denoising, full_decoding, full_comparison]


@pytest.mark.parametrize("spoil", FAULTS)
def test_memory_that_runs_out_once_changes_no_score_and_no_candidate(
    spoil: Any, make_runtime: MakeRuntime, in_company: dict[str, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime()
    spoil(monkeypatch)
    events = run(runtime, JUDGED)
    for key, expected in in_company.items():
        assert_close(events[key], expected)
    assert runtime.runner._states == {}
    assert runtime.engine._scheduler._spans.free_rows == runtime.runner.cache_rows


def assert_close(events: list[Event], expected: list[Event]) -> None:
    """Who is run again is run alone, and rounds otherwise."""
    assert isinstance(events[-1], Finished)
    ours, theirs = pixels_of(events), pixels_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.abs(ours[key].astype(int) - theirs[key].astype(int)).max() <= 2 for key in theirs)
    scores = scores_of(expected)
    assert scores_of(events).keys() == scores.keys()
    assert all(scores_of(events)[key].value == pytest.approx(score.value, abs=2e-2) for key, score in scores.items())
    assert end_of(events).usage == end_of(expected).usage


def test_the_same_jobs_give_the_same_bytes(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the same ones share each forward: with a thread beside them that depends on how fast it is."""
    monkeypatch.setattr("r3core.engine.aside.usable_cores", lambda: 1)
    first, again = run(make_runtime(), JUDGED), run(make_runtime(), JUDGED)
    for key, expected in first.items():
        assert_same_bytes(again[key], expected)


def test_no_forward_exceeds_its_rows_because_of_candidates_or_pictures_to_judge(
    make_runtime: MakeRuntime, in_company: dict[str, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    forward = Bagel.forward

    def watched(self: Bagel, hidden: Tensor, *given: Any) -> Any:
        counts.append(len(hidden))
        return forward(self, hidden, *given)

    monkeypatch.setattr(Bagel, "forward", watched)
    jobs = {name: job for name, job in JUDGED.items() if name in ("search", "score")}
    most = 170  # what one reflection takes alone
    runtime = make_runtime(max_batch_rows=most)
    counts.clear()  # the two system prompts
    events = run(runtime, jobs)
    assert max(counts) <= most
    assert_close(events["search"], in_company["search"])
    assert_close(events["score"], in_company["score"])


def test_judges_write_only_rows_that_they_were_lent(
    make_runtime: MakeRuntime,
    forwards: Forwards,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime(max_batch_rows=170)
    lent: dict[str, set[int]] = {}
    run_batch, checked = runtime.runner.run, 0

    def watched(batch: Batch) -> Any:
        nonlocal checked
        for begin in batch.begin:
            lent[begin.key] = {row for span in begin.spans for row in range(span.start, span.start + span.rows)}
        allowed = {row for key in batch.text for row in lent[key]}
        forwards.packings.clear()
        outputs = run_batch(batch)
        for stored in (packing.stored_to for packing in forwards.packings if packing.stored_to is not None):
            assert set(stored.tolist()) <= allowed
            checked += 1
        return outputs

    monkeypatch.setattr(runtime.runner, "run", watched)
    run(runtime, JUDGED)
    assert checked > 20
    assert runtime.engine._scheduler._spans.free_rows == runtime.runner.cache_rows


def test_the_eye_looks_once_at_each_picture_that_is_judged_reflected_on_and_edited(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    look = Feeder.look

    def watched(self: Feeder, pixels: Any) -> Any:
        looked.append(pixels)
        return look(self, pixels)

    monkeypatch.setattr(Feeder, "look", watched)
    runtime = make_runtime()
    held: list[int] = []
    begin = ModelRunner._begin

    def counted(self: ModelRunner, what: Any) -> None:
        begin(self, what)
        held.append(len(self._states[what.key].vit_rows))

    monkeypatch.setattr(ModelRunner, "_begin", counted)
    ended = end_of(run(runtime, {"search": JUDGED["search"]})["search"])
    assert len(looked) == ended.usage.images == 5
    assert max(held) <= 4  # the candidates of a round and what they were made from


# --- refusals

LONG = "long " * 20_000
MANY = replace(GREEDY, max_tokens=10_000)
REFUSED: list[tuple[Request, type[R3Error], str]] = [
    (to_score(LONG), PromptTooLong, r"the judging of a picture would take \d{5} tokens and \d+ fit"),
    (to_score(LONG, ("vqa",)), PromptTooLong, r"the judging of a picture would take \d{5} tokens and \d+ fit"),
    (ask(LONG, scorers=("vqa",), think=False, max_rounds=0), PromptTooLong, "the prompt would take"),
    (to_score(APPLES, ("verdict",), reflect=MANY), PromptTooLong, "the reflection on a picture would take"),
    (to_score(APPLES, (), kind="reflect", reflect=MANY), PromptTooLong, "the reflection on a picture would take"),
    (to_score("", (), kind="describe", describe=MANY), PromptTooLong, "the description of a picture would take"),
    (to_score("", (), kind="describe", question=LONG), PromptTooLong, "the description of a picture would take"),
    (to_score("", (), kind="roundtrip", describe=MANY), PromptTooLong, "the description of a picture would take"),
    (to_score("", ("lift",)), InvalidRequest, "an empty prompt cannot be judged"),
]


@pytest.mark.parametrize(("request_", "error", "message"), REFUSED)
def test_what_could_never_be_judged_is_refused_with_its_size(
    request_: Request, error: type[R3Error], message: str, make_runtime: MakeRuntime
) -> None:
    runtime = make_runtime(max_trajectories=1)
    pictures = (plain_picture(),) if request_.given_image else ()
    with pytest.raises(error, match=message):
        runtime.engine.add("a", Trajectory(request_), pictures)
    assert runtime.engine.step() == []


def test_a_picture_of_its_own_size_is_judged_as_it_is_and_refused_where_the_eye_has_no_place_for_it(
    make_runtime: MakeRuntime,
) -> None:
    small, wide = plain_picture(32, 48), plain_picture(200, 64)
    events = run(make_runtime(), {"a": (to_score(APPLES, SCORERS), (small, Picture(Image("w", 200, 64), wide.pixels)))})
    assert len(scores_of(events["a"])) == 2 * len(SCORERS)
    runtime = make_runtime()
    described = runtime.runner._counter._description
    beyond = replace(described, transforms={**described.transforms, "vit": (1400, 14, 14)})
    runtime.runner._counter._description = beyond
    huge = plain_picture(1400, 16)
    with pytest.raises(InvalidRequest, match="1400x16 has 100 x 1 patches"):
        runtime.engine.add("a", Trajectory(to_score(APPLES)), (small, huge))


def test_a_task_is_not_refused_for_what_it_never_does(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(max_trajectories=1)
    asked = to_score(APPLES, reason=MANY, reflect=MANY, describe=MANY)
    assert isinstance(run(runtime, {"a": (asked, (plain_picture(),))})["a"][-1], Finished)
