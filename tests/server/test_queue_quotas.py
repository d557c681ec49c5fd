"""What a tenant may have: jobs submitted a minute, jobs waiting, jobs running, and its share of the workers' time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from server.keys import TenantLimits
from server.queue import Queue, QueueFull, QueuePolicy, RateLimited
from server.queue_records import ROOT, Checkpoint, Ending, Lease
from server.queue_worker import WorkerQueue
from server.rate_limits import JOBS, QUEUED, Limit
from tests.server.jobs import MODEL, job, lapse, leased, leased_ids, stored, submitted
from tests.server.test_queue_keys import passed

pytestmark = pytest.mark.row("T2")


def ends(worker: WorkerQueue, lease: Lease, status: Any = "succeeded") -> None:
    assert worker.checkpoint(lease.id, lease.token, Checkpoint(1, ending=Ending(status))) == "ok"


async def test_a_tenant_is_refused_beyond_its_own_bound_of_waiting_jobs_and_no_other_is(queue: Queue) -> None:
    few = TenantLimits(queued=2)
    left = [(await queue.submit(job("few", quotas=few))).limits for _ in range(2)]
    assert left == [(Limit(QUEUED, 2, 1),), (Limit(QUEUED, 2, 0),)]
    with pytest.raises(QueueFull) as caught:
        await queue.submit(job("few", quotas=few))
    assert (caught.value.scope, caught.value.limit) == ("tenant", Limit(QUEUED, 2, 0))
    assert 1 <= caught.value.retry_after_s <= 120
    await queue.submit(job("other"))
    await queue.submit(job("few", quotas=TenantLimits(queued=3)))  # raised, it holds at once


async def test_a_tenant_is_refused_when_it_submits_too_fast_until_a_little_later(queue: Queue, db: redis.Redis) -> None:
    slow = TenantLimits(jobs_per_min=3)
    left = [(await queue.submit(job("slow", quotas=slow))).limits[0].remaining for _ in range(3)]
    assert left == [2, 1, 0]
    with pytest.raises(RateLimited, match="3 jobs in 60 s") as caught:
        await queue.submit(job("slow", quotas=slow))
    assert (caught.value.limit.policy, caught.value.limit.remaining) == (JOBS, 0)
    assert 1 <= caught.value.retry_after_s <= 20
    await queue.submit(job("other"))
    passed(db, "jobs:slow", 20)
    await queue.submit(job("slow", quotas=slow))


async def test_what_is_refused_or_was_there_before_counts_for_nothing(queue: Queue, db: redis.Redis) -> None:
    limits = TenantLimits(jobs_per_min=2, queued=1)
    new = job("t", quotas=limits, idempotency_key="k", body_hash="h")
    first = await queue.submit(new)
    assert (await queue.submit(new)).id == first.id  # the same call after a lost answer
    for _ in range(5):
        assert (await queue.submit(job("t", quotas=limits, idempotency_key="k", body_hash="h"))).replayed
        with pytest.raises(QueueFull):
            await queue.submit(job("t", quotas=limits))
    assert float(db.hget(f"{ROOT}bucket:jobs:t", "tokens") or 0) == pytest.approx(1, abs=0.5)


async def test_of_a_tenant_no_more_run_than_may_and_the_others_pass_it(queue: Queue, worker: WorkerQueue) -> None:
    two = TenantLimits(running=2)
    mine = [(await queue.submit(job("mine", quotas=two))).id for _ in range(5)]
    theirs = [await submitted(queue, "theirs") for _ in range(3)]
    assert sorted(leased_ids(worker, 8)) == sorted([*mine[:2], *theirs])
    assert leased_ids(worker, 8, holding=5) == []
    assert (await stored(queue, mine[2])).status == "queued"
    assert (await queue.position(await stored(queue, mine[2])))[0] == 1, "it keeps its place"


async def test_when_one_ends_in_whatever_way_the_next_may_run(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    one = TenantLimits(running=1)
    ids = [(await queue.submit(job("t", quotas=one))).id for _ in range(6)]
    for status in ("succeeded", "failed", "cancelled"):
        lease = leased(worker)
        assert lease.id == ids.pop(0)
        assert leased_ids(worker, 4, holding=1) == []
        ends(worker, lease, status)
    given_back = leased(worker)
    assert worker.release(given_back.id, given_back.token) == "ok"
    lost = leased(worker)
    assert lost.id == given_back.id == ids[0]
    lapse(db, lost.id)
    assert leased(worker).id == ids[0], "the lease of a dead worker counts no longer"
    await queue.cancel(ids[1])
    assert leased_ids(worker, 4, holding=1) == []


async def test_a_bound_that_is_changed_holds_for_the_jobs_that_wait_already(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(4):
        await queue.submit(job("t", quotas=TenantLimits(running=1)))
    assert len(leased_ids(worker, 4)) == 1
    await queue.keys.limit_tenant("t", TenantLimits(running=3))
    assert len(leased_ids(worker, 4, holding=1)) == 2
    await queue.keys.limit_tenant("t", None)
    assert len(leased_ids(worker, 4, holding=3)) == 1


async def test_a_thousand_jobs_that_may_not_run_hold_up_nobody(
    new_worker: Callable[..., WorkerQueue], queue: Queue, db: redis.Redis
) -> None:
    worker = new_worker()
    for _ in range(990):
        await queue.submit(job("flood", quotas=TenantLimits(running=1)))
    assert len(leased_ids(worker, 1)) == 1
    one = await submitted(queue, "one")
    assert leased_ids(worker, 1, holding=1) == [one]


async def test_nothing_is_left_of_bounds_when_the_last_job_has_ended(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    limits = TenantLimits(running=1, queued=5, jobs_per_min=60, weight=2)
    ids = [(await queue.submit(job("t", quotas=limits))).id for _ in range(2)]
    assert db.hget(f"{ROOT}load", "running:t") == "1"
    for _ in ids:
        ends(worker, leased(worker))
    assert not db.exists(f"{ROOT}load")
    await queue.keys.limit_tenant("t", limits)
    assert not db.exists(f"{ROOT}load"), "it is set with the next job"


async def test_a_tenants_weight_is_its_share_of_the_work(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(40):
        await queue.submit(job("heavy", quotas=TenantLimits(weight=3)))
        await queue.submit(job("light"))
    tenants = [(await stored(queue, i)).tenant for i in leased_ids(worker, 40)]
    assert tenants.count("heavy") == pytest.approx(30, abs=2)


async def test_a_tenants_weight_and_a_jobs_priority_multiply(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(40):
        await queue.submit(job("a", quotas=TenantLimits(weight=4), priority="low"))
        await queue.submit(job("b"))
    tenants = [(await stored(queue, i)).tenant for i in leased_ids(worker, 40)]
    assert tenants.count("a") == pytest.approx(20, abs=2)


async def starts_after(queue: Queue, worker: WorkerQueue, room: int) -> int:
    """How many leases of a full batch it takes until a job of `one`, submitted now, is started."""
    one = await submitted(queue, "one")
    for count in range(1, 100):
        given = worker.lease(MODEL, room, 0)
        if one in [lease.id for lease in given]:
            return count
        for lease in given:
            ends(worker, lease)
    raise AssertionError("it was never started")


@pytest.mark.row("T3")
async def test_a_tenant_that_floods_a_thousand_does_not_hold_up_one_that_sends_one(
    queue: Queue, new_worker: Callable[..., WorkerQueue]
) -> None:
    flooded, worker = Queue(queue_url(queue), QueuePolicy(queue_limit=2000)), new_worker()
    try:
        for _ in range(1000):
            await flooded.submit(job("flood"))
        running = worker.lease(MODEL, 8, 0)
        assert len(running) == 8
        for lease in running:
            ends(worker, lease)
        assert await starts_after(flooded, worker, 8) <= 2
    finally:
        await flooded.close()


async def test_a_tenant_at_its_limits_costs_the_others_no_waiting(queue: Queue, worker: WorkerQueue) -> None:
    """Another's job waits for as many leases as it would without the tenant that sends all that it may, and more."""
    limits = TenantLimits(jobs_per_min=50, queued=20, running=2)
    for _ in range(6):
        await submitted(queue, "busy")
    alone = await starts_after(queue, worker, 4)
    for lease in worker.lease(MODEL, 100, 0):
        ends(worker, lease)
    refused = 0
    for _ in range(100):
        try:
            await queue.submit(job("greedy", quotas=limits))
        except (QueueFull, RateLimited):
            refused += 1
    assert refused == 80
    for _ in range(6):
        await submitted(queue, "busy")
    assert await starts_after(queue, worker, 4) <= alone


def queue_url(queue: Queue) -> str:
    """Where the queue of a test is."""
    path = queue._redis.connection_pool.connection_kwargs["path"]
    return f"unix://{path}"
