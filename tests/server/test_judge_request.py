"""What a body may ask of scores, candidates and budget: every refusal by name, and what it comes to. No server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from r3core.judge import Counts, ScoreStop
from r3core.types import EarlyStop, Request
from server.ranges import ranges
from server.resolve import faults_against, read_generation, resolved, shown_params
from tests.server.api.by_hand import TINY

LIFT = {"judge": {"scorers": ["lift"]}}


def faults(**body: Any) -> dict[str, str]:
    """Pointer and sentence of every fault of a body."""
    return dict(faults_against(read_generation({"prompt": "a cat", **body}), TINY))


def request(given: tuple[int, int] | None = None, **body: Any) -> Request:
    """What a right body comes to."""
    read = read_generation({"prompt": "a cat", **body})
    assert faults_against(read, TINY) == []
    return resolved(read.body, TINY, 5, given)


def stop(**rule: Any) -> dict[str, Any]:
    return {"early_stop": {"score": rule}}


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"judge": {"scorers": ["clip"]}}, "/judge/scorers/0", ["'gvu', 'lift', 'vqa' or 'verdict'", '"clip"']),
        ({"judge": {"scorers": ["lift", "vqa", "lift"]}}, "/judge/scorers", ["names lift more than once"]),
        ({"judge": {"scorers": []}}, "/judge/scorers", ["at least 1"]),
        ({"judge": {"scorers": "lift"}}, "/judge/scorers", ["list", '"lift"']),
        ({"judge": {}}, "/judge/scorers", ["is required"]),
        ({"judge": True}, "/judge", ["must be an object", "true"]),
        ({"judge": {"scorers": ["lift"], "model": "x"}}, "/judge/model", ["is not a known field"]),
        (stop(scorer="lift"), "/early_stop/score", ["goes by lift", "nothing is scored", "ask for judge"]),
        ({**LIFT, **stop(scorer="vqa")}, "/early_stop/score/scorer", ["is vqa", "(lift)", "add it there"]),
        ({**LIFT, **stop(scorer="clip")}, "/early_stop/score/scorer", ["'gvu', 'lift', 'vqa' or 'verdict'"]),
        ({**LIFT, **stop(at_least=1.0)}, "/early_stop/score/scorer", ["is required"]),
        ({**LIFT, **stop(scorer="lift", min_gain=-0.1)}, "/early_stop/score/min_gain", ["-0.1"]),
        ({**LIFT, **stop(scorer="lift", patience=0)}, "/early_stop/score/patience", ["0"]),
        ({**LIFT, **stop(scorer="lift", patience=9)}, "/early_stop/score/patience", ["9"]),
        ({**LIFT, **stop(scorer="lift", at_least="1")}, "/early_stop/score/at_least", ['"1"']),
        ({**LIFT, **stop(scorer="lift", by=1)}, "/early_stop/score/by", ["is not a known field"]),
        (
            {"judge": {"scorers": ["gvu"]}, **stop(scorer="gvu", at_least=0.5)},
            "/early_stop/score/at_least",
            ["is 0.5", "use lift"],
        ),
        ({"early_stop": {"all": 1}}, "/early_stop/all", ["1"]),
        ({"choose": "best"}, "/choose", ["is best", "ask for judge"]),
        ({"choose": "first"}, "/choose", ["'last' or 'best'", '"first"']),
        ({"on_regression": "backtrack"}, "/on_regression", ["is backtrack", "ask for judge"]),
        ({"on_regression": "stop"}, "/on_regression", ["'keep' or 'backtrack'"]),
        ({"candidates": {"first": 2}}, "/candidates/first", ["is 2", "ask for judge"]),
        ({"candidates": {"refine": 2}}, "/candidates/refine", ["is 2", "ask for judge"]),
        ({**LIFT, "candidates": {"first": 9}}, "/candidates/first", ["8", "it is 9"]),
        ({**LIFT, "candidates": {"refine": 5}}, "/candidates/refine", ["4", "it is 5"]),
        ({**LIFT, "candidates": {"first": 0}}, "/candidates/first", ["it is 0"]),
        ({**LIFT, "candidates": 4}, "/candidates", ["must be an object"]),
        ({"n": 3, "max_images": 2}, "/max_images", ["is 2, fewer than n, 3", "raise it or lower n"]),
        ({"max_images": 0}, "/max_images", ["it is 0"]),
        ({"max_images": 10**6}, "/max_images", ["4096"]),
        ({**LIFT, "candidates": {"first": 4}, "max_images": 3}, "/candidates/first", ["is 4", "max_images, 3"]),
        (
            {**LIFT, "n": 2, "candidates": {"first": 4}, "max_images": 7},
            "/candidates/first",
            ["is 4 for each of n, 2", "max_images, 7"],
        ),
        (
            {**LIFT, "image": "img_x", "candidates": {"refine": 4}, "max_images": 3},
            "/candidates/refine",
            ["is 4", "max_images, 3"],
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(body: dict[str, Any], pointer: str, words: list[str]) -> None:
    found = faults(**body)
    assert set(found) == {pointer}
    assert [word for word in words if word not in found[pointer]] == []


def test_every_fault_is_told_at_once() -> None:
    body = {**stop(scorer="gvu", at_least=2), "choose": "best", "on_regression": "backtrack", "n": 2, "max_images": 1}
    assert set(faults(**body, candidates={"first": 2, "refine": 3})) == {
        "/early_stop/score",
        "/early_stop/score/at_least",
        "/choose",
        "/on_regression",
        "/candidates/first",
        "/candidates/refine",
        "/max_images",
    }


def test_what_is_wrong_in_itself_is_not_held_against_what_builds_on_it() -> None:
    found = faults(judge={"scorers": ["clip"]}, choose="best", candidates={"first": 4}, **stop(scorer="lift"))
    assert set(found) == {"/judge/scorers/0"}


@pytest.mark.parametrize(
    "body",
    [
        {**LIFT, "candidates": {"first": 8, "refine": 4}, "max_images": 8},
        {**LIFT, "n": 2, "candidates": {"first": 4}, "max_images": 8},
        {**LIFT, "image": "img_x", "candidates": {"first": 8}, "max_images": 1},  # there is one first picture
        {"max_images": 1},
        {"judge": {"scorers": ["gvu", "lift", "vqa", "verdict"]}, **stop(scorer="verdict", at_least=-2.5, patience=8)},
        {"judge": {"scorers": ["gvu"]}, **stop(scorer="gvu", min_gain=0.1)},
        {**LIFT, "early_stop": {"on_satisfied": False, "score": {"scorer": "lift"}, "all": True}},
        {"judge": None, "max_images": None, "choose": None, "candidates": None, "early_stop": {"score": None}},
    ],
)
def test_what_can_be_is_taken(body: dict[str, Any]) -> None:
    assert faults(**body) == {}


def test_a_body_comes_to_a_request() -> None:
    asked = request(
        judge={"scorers": ["lift", "verdict"]},
        early_stop={"score": {"scorer": "verdict", "at_least": -1}, "all": True},
        choose="best",
        on_regression="backtrack",
        candidates={"first": 4},
        max_images=9,
    )
    assert asked.scorers == ("lift", "verdict")
    assert asked.early_stop == EarlyStop(True, 1, ScoreStop("verdict", -1, 0.0, 1), True)
    assert (asked.choose, asked.on_regression, asked.candidates) == ("best", "backtrack", Counts(4, 1))
    assert asked.max_images == 9


@pytest.mark.parametrize(
    "body",
    [
        LIFT,
        {"max_images": 3},
        {**LIFT, "choose": "best", "on_regression": "backtrack", "candidates": {"first": 3, "refine": 2}},
        {**LIFT, "early_stop": {"score": {"scorer": "lift", "at_least": 0.25}, "all": True}, "max_images": 40},
    ],
)
@pytest.mark.parametrize("given", [None, (512, 304)])
def test_params_of_a_judged_job_can_be_posted_again(body: dict[str, Any], given: tuple[int, int] | None) -> None:
    start = None if given is None else "img_x"
    read = read_generation({"prompt": "a", "seed": 5, **body, **({"image": start} if start else {})})
    asked = resolved(read.body, TINY, 5, given)
    params = shown_params(asked, read.body, start)
    again = read_generation(json.loads(json.dumps({"prompt": "a", **params})))
    assert faults_against(again, TINY) == []
    assert resolved(again.body, TINY, 5, given) == asked
    assert shown_params(asked, again.body, start) == params


def test_params_tell_what_was_asked_of_scores_and_nothing_that_was_not() -> None:
    body = read_generation({"prompt": "a", **LIFT, "early_stop": {"score": {"scorer": "lift"}}}).body
    params = shown_params(resolved(body, TINY, 5), body, None)
    rule = {"scorer": "lift", "at_least": None, "min_gain": 0.0, "patience": 1}
    assert params["early_stop"] == {"on_satisfied": True, "confirmations": 1, "score": rule}
    assert (params["judge"], params["choose"], params["on_regression"]) == ({"scorers": ["lift"]}, "last", "keep")
    assert params["candidates"] == {"first": 1, "refine": 1}
    assert "max_images" not in params
    assert {"scorers", "kind", "question", "describe"} & set(params) == set()


def test_the_ends_of_the_numbers_are_told() -> None:
    told = ranges()
    assert told["candidates.first"] == {"minimum": 1, "maximum": 8}
    assert told["candidates.refine"] == {"minimum": 1, "maximum": 4}
    assert told["early_stop.score.patience"] == {"minimum": 1, "maximum": 8}
    assert told["max_images"] == {"minimum": 1, "maximum": 4096}
