"""The client against a running service: what it gives, and how it ends."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, ClassVar

import httpx
import PIL.Image
import pytest

from r3client import AsyncClient, Client, GenerationCancelled, GenerationFailed, Image, InvalidRequest, errors, events
from server.embedded import EmbeddedServer
from tests.client.service import FAST, LONG, SOON, Service, running_service
from tests.server.api.by_hand import png
from tests.server.api.keyed import new_key
from tests.server.waiting import until


def check_pictures(images: list[Image]) -> None:
    """Each is there, as bytes and as a PIL image."""
    assert images
    for image in images:
        picture = image.pil()
        assert (picture.width, picture.height) == (image.width, image.height)
        assert picture.format == "PNG"


def test_generate_waits_and_brings_the_pictures_of_all_rounds(client: Client, tmp_path: Path) -> None:
    job = client.generate("a cat edits=2", seed=7, n=2, **SOON)
    assert job.status == "succeeded"
    assert [[r.instruction for r in t.rounds] for t in job.trajectories] == [
        [None, "Add thing number 1.", "Add thing number 2."]
    ] * 2
    check_pictures(list(job.every_image()))
    check_pictures(job.images)
    assert job.image is not None
    assert job.image == job.trajectories[0].rounds[-1].image
    assert job.image.save(tmp_path / "cat.png").read_bytes() == client.image(job.image)


async def test_so_does_the_asynchronous_client(service: Service) -> None:
    async with AsyncClient(service.url) as client:
        job = await client.generate("a cat edits=1", seed=7, **SOON)
        check_pictures(list(job.every_image()))
        assert job.image is not None
        assert await client.image(job.image.id) == job.image.content
        assert (await client.job(job)).status == "succeeded"
        assert [one.id for one in (await client.jobs(limit=1)).jobs] == [job.id]


class Watched(PIL.Image.Image):
    """A picture that notes in which thread it is written."""

    written_in: ClassVar[list[threading.Thread]] = []

    def save(self, *where: Any, **how: Any) -> None:
        self.written_in.append(threading.current_thread())
        super().save(*where, **how)


async def test_a_picture_is_encoded_beside_the_event_loop(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", lambda image: image)  # it makes another, plain one
    picture = Watched()
    picture.__setstate__([{}, "RGB", (64, 64), None, bytes(3 * 64 * 64)])
    async with AsyncClient(service.url) as client:
        await client.generate("a cat", image=picture, max_rounds=1, **SOON)
        await client.submit("a cat", image=picture, max_rounds=1, **SOON)
        async with client.stream("a cat", image=picture, max_rounds=1, **SOON) as stream:
            assert [event async for event in stream]
    assert len(Watched.written_in) == 3
    assert threading.main_thread() not in Watched.written_in


@pytest.mark.parametrize(("download", "rounds"), [("final", [False, False, True]), ("none", [False] * 3)])
def test_pictures_that_were_not_asked_for_are_not_fetched(client: Client, download: str, rounds: list[bool]) -> None:
    job = client.generate("a cat edits=2", download=download, **SOON)  # type: ignore[arg-type]
    assert [image.content is not None for image in job.every_image()] == rounds
    with pytest.raises(errors.R3Error, match=r"were not fetched; client\.image\("):
        next(job.every_image()).pil()


def test_bytes_that_come_with_the_answer_are_not_fetched_again(client: Client) -> None:
    job = client.generate("a cat edits=1", download="none", response_format="b64_json", **SOON)
    check_pictures(list(job.every_image()))


@pytest.mark.parametrize("kind", ["bytes", "path", "pil", "image"])
def test_a_picture_to_start_from_may_be_given_as_one_has_it(client: Client, tmp_path: Path, kind: str) -> None:
    content = png((10, 200, 30), (320, 256))
    (tmp_path / "start.png").write_bytes(content)
    if kind == "image":
        first = client.generate("a cat", max_rounds=0, **SOON).image
        assert first is not None
        job = client.generate("a dog", image=first, max_rounds=1, **SOON)
        assert job.parent is not None
    else:
        given = {"bytes": content, "path": tmp_path / "start.png", "pil": PIL.Image.open(io.BytesIO(content))}[kind]
        job = client.generate("a dog", image=given, instruction="a hat", max_rounds=1, **SOON)  # type: ignore[arg-type]
        assert job.trajectories[0].rounds[1].instruction == "a hat"
    assert job.status == "succeeded"


def test_a_stream_tells_typed_events_and_adds_them_up(client: Client) -> None:
    with client.stream("a cat edits=1", seed=3, **SOON) as stream:
        told = list(stream)
    assert [type(event) for event in told if not isinstance(event, events.ImageProgress | events.JobQueued)] == [
        events.JobStarted,
        *[type(event) for event in told if isinstance(event, events.ReasonDelta)],
        events.ReasonDone,
        events.ImageDone,
        *[events.ReflectDelta for event in told if isinstance(event, events.ReflectDelta) and event.round == 0],
        events.ReflectDone,
        events.ImageDone,
        *[events.ReflectDelta for event in told if isinstance(event, events.ReflectDelta) and event.round == 1],
        events.ReflectDone,
        events.TrajectoryDone,
        events.JobSucceeded,
    ]
    last = told[-1]
    assert isinstance(last, events.JobSucceeded)
    live = stream.live.trajectories[0]
    assert live.reasoning.text == last.job.trajectories[0].reasoning
    assert [r.instruction for r in live.rounds.values()] == [None, "Add thing number 1."]
    assert live.stop_reason == "satisfied"


def test_following_begins_after_the_event_that_one_names(client: Client) -> None:
    job = client.generate("a cat", download="none", **SOON)
    numbers = [event.id for event in client.follow(job) if event.id is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event.id for event in client.follow(job.id, after=numbers[-2])] == [numbers[-1]]
    assert list(client.follow(job, after=numbers[-1])) == []


def test_a_failed_job_is_an_exception_of_its_code(client: Client) -> None:
    with pytest.raises(errors.StepFailed, match="refine failed because the prompt asked for it") as caught:
        client.generate("a cat raise=refine", **SOON)
    assert isinstance(caught.value, GenerationFailed)
    assert caught.value.code == "step_failed"
    assert len(list(client.job(caught.value.job_id).every_image())) == 1


def test_cancel_and_stop_end_a_job_and_refuse_what_cannot_be(own: Service) -> None:
    with Client(own.url) as client:
        job = client.submit("a cat edits=3", **LONG)
        with pytest.raises(errors.NoImageYet) as caught:
            client.stop(job)
        assert (caught.value.status, caught.value.code) == (409, "no_image_yet")
        with pytest.raises(GenerationCancelled) as cancelled:
            client.generate("a dog", idempotency_key=_cancelled_job(client))
        assert cancelled.value.code == "cancelled"
        for event in client.follow(job):
            if isinstance(event, events.ImageDone) and event.round == 0:
                client.stop(job)
        stopped = client.job(job)
        assert (stopped.status, stopped.trajectories[0].stop_reason) == ("succeeded", "stopped")
        with pytest.raises(errors.AlreadyFinished):
            client.cancel(job)


def _cancelled_job(client: Client) -> str:
    job = client.submit("a dog", idempotency_key="mine")
    client.cancel(job)
    assert isinstance(list(client.follow(job))[-1], events.JobCancelled)
    return "mine"


def test_what_is_wrong_with_a_request_is_listed(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.submit("a cat", max_rounds=9, size="64x65")
    error = caught.value
    assert (error.status, error.code, error.title) == (422, "invalid_request", "The request is not valid")
    assert {fault.pointer for fault in error.errors} == {"/max_rounds", "/size"}
    assert error.request_id
    assert error.instance == "/generate"
    with pytest.raises(errors.InvalidImage):
        client.submit("a cat", image=b"none")
    with pytest.raises(errors.JobNotFound):
        client.job("job_" + "0" * 32)
    with pytest.raises(errors.NotFound):
        list(client.follow("../jobs"))
    with pytest.raises(errors.ImageNotFound):
        client.image("img_" + "0" * 32)
    with pytest.raises(errors.ModelNotFound):
        client.submit("a cat", model="another")


@pytest.mark.parametrize("field", ["stream", "cancel_on_disconnect"])
def test_what_the_client_decides_itself_is_refused_by_name(client: Client, field: str) -> None:
    with pytest.raises(TypeError, match=f"{field} cannot be set"):
        client.submit("a cat", **{field: True})  # type: ignore[arg-type]


def test_jobs_come_in_pages_and_are_deleted(client: Client) -> None:
    made = [client.generate("a cat", max_rounds=0, download="none", **SOON).id for _ in range(3)]
    page = client.jobs(limit=2)
    assert [job.id for job in page.jobs] == made[:0:-1]
    assert client.jobs(limit=1, cursor=page.next_cursor).jobs[0].id == made[0]
    client.delete(made[0])
    with pytest.raises(errors.JobNotFound):
        client.job(made[0])


def test_keys_come_from_the_argument_or_the_environment_and_links_need_none(
    valkey: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{valkey.url}?db=2"
    with running_service(url, tmp_path, auth="keys", worker=None) as service:
        _, key = new_key(url, "alice")
        headers = {"Authorization": f"Bearer {key}"}
        until(lambda: service.api.client.get("/jobs", headers=headers).status_code == 200)
        service.start_worker(**FAST)
        with Client(service.url) as stranger, pytest.raises(errors.Unauthorized):
            stranger.jobs()
        monkeypatch.setenv("R3_URL", service.url)
        monkeypatch.setenv("R3_API_KEY", key)
        with Client() as client:
            job = client.generate("a cat", **SOON)
            check_pictures(list(job.every_image()))
            link = client.share(job, expires_s=60).url
            assert httpx.get(link, trust_env=False).json()["id"] == job.id
            client.unshare(job)
            assert httpx.get(link, trust_env=False).status_code in (401, 404)
        with pytest.raises(errors.Unauthorized), Client(api_key="r3_another") as another:
            another.jobs()


def test_an_address_or_a_key_that_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="base_url is 'localhost:8000'"):
        Client("localhost:8000")
    for url in ("http://r3.example:99999", "http://two words", "http://"):
        with pytest.raises(ValueError, match="base_url is"):
            Client(url)
    with pytest.raises(ValueError, match="holds a name or a password"):
        Client("https://user:word@r3.example")
    with pytest.raises(ValueError, match="not one word"):
        Client(api_key="two words")


def test_what_answers_and_is_no_server_of_ours_is_said_to_be_none() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with Client("http://127.0.0.1:1", transport=transport) as client, pytest.raises(errors.UnexpectedAnswer):
        client.jobs()
