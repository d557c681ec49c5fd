"""What a body may be and what becomes of it: strict JSON, every fault at once, defaults, sizes, how to answer. No
server.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.model.image_processing import resize_to
from r3core.types import EarlyStop
from server.body import parse
from server.errors import json_bytes
from server.faults import ApiError
from server.negotiation import Mode, mode_of
from server.resolve import faults_against, read_generation, resolved, shown_params
from server.schemas import GenerationCreate
from server.sizes import is_legal, nearest_legal
from tests.server.api.by_hand import TINY
from tests.server.promises import promised

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body)
    return caught.value


def faults(**body: Any) -> dict[str, str]:
    """Pointer and sentence of every fault of a body."""
    return dict(faults_against(read_generation({"prompt": "a cat", **body}), TINY))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"  ", "malformed_json"),
        (b"{", "malformed_json"),
        (b'{"prompt": NaN}', "malformed_json"),
        (b'{"deadline_s": -Infinity}', "malformed_json"),
        (b'{"prompt": "a", "prompt": "b"}', "malformed_json"),
        (b'{"metadata": {"a": "1", "a": "2"}}', "malformed_json"),
        (b'{"prompt": "a\x00b"}', "malformed_json"),
        (b'{"prompt": "\xff"}', "malformed_json"),
        ('{"prompt": "a"}'.encode("utf-16"), "malformed_json"),
        (b"[" * 1_000_000, "invalid_request"),
        (b"[" * 5_000 + b"]" * 5_000, "invalid_request"),
        (b'{"a":' * 1_000_000, "invalid_request"),
        (b"[" + b"1," * 1_000_000 + b"1]", "invalid_request"),
        (b'{"prompt": "\\ud800"}', "invalid_request"),
        (b'{"metadata": {"\\udfff": "x"}}', "invalid_request"),
    ],
)
def test_what_is_no_safe_json_is_refused_at_once(body: bytes, code: str) -> None:
    with promised(0.05):
        assert refusal(body).code == code


def test_every_lone_surrogate_is_pointed_at() -> None:
    error = refusal(b'{"prompt": "\\ud800", "metadata": {"a": "\\udc00", "b": "\\ud83d\\ude00"}}')
    assert [fault.pointer for fault in error.faults] == ["/prompt", "/metadata/a"]


@given(json_values)
def test_what_json_can_say_is_read_as_it_was_written(value: Any) -> None:
    assert parse(json_bytes(value)) == value


def test_a_number_too_large_for_anything_is_out_of_range_and_not_a_crash() -> None:
    value = parse(b'{"prompt": "a", "seed": ' + b"9" * 5000 + b', "deadline_s": 1e999}')
    assert set(dict(faults_against(read_generation(value), TINY))) == {"/seed", "/deadline_s"}


def test_every_fault_is_listed_also_those_that_need_the_model() -> None:
    found = faults(
        prompt="",
        size="500x300",
        promt="x",
        n=9,
        min_rounds=4,
        instruction="edit it",
        refine={"num_timesteps": 1, "x": 0},
    )
    expected = {"/prompt", "/size", "/promt", "/n", "/min_rounds", "/instruction"}
    assert set(found) == {*expected, "/refine/num_timesteps", "/refine/x"}
    assert "496x304" in found["/size"]
    assert "did you mean prompt" in found["/promt"]
    assert "it is 9" in found["/n"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": "x" * 4001}, "/prompt"),
        ({"prompt": 5}, "/prompt"),
        ({"prompt": None}, "/prompt"),
        ({"max_rounds": 9}, "/max_rounds"),
        ({"max_rounds": True}, "/max_rounds"),
        ({"max_rounds": "3"}, "/max_rounds"),
        ({"min_rounds": 2, "max_rounds": 1}, "/min_rounds"),
        ({"early_stop": {"confirmations": 6}}, "/early_stop/confirmations"),
        ({"early_stop": 1}, "/early_stop"),
        ({"early_stop": {"confirmations": 2}, "reflect": {"temperature": 0}}, "/early_stop/confirmations"),
        ({"think": "yes"}, "/think"),
        ({"size": "512"}, "/size"),
        ({"size": "0x512"}, "/size"),
        ({"size": "1024x1024"}, "/size"),
        ({"n": 0}, "/n"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**53}, "/seed"),
        ({"reason": {"max_tokens": 2049}}, "/reason/max_tokens"),
        ({"reflect": {"temperature": 2.1}}, "/reflect/temperature"),
        ({"reflect": {"top_p": 0}}, "/reflect/top_p"),
        ({"reflect": {"top_k": 1001}}, "/reflect/top_k"),
        ({"generate": {"num_timesteps": 201}}, "/generate/num_timesteps"),
        ({"generate": {"cfg_img_scale": 2}}, "/generate/cfg_img_scale"),
        ({"generate": {"cfg_interval": [0.5, 0.5]}}, "/generate/cfg_interval"),
        ({"generate": {"cfg_interval": [0.5]}}, "/generate/cfg_interval"),
        ({"refine": {"cfg_interval": [0, 1.5]}}, "/refine/cfg_interval/1"),
        ({"refine": {"cfg_renorm_type": "none"}}, "/refine/cfg_renorm_type"),
        ({"refine": {"timestep_shift": 0}}, "/refine/timestep_shift"),
        ({"refine": {"step_cache": 0}}, "/refine/step_cache"),
        ({"generate": {"step_cache": 5}}, "/generate/step_cache"),
        ({"previews": 21}, "/previews"),
        ({"response_format": "base64"}, "/response_format"),
        ({"output_format": "gif"}, "/output_format"),
        ({"output_compression": 50}, "/output_compression"),
        ({"output_format": "webp", "output_compression": 101}, "/output_compression"),
        ({"priority": "urgent"}, "/priority"),
        ({"deadline_s": 0}, "/deadline_s"),
        ({"webhook": {"url": "https://example.com"}}, "/webhook"),
        ({"instruction": "make it red"}, "/instruction"),
        ({"image": "AAAA", "size": "512x512"}, "/size"),
        ({"image": "AAAA", "max_rounds": 0}, "/max_rounds"),
        ({"metadata": {"k" * 65: "v"}}, f"/metadata/{'k' * 65}"),
        ({"metadata": {"k": "v" * 513}}, "/metadata/k"),
        ({"metadata": {"k": 1}}, "/metadata/k"),
        ({"metadata": {str(i): "" for i in range(17)}}, "/metadata"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
)
def test_a_fault_is_pointed_at(body: dict[str, Any], pointer: str) -> None:
    assert list(faults(**body)) == [pointer]


def test_a_field_that_is_wrong_in_itself_is_not_held_against_others() -> None:
    assert list(faults(max_rounds=-1, min_rounds=2)) == ["/max_rounds"]
    assert list(faults(image=7, instruction="x")) == ["/image"]


def test_texts_of_people_are_not_repeated_in_errors() -> None:
    assert "secret" not in str(faults(prompt="secret" * 1000, instruction=["secret"]))


def test_a_thousand_unknown_fields_give_a_short_answer() -> None:
    found = read_generation({"prompt": "a", **{f"f{i}": 0 for i in range(1000)}}).faults
    assert len(found) == 101
    assert "900 further" in found[-1].detail


def test_null_is_the_same_as_leaving_a_field_out() -> None:
    named = {name: None for name in GenerationCreate.model_fields if name != "prompt"}
    assert read_generation({"prompt": "a", **named}).body == read_generation({"prompt": "a"}).body


def test_defaults_are_the_checkpoints_and_what_is_given_wins() -> None:
    body = read_generation({"prompt": "a", "reflect": {"temperature": 0.0}, "refine": {"cfg_interval": [0, 1]}}).body
    request = resolved(body, TINY, seed=7)
    assert (request.width, request.height, request.seed, request.max_rounds) == (256, 256, 7, 3)
    assert (request.reflect.temperature, request.reflect.top_p) == (0.0, TINY.defaults.reflect.top_p)
    assert (request.refine.cfg_interval, request.refine.cfg_img_scale) == ((0, 1), 1.5)
    assert request.think
    assert not request.given_image


def test_early_stop_may_be_a_bare_yes_or_no() -> None:
    said = {
        value: resolved(read_generation({"prompt": "a", "early_stop": value}).body, TINY, 0) for value in (True, False)
    }
    assert said[True].early_stop == EarlyStop(on_satisfied=True, confirmations=1)
    assert said[False].early_stop == EarlyStop(on_satisfied=False, confirmations=1)


def test_a_given_picture_has_its_own_size_and_is_not_thought_about() -> None:
    body = read_generation({"prompt": "a", "image": "AAAA", "instruction": "make it red"}).body
    request = resolved(body, TINY, 0, given=(512, 304))
    assert (request.width, request.height, request.think, request.given_image) == (512, 304, False, True)
    assert shown_params(request, body, "img_x")["image"] == "img_x"


def test_params_show_every_setting_but_the_prompt() -> None:
    body = read_generation({"prompt": "a"}).body
    params = shown_params(resolved(body, TINY, 5), body, None)
    left_out = {"prompt", "model", "metadata", "webhook", "stream"}
    unasked = {"judge", "choose", "on_regression", "candidates", "max_images"}
    assert set(params) == set(GenerationCreate.model_fields) - left_out - unasked
    assert (params["seed"], params["size"]) == (5, "256x256")


@pytest.mark.parametrize("start", [None, "img_x"])
def test_params_can_be_posted_again(start: str | None) -> None:
    body = read_generation({"prompt": "a", "seed": 5, "early_stop": False, **({"image": start} if start else {})}).body
    params = shown_params(resolved(body, TINY, 5, given=(512, 304) if start else None), body, start)
    again = json.loads(json.dumps({"prompt": "a", **params}))
    asked = read_generation(again)
    assert faults_against(asked, TINY) == []
    assert ("size" in params, params["image"]) == (start is None, start)
    assert shown_params(resolved(asked.body, TINY, 5, (512, 304) if start else None), asked.body, start) == params


@pytest.mark.parametrize("value", [1, "yes", [True]])
def test_early_stop_of_a_wrong_type_is_told_all_that_it_may_be(value: Any) -> None:
    [detail] = faults(early_stop=value).values()
    told = "must be true, false, or an object with on_satisfied, confirmations, score and all; it is "
    assert detail.startswith(told)


@pytest.mark.parametrize(
    ("size", "help_"),
    [
        ("500X300", "the nearest is 496x304"),
        ("512*512", "the nearest is 512x512"),
        ([300, 300], "the nearest is 304x304"),
        ("0x0", "the nearest is 256x256"),
        ("512", "the default is 256x256"),
        ("", "the default is 256x256"),
        ("9" * 50, "the default is 256x256"),
        (7, "the default is 256x256"),
    ],
)
def test_a_malformed_size_is_told_a_size_that_would_do(size: Any, help_: str) -> None:
    [detail] = faults(size=size).values()
    assert help_ in detail
    assert "^" not in detail
    if isinstance(size, str):
        assert "must be WIDTHxHEIGHT" in detail


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_the_nearest_legal_size_is_legal_and_none_is_nearer(width: int, height: int) -> None:
    near = nearest_legal((width, height), TINY)
    assert is_legal(near, TINY)
    assert resize_to(near, TINY.transforms["vae"]) == near
    if is_legal((width, height), TINY):
        assert near == (width, height)


@pytest.mark.parametrize(
    ("size", "near"), [((1536, 1024), (512, 336)), ((1024, 1536), (336, 512)), ((3840, 2160), (512, 288))]
)
def test_the_nearest_to_a_size_that_is_too_large_has_its_shape(size: tuple[int, int], near: tuple[int, int]) -> None:
    assert nearest_legal(size, TINY) == near


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (512, 256), (496, 304)])
def test_sizes_that_the_transform_leaves_alone_are_legal(size: tuple[int, int]) -> None:
    assert is_legal(size, TINY)


@pytest.mark.parametrize("size", [(500, 500), (1024, 512), (240, 256), (8, 8)])
def test_other_sizes_are_not(size: tuple[int, int]) -> None:
    assert not is_legal(size, TINY)


WAIT = Mode(wait_s=60)


@pytest.mark.parametrize(
    ("stream", "accept", "prefer", "mode"),
    [
        (True, ["application/json"], ["respond-async"], Mode(stream=True)),
        (False, ["text/event-stream"], [], WAIT),
        (None, ["text/event-stream"], ["respond-async"], Mode(stream=True)),
        (None, ["application/json, text/event-stream"], [], WAIT),
        (None, ["text/event-stream, application/json;q=0.5"], [], Mode(stream=True)),
        (None, ["text/event-stream;q=0, */*"], [], WAIT),
        (None, ["*/*"], [], WAIT),
        (None, [], ["respond-async"], Mode(applied="respond-async")),
        (None, [], ["respond-async, wait=10"], Mode(wait_s=10, applied="wait=10")),
        (None, [], ["wait=600"], Mode(wait_s=60, applied="wait=60")),
        (None, [], ["wait=0"], Mode(applied="wait=0")),
        (None, [], ['wait="7"; x=1', "foo"], Mode(wait_s=7, applied="wait=7")),
        (None, [], ["wait=5", "wait=9"], Mode(wait_s=5, applied="wait=5")),
        (None, [], ["wait=soon"], WAIT),
        (None, [], ["wait=-1"], WAIT),
        (None, ["text/event-stream;q=x"], [], WAIT),
    ],
)
def test_the_body_decides_how_to_answer_then_accept_then_prefer(
    stream: bool | None, accept: list[str], prefer: list[str], mode: Mode
) -> None:
    assert mode_of(stream, accept, prefer, 60) == mode
