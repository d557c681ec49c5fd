"""Scores and candidates over the golden checkpoint: what they are alone they are in any company."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r3core.checkpoint import Description
from r3core.engine.batch import Output, Picture
from r3core.engine.likeness import Likeness
from r3core.engine.looking import Looking
from r3core.engine.state import Writing
from r3core.engine.writing import Writer
from r3core.events import Chose, Event, Failed, Finished, ImageReady, Preview, Scored
from r3core.judge import Counts, Score, Scorer
from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import REFLECT_SYSTEM, reflect_question
from r3core.runtime import Runtime
from r3core.types import EarlyStop, Image, Request, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.plain_r3 import Context, PlainR3
from tests.core.test_engine_model import APPLES, BUS, CAT, GREEDY, MIX, WILD, ask, given_picture
from tests.core.walking import by_key, drive, end_of, plain_picture

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "judge.json").read_text(encoding="utf-8"))
LOOKS: tuple[Scorer, ...] = ("gvu", "lift", "vqa")
TOLERANCE = 5e-4


def picture_of(name: str, pixels: Tensor) -> Picture:
    height, width, _ = pixels.shape
    return Picture(Image(name, width, height), pixels.numpy())


def to_score(prompt: str, scorers: tuple[Scorer, ...] = LOOKS, **changes: Any) -> Request:
    plain = Request(prompt, 64, 64, seed=5, kind="score", given_image=True, scorers=scorers, reflect=GREEDY)
    return replace(plain, **changes)


def scores_of(events: Sequence[Event]) -> dict[tuple[int, int, str], Score]:
    """By round, candidate and scorer."""
    return {(e.round, e.candidate, e.score.scorer): e.score for e in events if isinstance(e, Scored)}


def pixels_of(events: Sequence[Event]) -> dict[tuple[int, int], Any]:
    """Finished pictures by round and candidate."""
    return {(e.round, e.candidate): e.pixels for e in events if isinstance(e, ImageReady)}


def run(runtime: Runtime, jobs: Mapping[str, tuple[Request, Sequence[Picture]]]) -> dict[str, list[Event]]:
    for key, (request, pictures) in jobs.items():
        runtime.engine.add(key, Trajectory(request), pictures)
    return by_key(drive(runtime.engine))


def recorded_jobs(tensors: dict[str, Tensor]) -> dict[str, tuple[Request, Sequence[Picture]]]:
    jobs: dict[str, tuple[Request, Sequence[Picture]]] = {}
    for number, case in enumerate(RECORDED["cases"]):
        picture = picture_of(case["image"], tensors[case["image"]])
        width, height = picture.image.width, picture.image.height
        jobs[str(number)] = to_score(case["prompt"], width=width, height=height), (picture,)
    return jobs


def assert_recorded(scores: dict[tuple[int, int, str], Score], case: dict[str, Any]) -> None:
    gvu, lift, vqa = (scores[0, 0, scorer] for scorer in LOOKS)
    assert gvu.value is not None
    assert math.log(gvu.value) == pytest.approx(math.log(case["gvu"]), abs=TOLERANCE)
    assert lift.value == gvu.lift == lift.lift == pytest.approx(case["lift"], abs=TOLERANCE)
    assert vqa.value == pytest.approx(case["p_yes"], abs=TOLERANCE)
    assert " ".join(word.text for word in lift.words) == case["prompt"]
    ratios = [a - b for a, b in zip(case["logprobs"], case["prior_logprobs"], strict=True)]
    assert sum(word.lift for word in lift.words) == pytest.approx(sum(ratios), abs=TOLERANCE * len(ratios))


# --- scores


def test_recorded_scores_hold_alone_and_all_in_one_batch(
    make_runtime: MakeRuntime, golden_tensors: dict[str, Tensor]
) -> None:
    jobs = recorded_jobs(golden_tensors)
    together = run(make_runtime(max_trajectories=len(jobs)), jobs)
    for key, job in jobs.items():
        case = RECORDED["cases"][int(key)]
        assert_recorded(scores_of(run(make_runtime(), {key: job})[key]), case)
        assert_recorded(scores_of(together[key]), case)


@pytest.mark.parametrize("most_rows", [150, 250, 400])  # one picture a turn, and several of which some are left over
def test_pictures_that_do_not_fit_a_forward_take_several_turns_and_score_the_same(
    make_runtime: MakeRuntime, golden_tensors: dict[str, Tensor], most_rows: int
) -> None:
    names = sorted({case["image"] for case in RECORDED["cases"]})
    recorded = [picture_of(name, golden_tensors[name]) for name in names]
    assert len({(p.image.width, p.image.height) for p in recorded}) > 1
    turned = [picture_of(f"{name}, turned", golden_tensors[name].flip(0).contiguous()) for name in names]
    pictures = (*recorded, *turned)[:-1]
    assert len(pictures) % 2
    whole = run(make_runtime(), {"a": (to_score(APPLES), pictures)})["a"]
    jobs = {"a": (to_score(APPLES), pictures), "b": (MIX["plain"], ())}
    parted = run(make_runtime(max_batch_rows=most_rows), jobs)["a"]
    expected, got = scores_of(whole), scores_of(parted)
    assert expected.keys() == got.keys() == {(0, c, s) for c in range(len(pictures)) for s in LOOKS}
    for key, score in expected.items():
        assert got[key].value == pytest.approx(score.value, abs=1e-5)
    alone = run(make_runtime(), {"a": (to_score(APPLES, ("vqa",)), pictures[1:2])})["a"]
    assert scores_of(alone)[0, 0, "vqa"].value == pytest.approx(expected[0, 1, "vqa"].value, abs=1e-5)


def test_the_prior_is_read_once_for_a_trajectory(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Bagel.likelihoods
    counts: list[int] = []

    def watched(self: Bagel, hidden: Tensor, ids: Tensor) -> Tensor:
        counts.append(len(ids))
        return asked(self, hidden, ids)

    monkeypatch.setattr(Bagel, "likelihoods", watched)
    runtime = make_runtime()
    run(runtime, {"a": (ask(scorers=("gvu",), early_stop=EarlyStop(on_satisfied=False)), ())})
    tokens = len(runtime.runner._tokenizer.encode(APPLES))
    assert counts == [2 * tokens, tokens, tokens]


def test_a_request_that_is_not_judged_runs_none_of_it(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this is of judging alone")

    for owner, name in ((Bagel, "likelihoods"), (Looking, "turn"), (Likeness, "of"), (Tokenizer, "words")):
        monkeypatch.setattr(owner, name, never)
    monkeypatch.setattr("r3core.engine.writing.asked_after", never)
    runtime = make_runtime()
    for events in run(runtime, {name: (asked, given_picture(asked)) for name, asked in MIX.items()}).values():
        assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("spoil", ["number", "memory"])
def test_a_score_that_cannot_be_had_fails_its_own_request(
    spoil: str, make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {"bad": (to_score(CAT), (plain_picture(),)), "good": (to_score(BUS), (plain_picture(),))}
    expected = scores_of(run(make_runtime(), jobs)["good"])
    read, turn = Looking.read, Looking.turn

    def damaged(self: Looking, likelihoods: list[list[float]]) -> None:
        read(self, [[math.nan]] * len(likelihoods) if self.begin.key == "bad" else likelihoods)

    def cramped(self: Looking, *given: Any) -> Any:
        if self.begin.key == "bad":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return turn(self, *given)

    monkeypatch.setattr(Looking, *(("read", damaged) if spoil == "number" else ("turn", cramped)))
    runtime = make_runtime()
    events = run(runtime, {**jobs, "plain": (MIX["plain"], ())})
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == ("step_failed" if spoil == "number" else "out_of_memory")
    assert isinstance(events["plain"][-1], Finished)
    got = scores_of(events["good"])
    assert all(got[key].value == pytest.approx(score.value, abs=1e-5) for key, score in expected.items())
    assert runtime.runner._states == {}


# --- verdicts


@pytest.fixture(scope="module")
def plain(checkpoint: Path, description: Description) -> PlainR3:
    """The model written as plainly as it can be."""
    return PlainR3(checkpoint, description.transforms)


def looked(plain: PlainR3, picture: Picture, prompt: str) -> Context:
    """What stands before a reflection."""
    return [plain.words(REFLECT_SYSTEM), plain.eye(picture.pixels), plain.words(reflect_question(prompt))]


def plain_verdict(plain: PlainR3, context: Context, before: list[int]) -> float:
    """The mean log-likelihood of the answer after these ids of a reflection."""
    answer = plain.encode(" No further edit needed.")
    rows = plain.run([*context, plain.text([plain.im_start, *before, *answer])])[-1]
    likely = plain.logits(rows[-len(answer) - 1 : -1]).log_softmax(-1)
    return float(likely[range(len(answer)), answer].mean())


def verdict_of(events: Sequence[Event]) -> float | None:
    return scores_of(events)[0, 0, "verdict"].value


def test_a_verdict_is_what_a_plain_computation_gives(
    make_runtime: MakeRuntime, plain: PlainR3, tokenizer: Tokenizer
) -> None:
    jobs = {prompt: (to_score(prompt, ("verdict", "vqa")), (plain_picture(),)) for prompt in (APPLES, CAT, BUS)}
    together = run(make_runtime(), jobs)
    for prompt, job in jobs.items():
        context = looked(plain, plain_picture(), prompt)
        ids = plain.write(context, GREEDY.max_tokens)[0][1:-1]
        said = end_of(together[prompt]).rounds[0].reflections[0].text
        assert said == tokenizer.decode(ids)
        ends = [i for i in range(len(ids)) if tokenizer.decode(ids[: i + 1]).endswith("</think>")]
        if prompt == BUS:
            assert not ends
            assert verdict_of(together[prompt]) is None
            continue
        expected = plain_verdict(plain, context, ids[: ends[-1] + 1])
        assert verdict_of(together[prompt]) == pytest.approx(expected, abs=TOLERANCE)
        assert verdict_of(run(make_runtime(), {prompt: job})[prompt]) == pytest.approx(expected, abs=TOLERANCE)


def scripted(monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """Have the model write these ids, whatever it would choose."""
    left, wrote = list(ids), Writer.wrote

    def written(self: Writer, writing: Writing, drafted: Sequence[int], _: Sequence[int]) -> Output:
        before = writing.tokens
        output = wrote(self, writing, drafted, left[: 1 + len(drafted)])
        del left[: writing.tokens - before]
        return output

    monkeypatch.setattr(Writer, "wrote", written)


def test_where_the_thought_ends_inside_a_token_its_bytes_stand_before_the_verdict(
    make_runtime: MakeRuntime, plain: PlainR3, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = tokenizer.encode("<think></think> twice</think")
    beyond = tokenizer.encode(">The")
    assert len(beyond) == 1, "this tokenizer has no such token"
    scripted(monkeypatch, [*early, *beyond, *tokenizer.encode(" cat"), tokenizer.im_end])
    events = run(make_runtime(), {"a": (to_score(CAT, ("verdict",)), (plain_picture(),))})["a"]
    assert end_of(events).rounds[0].reflections[0].instruction == "The cat"
    expected = plain_verdict(plain, looked(plain, plain_picture(), CAT), [*early, *tokenizer.encode(">")])
    assert verdict_of(events) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("text", ["<think>no end", "", "<think>a</thin"])
def test_a_malformed_reflection_has_no_verdict(
    text: str, make_runtime: MakeRuntime, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What follows a second start marker is not of the text.
    scripted(
        monkeypatch, [*tokenizer.encode(text), tokenizer.im_start, *tokenizer.encode("</think>"), tokenizer.im_end]
    )
    events = run(make_runtime(), {"a": (to_score(CAT, ("verdict",)), (plain_picture(),))})["a"]
    assert end_of(events).rounds[0].reflections[0].text == text
    assert verdict_of(events) is None


@pytest.mark.parametrize("damaged", [math.nan, -math.inf])
def test_a_verdict_that_is_no_number_fails_its_own_request(
    damaged: float, make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Bagel.likelihoods

    def likelihoods(self: Bagel, hidden: Tensor, ids: Tensor) -> Tensor:
        found = asked(self, hidden, ids)
        found[0] = damaged
        return found

    monkeypatch.setattr(Bagel, "likelihoods", likelihoods)
    runtime = make_runtime()
    jobs = {"bad": (to_score(CAT, ("verdict",)), (plain_picture(),)), "plain": (MIX["plain"], ())}
    events = run(runtime, jobs)
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "step_failed"
    assert "the verdict is not a finite number" in str(failed.error)
    assert scores_of(events["bad"]) == {}
    assert isinstance(events["plain"][-1], Finished)
    assert runtime.runner._states == {}


def test_a_reflection_reads_the_same_whether_its_verdict_is_wanted_or_not(make_runtime: MakeRuntime) -> None:
    wild = ask(reflect=replace(WILD, max_tokens=7), max_rounds=1, early_stop=EarlyStop(confirmations=3))
    bare = end_of(run(make_runtime(), {"a": (wild, ())})["a"])
    events = run(make_runtime(), {"a": (replace(wild, scorers=("verdict",)), ())})["a"]
    scored = end_of(events)
    assert scored.rounds[0].reflections == bare.rounds[0].reflections
    assert len(scored.rounds[0].reflections) > 1
    assert [e.round for e in events if isinstance(e, Scored)] == [r.index for r in scored.rounds]


def test_each_of_several_pictures_is_reflected_on_by_itself(
    make_runtime: MakeRuntime, golden_tensors: dict[str, Tensor]
) -> None:
    names = sorted({case["image"] for case in RECORDED["cases"]})
    pictures = [picture_of(name, golden_tensors[name]) for name in names]
    asked = to_score(CAT, ("verdict",))
    together = scores_of(run(make_runtime(), {"a": (asked, pictures)})["a"])
    alone = [scores_of(run(make_runtime(), {"a": (asked, (one,))})["a"])[0, 0, "verdict"].value for one in pictures]
    first, second = (value for value in alone if value is not None)
    assert abs(first - second) > 1e-4
    for number, value in enumerate(alone):
        assert together[0, number, "verdict"].value == pytest.approx(value, abs=1e-5)


# --- candidates

SEARCH = ask(
    CAT,
    scorers=("lift", "vqa"),
    candidates=Counts(first=3, refine=2),
    early_stop=EarlyStop(on_satisfied=False),
    previews=1,
    max_rounds=1,
)


@pytest.fixture(scope="module")
def search(make_runtime: MakeRuntime) -> list[Event]:
    """A request with candidates and nobody beside it."""
    return run(make_runtime(), {"search": (SEARCH, ())})["search"]


def assert_close(got: dict[tuple[int, int], Any], expected: dict[tuple[int, int], Any]) -> None:
    """Within rounding: truncation can flip a value by one, and a later round sees it."""
    assert got.keys() == expected.keys()
    for key, pixels in expected.items():
        assert np.abs(got[key].astype(int) - pixels.astype(int)).max() <= 2


def test_candidates_are_pictures_of_their_own_and_the_first_is_the_one_of_a_request_without(
    search: list[Event], make_runtime: MakeRuntime
) -> None:
    drawn = pixels_of(search)
    assert sorted(drawn) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert not np.array_equal(drawn[0, 0], drawn[0, 1])
    assert not np.array_equal(drawn[1, 0], drawn[1, 1])
    single = pixels_of(run(make_runtime(), {"a": (replace(ask(CAT), max_rounds=0), ())})["a"])
    assert_close({(0, 0): drawn[0, 0]}, single)
    chosen = [(e.round, e.candidate) for e in search if isinstance(e, Chose)]
    ended = end_of(search)
    assert chosen == [(r.index, r.chosen) for r in ended.rounds]
    assert ended.usage.images == 5
    assert ended.usage.forwards == sum(p.forwards for r in ended.rounds for p in r.pictures)
    assert [e.round for e in search if isinstance(e, Preview)] == [0, 1]  # of the first candidates alone


def test_candidates_and_scores_are_the_same_in_company_and_where_a_forward_holds_one_of_them(
    search: list[Event], make_runtime: MakeRuntime
) -> None:
    crowd = {name: (asked, given_picture(asked)) for name, asked in MIX.items() if name != "plain"}
    for events in (
        run(make_runtime(), {"search": (SEARCH, ()), **crowd})["search"],
        run(make_runtime(max_batch_rows=64), {"search": (SEARCH, ()), "plain": (MIX["plain"], ())})["search"],
    ):
        assert_close(pixels_of(events), pixels_of(search))
        expected, got = scores_of(search), scores_of(events)
        assert got.keys() == expected.keys()
        assert all(got[key].value == pytest.approx(expected[key].value, abs=2e-2) for key in expected)


def test_a_search_resumed_after_any_candidate_draws_the_others_as_they_would_have_been(
    search: list[Event], make_runtime: MakeRuntime
) -> None:
    ready = [event for event in search if isinstance(event, ImageReady)]
    whole = pixels_of(search)
    for count, kept in enumerate(ready, 1):
        stored = Trajectory.from_json(json.loads(json.dumps(kept.trajectory.to_json())))
        pictures = tuple(Picture(event.image, event.pixels) for event in ready[:count])
        engine = make_runtime().engine
        engine.add("again", stored, pictures)
        events = by_key(drive(engine))["again"]
        assert_close(pixels_of(events), {(e.round, e.candidate): whole[e.round, e.candidate] for e in ready[count:]})
        assert [r.chosen for r in end_of(events).rounds] == [r.chosen for r in end_of(search).rounds]
