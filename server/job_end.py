"""Waiting for a job's end, and what a job that came to nothing answers: what /generate and /v1 have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request

from server.authority import refused
from server.callers import Caller
from server.errors import queue_error, status_of, store_error
from server.faults import ApiError
from server.hub import KEYS_UNAVAILABLE, UNAUTHORIZED, Follower
from server.image_errors import StoreAway, StoreFailed
from server.openai_errors import NOT_AGAIN
from server.queue import QueueUnavailable, StoredJob
from server.service import Service
from server.sse import until_hang_up

T = TypeVar("T")

PICTURES_WITHIN_S: Final = 30.0
_KEY: Final = "idempotency-key"


@dataclass(frozen=True)
class Waiting:
    """Who waits for which job, for how long (None: to its end), and what is done where they hang up."""

    caller: Caller
    job: StoredJob
    wait_s: float | None
    on_hang_up: Callable[[], None] | None


async def until_ended(request: Request, parts: Service, waiting: Waiting) -> StoredJob | None:
    """The finished job; None where the wait was over before, the server stops, or the client is gone.

    Raises ApiError unauthorized where the caller's key is good no longer.
    """
    job, on_hang_up = waiting.job, waiting.on_hang_up
    with _following(request, parts, waiting) as follower:
        try:
            async with asyncio.timeout(waiting.wait_s):
                while not (follower.closing or follower.has_hung_up):
                    try:
                        fresh = await parts.job_of(job.tenant, job.id)
                    except QueueUnavailable:
                        await asyncio.sleep(1)  # it is waited for as the job is
                        continue
                    if fresh.is_finished:
                        return fresh
                    while not any(m.is_terminal for m in follower.take()) and not follower.must_look():
                        await follower.wake.wait()
        except TimeoutError:
            return None
        if follower.closing in (UNAUTHORIZED, KEYS_UNAVAILABLE) and await parts.authority.no_longer_good(
            [waiting.caller]
        ):
            raise refused("this key was revoked while its request was waiting; use another", "invalid_token")
        if follower.has_hung_up and on_hang_up is not None:
            on_hang_up()
    return None


@contextmanager
def _following(request: Request, parts: Service, waiting: Waiting) -> Iterator[Follower]:
    """Follow the job, and hear when the client hangs up."""
    with parts.hub.follow(waiting.job.id, waiting.job.model) as follower:
        follower.caller = waiting.caller
        listener = asyncio.create_task(until_hang_up(request.receive))
        listener.add_done_callback(lambda _: follower.hang_up())
        try:
            yield follower
        finally:
            listener.cancel()


async def told(
    request: Request,
    parts: Service,
    waiting: Waiting,
    tell: Callable[[], Awaitable[T]],
    headers: Mapping[str, str],
) -> T:
    """What `tell` makes of a job that succeeded. Who waits to its end has it asked again while pictures cannot be read.

    Raises ApiError where that lasts: without an Idempotency-Key the same request would have all of it made anew.
    """
    until_s = time.monotonic() + (PICTURES_WITHIN_S if waiting.wait_s is None else 0.0)
    with _following(request, parts, waiting) as follower:
        while True:
            try:
                return await tell()
            except (OSError, QueueUnavailable) as error:
                lasts = isinstance(error, StoreFailed) and not isinstance(error, StoreAway)
                if lasts or follower.closing or follower.has_hung_up or time.monotonic() >= until_s:
                    raise _untold(waiting.job.id, error, headers, is_keyed=_KEY in request.headers) from error
            follower.take()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await follower.wake.wait()


def _untold(job_id: str, error: OSError | QueueUnavailable, headers: Mapping[str, str], *, is_keyed: bool) -> ApiError:
    said = queue_error(error) if isinstance(error, QueueUnavailable) else store_error(error)
    detail = f"{job_id} succeeded, and cannot be read now; GET /jobs/{job_id} gives it once it can"
    more = {**headers, **(said.headers if is_keyed else NOT_AGAIN)}
    return ApiError(said.code, detail, headers=more, extra={"job_id": job_id})


def failure(job: StoredJob, headers: Mapping[str, str], *, is_keyed: bool = False) -> ApiError:
    """What a job that came to nothing answers: its error's own status. With an Idempotency-Key the same request would
    only be given it again.
    """
    if job.status == "cancelled":
        return ApiError("cancelled", f"{job.id} was cancelled", headers=headers, extra={"job_id": job.id})
    error = job.error or {}
    code, message = error.get("code", "job_failed"), error.get("message", "no reason was recorded")
    more = {}
    if status_of(code) == 503 and is_keyed:
        message, more = f"{message}; send it with another Idempotency-Key to have it tried again", NOT_AGAIN
    elif status_of(code) == 503:
        more = {"Retry-After": "10"}
    return ApiError(code, message, headers={**headers, **more}, extra={"job_id": job.id})
