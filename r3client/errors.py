"""What can go wrong, as exceptions.

R3Error
├── NoAnswer                    nothing answered for as long as the client was to try
├── UnexpectedAnswer            what answers there is no R3 server
├── ImageDamaged                a picture's bytes are not those of its sha256
├── PillowMissing               a PIL image was asked for, and Pillow is not installed
├── GenerationCancelled         the job that was waited for was cancelled
├── GenerationFailed            the job that was waited for failed; `code` says why
│   ├── PromptTooLong           its prompt has more tokens than the model takes
│   ├── OutOfCapacity           it needs more memory than the worker has
│   ├── OutOfMemory             the device ran out of memory
│   ├── DeadlineExceeded        its own deadline passed before there was a picture
│   ├── StepFailed              the model failed
│   ├── StorageFailed           a picture could not be stored or read
│   └── PoisonJob               it stopped its worker too often
└── Refused                     the server said no; the problem's fields (RFC 9457) are attributes
    ├── InvalidRequest          4xx: something in the request is to be changed; `errors` lists what
    │   ├── InvalidImage
    │   └── IdempotencyMismatch
    ├── Unauthorized            401: no key, or not a good one
    ├── Forbidden               403: the key, the host name or the origin may not do this
    ├── NotFound                404
    │   ├── JobNotFound
    │   ├── ImageNotFound
    │   └── ModelNotFound
    ├── Conflict                409: not in this state of the job
    │   ├── AlreadyFinished
    │   ├── NotFinished
    │   └── NoImageYet
    ├── Busy                    try again after `retry_after_s`
    │   ├── QueueFull
    │   ├── RateLimited
    │   └── Unavailable
    └── ServerFault             500: a fault of the server's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class R3Error(Exception):
    """Whatever this package raises."""


class NoAnswer(R3Error):
    """Nothing answered; `job_id` and `last_event_id` say where a stream can be taken up again."""

    def __init__(self, message: str, job_id: str | None = None, last_event_id: int | None = None) -> None:
        super().__init__(message)
        self.job_id, self.last_event_id = job_id, last_event_id


class UnexpectedAnswer(R3Error):
    """What answers is no R3 server, or not one of a version that this client knows."""


class ImageDamaged(R3Error):
    """The bytes that came are not those of the picture's sha256, twice; at the server it may be whole."""

    def __init__(self, message: str, image_id: str, job_id: str | None = None) -> None:
        super().__init__(message if job_id is None else f"{message}; its job is {job_id}")
        self.message, self.image_id, self.job_id = message, image_id, job_id


class PillowMissing(R3Error, ImportError):
    """A PIL image needs Pillow."""


class GenerationCancelled(R3Error):
    """The job was cancelled while it was waited for; what is finished of it is in `client.job(error.job_id)`."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} was cancelled")
        self.code, self.job_id = "cancelled", job_id


class GenerationFailed(R3Error):
    """The job failed; what is finished of it is in `client.job(error.job_id)`."""

    def __init__(self, job_id: str, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, {job_id})")
        self.job_id, self.code, self.message = job_id, code, message


class PromptTooLong(GenerationFailed):
    """The prompt has more tokens than the model takes."""


class OutOfCapacity(GenerationFailed):
    """The request needs more memory than the worker has."""


class OutOfMemory(GenerationFailed):
    """The device ran out of memory."""


class DeadlineExceeded(GenerationFailed):
    """The deadline passed before there was a picture."""


class StepFailed(GenerationFailed):
    """A step of the model failed."""


class StorageFailed(GenerationFailed):
    """A picture could not be stored or read."""


class PoisonJob(GenerationFailed):
    """The job stopped its worker too often."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a request: where, as a JSON pointer, and what."""

    pointer: str
    detail: str


class Refused(R3Error):
    """The server's answer was an error; `detail` says what was wrong, with the value, and what to do."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", ""))
        self.title = str(problem.get("title", ""))
        self.type = str(problem.get("type", "about:blank"))
        self.instance = str(problem.get("instance", ""))
        self.request_id = str(problem.get("request_id", ""))
        self.errors = tuple(Fault(str(f.get("pointer", "")), str(f.get("detail", ""))) for f in _faults(problem))
        self.job_id: str | None = problem.get("job_id")
        self.retry_after_s = retry_after_s
        self.problem = dict(problem)
        super().__init__(f"{self.detail or self.title} ({self.code or status})")


class InvalidRequest(Refused):
    """Something in the request is to be changed."""


class InvalidImage(InvalidRequest):
    """The picture to start from cannot be used."""


class IdempotencyMismatch(InvalidRequest):
    """The idempotency key was used with another body."""


class Unauthorized(Refused):
    """A key is needed, or another one."""


class Forbidden(Refused):
    """The key, the host name or the origin may not do this."""


class NotFound(Refused):
    """There is no such thing."""


class JobNotFound(NotFound):
    """There is no such job, or it is another tenant's."""


class ImageNotFound(NotFound):
    """There is no such image, or it is another tenant's."""


class ModelNotFound(NotFound):
    """There is no such model."""


class Conflict(Refused):
    """That cannot be done with the job as it stands."""


class AlreadyFinished(Conflict):
    """The job is at its end."""


class NotFinished(Conflict):
    """The job is not at its end."""


class NoImageYet(Conflict):
    """The job has no finished image yet."""


class Busy(Refused):
    """Try again after `retry_after_s`."""


class QueueFull(Busy):
    """The queue is full."""


class RateLimited(Busy):
    """Too many requests."""


class Unavailable(Busy):
    """The server cannot serve at the moment."""


class ServerFault(Refused):
    """Something broke on the server's side."""


# By code; a code that a newer server made up is known by its status.
_OF_CODE: Final[dict[str, type[Refused]]] = {
    "invalid_image": InvalidImage,
    "idempotency_mismatch": IdempotencyMismatch,
    "job_not_found": JobNotFound,
    "image_not_found": ImageNotFound,
    "model_not_found": ModelNotFound,
    "already_finished": AlreadyFinished,
    "not_finished": NotFinished,
    "no_image_yet": NoImageYet,
    "queue_full": QueueFull,
    "rate_limited": RateLimited,
}
_OF_STATUS: Final[dict[int, type[Refused]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: Busy,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_OF_FAILURE: Final[dict[str, type[GenerationFailed]]] = {
    "prompt_too_long": PromptTooLong,
    "out_of_capacity": OutOfCapacity,
    "out_of_memory": OutOfMemory,
    "deadline_exceeded": DeadlineExceeded,
    "step_failed": StepFailed,
    "storage_failed": StorageFailed,
    "poison_job": PoisonJob,
}


def refusal(status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> Refused:
    """The exception for an answer that is an error."""
    by_status = _OF_STATUS.get(status, InvalidRequest if status < 500 else ServerFault)
    return _OF_CODE.get(str(problem.get("code", "")), by_status)(status, problem, retry_after_s)


def failure(job_id: str, error: Mapping[str, Any]) -> GenerationFailed:
    """The exception for a job that failed."""
    code = str(error.get("code", "job_failed"))
    return _OF_FAILURE.get(code, GenerationFailed)(job_id, code, str(error.get("message", "no reason was recorded")))


def _faults(problem: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = problem.get("errors")
    return [fault for fault in listed if isinstance(fault, Mapping)] if isinstance(listed, list) else []
