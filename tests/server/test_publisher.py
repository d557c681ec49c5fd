"""The publisher's line by itself: what is left out of it when there is too much to do, and what never is."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from server.held import Leases
from server.images import ImageStore
from server.publications import Say, Show, Tell, event
from server.publisher import Publisher
from server.queue import Queue
from server.queue_records import Lease
from server.queue_worker import WorkerQueue
from server.traces import OFF
from server.worker_metrics import WorkerMetrics
from tests.server.jobs import leased, submitted
from tests.server.test_metrics import value
from tests.server.waiting import until

LINE = 8
GREY = np.full((48, 64, 3), 99, dtype=np.uint8)


def said(lease: Lease, number: int) -> Say:
    """A numbered event."""
    return Say(lease, (event(lease, "reason.delta", 0, text=str(number)),))


def step(lease: Lease, number: int) -> Tell:
    """A live one."""
    return Tell(lease, event(lease, "image.progress", 0, step=number))


def never() -> None:
    raise AssertionError("there was room in the line")


async def test_live_things_are_left_out_and_counted_when_the_line_is_half_full_and_numbered_ones_never(
    queue: Queue, worker: WorkerQueue, store: ImageStore, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.publisher.LINE", LINE)
    await submitted(queue)
    lease, leases, metrics = leased(worker), Leases(), WorkerMetrics()
    leases.add(lease)
    publisher = Publisher(worker, store, leases, metrics, OFF, model_hash="h", drop=lambda _: None)

    def go_on() -> None:
        db.client_unpause()

    def dropped() -> float | None:
        return value(metrics.exposition, "r3_live_events_dropped_total")

    db.client_pause(60_000, all=False)  # Redis writes nothing until it is told to go on
    try:
        publisher.start()
        publisher.put(said(lease, 0), never)
        until(publisher._line.empty)  # it is in the publisher's hands
        for number in range(LINE // 2 + 1):
            publisher.put(step(lease, number), never)
        assert dropped() == 0
        publisher.put(step(lease, 99), never)
        assert dropped() == 1
        publisher.put(Show(lease, 0, 0, GREY, event(lease, "image.preview", 0)), never)
        assert dropped() == 2
        for number in (1, 2, 3):
            publisher.put(said(lease, number), never)
        assert publisher._line.full()
        publisher.put(said(lease, 4), waiting=go_on)
    finally:
        go_on()
    assert publisher.finish(10)
    assert [one.data["text"] for one in await queue.events(lease.id) if one.name == "reason.delta"] == list("01234")
    assert dropped() == 2
