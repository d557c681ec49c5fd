"""Waiting for a job's end, and what a job that came to nothing answers: what /generate and /v1 have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from fastapi import Request

from server.authority import refused
from server.callers import Caller
from server.errors import status_of
from server.faults import ApiError
from server.hub import KEYS_UNAVAILABLE, UNAUTHORIZED
from server.queue import QueueError, StoredJob
from server.service import Service
from server.sse import until_hang_up

log = structlog.get_logger("r3.api")


@dataclass(frozen=True)
class Waiting:
    """Who waits for which job, for how long (None: to its end), and what is done where they hang up."""

    caller: Caller
    job: StoredJob
    wait_s: float | None
    on_hang_up: Callable[[], Awaitable[None]] | None


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
                    fresh = await parts.job_of(job.tenant, job.id)
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
            await on_hang_up()
    return None


def failure(job: StoredJob, headers: Mapping[str, str]) -> ApiError:
    """What a job that came to nothing answers: its error's own status."""
    if job.status == "cancelled":
        return ApiError("cancelled", f"{job.id} was cancelled", headers=headers, extra={"job_id": job.id})
    error = job.error or {}
    code, message = error.get("code", "job_failed"), error.get("message", "no reason was recorded")
    more = {"Retry-After": "10"} if status_of(code) == 503 else {}
    return ApiError(code, message, headers={**headers, **more}, extra={"job_id": job.id})


def canceller(parts: Service, job: StoredJob) -> Callable[[], Awaitable[None]]:
    """What cancels a job that its client no longer waits for."""

    async def cancel() -> None:
        with suppress(QueueError):
            log.info("nobody waits for the job any more; it is cancelled", job_id=job.id)
            await parts.queue.cancel(job.id)

    return cancel
