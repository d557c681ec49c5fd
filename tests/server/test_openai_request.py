"""What is asked for under /v1, as the request of POST /generate that it stands for; and forms as JSON values."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from server.event_views import StreamClosing
from server.faults import ApiError
from server.form import form_value
from server.openai_errors import retry_headers
from server.openai_request import ImagesRead, previews_for, read_edits, read_generations
from server.openai_stream import CLOSED
from server.resolve import faults_against
from server.routes.openai import SCHEMAS
from server.settings import Settings
from tests.server.api.by_hand import TINY


def generation(**body: Any) -> ImagesRead:
    """The body of /v1/images/generations, which is to have no fault."""
    found = read_generations({"prompt": "a cat", **body}, may_return=False)
    assert faults_against(found.read, TINY) == []
    return found


def edit(**body: Any) -> ImagesRead:
    """The form of /v1/images/edits with a file, which is to have no fault."""
    found = read_edits({"prompt": "Add a hat.", **body}, b"a picture", may_return=False)
    assert faults_against(found.read, TINY) == []
    return found


def faults(body: Any) -> dict[str, str]:
    found = faults_against(read_generations(body, may_return=False).read, TINY)
    assert len({fault.pointer for fault in found}) == len(found), found
    return {fault.pointer: fault.detail for fault in found}


def edit_faults(body: dict[str, Any], upload: bytes | None = b"a picture") -> dict[str, str]:
    found = faults_against(read_edits(body, upload, may_return=False).read, TINY)
    assert len({fault.pointer for fault in found}) == len(found), found
    return {fault.pointer: fault.detail for fault in found}


def typed(*texts: tuple[str, str]) -> dict[str, Any]:
    return form_value(texts, SCHEMAS["ImagesEdit"], SCHEMAS)


def test_fields_of_the_same_name_are_those_of_generate() -> None:
    body = generation(n=2, size="512x256", output_format="webp", output_compression=40, model="tiny").read.body
    assert (body.prompt, body.n, body.size, body.model) == ("a cat", 2, "512x256", "tiny")
    assert (body.output_format, body.output_compression) == ("webp", 40)


def test_bytes_are_the_default_and_all_that_a_stream_sends() -> None:
    assert generation().read.body.response_format == "b64_json"
    assert generation(response_format="url").read.body.response_format == "url"
    assert generation(response_format="url", stream=True).read.body.response_format == "b64_json"


def test_an_automatic_size_is_the_models_own_and_null_is_the_same_as_nothing() -> None:
    assert generation(size="auto").read.body.size is None
    assert generation(size=None, n=None, r3=None, quality=None).read.body == generation().read.body
    assert edit(size="auto").read.body.size is None


def test_what_means_nothing_here_has_no_effect() -> None:
    meaningless = {"quality": "hd", "style": "vivid", "user": "u-1", "moderation": "low", "background": "auto"}
    more = {"safety_identifier": "x", "complexity": "high"}
    assert generation(**meaningless, **more, partial_images=2).read == generation().read


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("background", "transparent", "must be 'auto' or 'opaque'"),
        ("mask", "a file", "is not supported: an edit is of the whole picture"),
        ("markup", "a file", "is not supported"),
        ("svg", {"model": "x"}, "is not supported: no vectors"),
        ("frame_count", 3, "is not supported: nothing moving"),
        ("output_format", "gif", "must be 'png', 'webp' or 'jpeg'"),
        ("partial_images", 4, "must be less than or equal to 3"),
        ("n", 5, "must be less than or equal to 4"),
        ("nonsense", 1, "is not a known field"),
    ],
)
def test_what_would_have_to_change_the_picture_is_refused_by_name(field: str, value: Any, said: str) -> None:
    found = faults({"prompt": "a cat", field: value})
    assert list(found) == [f"/{field}"]
    assert said in found[f"/{field}"]


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("seed", 7, '{"seed": …}'),
        ("max_rounds", 1, '{"max_rounds": …}'),
        ("num_timesteps", 20, '{"generate": {"num_timesteps": …}}'),
        ("cfg_img_scale", 2.0, '{"refine": {"cfg_img_scale": …}}'),
    ],
)
def test_a_setting_of_ours_that_stands_beside_the_prompt_is_told_its_place(field: str, value: Any, place: str) -> None:
    found = faults({"prompt": "a cat", field: value})
    assert list(found) == [f"/{field}"]
    assert f'send {{"r3": {place}}}' in found[f"/{field}"]


def test_openais_own_compression_is_taken_with_png_and_no_other() -> None:
    assert generation(output_compression=100).read.body == generation().read.body
    assert generation(output_compression=100, r3={"output_format": "png"}).read.body.output_compression is None
    assert generation(output_compression=100, output_format="webp").read.body.output_compression == 100
    assert list(faults({"prompt": "a", "output_compression": 99})) == ["/output_compression"]


def test_every_fault_is_told_at_its_own_place() -> None:
    found = faults(
        {
            "prompt": "",
            "size": "7",
            "n": 9,
            "r3": {"max_rounds": 99, "generate": {"num_timesteps": 1}, "promt": "x", "min_rounds": 9},
        }
    )
    places = {"/prompt", "/size", "/n", "/r3/max_rounds", "/r3/generate/num_timesteps", "/r3/promt", "/r3/min_rounds"}
    assert set(found) == places
    assert "the default is 256x256" in found["/size"]
    assert list(faults({"prompt": "a", "size": "100x100"})) == ["/size"]
    assert list(faults({"prompt": "a", "r3": {"size": "100x100"}})) == ["/r3/size"]
    assert list(faults({"prompt": "a", "r3": {"min_rounds": 3, "max_rounds": 2}})) == ["/r3/min_rounds"]
    assert list(faults([])) == [""]
    assert list(faults({})) == ["/prompt"]


def test_any_setting_of_generate_can_stand_in_r3() -> None:
    given = {
        "seed": 7,
        "max_rounds": 1,
        "early_stop": False,
        "generate": {"num_timesteps": 5},
        "n": 3,
        "priority": "low",
    }
    body = generation(r3=given).read.body
    assert (body.seed, body.max_rounds, body.n, body.priority) == (7, 1, 3, "low")
    assert body.early_stop.on_satisfied is False
    assert body.generate.num_timesteps == 5


def test_what_is_given_twice_must_be_the_same() -> None:
    assert generation(n=2, r3={"n": 2}).read.body.n == 2
    found = faults({"prompt": "a", "n": 2, "r3": {"n": 3}})
    assert found == {"/r3/n": "is given beside n, and is not the same; give one of them"}
    assert "/r3/prompt" in faults({"prompt": "a", "r3": {"prompt": "b"}})
    assert "/r3/instruction" in edit_faults({"prompt": "a", "r3": {"instruction": "b"}})
    assert "/r3/image" in edit_faults({"prompt": "a", "r3": {"image": "b"}})


def test_who_hangs_up_cancels_unless_a_key_lets_them_come_back() -> None:
    assert generation().read.body.cancel_on_disconnect
    assert not generation(r3={"cancel_on_disconnect": False}).read.body.cancel_on_disconnect
    assert not read_generations({"prompt": "a"}, may_return=True).read.body.cancel_on_disconnect


def test_an_edit_is_one_round_whose_instruction_is_the_prompt() -> None:
    found = edit()
    body = found.read.body
    assert (body.instruction, body.prompt, body.max_rounds) == ("Add a hat.", "Add a hat.", 1)
    assert body.image is not None
    assert found.upload == b"a picture"


def test_an_edit_with_a_target_goes_on_towards_it() -> None:
    body = edit(r3={"prompt": "a cat with a hat"}).read.body
    assert (body.instruction, body.prompt, body.max_rounds) == ("Add a hat.", "a cat with a hat", None)
    assert edit(r3={"max_rounds": 4}).read.body.max_rounds == 4


def test_the_faults_of_an_edit_are_told_where_the_form_has_them() -> None:
    assert list(edit_faults({"prompt": "a"}, None)) == ["/image"]
    assert list(edit_faults({})) == ["/prompt"]
    assert list(edit_faults({"prompt": "a", "size": "256x256"})) == ["/size"]
    assert list(edit_faults({"prompt": "a", "r3": {"max_rounds": 0}})) == ["/r3/max_rounds"]


@pytest.mark.parametrize(
    ("partial_images", "rounds", "previews"), [(0, 3, 0), (3, 3, 0), (3, 1, 2), (2, 0, 2), (1, 8, 0)]
)
def test_previews_are_what_rounds_leave_of_the_partial_images(partial_images: int, rounds: int, previews: int) -> None:
    assert previews_for(partial_images, rounds, of_edit=False) == previews
    assert previews_for(partial_images, rounds + 1, of_edit=True) == previews, "the upload is rejected by nobody"


def test_texts_of_a_form_become_what_their_fields_take() -> None:
    assert typed(
        *(("prompt", "7"), ("n", "2"), ("stream", "true"), ("user", "12"), ("partial_images", "0")),
        *(("r3[seed]", "9007199254740991"), ("r3[early_stop]", "false"), ("r3[generate][cfg_text_scale]", "2.5")),
        *(("r3[generate][cfg_interval][]", "0.4"), ("r3[generate][cfg_interval][]", "1")),
        *(("r3[metadata][a]", "1"), ("r3[prompt]", "true"), ("r3[output_format]", "webp")),
    ) == {
        "prompt": "7",
        "n": 2,
        "stream": True,
        "user": "12",
        "partial_images": 0,
        "r3": {
            "seed": 9007199254740991,
            "early_stop": False,
            "generate": {"cfg_text_scale": 2.5, "cfg_interval": [0.4, 1]},
            "metadata": {"a": "1"},
            "prompt": "true",
            "output_format": "webp",
        },
    }


def test_r3_may_be_one_text_of_json() -> None:
    assert typed(("r3", '{"seed": 7, "prompt": "x"}')) == {"r3": {"seed": 7, "prompt": "x"}}
    with pytest.raises(ApiError, match="malformed_json"):
        typed(("r3", "{nonsense"))
    with pytest.raises(ApiError, match="malformed_json"):
        typed(("r3", '{"seed": NaN}'))


def test_what_spells_nothing_is_left_to_be_refused() -> None:
    value = typed(("n", "two"), ("stream", "True"), ("r3", "x"), ("r3x[1]", "2"))
    assert value == {"n": "two", "stream": "True", "r3": "x", "r3x": {"1": "2"}}
    assert set(edit_faults({"prompt": "a", **value})) == {"/n", "/stream", "/r3", "/r3x"}


@pytest.mark.parametrize(
    "names",
    [
        ["n", "n"],
        ["r3[seed]", "r3[seed]"],
        ["r3", "r3[seed]"],
        ["r3[seed]", "r3"],
        ["r3[a][]", "r3[a][b]"],
        ["r3[a][b]", "r3[a][]"],
        ["r3[][a]"],
        ["[]"],
        ["r3[a"],
        ["r3]a["],
        [""],
        ["r3" + "[a]" * 9],
    ],
)
def test_names_that_contradict_each_other_or_are_none_are_refused(names: list[str]) -> None:
    with pytest.raises(ApiError, match="invalid_request"):
        typed(*((name, "1") for name in names))


def test_the_clients_are_told_a_wait_that_they_take_and_what_is_in_vain() -> None:
    full = ApiError("queue_full", "full", headers={"Retry-After": "600"})
    assert retry_headers(full, "/generate") == {"Retry-After": "600"}
    assert retry_headers(full, "/v1/images/edits") == {"Retry-After": "120", "retry-after-ms": "120000"}
    assert retry_headers(ApiError("poison_job", "dead"), "/v1/images/edits") == {"x-should-retry": "false"}
    assert retry_headers(ApiError("poison_job", "dead"), "/generate") == {}


@pytest.mark.parametrize("url", ["pictures.example", "ftp://pictures.example", "https://pictures.example/?a=b", "x y"])
def test_an_operator_who_names_no_address_for_links_is_told_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="is no address of a server"):
        Settings(public_url=url)
    assert Settings(public_url="https://pictures.example/r3/").public_url == "https://pictures.example/r3/"


def test_a_stream_can_be_closed_for_every_reason_that_there_is() -> None:
    reasons = get_args(StreamClosing.model_fields["reason"].annotation)
    assert set(CLOSED) == set(reasons)


def test_what_is_no_json_in_a_form_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        form_value([("r3", '{"seed": 7')], SCHEMAS["ImagesEdit"], SCHEMAS)
    assert caught.value.code == "malformed_json"
    assert caught.value.detail.startswith("r3: ")
    assert [fault.pointer for fault in caught.value.faults] == ["/r3"]
