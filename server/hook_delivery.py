"""Delivers webhooks, in every API process: leases those that are due, sends them, and marks what came of it.

    2xx                  done: struck off, however long that takes to write down; never sent again
    410                  the receiver wants no more: given up
    anything else        tried again after 5 s, then four times as long each time up to 4 h, for 24 h from the job's end
    not allowed          the same, for a name may lead elsewhere by then; the log says it as a warning
    the process dies     its lease ends, and another sends it again: at least once, always with the same `webhook-id`

A tenant has at most a quarter of a process's deliveries at a time, so that slow receivers hold up their own alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import structlog

from server import hook_message
from server.faults import ApiError
from server.hook_rules import allowed, shown
from server.hook_sender import NotAllowed, NotSent, Sender, tls_context
from server.image_errors import StoreFailed
from server.metrics import Metrics
from server.present import Presenter
from server.queue import Queue, QueueUnavailable, StoredJob
from server.queue_hooks import DueHook
from server.settings import Settings
from server.traces import trace_id_of

log = structlog.get_logger("r3.webhooks")

AT_ONCE: Final = 32
AT_ONCE_OF_ONE_TENANT: Final = 8
POLL_S: Final = 1.0
# After Redis was away, so that what was delivered meanwhile is marked before anyone leases it again.
REST_S: Final = 3.0
CROWDED_S: Final = 5.0
LEAVE_S: Final = 1.0  # what is under way at the end of the process is given this long

COMPOSE_S: Final = 20.0

GIVE_UP_S: Final = 24 * 3600.0
FIRST_RETRY_S: Final = 5.0
RETRY_GROWS: Final = 4.0
LONGEST_RETRY_S: Final = 4 * 3600.0


def retry_delay_s(tries: int, age_s: float, luck: float) -> float | None:
    """Seconds from the failed attempt number `tries` to the next, None where that is too late; `luck` is in [0, 1]."""
    delay_s = min(FIRST_RETRY_S * RETRY_GROWS ** min(tries - 1, 20), LONGEST_RETRY_S) * (0.75 + luck / 2)
    return delay_s if age_s + delay_s < GIVE_UP_S else None


class Deliveries:
    """The deliveries of one process."""

    def __init__(self, queue: Queue, presenter: Presenter, sender: Sender, metrics: Metrics) -> None:
        self._queue = queue
        self._presenter = presenter
        self._sender = sender
        self._outcomes = metrics.webhooks
        self._under_way: set[asyncio.Task[None]] = set()
        self._tenants: Counter[str] = Counter()
        self._taken: set[str] = set()
        """Jobs whose webhook was answered with 2xx, until that is written down."""

    @classmethod
    def from_settings(cls, settings: Settings, queue: Queue, presenter: Presenter, metrics: Metrics) -> Deliveries:
        """As the settings want them. Raises OSError where the file with certificates cannot be read."""
        ca_file = None if settings.webhook_ca_file is None else str(settings.webhook_ca_file)
        return cls(queue, presenter, Sender(allowed(settings.webhook_allow), tls_context(ca_file)), metrics)

    async def run(self) -> None:
        """Deliver, for ever."""
        try:
            while True:
                if await self.begin():
                    continue
                await self._rest(POLL_S)
        finally:
            await self._leave()

    async def begin(self) -> bool:
        """Begin with what is due, as far as there is room; whether there may be more."""
        room = AT_ONCE - len(self._under_way)
        if room == 0:
            return False
        try:
            due = await self._queue.hooks.lease(room)
        except QueueUnavailable as error:
            log.debug("webhooks are put off", reason=str(error))
            await asyncio.sleep(REST_S)
            return False
        for hook in due:
            self._start(hook)
        return len(due) == room

    async def finish(self) -> None:
        """Wait until all that was begun has come to something."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _start(self, hook: DueHook) -> None:
        if hook.job_id in self._taken:
            return  # its lease ended while Redis was away; it is about to be struck off
        if hook.tenant is None:
            self._gave_up(hook, "its job was deleted or has expired")
        elif self._tenants[hook.tenant] >= AT_ONCE_OF_ONE_TENANT:
            self._spawn(self._put_off(hook, CROWDED_S * (1 + random.random())))  # noqa: S311 - no secret hangs on it
        else:
            self._tenants[hook.tenant] += 1
            self._spawn(self._deliver(hook, hook.tenant))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, hook: DueHook, tenant: str) -> None:
        try:
            await self._attempt(hook, tenant)
        except asyncio.CancelledError:
            await self._let_go(hook)
            raise
        except QueueUnavailable as error:
            log.debug("webhook is put off", job_id=hook.job_id, reason=str(error))  # its lease ends by itself
        except Exception:
            log.exception("webhook could not be sent", job_id=hook.job_id)
            with suppress(QueueUnavailable):
                await self._failed(hook, "a fault of ours; the log says more")
        finally:
            self._tenants[tenant] -= 1
            self._taken.discard(hook.job_id)

    async def _attempt(self, hook: DueHook, tenant: str) -> None:
        if hook.age_s >= GIVE_UP_S:
            await self._queue.hooks.end(hook.job_id)
            self._gave_up(hook, "24 hours have passed since the job's end")
            return
        job = await self._queue.job(hook.job_id)
        if job is None or job.webhook is None:
            await self._queue.hooks.end(hook.job_id)
            self._gave_up(hook, "its job was deleted or has expired")
            return
        # Of this task alone.
        structlog.contextvars.bind_contextvars(to=shown(job.webhook["url"]), **trace_id_of(job.request))
        try:
            content = await self._content(job)
            signing = await self._queue.hooks.signing_secrets(tenant)
            headers = hook_message.headers(job.id, int(time.time()), content, signing)
            heard = partial(self._heard, hook)
            status = await self._sender.post(job.webhook["url"], headers, content, heard)
        except NotAllowed as error:
            log.warning("webhook is not allowed", job_id=hook.job_id, reason=str(error))
            await self._failed(hook, str(error), "refused")
        except NotSent as error:
            await self._failed(hook, str(error))
        else:
            await self._answered(hook, status)

    async def _content(self, job: StoredJob) -> bytes:
        """The message. Raises NotSent where its links cannot be signed, or where pictures that belong into it take so
        long that the lease would end.
        """
        try:
            async with asyncio.timeout(COMPOSE_S):
                await self._presenter.ready()
                return hook_message.body(await self._presenter.job(job))
        except ApiError as error:
            raise NotSent(error.detail) from error
        except StoreFailed as error:
            raise NotSent("the job's pictures could not be read") from error
        except TimeoutError as error:
            raise NotSent(f"the job's pictures could not be read in {COMPOSE_S:g} s") from error

    def _heard(self, hook: DueHook, status: int) -> None:
        """Remember a 2xx from its first line on: the end of the process may come before that of the answer."""
        if 200 <= status < 300:
            self._taken.add(hook.job_id)

    async def _answered(self, hook: DueHook, status: int) -> None:
        if hook.job_id in self._taken:
            self._outcomes.labels("delivered").inc()
            log.info("webhook delivered", job_id=hook.job_id, tries=hook.tries + 1, status=status)
            await self._mark_delivered(hook)
        elif status == HTTPStatus.GONE:
            await self._queue.hooks.end(hook.job_id)
            self._gave_up(hook, "the receiver answered 410: it wants no more")
        else:
            more = ", and redirects are not followed" if 300 <= status < 400 else ""
            await self._failed(hook, f"the receiver answered {status}{more}")

    async def _mark_delivered(self, hook: DueHook) -> None:
        """Strike it off, and not rest before that is written."""
        while True:
            try:
                await self._queue.hooks.end(hook.job_id)
            except QueueUnavailable:
                await asyncio.sleep(POLL_S)
            else:
                return

    async def _failed(self, hook: DueHook, reason: str, outcome: str = "failed") -> None:
        self._outcomes.labels(outcome).inc()
        delay_s = retry_delay_s(hook.tries + 1, hook.age_s, random.random())  # noqa: S311 - no secret hangs on it
        if delay_s is None:
            await self._queue.hooks.end(hook.job_id)
            self._gave_up(hook, f"the last attempt failed: {reason}")
            return
        log.info(
            "webhook failed", job_id=hook.job_id, tries=hook.tries + 1, reason=reason, again_in_s=round(delay_s, 1)
        )
        await self._queue.hooks.later(hook, delay_s, tried=True)

    async def _let_go(self, hook: DueHook) -> None:
        """At the end of the process: what was not answered is for another to send, what was is struck off."""
        if hook.job_id not in self._taken:
            await self._put_off(hook, 0.0)
            return
        with suppress(QueueUnavailable):
            await self._queue.hooks.end(hook.job_id)

    async def _put_off(self, hook: DueHook, delay_s: float) -> None:
        """Give it back without an attempt; where that fails, its lease ends by itself."""
        try:
            await self._queue.hooks.later(hook, delay_s, tried=False)
        except QueueUnavailable as error:
            log.debug("webhook is put off", job_id=hook.job_id, reason=str(error))

    def _gave_up(self, hook: DueHook, reason: str) -> None:
        self._outcomes.labels("dropped").inc()
        log.warning("webhook given up", job_id=hook.job_id, tries=hook.tries, reason=reason)

    async def _rest(self, most_s: float) -> None:
        """Until it is time to look again; with no room left, until there is some."""
        if len(self._under_way) == AT_ONCE:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(most_s)

    async def _leave(self) -> None:
        """End what is under way, after a moment in which it may come to its end by itself."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=LEAVE_S)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
