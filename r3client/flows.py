"""What the client can do, each as a flow (acts.py). A submission carries an idempotency key, so that trying again makes
no second job.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from r3client import events as ev
from r3client.acts import Answer, Call, Flow, asked
from r3client.errors import GenerationCancelled, ImageDamaged, UnexpectedAnswer, failure
from r3client.following import Following, job_path, part
from r3client.models import Image, Job, JobPage, Result, RoundtripResult, Share
from r3client.settings import body_of
from r3client.task_settings import Task

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Result)
Download = Literal["all", "final", "none"]
_KEY: Final = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


def submitted(prompt: str, settings: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[Job]:
    """The job, made once however often it had to be asked for."""
    return (yield from posted("/generate", body_of(prompt, settings), key, patience_s))


def posted(path: str, body: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[Job]:
    """The job of any kind that the path makes, once however often it had to be asked for. Raises ValueError for a key
    that no header can hold.
    """
    if key is not None and not _KEY.fullmatch(key):
        raise ValueError(f"idempotency_key is {key!r}; it must be 1 to 255 ASCII characters, spaces only within")
    headers = {"Prefer": "respond-async", "Idempotency-Key": str(uuid.uuid4()) if key is None else key}
    answer = yield from asked(Call("POST", path, body, headers=headers), patience_s)
    return _read(Job, answer)


def streamed(prompt: str, settings: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[None]:
    """Submit, and tell all that happens."""
    job = yield from submitted(prompt, settings, key, patience_s)
    yield from Following(job.id, 0, patience_s).told()


def generated(
    prompt: str, settings: Mapping[str, Any], key: str | None, download: Download, patience_s: float
) -> Flow[Job]:
    """The finished job with its pictures' bytes. Raises GenerationFailed, GenerationCancelled."""
    submission = yield from submitted(prompt, settings, key, patience_s)
    job = yield from _finished(submission, patience_s)
    wanted: Iterable[Image] = {"all": list(job.every_image()), "final": job.images, "none": []}[download]
    try:
        return job.with_contents((yield from _contents(wanted, patience_s)))
    except ImageDamaged as error:
        raise ImageDamaged(error.message, error.image_id, job.id) from error


def task(kind: Task, body: Mapping[str, Any], key: str | None, expected: type[R], patience_s: float) -> Flow[R]:
    """What comes of a job beside a generation. Raises GenerationFailed, GenerationCancelled."""
    submission = yield from posted(f"/{kind}", body, key, patience_s)
    job = yield from _finished(submission, patience_s)
    if not isinstance(job.result, expected):
        raise UnexpectedAnswer(
            f"{job.id} has no result of a {kind}; is the server of a version that this client knows?"
        )
    return job.result


def roundtrip(body: Mapping[str, Any], key: str | None, patience_s: float) -> Flow[RoundtripResult]:
    """What comes of a round trip, with its pictures' bytes."""
    result = yield from task("roundtrip", body, key, RoundtripResult, patience_s)
    pictures = [image for image in (result.source, result.reconstruction) if image is not None]
    return result.with_contents((yield from _contents(pictures, patience_s)))


def _finished(job: Job, patience_s: float) -> Flow[Job]:
    last = yield from Following(job.id, 0, patience_s).told()
    job = last.job if isinstance(last, ev.JobSucceeded) else (yield from found(job.id, patience_s))
    if job.status == "cancelled":
        raise GenerationCancelled(job.id)
    if job.status == "failed":
        raise failure(job.id, {} if job.error is None else job.error.model_dump())
    return job


def _contents(images: Iterable[Image], patience_s: float) -> Flow[dict[str, bytes]]:
    """The bytes of those whose answers did not bring them."""
    contents: dict[str, bytes] = {}
    for image in images:
        if image.content is None and image.id not in contents:
            contents[image.id] = yield from fetched(image, patience_s)
    return contents


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


def deleted(path: str, patience_s: float, *, is_repeatable: bool = False) -> Flow[None]:
    """Nothing; what was there is gone."""
    yield from asked(Call("DELETE", path, is_repeatable=is_repeatable), patience_s)


def fetched(image: str | Image, patience_s: float) -> Flow[bytes]:
    """A picture's bytes; of one that is known, those that its hash is of. Raises ImageDamaged for others."""
    call = Call("GET", f"/images/{part(image if isinstance(image, str) else image.id)}")
    answer = yield from asked(call, patience_s)
    if isinstance(image, str) or _is_whole(image, answer.content):
        return answer.content
    answer = yield from asked(call, patience_s)
    if _is_whole(image, answer.content):
        return answer.content
    told = f"{image.id} came twice as other bytes than those of its sha256 ({len(answer.content):,} of them)"
    raise ImageDamaged(f"{told}; look at what stands between here and the server", image.id)


def _is_whole(image: Image, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == image.sha256


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
