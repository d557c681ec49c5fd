"""In which order jobs are given out: weighted fair queueing between tenants, priorities, room, places."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from server.queue import Queue
from server.queue_records import Checkpoint, Ending, Lease
from server.queue_worker import WorkerQueue
from tests.server.jobs import MODEL, leased, leased_ids, stored, submitted


def ended(worker: WorkerQueue, lease: Lease, cost: float) -> None:
    """Ends a job that used `cost`."""
    done = Checkpoint(1, usage={"cost": cost}, ending=Ending("succeeded"))
    assert worker.checkpoint(lease.id, lease.token, done) == "ok"


def places(db: redis.Redis) -> dict[str, float]:
    """Where each job waits."""
    return {str(job): float(place) for job, place in db.zscan_iter(f"{{r3}}:wait:{MODEL}")}


async def test_one_tenants_jobs_come_in_the_order_they_were_sent(queue: Queue, worker: WorkerQueue) -> None:
    sent = [await submitted(queue, cost=1 + i % 3) for i in range(8)]
    assert leased_ids(worker, 8) == sent


async def test_a_tenant_that_floods_does_not_hold_up_another(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(50):
        await submitted(queue, "flood")
    leased_ids(worker, 4)
    one = await submitted(queue, "one")
    assert one in leased_ids(worker, 2, holding=4)


async def test_tenants_share_by_cost_and_not_by_count(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(20):
        await submitted(queue, "large", cost=4.0)
        await submitted(queue, "small", cost=1.0)
    tenants = [(await stored(queue, i)).tenant for i in leased_ids(worker, 15)]
    assert tenants.count("small") == pytest.approx(4 * tenants.count("large"), abs=2)


async def test_a_high_job_passes_its_own_tenants_normal_ones(queue: Queue, worker: WorkerQueue) -> None:
    normal = [await submitted(queue) for _ in range(3)]
    high = await submitted(queue, priority="high")
    assert leased_ids(worker, 4) == [high, *normal]


async def test_priorities_share_by_weight_so_that_low_does_not_starve(queue: Queue, worker: WorkerQueue) -> None:
    for _ in range(40):
        await submitted(queue, priority="high")
        await submitted(queue, priority="low")
    given = [(await stored(queue, i)).priority for i in leased_ids(worker, 34)]
    assert given.count("low") == pytest.approx(2, abs=1)


async def test_an_early_stop_is_not_charged(queue: Queue, worker: WorkerQueue) -> None:
    """Both send jobs of the same estimate; the thrifty tenant's use a quarter of it and so get ahead."""
    for _ in range(12):
        await submitted(queue, "thrifty", cost=4.0)
        await submitted(queue, "greedy", cost=4.0)
    order = []
    for _ in range(10):
        lease = leased(worker)
        order.append(lease.job.tenant)
        ended(worker, lease, cost=1.0 if lease.job.tenant == "thrifty" else 4.0)
    assert order.count("thrifty") >= 7


async def test_what_a_tenant_has_waiting_keeps_its_order_when_it_moves_up(queue: Queue, worker: WorkerQueue) -> None:
    await submitted(queue, "other", cost=100.0)
    sent = [await submitted(queue, "thrifty", cost=4.0) for _ in range(6)]
    order = []
    for _ in range(6):
        lease = leased(worker)
        order.append(lease.id)
        ended(worker, lease, cost=0.5)
        sent.append(await submitted(queue, "thrifty", cost=4.0))
    assert order == sent[:6]


async def test_a_cancelled_job_is_not_charged(queue: Queue, worker: WorkerQueue) -> None:
    other = [await submitted(queue, "other") for _ in range(2)]
    mine = [await submitted(queue, "mine") for _ in range(3)]
    await queue.cancel(mine[0])
    await queue.cancel(mine[1])
    assert leased_ids(worker, 3).index(mine[2]) <= 1
    assert (await stored(queue, other[0])).status == "running"


@pytest.mark.parametrize("kept", [0, 1, 150])
async def test_what_was_cancelled_while_nobody_else_waited_is_not_charged_later(
    kept: int, queue: Queue, worker: WorkerQueue
) -> None:
    await submitted(queue, "other")
    leased_ids(worker, 1)  # so that the clocks stay
    mistaken = [await submitted(queue, "hasty") for _ in range(100)]
    meant = [await submitted(queue, "hasty") for _ in range(kept)]
    for job in mistaken:
        assert await queue.cancel(job) == "accepted"
    meant.append(await submitted(queue, "hasty"))
    other = [await submitted(queue, "other") for _ in range(kept + 50)]
    given = leased_ids(worker, len(meant) + len(other), holding=1)
    assert ([job for job in given if job in meant], [job for job in given if job in other]) == (meant, other)
    assert max(abs(given.index(job) - 2 * i) for i, job in enumerate(meant)) <= 3  # they take turns


async def test_what_is_not_charged_moves_nothing_back(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    """Also where a job of the same tenant was given back, and stands at a place that the virtual time has passed."""
    for _ in range(8):
        await submitted(queue, "one", cost=10.0)
    for _ in range(8):
        await submitted(queue, "other", cost=10.0)
    taken = [lease for lease in worker.lease(MODEL, 6, 0) if (await stored(queue, lease.id)).tenant == "one"]
    assert worker.release(taken[1].id, taken[1].token) == "ok"
    before = places(db)
    ended(worker, taken[0], 0.0)
    after = places(db)
    assert all(after[job] <= before[job] for job in after)
    assert sum(after.values()) < sum(before.values()), "what was not used is given back to those behind"
    assert after[taken[1].id] == before[taken[1].id]


async def test_a_worker_is_given_no_more_trajectories_than_it_has_room_for(queue: Queue, worker: WorkerQueue) -> None:
    sent = [await submitted(queue, n=2) for _ in range(3)]
    assert leased_ids(worker, 5) == sent[:2]
    assert leased_ids(worker, 1, holding=2) == []
    assert leased_ids(worker, 2, holding=2) == sent[2:]


async def test_a_job_that_needs_more_room_is_not_passed_by_smaller_ones(queue: Queue, worker: WorkerQueue) -> None:
    large = await submitted(queue, n=4)
    small = await submitted(queue, n=1)
    assert leased_ids(worker, 3, holding=1) == []
    assert leased_ids(worker, 5, holding=1) == [large, small]


async def test_a_worker_that_holds_nothing_is_given_even_what_is_larger_than_it(
    queue: Queue, worker: WorkerQueue
) -> None:
    large = await submitted(queue, n=4)
    assert leased_ids(worker, 2) == [large]


async def test_each_model_has_a_queue_of_its_own(queue: Queue, worker: WorkerQueue) -> None:
    await submitted(queue, model="other")
    assert worker.lease(MODEL, 4, 0) == []
    assert len(worker.lease("other", 4, 0)) == 1


async def test_positions_count_from_one_and_follow_the_queue(queue: Queue, worker: WorkerQueue) -> None:
    sent = [await submitted(queue) for _ in range(3)]
    jobs = [await stored(queue, i) for i in sent]
    assert [(await queue.position(one))[0] for one in jobs] == [1, 2, 3]
    leased(worker)
    assert await queue.positions([(MODEL, i) for i in sent]) == {
        sent[0]: (None, None),
        sent[1]: (1, None),
        sent[2]: (2, None),
    }
    assert await queue.positions([]) == {}


async def test_the_eta_comes_from_the_measured_rate(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    sent = [await submitted(queue) for _ in range(4)]
    ended(worker, leased(worker), cost=4.0)
    db.hset(f"{{r3}}:rate:{MODEL}", mapping={"cost": 8.0, "time": 4.0})  # two units a second, so a job in 2 s
    etas = await queue.positions([(MODEL, i) for i in sent])
    assert [etas[i][1] for i in sent[1:]] == [2.0, 4.0, 6.0]
    [event] = await queue.events(await submitted(queue))
    assert event.data["eta_s"] == 8.0


async def test_the_rate_is_measured_as_jobs_end(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    """Of late ones more than of old ones: 0.98 of what was measured before counts."""
    *_, last = [await submitted(queue, cost=4) for _ in range(4)]
    for took_s, expected_s in ((1e3, 1e3), (1e5, (0.98e3 + 1e5) / 1.98)):
        lease = leased(worker)
        db.hset(f"{{r3}}:rate:{MODEL}", "mark", int((time.time() - took_s) * 1e6))
        ended(worker, lease, cost=4.0)
        position, eta_s = await queue.position(await stored(queue, last))
        assert position is not None
        assert eta_s == pytest.approx(position * expected_s, rel=0.003)


async def test_new_work_is_announced_to_workers(queue: Queue, new_worker: Callable[..., WorkerQueue]) -> None:
    feed = new_worker().control()
    assert next(feed) == ("wake", "")
    await submitted(queue)
    assert next(feed) == ("wake", MODEL)


async def test_the_clocks_go_when_nothing_waits_or_runs(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    await submitted(queue)
    ended(worker, leased(worker), cost=4.0)
    assert not db.exists(f"{{r3}}:clock:{MODEL}", f"{{r3}}:fair:{MODEL}", "{r3}:load")
