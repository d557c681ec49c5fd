"""A worker whose threads, image store or Redis fail under it: what is lost, what waits, and that it never hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from r3core.types import Trajectory
from r3core.versions import STORED_VERSION
from server.embedded import EmbeddedServer
from server.engines import FAKE
from server.images import ImageStore, StoreAway
from server.inbox import Inbox
from server.queue import Queue, QueueUnavailable
from server.queue_records import Json, StoredJob, dumps
from server.queue_worker import WorkerQueue
from server.worker import _queue_answers
from server.worker_health import HUNG_AFTER_S, Vitals
from tests.server.waiting import until as until_now
from tests.server.working import (
    ASKED,
    FOR_EVER,
    LONG,
    Start,
    ended,
    new_job,
    read,
    run,
    until,
    until_event,
    with_a_picture,
)

GREY = np.full((48, 64, 3), 99, dtype=np.uint8)
FROM_A_PICTURE = replace(ASKED, given_image=True, think=False, max_rounds=1)
Raising = Callable[..., Any]


def raising(error: BaseException, times: int = 10**9, then: Raising | None = None) -> Raising:
    """A function that raises so often, and then does what it should."""
    left = iter(range(times))

    def ask(*args: Any, **fields: Any) -> Any:
        if next(left, None) is not None:
            raise error
        assert then is not None
        return then(*args, **fields)

    return ask


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with the image store, and short rests."""
    monkeypatch.setattr("server.images.STORE_TRIES", 2)
    monkeypatch.setattr("server.intake.REST_S", 0.05)


@pytest.fixture
def own_redis(own_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url, decode_responses=True, protocol=2) as client:
        yield client


# threads


@pytest.mark.parametrize("broken", ["heartbeat", "lease", "control", "publish"])
async def test_a_worker_whose_thread_dies_ends_with_one(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """So that it is started again: without that thread it would wait for ever."""
    monkeypatch.setattr(WorkerQueue, broken, raising(SystemExit("the thread is gone")))
    worker = start(step_s=0.001)
    await queue.submit(new_job())

    async def over() -> bool:
        return worker.code == 1

    await until(over)


async def test_what_redis_refuses_for_one_job_ends_no_thread(queue: Queue, start: Start, db: redis.Redis) -> None:
    """Neither its events nor its failure can be written: the others go on."""
    worker = start(step_s=0.01, lease_s=600.0)
    bad = new_job(replace(ASKED, generate=LONG))
    await queue.submit(bad)
    await until_event(queue, bad.id, "job.started")
    db.set(f"{{r3}}:ev:{bad.id}", "no stream")

    async def let_go() -> bool:
        return len(worker.worker._leases) == 0

    await until(let_go)
    assert (await run(queue))[0].status == "succeeded"
    assert worker.leave() == 0


# Redis


async def test_a_redis_that_cannot_write_to_its_disk_is_waited_for(
    own_server: EmbeddedServer, own_redis: redis.Redis, start: Start
) -> None:
    queue = Queue(own_server.url)
    worker = start(step_s=0.01, redis_url=own_server.url, lease_s=60.0)
    new = new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "job.started")
    in_the_way = Path(str(own_redis.config_get("dir")["dir"])) / "dump.rdb" / "file"
    in_the_way.mkdir(parents=True)
    own_redis.config_set("save", "3600 1")
    own_redis.bgsave()

    async def refuses() -> bool:
        return bool(own_redis.info("persistence")["rdb_last_bgsave_status"] == "err")

    async def away() -> bool:
        return worker.vitals.redis_at_s < 0

    await until(refuses)
    with pytest.raises(QueueUnavailable, match="MISCONF"):
        await queue.submit(new_job())
    await until(away)
    own_redis.config_set("save", "")
    assert (await ended(queue, new.id)).status == "succeeded"
    await queue.close()


async def test_a_worker_leaves_while_redis_is_away_and_nothing_more_can_be_published(
    own_server: EmbeddedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.publisher.LINE", 1)
    monkeypatch.setattr("server.worker.PUBLISHED_WITHIN_S", 0.1)
    queue = Queue(own_server.url)
    worker = start(step_s=0.02, redis_url=own_server.url, drain_s=0.1)
    new = new_job(replace(ASKED, prompt="a cat edits=8", max_rounds=8))  # not over before Redis is away
    await queue.submit(new)
    await until_event(queue, new.id, "job.started")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGKILL)

    async def full() -> bool:
        return worker.worker._publisher._line.full()

    await until(full)
    assert worker.leave() == 0
    await queue.close()


def test_who_waits_for_redis_at_its_start_is_alive_however_long_it_takes(own_server: EmbeddedServer) -> None:
    own_server.stop()
    work, inbox, vitals = WorkerQueue(own_server.url, "waits"), Inbox(), Vitals(is_loaded=True)
    vitals.beat_at_s -= 2 * HUNG_AFTER_S
    waiting = threading.Thread(target=_queue_answers, args=(work, inbox, vitals))
    waiting.start()
    until_now(lambda: vitals.livez()[0])
    inbox.leave()
    waiting.join(10)
    assert not waiting.is_alive()
    work.close()


async def test_a_lost_lease_leaves_nothing_behind(
    queue: Queue, start: Start, db: redis.Redis, new_worker: Callable[..., WorkerQueue]
) -> None:
    worker = start(step_s=0.01, max_trajectories=1)
    new = new_job(replace(ASKED, refine=FOR_EVER))
    await queue.submit(new)
    await until_event(queue, new.id, "reflect.done")  # from here on nothing is written that would be refused
    publisher = worker.worker._publisher
    assert publisher._written
    assert worker.work._calls
    other = new_worker()

    async def taken() -> bool:
        db.zadd(f"{{r3}}:lease:{FAKE.name}", {new.id: 1.0}, xx=True)  # a renewal may come in between
        return len(other.lease(FAKE.name, 1, 0)) == 1

    await until(taken)

    async def forgotten() -> bool:
        return not (publisher._written or worker.work._calls or worker.worker._loop._jobs)

    await until(forgotten)


async def test_a_heartbeat_under_way_does_not_undo_the_farewell(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, heartbeat, under_way = start(), WorkerQueue.heartbeat, threading.Event()

    def slow(self: WorkerQueue, info: Json) -> None:
        under_way.set()
        time.sleep(0.5)
        heartbeat(self, info)

    monkeypatch.setattr(WorkerQueue, "heartbeat", slow)
    assert under_way.wait(10)
    assert worker.leave() == 0
    worker.worker._lifeline.thread.join(10)
    assert await queue.workers() == []


# the engine and the image store


async def test_a_trajectory_that_the_engine_chokes_on_fails_alone(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    check = worker.runner.check

    def choking(trajectory: Trajectory) -> None:
        if trajectory.request.prompt == "a bone":
            raise RuntimeError("something nobody thought of")
        check(trajectory)

    monkeypatch.setattr(worker.runner, "check", choking)
    job, _ = await run(queue, replace(ASKED, prompt="a bone"))
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "step_failed")
    assert "RuntimeError" in job.error["message"]
    assert (await run(queue))[0].status == "succeeded"


async def ended_with_a_picture(queue: Queue, store: ImageStore) -> StoredJob:
    """A job that begins with a grey picture, at its end."""
    new, _ = await with_a_picture(queue, store, GREY, FROM_A_PICTURE)
    await queue.submit(new)
    return await ended(queue, new.id)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("times", "attempts"), [(1, 1), (2, 2)])
async def test_a_picture_that_cannot_be_read_for_a_while_delays_its_job_only(
    queue: Queue, start: Start, store: ImageStore, monkeypatch: pytest.MonkeyPatch, times: int, attempts: int
) -> None:
    """It is read again, and where that is of no use the job is given back."""
    monkeypatch.setattr(ImageStore, "get", raising(OSError(5, "Input/output error"), times, ImageStore.get))
    start()
    job = await ended_with_a_picture(queue, store)
    assert (job.status, job.attempt) == ("succeeded", attempts)


@pytest.mark.usefixtures("soon")
async def test_a_picture_that_is_away_with_its_store_costs_its_job_no_strike(
    queue: Queue, start: Start, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageStore, "get", raising(StoreAway("away"), 10, ImageStore.get))
    start()
    job = await ended_with_a_picture(queue, store)
    assert (job.status, job.attempt) == ("succeeded", 6)


async def test_a_worker_that_is_to_leave_waits_for_no_store_that_hangs(
    queue: Queue, start: Start, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request under way is waited for; then all jobs that wait for a picture are given back."""
    jobs = [(await with_a_picture(queue, store, GREY, FROM_A_PICTURE))[0] for _ in range(3)]
    for job in jobs:
        await queue.submit(job)
    asked = threading.Event()

    def hanging(*_: object) -> bytes:
        asked.set()
        time.sleep(1)
        raise StoreAway("no byte of an answer")

    monkeypatch.setattr(ImageStore, "get", hanging)
    worker = start()
    assert asked.wait(20)
    began_s = time.monotonic()
    assert worker.leave() == 0
    assert time.monotonic() - began_s < 5
    assert [(await read(queue, job.id)).status for job in jobs] == ["queued"] * 3


@pytest.mark.usefixtures("soon")
async def test_a_picture_waits_for_a_store_that_is_away_and_its_previews_do_not(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more often than it is tried where the store fails otherwise; previews are asked for once each."""
    asked: list[bool] = []
    put = ImageStore.put

    def away(self: ImageStore, tenant: str, job: str, content: bytes) -> str:
        asked.append(content.startswith(b"RIFF"))
        if len(asked) < 8:
            raise StoreAway("away")
        return put(self, tenant, job, content)

    monkeypatch.setattr("server.images.LONGEST_REST_S", 0.05)
    monkeypatch.setattr(ImageStore, "put", away)
    start()
    job, events = await run(queue, replace(ASKED, previews=2))
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert asked.count(True) <= 2 * 3, "two previews a picture, three pictures"
    assert [event.data["round"] for event in events if event.name == "image"] == [0, 1, 2]


@pytest.mark.usefixtures("soon")
async def test_a_hiccup_of_redis_while_a_picture_is_looked_up_delays_its_job_only(
    queue: Queue, start: Start, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerQueue, "image", raising(QueueUnavailable("away"), 1, WorkerQueue.image))
    start()
    job = await ended_with_a_picture(queue, store)
    assert (job.status, job.attempt) == ("succeeded", 2)


async def test_a_job_that_a_newer_build_stored_is_left_to_it_and_those_behind_it_go_on(
    queue: Queue, start: Start, db: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    new = new_job()
    stored = Trajectory(ASKED, 0).to_json()
    await queue.submit(new)
    put_trajectory(db, new.id, {**stored, "version": STORED_VERSION + 1})
    start()
    for _ in range(2):
        assert (await run(queue))[0].status == "succeeded"
    left = await read(queue, new.id)
    assert (left.status, left.attempt) == ("queued", 0)
    assert capsys.readouterr().out.count("job left to a worker of a newer build") == 1
    put_trajectory(db, new.id, stored)
    assert (await ended(queue, new.id)).attempt == 1


@pytest.mark.usefixtures("soon")
async def test_what_a_worker_was_given_and_cannot_read_goes_back_more_often_than_strikes_allow(
    queue: Queue, start: Start, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.queue_worker.STORED_VERSION", 99)
    new = new_job()
    stored = Trajectory(ASKED, 0).to_json()
    await queue.submit(new)
    put_trajectory(db, new.id, {**stored, "version": STORED_VERSION + 1})
    start()

    async def tried() -> bool:
        return (await read(queue, new.id)).attempt > 3

    await until(tried)
    assert (await read(queue, new.id)).error is None
    put_trajectory(db, new.id, stored)
    assert (await ended(queue, new.id)).status == "succeeded"


def put_trajectory(db: redis.Redis, job_id: str, stored: Json) -> None:
    db.hset(f"{{r3}}:job:{job_id}", "t:0", dumps(stored))
