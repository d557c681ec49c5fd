"""How jobs end and what is kept: cancel, stop, delete, events and their numbers, lifetimes, lists, workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue import Live, Queue
from server.queue_records import Checkpoint, Ending
from server.queue_worker import WorkerQueue
from tests.server.conftest import POLICY
from tests.server.jobs import (
    MODEL,
    job,
    lapse,
    leased,
    names,
    picture_done,
    record,
    stored,
    submitted,
    trajectory,
)

NewWorker = Callable[..., WorkerQueue]
DONE = Ending("succeeded")


async def test_a_waiting_job_is_cancelled_at_once(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    assert await queue.cancel(sent) == "accepted"
    assert (await stored(queue, sent)).status == "cancelled"
    assert await names(queue, sent) == ["job.queued", "job.cancelled"]
    assert await queue.cancel(sent) == "accepted"
    assert worker.lease(MODEL, 1, 0) == []


async def test_the_worker_of_a_running_job_is_told_to_cancel(queue: Queue, new_worker: NewWorker) -> None:
    worker, listener = new_worker(), new_worker()
    sent = await submitted(queue)
    lease = leased(worker)
    feed = listener.control()
    next(feed)
    assert await queue.cancel(sent) == "accepted"
    assert next(feed) == ("cancel", sent)
    assert worker.renew([(sent, lease.token)]) == {sent: "cancel"}
    assert (await stored(queue, sent)).cancel_asked
    worker.checkpoint(sent, lease.token, Checkpoint(1, ending=Ending("cancelled")))
    assert (await names(queue, sent))[-1] == "job.cancelled"
    assert await queue.cancel(sent) == "accepted"


async def test_a_cancel_that_was_accepted_holds_even_where_the_worker_was_faster(
    queue: Queue, worker: WorkerQueue
) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    await queue.cancel(sent)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1, ending=DONE))
    assert (await stored(queue, sent)).status == "cancelled"
    assert (await names(queue, sent))[-2:] == ["image", "job.cancelled"]


async def test_a_dead_workers_job_that_was_to_be_cancelled_is(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    sent = await submitted(queue)
    leased(worker)
    await queue.cancel(sent)
    lapse(db, sent)
    assert worker.lease(MODEL, 1, 0) == []
    assert (await stored(queue, sent)).status == "cancelled"


async def test_a_finished_job_cannot_be_cancelled(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, Checkpoint(1, ending=DONE))
    assert await queue.cancel(sent) == "already_finished"
    assert await queue.stop(sent) == "already_finished"
    assert await queue.cancel("job_x") == "not_found"


async def test_stop_needs_a_finished_picture(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    assert await queue.stop("job_x") == "not_found"
    assert await queue.stop(sent) == "no_image_yet"
    lease = leased(worker)
    assert await queue.stop(sent) == "no_image_yet"
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    assert await queue.stop(sent) == "accepted"
    assert await queue.stop(sent) == "accepted"
    assert worker.renew([(sent, lease.token)]) == {sent: "stop"}
    worker.checkpoint(sent, lease.token, Checkpoint(2, ending=DONE))
    assert await queue.stop(sent) == "accepted"
    assert await queue.cancel(sent) == "already_finished"


async def test_a_stopped_job_that_was_cancelled_after_all_is_not_stopped(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    await queue.stop(sent)
    await queue.cancel(sent)
    assert worker.renew([(sent, lease.token)]) == {sent: "cancel"}
    worker.checkpoint(sent, lease.token, Checkpoint(2, ending=Ending("cancelled")))
    assert await queue.stop(sent) == "already_finished"


async def test_stop_is_told_to_the_worker(queue: Queue, new_worker: NewWorker) -> None:
    worker, listener = new_worker(), new_worker()
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    feed = listener.control()
    next(feed)
    await queue.stop(sent)
    assert next(feed) == ("stop", sent)


async def test_a_job_that_waits_with_pictures_is_stopped_with_them(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    worker.release(sent, lease.token)
    assert await queue.stop(sent) == "accepted"
    found = await stored(queue, sent)
    assert (found.status, found.trajectories) == ("succeeded", [trajectory(1, stop_reason="stopped")])
    assert (await names(queue, sent))[-2:] == ["trajectory.done", "job.succeeded"]
    assert await queue.stop(sent) == "accepted"


async def test_a_stop_survives_its_worker(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    await queue.stop(sent)
    lapse(db, sent)
    assert worker.lease(MODEL, 1, 0) == []
    assert (await stored(queue, sent)).status == "succeeded"


async def test_only_what_is_finished_can_be_deleted(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    sent = await submitted(queue, idempotency_key="k", body_hash="h")
    assert await queue.delete(sent) == "not_finished"
    lease = leased(worker)
    assert await queue.delete(sent) == "not_finished"
    worker.preview(sent, lease.token, ("img_p", record(sent, 0, 0)), ("image.preview", {"job_id": sent}))
    worker.checkpoint(sent, lease.token, picture_done(lease, 1, ending=DONE))
    assert await queue.delete(sent) == "deleted"
    assert await queue.delete(sent) == "not_found"
    assert await queue.job(sent) is None
    assert await queue.jobs("local") == ([], None)
    left = {"{r3}:rate:tiny", "{r3}:leased:worker-0", "{r3}:visits"}  # they expire by themselves
    assert set(db.keys()) == left
    assert all(db.pttl(key) > 0 for key in left)


async def test_a_log_is_kept_whole_up_to_ten_thousand_events(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    delta = ("reason.delta", {"job_id": sent, "trajectory": 0, "text": "x"})
    worker.publish(sent, lease.token, [delta] * 9_998)
    assert (await queue.events(sent, limit=1))[0].number == 1
    worker.publish(sent, lease.token, [delta] * 5)
    assert (await queue.events(sent, limit=1))[0].number == 6
    assert (await stored(queue, sent)).last_event == 10_005
    page = await queue.events(sent, after=10_000)
    assert [event.number for event in page] == list(range(10_001, 10_006))
    assert len(await queue.events(sent, after=0, limit=7)) == 7


async def test_what_is_gone_is_struck_from_the_list_though_old_jobs_wait_before_it(
    queue: Queue, db: redis.Redis
) -> None:
    waiting = [await submitted(queue) for _ in range(5)]
    for _ in range(100):
        db.delete(f"{{r3}}:job:{await submitted(queue)}")
    waiting += [await submitted(queue) for _ in range(5)]
    listed = {one.decode() if isinstance(one, bytes) else one for one in db.zrange("{r3}:jobs:local", 0, -1)}
    assert set(waiting) <= listed
    assert len(listed) < 60


async def test_lifetimes_begin_at_the_end(queue_server: EmbeddedServer, db: redis.Redis, new_worker: NewWorker) -> None:
    policy = replace(POLICY, event_ttl_s=60, job_ttl_s=600, idempotency_ttl_s=6000)
    queue, worker = Queue(queue_server.url, policy), new_worker(policy)
    sent = await submitted(queue, idempotency_key="k", body_hash="h")
    lease = leased(worker)
    worker.preview(sent, lease.token, ("img_p", record(sent, 0, 0)), ("image.preview", {"job_id": sent}))
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    lasting = [f"{{r3}}:{name}" for name in (f"job:{sent}", "img:img_0_0", "jobs:local")]
    passing = [f"{{r3}}:{name}" for name in (f"ev:{sent}", f"pv:{sent}", "img:img_p")]
    assert [db.pttl(key) for key in lasting + passing] == [-1] * 6
    worker.checkpoint(sent, lease.token, Checkpoint(2, ending=DONE))
    assert [round(db.pttl(key) / 1000) for key in lasting[:2]] == [600] * 2
    assert round(db.pttl(lasting[2]) / 1000) == policy.poisoned_ttl_s, "a job that was given up is listed for as long"
    assert [round(db.pttl(key) / 1000) for key in passing] == [60] * 3
    assert round(db.pttl("{r3}:idem:local:k") / 1000) == 6000
    await submitted(queue)
    assert db.pttl("{r3}:jobs:local") == -1  # a list lasts as long as one of its jobs is under way
    await queue.close()


@pytest.mark.parametrize(("job_ttl_s", "kept_s"), [(600, 6000), (60_000, 60_000), (None, None)])
async def test_a_poisoned_job_is_kept_for_an_operator_to_look_at(
    queue_server: EmbeddedServer,
    db: redis.Redis,
    new_worker: NewWorker,
    job_ttl_s: int | None,
    kept_s: int | None,
) -> None:
    policy = replace(POLICY, job_ttl_s=job_ttl_s, poisoned_ttl_s=6000, max_strikes=2)
    queue, worker = Queue(queue_server.url, policy), new_worker(policy)
    sent = await submitted(queue)
    for number in range(1, 4):
        lease = leased(worker)
        if number == 1:
            worker.checkpoint(sent, lease.token, picture_done(lease, 1))
        lapse(db, sent)
        assert worker.lease(MODEL, 0, 0) == []
    found = await stored(queue, sent)
    assert (found.error or {}).get("code") == "poison_job"
    kept = [db.pttl(f"{{r3}}:{name}") for name in (f"job:{sent}", "img:img_0_0")]
    assert [-1 if ms < 0 else round(ms / 1000) for ms in kept] == [-1 if kept_s is None else kept_s] * 2
    assert round(db.pttl("{r3}:dead") / 1000) == 6000
    await queue.close()


async def test_jobs_without_a_lifetime_are_kept(queue_server: EmbeddedServer, db: redis.Redis) -> None:
    policy = replace(POLICY, job_ttl_s=None)
    queue, worker = Queue(queue_server.url, policy), WorkerQueue(queue_server.url, "w", policy)
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1, ending=DONE))
    assert db.pttl(f"{{r3}}:job:{sent}") == -1
    assert db.pttl(f"{{r3}}:ev:{sent}") > 0
    worker.close()
    await queue.close()


async def test_jobs_are_listed_newest_first_in_pages(queue: Queue) -> None:
    sent = [await submitted(queue) for _ in range(5)]
    await submitted(queue, "other")
    pages, cursor = [], None
    while True:
        jobs, cursor = await queue.jobs("local", limit=2, cursor=cursor)
        pages.append([one.id for one in jobs])
        if cursor is None:
            break
    assert pages == [[sent[4], sent[3]], [sent[2], sent[1]], [sent[0]]]


async def test_a_list_can_be_narrowed_to_a_status(queue: Queue) -> None:
    sent = [await submitted(queue) for _ in range(4)]
    await queue.cancel(sent[0])
    await queue.cancel(sent[2])
    jobs, cursor = await queue.jobs("local", status="cancelled", limit=1)
    assert ([one.id for one in jobs], cursor is None) == ([sent[2]], False)
    jobs, cursor = await queue.jobs("local", status="cancelled", limit=1, cursor=cursor)
    assert ([one.id for one in jobs], cursor) == ([sent[0]], None)
    assert await queue.jobs("local", status="failed") == ([], None)


async def test_a_long_list_is_read_in_chunks(queue: Queue) -> None:
    sent = [await submitted(queue) for _ in range(230)]
    await queue.cancel(sent[0])
    jobs, _ = await queue.jobs("local", status="cancelled")
    assert [one.id for one in jobs] == [sent[0]]
    assert len((await queue.jobs("local", limit=100))[0]) == 100


async def test_jobs_whose_time_is_over_leave_the_list(queue: Queue, db: redis.Redis) -> None:
    gone, kept = await submitted(queue), await submitted(queue)
    db.delete(f"{{r3}}:job:{gone}")
    assert [one.id for one in (await queue.jobs("local"))[0]] == [kept]
    assert db.zrange("{r3}:jobs:local", 0, -1) == [kept]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "(1"])
async def test_a_cursor_that_is_none_of_ours_is_refused(queue: Queue, cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        await queue.jobs("local", cursor=cursor)


async def test_all_events_come_over_one_live_feed(queue: Queue, worker: WorkerQueue) -> None:
    feed = queue.follow()
    assert await anext(feed) == Live(resync=True)
    sent = await submitted(queue)
    lease = leased(worker)
    worker.live(sent, lease.token, ("image.progress", {"job_id": sent, "step": 1}))
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    heard = [await anext(feed) for _ in range(4)]
    assert [one.number for one in heard] == [1, 2, None, 3]
    assert all(one.job_id == sent and one.event is not None for one in heard)
    assert [one.event.name for one in heard if one.event] == ["job.queued", "job.started", "image.progress", "image"]
    await feed.aclose()


async def test_the_live_feed_comes_back_after_its_connection_was_lost(queue: Queue, db: redis.Redis) -> None:
    feed = queue.follow()
    assert (await anext(feed)).resync
    waiting = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0.05)
    db.client_kill_filter(_type="pubsub")
    assert (await asyncio.wait_for(waiting, 5)).resync
    sent = await submitted(queue)
    assert (await anext(feed)).job_id == sent
    await feed.aclose()


async def test_image_records_are_found_by_id(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    assert await queue.image("img_x") is None
    await queue.register_image("img_up", record("job_1", 0, 0), ttl_s=60)
    assert await queue.image("img_up") == record("job_1", 0, 0)
    assert 0 < db.pttl("{r3}:img:img_up") <= 60_000
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    assert await queue.image("img_0_0") == record(sent, 0, 0)


async def test_models_are_remembered_and_workers_only_while_they_live(queue: Queue, worker: WorkerQueue) -> None:
    assert (await queue.models(), await queue.workers()) == ({}, [])
    worker.register({"name": MODEL, "hash": "abc"})
    worker.heartbeat({"model": MODEL, "room": 3})
    [alive] = await queue.workers()
    assert (alive["id"], alive["model"], alive["room"]) == ("worker-0", MODEL, 3)
    assert 0 <= alive["age_s"] < 5
    worker.farewell()
    assert await queue.workers() == []
    assert await queue.models() == {MODEL: {"name": MODEL, "hash": "abc"}}


async def test_workers_that_were_silent_for_ten_minutes_are_forgotten_by_the_next_that_is_heard(
    worker: WorkerQueue, db: redis.Redis
) -> None:
    now_ms = int(time.time() * 1000)
    db.zadd("{r3}:workers", {"long-silent": now_ms - 601_000, "silent": now_ms - 590_000})
    db.hset("{r3}:worker_info", mapping={"long-silent": "{}", "silent": "{}"})
    worker.heartbeat({"model": MODEL})
    assert db.zrange("{r3}:workers", 0, -1) == ["silent", worker.worker_id]
    assert set(db.hkeys("{r3}:worker_info")) == {"silent", worker.worker_id}


async def test_depth_counts_what_waits_and_runs(queue: Queue, worker: WorkerQueue) -> None:
    empty = {"waiting": 0, "running": 0, "cost": 0, "oldest_s": 0, "reclaimed": 0, "poisoned": 0, "all_paused": 0}
    assert await queue.depth() == {**empty, "models": {}}
    worker.register({"name": MODEL})
    for _ in range(3):
        await submitted(queue)
    leased(worker)
    depth = await queue.depth()
    assert (depth["waiting"], depth["running"], depth["cost"]) == (2, 1, 8)
    assert (depth["models"][MODEL]["waiting"], depth["models"][MODEL]["running"]) == (2, 1)


async def test_the_end_of_a_job_with_a_webhook_is_put_down_for_delivery(queue: Queue, db: redis.Redis) -> None:
    plain, hooked = job(), job(webhook={"url": "https://example.org/hook"})
    for one in (plain, hooked):
        await queue.submit(one)
        await queue.cancel(one.id)
    assert db.zrange("{r3}:hooks", 0, -1) == [hooked.id]


async def test_usage_and_checkpoints_add_up_over_trajectories(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue, n=2)
    lease = leased(worker, 2)
    for number, index in ((1, 0), (2, 1)):
        done = Checkpoint(number, index, trajectory(1, index), usage={"forwards": 90, "compute_s": 0.5})
        assert worker.checkpoint(sent, lease.token, done) == "ok"
    found = await stored(queue, sent)
    spent = {"text_tokens": 0, "denoise_steps": 0, "forwards": 180, "compute_s": 1.0}
    assert found.usage == {**spent, "images": 0, "discarded_images": 0, "discarded_forwards": 0}
    assert found.trajectories == [trajectory(1, 0), trajectory(1, 1)]
