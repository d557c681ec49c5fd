"""Waiting for a job's end, and what a job that came to nothing answers: what /generate and /v1 have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request

from server.authority import refused
from server.callers import Caller
from server.errors import status_of, store_error
from server.faults import ApiError
from server.hub import KEYS_UNAVAILABLE, UNAUTHORIZED
from server.image_errors import StoreAway, StoreFailed
from server.openai_errors import NOT_AGAIN
from server.queue import QueueUnavailable, StoredJob
from server.service import Service
from server.sse import until_hang_up

T = TypeVar("T")

PICTURES_WITHIN_S: Final = 30.0


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
    with parts.hub.follow(job.id, job.model) as follower:
        follower.caller = waiting.caller
        listener = asyncio.create_task(until_hang_up(request.receive))
        listener.add_done_callback(lambda _: follower.hang_up())
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
        finally:
            listener.cancel()
        if follower.closing in (UNAUTHORIZED, KEYS_UNAVAILABLE) and await parts.authority.no_longer_good(
            [waiting.caller]
        ):
            raise refused("this key was revoked while its request was waiting; use another", "invalid_token")
        if follower.has_hung_up and on_hang_up is not None:
            on_hang_up()
    return None


async def told(job: StoredJob, tell: Callable[[], Awaitable[T]], headers: Mapping[str, str], *, is_keyed: bool) -> T:
    """What `tell` makes of a job that succeeded; asked again while its pictures cannot be reached.

    Raises ApiError where that lasts. Without an Idempotency-Key the same request would have all of it made anew.
    """
    until_s = time.monotonic() + PICTURES_WITHIN_S
    while True:
        try:
            return await tell()
        except StoreFailed as error:
            if isinstance(error, StoreAway) and time.monotonic() < until_s:
                await asyncio.sleep(1)
                continue
            said = store_error(error)
            detail = f"{said.detail}; {job.id} succeeded: GET /jobs/{job.id} gives it once they are there"
            more = {**headers, **(said.headers if is_keyed else NOT_AGAIN)}
            raise ApiError(said.code, detail, headers=more, extra={"job_id": job.id}) from error


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
