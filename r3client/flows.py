"""What the client can do, each as a flow (acts.py). A submission carries an idempotency key, so that trying again makes
no second job.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from r3client import events as ev
from r3client.acts import Answer, Call, Flow, asked
from r3client.errors import GenerationCancelled, UnexpectedAnswer, failure
from r3client.following import Following, job_path, part
from r3client.models import Image, Job, JobPage, Share
from r3client.settings import body_of

M = TypeVar("M", bound=BaseModel)
Download = Literal["all", "final", "none"]


def submitted(prompt: str, settings: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[Job]:
    """The job, made once however often it had to be asked for."""
    headers = {"Prefer": "respond-async", "Idempotency-Key": key or str(uuid.uuid4())}
    call = Call("POST", "/generate", body_of(prompt, settings), headers=headers)
    answer = yield from asked(call, patience_s)
    return _read(Job, answer)


def streamed(prompt: str, settings: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[None]:
    """Submit, and tell all that happens."""
    job = yield from submitted(prompt, settings, key, patience_s)
    yield from Following(job.id, 0, patience_s).told()


def generated(
    prompt: str, settings: Mapping[str, Any], key: str | None, download: Download, patience_s: float
) -> Flow[Job]:
    """The finished job with its pictures' bytes. Raises GenerationFailed, GenerationCancelled."""
    job = yield from submitted(prompt, settings, key, patience_s)
    last = yield from Following(job.id, 0, patience_s).told()
    if isinstance(last, ev.JobCancelled):
        raise GenerationCancelled(job.id)
    if isinstance(last, ev.JobFailed):
        raise failure(job.id, last.error.model_dump())
    job = last.job if last is not None else (yield from found(job.id, patience_s))
    wanted: Iterable[Image] = {"all": list(job.every_image()), "final": job.images, "none": []}[download]
    contents: dict[str, bytes] = {}
    for image in wanted:
        if image.content is None and image.id not in contents:
            contents[image.id] = yield from fetched(image.id, patience_s)
    return job.with_contents(contents)


def found(job_id: str, patience_s: float) -> Flow[Job]:
    """A job as it stands."""
    answer = yield from asked(Call("GET", job_path(job_id)), patience_s)
    return _read(Job, answer)


def listed(status: str | None, limit: int, cursor: str | None, patience_s: float) -> Flow[JobPage]:
    """A page of jobs."""
    query = {"status": status, "limit": limit, "cursor": cursor}
    call = Call("GET", "/jobs", query={name: value for name, value in query.items() if value is not None})
    answer = yield from asked(call, patience_s)
    return _read(JobPage, answer)


def ended(job_id: str, how: Literal["cancel", "stop"], patience_s: float) -> Flow[Job]:
    """The job as it stands, whose end was asked for."""
    answer = yield from asked(Call("POST", job_path(job_id, how)), patience_s)
    return _read(Job, answer)


def deleted(path: str, patience_s: float) -> Flow[None]:
    """Nothing; what was there is gone."""
    yield from asked(Call("DELETE", path, is_repeatable=False), patience_s)


def fetched(image_id: str, patience_s: float) -> Flow[bytes]:
    """A picture's bytes."""
    answer = yield from asked(Call("GET", f"/images/{part(image_id)}"), patience_s)
    return answer.content


def shared(job_id: str, expires_s: float, base_url: str, patience_s: float) -> Flow[Share]:
    """A read-only link, in full."""
    call = Call("POST", job_path(job_id, "share"), {"expires_s": expires_s}, is_repeatable=False)
    answer = yield from asked(call, patience_s)
    share = _read(Share, answer)
    return share.model_copy(update={"url": f"{base_url.rstrip('/')}{share.url}"})


def _read(model: type[M], answer: Answer) -> M:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        told = f"what answers there is no R3 server, or not one of a version that this client knows: {error}"
        raise UnexpectedAnswer(told) from error
