"""The jobs beside /generate: what their bodies may be, what becomes of them, and what they cost. No server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from r3core.types import DESCRIBE_DEFAULTS, Request
from server.cost import job_cost
from server.hook_rules import NOTHING_ALLOWED
from server.kinds import DESCRIBE, GENERATE, REFLECT, ROUNDTRIP, SCORE, Ask
from server.resolve import every_fault
from tests.server.api.by_hand import TINY

WHOLE: dict[str, dict[str, Any]] = {
    "score": {"prompt": "a cat", "image": "AAAA"},
    "reflect": {"prompt": "a cat", "image": "AAAA"},
    "describe": {"image": "AAAA"},
    "roundtrip": {"image": "AAAA"},
}
ASKS: dict[str, Ask[Any]] = {ask.kind: ask for ask in (SCORE, REFLECT, DESCRIBE, ROUNDTRIP)}


def faults(kind: str, **body: Any) -> dict[str, str]:
    """Pointer and sentence of every fault; None takes a field out of a body that is right."""
    value = {name: v for name, v in {**WHOLE[kind], **body}.items() if v is not None}
    ask = ASKS[kind]
    return dict(every_fault(ask.read(value), TINY, ask.faults, NOTHING_ALLOWED))


def resolved(kind: str, sizes: list[tuple[int, int]], **body: Any) -> Request:
    ask = ASKS[kind]
    read = ask.read({**WHOLE[kind], **body})
    assert not read.faults
    request: Request = ask.resolved(read.body, TINY, 7, sizes)
    return request


@pytest.mark.parametrize(
    ("kind", "body", "pointer", "said"),
    [
        ("score", {"image": None}, "/image", "is missing; give it, or images"),
        ("score", {"images": ["AAAA"]}, "/images", "is given beside image; give one of them"),
        ("score", {"image": None, "images": []}, "/images", "at least 1 item"),
        ("score", {"image": None, "images": ["AAAA"] * 17}, "/images", "at most 16 items"),
        ("score", {"image": None, "images": ["AAAA", 5]}, "/images/1", "must be a valid string; it is 5"),
        ("score", {"prompt": None}, "/prompt", "is required"),
        ("score", {"scorers": []}, "/scorers", "at least 1 item"),
        ("score", {"scorers": ["clip"]}, "/scorers/0", "'gvu', 'lift', 'vqa' or 'verdict'"),
        ("score", {"scorers": ["gvu", "gvu"]}, "/scorers", "names gvu more than once"),
        ("score", {"max_rounds": 1}, "/max_rounds", "is not a known field"),
        ("score", {"output_format": "webp"}, "/output_format", "is not a known field"),
        ("reflect", {"image": None}, "/image", "is required"),
        ("reflect", {"prompt": None}, "/prompt", "is required"),
        ("reflect", {"question": "Why?"}, "/question", "is not a known field"),
        ("describe", {"image": None}, "/image", "is required"),
        ("describe", {"prompt": "a cat"}, "/prompt", "is not a known field"),
        ("describe", {"question": ""}, "/question", "at least 1 character"),
        ("describe", {"max_tokens": 0}, "/max_tokens", "greater than or equal to 1"),
        ("roundtrip", {"image": None}, "/image", "is missing; give it, or a prompt"),
        ("roundtrip", {"prompt": "a cat"}, "/prompt", "is given beside image"),
        ("roundtrip", {"size": "256x256"}, "/size", "the result has the size of image"),
        ("roundtrip", {"image": None, "prompt": "a", "size": "500x300"}, "/size", "the nearest is 496x304"),
        ("roundtrip", {"image": None, "prompt": "a", "size": "big"}, "/size", "the default is 256x256"),
        ("roundtrip", {"output_compression": 3}, "/output_compression", "PNG is lossless"),
        ("roundtrip", {"n": 2}, "/n", "is not a known field"),
        ("describe", {"webhook": {"url": "https://a.example/"}}, "/webhook", "is off"),
        ("describe", {"seed": -1}, "/seed", "greater than or equal to 0"),
    ],
)
def test_a_wrong_field_is_refused_by_name(kind: str, body: dict[str, Any], pointer: str, said: str) -> None:
    found = faults(kind, **body)
    assert list(found) == [pointer]
    assert said in found[pointer]


@pytest.mark.parametrize("kind", list(ASKS))
def test_a_whole_body_has_no_fault(kind: str) -> None:
    assert faults(kind) == {}


def test_every_fault_is_listed() -> None:
    assert set(faults("score", image=None, prompt="", seed=-1, scorers=["x"])) == {
        "/image",
        "/prompt",
        "/seed",
        "/scorers/0",
    }


def test_neither_pictures_nor_texts_of_people_stand_in_an_error() -> None:
    told = str(faults("score", image=None, images="A" * 40) | faults("describe", question=["a secret"]))
    assert "AAAA" not in told
    assert "secret" not in told


def test_scored_pictures_keep_their_sizes_and_the_largest_is_planned_for() -> None:
    request = resolved("score", [(256, 256), (512, 320), (320, 512)], images=["A", "B", "C"], image=None)
    assert (request.width, request.height) == (512, 320)
    assert (request.kind, request.scorers, request.given_image, request.max_rounds) == ("score", ("lift",), True, 0)


def test_a_description_is_greedy_and_as_long_as_was_asked_for() -> None:
    assert resolved("describe", [(256, 256)]).describe == DESCRIBE_DEFAULTS
    request = resolved("describe", [(256, 256)], max_tokens=9, question="How many?")
    assert request.describe == replace(DESCRIBE_DEFAULTS, max_tokens=9)
    assert (request.question, request.prompt) == ("How many?", "")


def test_a_round_trip_begins_with_a_picture_or_draws_one() -> None:
    given = resolved("roundtrip", [(512, 320)])
    assert (given.given_image, given.think, given.width, given.height) == (True, False, 512, 320)
    drawn = resolved("roundtrip", [], image=None, prompt="a cat", size="512x320")
    assert (drawn.given_image, drawn.think, drawn.width, drawn.height) == (False, True, 512, 320)


@pytest.mark.parametrize(
    ("kind", "body", "ids"),
    [
        ("score", {"image": None, "images": ["A", "B"], "scorers": ["vqa", "gvu"]}, ["img_1", "img_2"]),
        ("score", {"scorers": ["verdict"], "reflect": {"max_tokens": 5}}, ["img_1"]),
        ("reflect", {"reflect": {"temperature": 0}}, ["img_1"]),
        ("describe", {"question": "Why?", "max_tokens": 7, "top_k": 3}, ["img_1"]),
        ("roundtrip", {"generate": {"num_timesteps": 5}, "output_format": "webp"}, ["img_1"]),
        ("roundtrip", {"image": None, "prompt": "a cat", "think": False}, []),
    ],
)
def test_posting_the_params_again_asks_for_the_same(kind: str, body: dict[str, Any], ids: list[str]) -> None:
    ask, sizes = ASKS[kind], [(256, 256)] * len(ids)
    read = ask.read({name: v for name, v in {**WHOLE[kind], **body}.items() if v is not None})
    first = ask.resolved(read.body, TINY, 7, sizes)
    params = json.loads(json.dumps(ask.params(first, read.body, ids)))
    assert params.get("images", [params["image"]] if params.get("image") else []) == ids
    prompt = {"prompt": read.body.prompt} if getattr(read.body, "prompt", None) else {}
    again = ask.read({**params, **prompt})
    assert not again.faults
    assert ask.resolved(again.body, TINY, params["seed"], sizes) == first
    assert json.loads(json.dumps(ask.params(first, again.body, ids))) == params


def test_the_cost_is_of_what_is_computed() -> None:
    one = job_cost(resolved("score", [(512, 512)]), 1)
    assert 0 < one < 0.05
    assert job_cost(resolved("score", [(512, 512)] * 4, images=["A"] * 4, image=None), 4) == pytest.approx(4 * one)
    assert job_cost(resolved("score", [(512, 512)], scorers=["verdict"]), 1) > 0.5
    short, long = (job_cost(resolved("describe", [(512, 512)], max_tokens=n), 1) for n in (16, 1024))
    assert short < long
    given = job_cost(resolved("roundtrip", [(512, 512)]), 1)
    drawn = job_cost(resolved("roundtrip", [], image=None, prompt="a", size="512x512"), 0)
    assert 1 < given < 2 < drawn < 3.5


def test_the_same_body_asks_each_route_for_something_else() -> None:
    value = {"prompt": "a", "image": "AAAA"}
    known = [str(ask.known_by(value)) for ask in (GENERATE, SCORE, REFLECT)]
    assert len(set(known)) == 3
    assert GENERATE.known_by(value) == value
