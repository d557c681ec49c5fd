"""The `openai` package for Python, unmodified, against `r3 api` and a worker with the fake model."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import ImageEditCompletedEvent, ImageGenCompletedEvent, ImageGenPartialImageEvent

from server.embedded import EmbeddedServer
from tests.recorded import Record
from tests.server.api.by_hand import png
from tests.server.api.keyed import KeyedApi
from tests.server.api.serving import FEW_STEPS, served, size_of, status_of
from tests.server.processes import ApiProcess
from tests.server.waiting import until

PICTURE = png((10, 200, 30), (320, 256))
ENDLESS = {"refine": {"num_timesteps": 200}, "max_rounds": 8}  # eight seconds beyond its first picture
EDITED = (320, 256)


@pytest.fixture(scope="module")
def api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """The server."""
    with served(valkey.url, tmp_path_factory.mktemp("openai")) as one:
        yield one


@pytest.fixture
def client(api: ApiProcess) -> Iterator[OpenAI]:
    """The client."""
    with a_client(api.url) as one:
        yield one


@pytest.fixture
async def async_client(api: ApiProcess) -> AsyncIterator[AsyncOpenAI]:
    """The same for asyncio."""
    plain = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0, http_client=plain) as one:
        yield one


def a_client(url: str, key: str = "none", retries: int = 0) -> OpenAI:
    plain = openai.DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, http_client=plain)


def r3(**settings: Any) -> dict[str, Any]:
    return {"r3": {**FEW_STEPS, **settings}}


def asks_often(client: OpenAI) -> None:
    for _ in range(20):
        client.models.list()


def opened(b64_json: str | None) -> tuple[str | None, tuple[int, int]]:
    assert b64_json is not None
    return size_of(base64.b64decode(b64_json))


def job_of(api: ApiProcess, answer: Any) -> dict[str, Any]:
    job: dict[str, Any] = api.client.get(f"/jobs/{answer.r3['job_id']}").json()
    return job


def test_models_are_listed_and_looked_up(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "r3")
    assert client.models.retrieve("fake") == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("another/model")
    assert refused.value.code == "model_not_found"


def test_a_picture_comes_as_bytes_with_the_reasoning_as_the_revised_prompt(client: OpenAI, api: ApiProcess) -> None:
    answer = client.images.generate(prompt="a cat edits=1", model="fake", size="auto", quality="high", extra_body=r3())
    assert answer.data is not None
    [image] = answer.data
    assert opened(image.b64_json) == ("PNG", (512, 512))
    assert answer.size == "512x512"
    assert image.url is None
    job = job_of(api, answer)
    assert image.revised_prompt == job["trajectories"][0]["reasoning"]
    assert [r["index"] for r in job["trajectories"][0]["rounds"]] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.output_tokens == job["usage"]["text_tokens"] > 0


def test_several_pictures_come_as_links_that_anyone_can_follow(client: OpenAI, api: ApiProcess) -> None:
    answer = client.images.generate(
        prompt="a cat", n=3, size="512x256", response_format="url", output_format="webp", extra_body=r3(max_rounds=0)
    )
    assert answer.data is not None
    assert answer.output_format == "webp"
    urls = [image.url or "" for image in answer.data]
    assert len(set(urls)) == 3
    for url in urls:
        assert url.startswith(f"{api.url}/images/img_")
        assert size_of(api.client.get(url).content) == ("WEBP", (512, 256))


def test_the_same_seed_gives_the_same_picture(client: OpenAI) -> None:
    settings = r3(seed=7, max_rounds=1)
    first, second = [client.images.generate(prompt="a cat", extra_body=settings).data for _ in range(2)]
    assert first is not None
    assert first == second


def test_an_upload_is_edited_once(client: OpenAI, api: ApiProcess) -> None:
    answer = client.images.edit(image=io.BytesIO(PICTURE), prompt="Add a hat.", extra_body=r3(seed=5))
    assert answer.data is not None
    assert opened(answer.data[0].b64_json) == ("PNG", EDITED)
    [trajectory] = job_of(api, answer)["trajectories"]
    assert [r["instruction"] for r in trajectory["rounds"]] == [None, "Add a hat."]
    assert answer.data[0].revised_prompt is None
    assert trajectory["seed"] == 5


def test_an_edit_goes_on_towards_its_target(client: OpenAI, api: ApiProcess) -> None:
    target = r3(prompt="a cat with a hat edits=3", max_rounds=3, early_stop={"on_satisfied": True, "confirmations": 1})
    answer = client.images.edit(image=("a.png", PICTURE), prompt="Add a hat.", n=2, extra_body=target)
    assert answer.data is not None
    assert len(answer.data) == 2
    job = job_of(api, answer)
    assert job["prompt"] == "a cat with a hat edits=3"
    assert [len(trajectory["rounds"]) for trajectory in job["trajectories"]] == [4, 4]


@pytest.mark.row("S5")
def test_a_stream_gives_rejected_pictures_and_then_the_final_one(client: OpenAI, record: Record) -> None:
    settings = r3(max_rounds=2, generate={"num_timesteps": 200})
    with client.images.generate(prompt="a cat edits=2", stream=True, partial_images=3, extra_body=settings) as stream:
        events = list(stream)
    *partial, completed = events
    assert isinstance(completed, ImageGenCompletedEvent)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in partial if isinstance(event, ImageGenPartialImageEvent)] == [0, 1, 2]
    assert [opened(event.b64_json)[0] for event in partial] == ["WEBP", "PNG", "PNG"]
    assert [event.output_format for event in partial] == ["webp", "png", "png"]
    assert opened(completed.b64_json) == ("PNG", (512, 512))
    assert len({event.b64_json for event in events}) == 4
    record("S5", "`openai` for Python streams pictures")


def test_a_stream_of_several_ends_with_one_picture_each(client: OpenAI) -> None:
    with client.images.generate(prompt="a cat edits=1", n=2, stream=True, extra_body=r3()) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert {event.to_dict()["r3"]["trajectory"] for event in events} == {0, 1}  # type: ignore[index]


def test_an_edit_streams_in_its_own_words(client: OpenAI) -> None:
    target = r3(prompt="x edits=2")
    with client.images.edit(
        image=PICTURE, prompt="Add a hat.", stream=True, partial_images=2, extra_body=target
    ) as stream:
        *partial, completed = list(stream)
    assert isinstance(completed, ImageEditCompletedEvent)
    assert {event.type for event in partial} == {"image_edit.partial_image"}
    assert 1 <= len(partial) <= 2


def test_closing_the_stream_cancels_the_job(client: OpenAI, api: ApiProcess) -> None:
    stream = client.images.generate(prompt="a cat edits=8", stream=True, partial_images=3, extra_body=r3(**ENDLESS))
    first = next(iter(stream))
    stream.close()
    job_id = first.to_dict()["r3"]["job_id"]  # type: ignore[index]
    until(lambda: status_of(api, job_id) == "cancelled", 20)


def test_faults_are_the_librarys_exceptions_with_our_codes(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as invalid:
        client.images.generate(prompt="a cat", size="100x100")
    assert (invalid.value.code, invalid.value.param, invalid.value.type) == (
        *("invalid_request", "size", "invalid_request_error"),
    )
    with pytest.raises(openai.BadRequestError, match="mask"):
        client.images.edit(image=PICTURE, mask=PICTURE, prompt="Add a hat.")
    with pytest.raises(openai.BadRequestError, match="is there 2 times"):
        client.images.edit(image=[PICTURE, PICTURE], prompt="Add a hat.")
    with pytest.raises(openai.BadRequestError) as no_picture:
        client.images.edit(image=b"GIF89a", prompt="Add a hat.")
    assert no_picture.value.code == "invalid_image"
    with pytest.raises(openai.BadRequestError) as malformed:
        client.images.edit(image=PICTURE, prompt="Add a hat.", extra_body={"r3": '{"seed": NaN}'})
    assert malformed.value.code == "malformed_json"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="a cat", model="gpt-image-1")
    assert unknown.value.code == "model_not_found"


def test_a_job_that_failed_raises_its_reason_and_is_not_asked_for_again(api: ApiProcess) -> None:
    before = len(api.client.get("/jobs?limit=100").json()["jobs"])
    with a_client(api.url, retries=2) as client, pytest.raises(openai.InternalServerError) as failed:
        client.images.generate(prompt="a cat raise=generate", extra_body=r3())
    assert failed.value.code == "step_failed"
    assert len(api.client.get("/jobs?limit=100").json()["jobs"]) == before + 1


def test_a_failure_in_mid_stream_raises_after_the_pictures_before_it(client: OpenAI) -> None:
    settings = r3(max_rounds=3)
    stream = client.images.generate(prompt="a cat raise=refine", stream=True, partial_images=3, extra_body=settings)
    seen: list[str] = []
    with pytest.raises(openai.APIError) as failed:
        seen.extend(event.type for event in stream)
    assert failed.value.code == "step_failed"
    assert "image_generation.completed" not in seen


def test_a_repeated_idempotency_key_gives_the_same_job(client: OpenAI) -> None:
    again: dict[str, Any] = {"extra_headers": {"Idempotency-Key": "python-1"}, "extra_body": r3(max_rounds=0)}
    first = client.images.with_raw_response.generate(prompt="a cat", **again)
    second = client.images.with_raw_response.generate(prompt="a cat", **again)
    assert first.headers["location"] == second.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert first.parse().data == second.parse().data


def test_keys_and_limits_are_the_librarys_exceptions(keyed: KeyedApi) -> None:
    with a_client(keyed.api.url, "r3_nonsense") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "unauthorized"
    reader = keyed.holder("alice", "read")
    with a_client(keyed.api.url, reader.secret) as client, pytest.raises(openai.PermissionDeniedError):
        client.images.generate(prompt="a cat")
    holder = keyed.holder("alice", requests_per_min=15)
    with a_client(keyed.api.url, holder.secret) as client, pytest.raises(openai.RateLimitError) as limited:
        asks_often(client)
    assert limited.value.code == "rate_limited"
    headers: httpx2.Headers = limited.value.response.headers
    assert 0 < int(headers["retry-after-ms"]) == int(headers["retry-after"]) * 1000 <= 120_000


async def test_asyncio_generates_edits_and_streams(async_client: AsyncOpenAI) -> None:
    made = await async_client.images.generate(prompt="a cat edits=1", n=2, extra_body=r3())
    assert made.data is not None
    assert [opened(image.b64_json)[0] for image in made.data] == ["PNG", "PNG"]
    edited = await async_client.images.edit(image=PICTURE, prompt="Add a hat.", extra_body=r3())
    assert edited.data is not None
    assert opened(edited.data[0].b64_json) == ("PNG", EDITED)
    stream = await async_client.images.generate(
        prompt="a cat edits=1", stream=True, partial_images=1, extra_body=r3(max_rounds=1)
    )
    types = [event.type async for event in stream]
    assert types == ["image_generation.partial_image", "image_generation.completed"]


async def test_asyncio_raises_and_cancels_the_same(async_client: AsyncOpenAI, api: ApiProcess) -> None:
    with pytest.raises(openai.NotFoundError):
        await async_client.images.generate(prompt="a cat", model="gpt-image-1")
    stream = await async_client.images.generate(
        prompt="a cat edits=8", stream=True, partial_images=3, extra_body=r3(**ENDLESS)
    )
    first = await anext(aiter(stream))
    await stream.close()
    job_id = first.to_dict()["r3"]["job_id"]  # type: ignore[index]
    until(lambda: status_of(api, job_id) == "cancelled", 20)
