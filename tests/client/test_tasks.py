"""The jobs beside a generation, from the client through a real API and a worker with the fake model."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from r3client import AsyncClient, Client, GenerationFailed, InvalidRequest, RoundtripResult, events
from r3client.settings import ImageSampling
from tests.client.service import Service
from tests.client.test_terminal_pictures import picture

STEPS: ImageSampling = {"num_timesteps": 5}


def test_every_picture_has_a_score_by_every_scorer(client: Client) -> None:
    images = [picture((256, 256)), picture((512, 256)), picture((256, 320))]
    scored = client.score("a cat", images, scorers=["lift", "vqa"], seed=3)
    assert [(one.image.width, one.image.height) for one in scored.images if one.image] == [
        *((256, 256), (512, 256), (256, 320))
    ]
    assert [[score.scorer for score in one.scores] for one in scored.images] == [["lift", "vqa"]] * 3
    values = [one.value("lift") for one in scored.images]
    assert len(set(values)) == 3
    assert values == [one.scores[0].lift for one in scored.images]
    assert [word.text for word in scored.images[0].scores[0].words] == ["a", "cat"]
    assert scored.images[0].value("gvu") is None


def test_one_picture_may_be_given_by_itself_and_by_its_id(client: Client) -> None:
    first = client.score("a cat", picture((256, 256)), seed=3)
    [one] = first.images
    assert one.image is not None
    assert client.score("a cat", [one.image], seed=3).images[0].scores == one.scores


def test_a_verdict_has_every_picture_reflected_on(client: Client) -> None:
    job = client.ask("score", prompt="a cat", images=[picture((256, 256))] * 2, scorers=["verdict"])
    with client.follow(job) as stream:
        told = list(stream)
    said = [event for event in told if isinstance(event, events.ReflectDone)]
    assert len(said) == 2
    done = client.job(job)
    assert [[s["scorer"] for s in one["scores"]] for one in done.model_dump()["result"]["images"]] == [["verdict"]] * 2


def test_a_reflection_says_how_to_edit(client: Client) -> None:
    result = client.reflect("a cat edits=1", picture((256, 256)))
    assert result.reflection is not None
    assert (result.reflection.verdict, result.reflection.instruction) == ("edit", "Add thing number 1.")


def test_a_picture_is_described_and_a_question_answered(client: Client) -> None:
    plain, asked = client.describe(picture((256, 256))), client.describe(picture((256, 256)), question="How many?")
    assert plain.text
    assert asked.text
    assert plain.text != asked.text
    short = client.describe(picture((256, 256)), max_tokens=2)
    assert short.text is not None
    assert len(short.text.split()) == 2


@pytest.mark.parametrize("begins_with", ["image", "prompt"])
def test_a_round_trip_brings_both_pictures_and_how_alike_they_are(client: Client, begins_with: str) -> None:
    if begins_with == "image":
        result = client.roundtrip(picture((512, 256)), generate=STEPS)
    else:
        result = client.roundtrip(prompt="a cat", size="512x256", generate=STEPS)
    assert result.source is not None
    assert result.reconstruction is not None
    assert result.description
    assert result.source.pil().size == result.reconstruction.pil().size == (512, 256)
    assert {"self", "latent", "psnr"} <= set(result.similarities or {})


def test_the_events_are_told_in_order(client: Client) -> None:
    job = client.ask("roundtrip", image=picture((256, 256)), generate=STEPS, previews=1)
    assert job.kind == "roundtrip"
    with client.follow(job) as stream:
        told = [event for event in stream if event.id is not None]
        live = stream.live
    names = [event.name for event in told]
    assert names[:3] == ["job.queued", "job.started", "image"]
    assert [name for name in names[3:] if name != "describe.delta"] == ["describe.done", "image", "job.succeeded"]
    assert "".join(e.text for e in told if isinstance(e, events.DescribeDelta)) == live.trajectory(0).description.text
    assert [event.round for event in told if isinstance(event, events.ImageDone)] == [0, 1]
    last = told[-1]
    assert isinstance(last, events.JobSucceeded)
    assert last.job == client.job(job)
    assert isinstance(last.job.result, RoundtripResult)
    assert {"text_tokens", "denoise_steps"} <= set(last.job.usage.model_dump())


@pytest.mark.parametrize("how", [{"json": {"stream": True}}, {"headers": {"Accept": "text/event-stream"}}])
def test_a_stream_or_the_finished_job_is_answered_as_asked(service: Service, how: dict[str, Any]) -> None:
    body = {"image": base64.b64encode(picture((256, 256))).decode()}
    told = httpx.post(f"{service.url}/describe", json={**body, **how.get("json", {})}, headers=how.get("headers"))
    assert told.headers["content-type"].startswith("text/event-stream")
    assert told.text.count("event: job.succeeded") == 1
    waited = httpx.post(f"{service.url}/describe", json={**body, "response_format": "b64_json"})
    assert (waited.status_code, waited.json()["status"], waited.json()["kind"]) == (200, "succeeded", "describe")
    assert waited.json()["result"]["text"]


def test_a_failure_is_the_jobs_own(client: Client) -> None:
    with pytest.raises(GenerationFailed, match="judge failed because the prompt asked for it"):
        client.score("a cat raise=judge", picture((256, 256)))
    assert client.score("a cat", picture((256, 256))).images


def test_what_is_wrong_is_told_by_its_place(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.score("a cat", [picture((256, 256)), b"no picture"])
    assert [fault.pointer for fault in caught.value.errors] == ["/images/1"]
    with pytest.raises(InvalidRequest) as caught:
        client.roundtrip()
    assert [fault.pointer for fault in caught.value.errors] == ["/image"]
    with pytest.raises(TypeError, match="stream cannot be set"):
        client.ask("describe", image=picture((256, 256)), stream=True)


async def test_the_asynchronous_client_does_the_same(service: Service) -> None:
    image = picture((256, 256))
    async with AsyncClient(service.url, patience_s=20) as client:
        scored, reflected, described, again = await asyncio.gather(
            client.score("a cat", [image], seed=1),
            client.reflect("a cat", image, seed=1),
            client.describe(image),
            client.roundtrip(image, generate=STEPS),
        )
    assert scored.images[0].value("lift") is not None
    assert reflected.reflection is not None
    assert described.text
    assert again.reconstruction is not None
    assert again.reconstruction.content
