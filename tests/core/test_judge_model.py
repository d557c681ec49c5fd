"""Scores and candidates over the golden checkpoint: what they are alone they are in any company."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from r3core.engine.batch import Picture
from r3core.events import Chose, Event, ImageReady, Preview, Scored
from r3core.judge import Counts, Score, Scorer
from r3core.runtime import Runtime
from r3core.types import EarlyStop, Image, Request, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import APPLES, CAT, GREEDY, MIX, ask, given_picture
from tests.core.walking import by_key, drive, end_of

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


def run(runtime: Runtime, jobs: dict[str, tuple[Request, Sequence[Picture]]]) -> dict[str, list[Event]]:
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


def test_pictures_that_do_not_fit_a_forward_take_several_turns_and_score_the_same(
    make_runtime: MakeRuntime, golden_tensors: dict[str, Tensor]
) -> None:
    names = sorted({case["image"] for case in RECORDED["cases"]})
    recorded = [picture_of(name, golden_tensors[name]) for name in names]
    assert len({(p.image.width, p.image.height) for p in recorded}) > 1
    turned = [picture_of(f"{name}, turned", golden_tensors[name].flip(0).contiguous()) for name in names]
    pictures = (*recorded, *turned)
    whole = run(make_runtime(), {"a": (to_score(APPLES), pictures)})["a"]
    parted = run(make_runtime(max_batch_rows=150), {"a": (to_score(APPLES), pictures), "b": (MIX["plain"], ())})["a"]
    expected, got = scores_of(whole), scores_of(parted)
    assert expected.keys() == got.keys() == {(0, c, s) for c in range(len(pictures)) for s in LOOKS}
    for key, score in expected.items():
        assert got[key].value == pytest.approx(score.value, abs=1e-5)
    alone = run(make_runtime(), {"a": (to_score(APPLES, ("vqa",)), pictures[1:2])})["a"]
    assert scores_of(alone)[0, 0, "vqa"].value == pytest.approx(expected[0, 1, "vqa"].value, abs=1e-5)


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
