"""What operators do to the queue: pausing, and looking at everyone's jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue import Queue, QueueFull
from server.queue_records import Checkpoint, Ending
from server.queue_worker import Control, WorkerQueue
from tests.server.conftest import POLICY
from tests.server.jobs import MODEL, lapse, leased, leased_ids, picture_done, stored, submitted

DONE = Ending("succeeded")


# pausing


@pytest.mark.parametrize("what", [MODEL, None])
async def test_of_a_paused_queue_nothing_is_leased_and_submits_are_taken(
    queue: Queue, worker: WorkerQueue, what: str | None
) -> None:
    before = await submitted(queue)
    await queue.admin.pause(what)
    after = await submitted(queue)
    assert leased_ids(worker, 4) == []
    assert await queue.admin.resume(what)
    assert leased_ids(worker, 4) == [before, after]
    assert not await queue.admin.resume(what)


async def test_what_runs_when_its_queue_is_paused_goes_on_to_its_end(queue: Queue, worker: WorkerQueue) -> None:
    await submitted(queue)
    lease = leased(worker)
    await queue.admin.pause(None)
    assert worker.renew([(lease.id, lease.token)]) == {lease.id: "ok"}
    assert worker.checkpoint(lease.id, lease.token, picture_done(lease, 1, ending=DONE)) == "ok"
    assert (await stored(queue, lease.id)).status == "succeeded"


async def test_a_dead_workers_job_goes_back_while_its_queue_is_paused_and_deadlines_still_end(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    lost = await submitted(queue)
    leased(worker)
    await queue.admin.pause(MODEL)
    late = await submitted(queue, deadline_at_ms=1)
    lapse(db, lost)
    assert leased_ids(worker, 4) == []
    assert (await stored(queue, lost)).status == "queued"
    assert (await stored(queue, late)).status == "failed"


async def test_one_models_pause_is_no_others(queue: Queue, worker: WorkerQueue) -> None:
    await queue.admin.pause("another")
    assert leased_ids(worker, 4) == []
    job_id = await submitted(queue)
    assert leased_ids(worker, 4) == [job_id]


async def test_a_model_paused_by_name_and_with_all_others_is_resumed_by_both_or_by_all(
    queue: Queue, worker: WorkerQueue
) -> None:
    job_id = await submitted(queue)
    await queue.admin.pause(MODEL)
    await queue.admin.pause(None)
    assert await queue.admin.resume(MODEL)
    assert leased_ids(worker, 4) == []
    await queue.admin.pause(MODEL)
    assert await queue.admin.resume(None)
    assert leased_ids(worker, 4) == [job_id]


async def test_a_lease_whose_answer_was_lost_is_given_again_though_its_queue_was_paused_meanwhile(
    queue: Queue, worker: WorkerQueue
) -> None:
    job_id = await submitted(queue)
    assert leased_ids(worker, 4) == [job_id]
    await queue.admin.pause(None)
    worker._lease_call -= 1
    assert leased_ids(worker, 4) == [job_id]


async def test_nobody_knows_when_a_paused_job_starts(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    db.hset(f"{{r3}}:rate:{MODEL}", mapping={"mark": 1, "cost": 8.0, "time": 4.0})
    waiting = await stored(queue, await submitted(queue))
    assert await queue.position(waiting) == (1, 2.0)
    await queue.admin.pause(None)
    assert await queue.position(waiting) == (1, None)


async def test_workers_hear_at_once_that_a_pause_is_over(queue: Queue, worker: WorkerQueue) -> None:
    worker.register({"name": MODEL})
    heard = worker.control()
    assert next(heard) == Control("wake", "")
    for what in (MODEL, None):
        await queue.admin.pause(what)
        await queue.admin.resume(what)
        assert await asyncio.to_thread(next, heard) == Control("wake", MODEL)


async def test_depth_tells_of_pauses_rates_and_models_that_no_worker_came_for(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    worker.register({"name": MODEL})
    db.hset(f"{{r3}}:rate:{MODEL}", mapping={"mark": 1, "cost": 8.0, "time": 4.0})
    await submitted(queue)
    await submitted(queue, model="unheard of")
    await queue.admin.pause("unheard of")
    depth = await queue.depth()
    here, other = depth["models"][MODEL], depth["models"]["unheard of"]
    assert (here["waiting"], here["paused"], here["seconds_left"]) == (1, 0, 2)
    assert (other["waiting"], other["paused"], "seconds_left" in other) == (1, 1, False)
    assert depth["all_paused"] == 0
    await queue.admin.pause(None)
    depth = await queue.depth()
    assert (depth["models"][MODEL]["paused"], depth["all_paused"]) == (1, 1)


async def test_what_is_paused_is_shown_before_any_worker_has_come(queue: Queue) -> None:
    await queue.admin.pause(MODEL)
    assert (await queue.depth())["models"][MODEL]["paused"] == 1
    await queue.admin.resume(MODEL)
    assert (await queue.depth())["models"] == {}


async def test_who_is_refused_during_a_pause_is_told_to_come_back_late(
    queue_server: EmbeddedServer, queue: Queue, db: redis.Redis
) -> None:
    db.hset(f"{{r3}}:rate:{MODEL}", mapping={"mark": 1, "cost": 8.0, "time": 4.0})
    full = Queue(queue_server.url, replace(POLICY, queue_limit=1))
    await submitted(full)
    for pause, seconds in ((None, 2), (queue.admin.pause, 120)):
        if pause is not None:
            await pause(MODEL)
        with pytest.raises(QueueFull) as refused:
            await submitted(full)
        assert refused.value.retry_after_s == seconds
    await full.close()


# everyone's jobs


async def test_everyones_jobs_are_listed_newest_first_in_pages(queue: Queue) -> None:
    sent = [await submitted(queue, tenant) for tenant in "abcabca"]
    listed: list[str] = []
    cursor = None
    while True:
        jobs, cursor = await queue.admin.jobs(None, limit=3, cursor=cursor)
        listed += [one.id for one in jobs]
        if cursor is None:
            break
        assert len(jobs) == 3
    assert listed == sent[::-1]
    assert [one.id for one in (await queue.admin.jobs("b"))[0]] == [sent[4], sent[1]]
    assert (await queue.admin.jobs("nobody"))[0] == []


async def test_everyones_jobs_can_be_narrowed_to_a_status(queue: Queue) -> None:
    sent = [await submitted(queue, tenant) for tenant in ("a", "b", "a")]
    await queue.cancel(sent[1])
    jobs, _ = await queue.admin.jobs(None, status="cancelled")
    assert [one.id for one in jobs] == [sent[1]]


async def test_tenants_are_forgotten_with_the_last_of_their_jobs(queue: Queue, db: redis.Redis) -> None:
    sent = await submitted(queue, "a")
    assert db.pttl("{r3}:seen") == -1
    assert await queue.cancel(sent) == "accepted"
    assert db.pttl("{r3}:seen") > 0
    kept = await submitted(queue, "b")
    assert db.pttl("{r3}:seen") == -1
    for tenant, job_id in (("a", sent), ("b", kept)):
        await queue.cancel(job_id)
        assert await queue.delete(job_id) == "deleted"
        assert db.zscore("{r3}:seen", tenant) is None
    assert db.exists("{r3}:seen") == 0


async def test_poisoned_jobs_are_listed_the_last_one_first_while_they_are_known(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    poisoned = [await poison(queue, worker, db, tenant) for tenant in "abc"]
    plain = leased_and_failed(worker, await submitted(queue, "a"))
    assert await queue.delete(poisoned[1]) == "deleted"
    listed = [one.id for one in (await queue.admin.poisoned())[0]]
    assert listed == [poisoned[2], poisoned[0]]
    assert plain not in listed
    first, cursor = await queue.admin.poisoned(limit=1)
    second, end = await queue.admin.poisoned(limit=1, cursor=cursor)
    assert ([one.id for one in first + second], end) == (listed, None)
    db.delete(f"{{r3}}:job:{poisoned[0]}")
    assert [one.id for one in (await queue.admin.poisoned())[0]] == [poisoned[2]]
    assert db.zcard("{r3}:dead") == 1


async def test_no_poisoned_job_is_passed_over_where_others_are_gone(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    kept = [await poison(queue, worker, db, "a") for _ in range(3)]
    for _ in range(2):
        db.delete(f"{{r3}}:job:{await poison(queue, worker, db, 'b')}")
    listed: list[str] = []
    cursor = None
    while True:
        jobs, cursor = await queue.admin.poisoned(limit=2, cursor=cursor)
        listed += [one.id for one in jobs]
        if cursor is None:
            break
    assert listed == kept[::-1]


@pytest.mark.parametrize("cursor", ["x", "-1", ""])
async def test_a_cursor_that_is_none_of_ours_is_refused(queue: Queue, cursor: str) -> None:
    with pytest.raises(ValueError, match="not one of ours"):
        await queue.admin.jobs(None, cursor=cursor)
    with pytest.raises(ValueError, match="not one of ours"):
        await queue.admin.poisoned(cursor=cursor)


async def poison(queue: Queue, worker: WorkerQueue, db: redis.Redis, tenant: str) -> str:
    job_id = await submitted(queue, tenant)
    for _ in range(3):
        leased(worker)
        lapse(db, job_id)
        assert worker.lease(MODEL, 0, 0) == []
    assert (await stored(queue, job_id)).status == "failed"
    return job_id


def leased_and_failed(worker: WorkerQueue, job_id: str) -> str:
    lease = leased(worker)
    error = {"code": "step_failed", "message": "no"}
    assert worker.checkpoint(job_id, lease.token, Checkpoint(1, ending=Ending("failed", error))) == "ok"
    return job_id
