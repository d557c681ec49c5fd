"""Jobs that nobody waits for any more are cancelled, also where the queue is away for a while.

Who hangs up is gone when that is found out; so it is done beside the requests, and told of in the log when it is done.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Final

import structlog

from server.queue import Queue, QueueUnavailable
from server.traces import OFF, Traces

log = structlog.get_logger("r3.api")

WITHIN_S: Final = 600.0  # a queue that is away for longer is an operator's matter, and the job goes on
MAY_COME_S: Final = 10.0  # what Redis was asked while it hung is done when it goes on
_REST_S: Final = 1.0
_CLOSE_WITHIN_S: Final = 2.0


class GivingUp:
    """See above. Made in a running event loop; `close` it before the queue is closed."""

    def __init__(self, queue: Queue, traces: Traces = OFF) -> None:
        self._queue, self._traces = queue, traces
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, job_id: str, *, may_come: bool = False) -> None:
        """Have the job cancelled. `may_come` says that it may not be there yet, for its submission was not answered."""
        task = asyncio.create_task(self._cancel(job_id, MAY_COME_S if may_come else 0.0))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Finish what can be finished within a moment."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_WITHIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _cancel(self, job_id: str, look_for_s: float) -> None:
        began = monotonic()
        while True:
            try:
                answer = await self._queue.cancel(job_id)
            except QueueUnavailable as error:
                if monotonic() - began > WITHIN_S:
                    log.warning("nobody waits for the job, and it could not be cancelled; it goes on", job_id=job_id)
                    return
                await asyncio.sleep(error.retry_after_s)
                continue
            if answer == "accepted":
                log.info("nobody waits for the job any more; it was cancelled", job_id=job_id)
                await self._trace(job_id)
            if answer != "not_found" or monotonic() - began >= look_for_s:
                return
            await asyncio.sleep(_REST_S)

    async def _trace(self, job_id: str) -> None:
        with suppress(QueueUnavailable):
            if (job := await self._queue.job(job_id)) is not None:
                self._traces.cancelled_unbegun(job)
