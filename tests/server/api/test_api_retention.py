"""What is kept and for how long."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from server.app import create_app
from server.embedded import EmbeddedServer
from server.given_pictures import stored_as
from server.images import ImageMissing, ImageStore, StoreFailed
from server.queue import Queue, QueuePolicy, QueueUnavailable
from server.queue_records import ROOT
from server.queue_worker import WorkerQueue
from server.retention import Retention
from server.settings import Settings
from tests.server.api.by_hand import HandWorker, png
from tests.server.jobs import job as new_job
from tests.server.jobs import submitted
from tests.server.test_worker_troubles import raising

GONE = f"job_{'0' * 32}"


@pytest.fixture
async def queue(valkey: EmbeddedServer, database: redis.Redis) -> AsyncIterator[Queue]:
    one = Queue(valkey.url)
    yield one
    await one.close()


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path)


@pytest.fixture
def hand_worker(worker_queue: WorkerQueue, images: ImageStore) -> HandWorker:
    return HandWorker(worker_queue, images)


def retention(queue: Queue, images: ImageStore, **settings: Any) -> Retention:
    return Retention(queue, images, Settings.model_construct(**settings))


SweptHoursLater = Callable[[str], Awaitable[None]]


@pytest.fixture
def swept_hours_later(queue: Queue, images: ImageStore, database: redis.Redis, tmp_path: Path) -> SweptHoursLater:
    """Have a job end two hours ago, with all of its pictures, and sweep."""

    async def sweep(job_id: str) -> None:
        database.hset(f"{ROOT}job:{job_id}", "finished", int((time.time() - 2 * 3600) * 1000))
        aged(tmp_path, 2 * 3600)
        await retention(queue, images).sweep_orphans()

    return sweep


def aged(folder: Path, seconds: float) -> None:
    """Make every file of a folder that old."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


async def finished(queue: Queue, worker: HandWorker, pictures: int = 1) -> str:
    job_id = await submitted(queue, model="tiny")
    hand = worker.takes()
    for _ in range(pictures):
        hand.draws()
    hand.ends("max_rounds")
    return job_id


async def test_pictures_without_a_job_go_once_they_are_old_enough(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, tmp_path: Path
) -> None:
    kept = await finished(queue, hand_worker)
    images.put("local", GONE, png())
    keeper = retention(queue, images)
    assert await keeper.sweep_orphans() == 0, "a picture is stored before its job is submitted"
    aged(tmp_path, 2 * 3600)
    assert await keeper.sweep_orphans() == 1
    assert {folder.job for folder in images.jobs()} == {kept}


async def test_a_redis_that_lost_its_data_sweeps_no_picture(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, database: redis.Redis, tmp_path: Path
) -> None:
    """They may be all that is left; and where a backup of Redis is put back, its jobs have theirs."""
    job_id = await finished(queue, hand_worker)
    assert await retention(queue, images).sweep_orphans() == 0
    aged(tmp_path, 2 * 3600)
    backup = {key: database.dump(key) or b"" for key in database.scan_iter()}
    database.flushdb()
    with capture_logs() as lines:
        assert await retention(queue, images).sweep_orphans() == 0
    assert [line["event"] for line in lines] == ["no picture is swept: the image store is not marked as this queue's"]
    assert [folder.job for folder in images.jobs()] == [job_id]
    database.flushdb()
    for key, value in backup.items():
        database.restore(key, 0, value)
    images.put("local", GONE, png())
    aged(tmp_path, 2 * 3600)
    assert await retention(queue, images).sweep_orphans() == 1
    assert [folder.job for folder in images.jobs()] == [job_id]


async def test_who_shares_a_folder_with_another_queue_sweeps_nothing(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, database: redis.Redis, tmp_path: Path
) -> None:
    await finished(queue, hand_worker)
    await retention(queue, images).sweep_orphans()
    database.set("{r3}:mark", "another")
    aged(tmp_path, 2 * 3600)
    images.put("local", GONE, png())
    aged(tmp_path, 2 * 3600)
    assert await retention(queue, images).sweep_orphans() == 0


async def test_pictures_that_nobody_may_sweep_cost_no_job_that_is_known(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, database: redis.Redis
) -> None:
    """They may take more than R3_KEEP_GB, and cannot be removed."""
    await finished(queue, hand_worker)
    await retention(queue, images).sweep_orphans()
    database.flushdb()
    images.put("local", GONE, bytes(100_000))
    jobs = [await finished(queue, hand_worker) for _ in range(3)]
    keeper = retention(queue, images, keep_gb=50_000 / 10**9)
    assert await keeper.keep_within_bound() == 0
    assert all([await queue.job(job) is not None for job in jobs])
    assert await retention(queue, images, keep_gb=0).keep_within_bound() == 3


async def test_an_operator_says_that_a_store_is_another_queues_from_now_on(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, tmp_path: Path
) -> None:
    images.put_mark("of a Redis that is gone")
    images.put("local", GONE, png())
    kept = await finished(queue, hand_worker)
    aged(tmp_path, 2 * 3600)
    assert await retention(queue, images).sweep_orphans() == 0
    (tmp_path / "@queue").unlink()
    assert await retention(queue, images).sweep_orphans() == 1
    assert [folder.job for folder in images.jobs()] == [kept]
    assert images.mark() == await queue.mark()


@pytest.mark.parametrize("mark", [None, "of another store"])
async def test_a_store_of_before_marks_is_not_taken_by_a_queue_that_knows_none_of_its_jobs(
    mark: str | None, queue: Queue, images: ImageStore, tmp_path: Path
) -> None:
    if mark is not None:
        await queue.keep_mark(mark)
    images.put("local", GONE, png())
    aged(tmp_path, 2 * 3600)
    assert await retention(queue, images).sweep_orphans() == 0
    assert images.mark() is None


async def test_what_the_store_does_not_let_go_is_not_told_of_as_removed(
    queue: Queue, images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await retention(queue, images).sweep_orphans() == 0
    images.put("local", GONE, png())
    aged(tmp_path, 2 * 3600)
    monkeypatch.setattr(images._objects, "remove_folder", refusing)
    with capture_logs() as lines:
        assert await retention(queue, images).sweep_orphans() == 0
    assert [line["event"] for line in lines] == ["pictures of a job are left to the sweep"]


async def test_what_is_none_of_ours_and_one_folder_that_fails_keep_no_other_from_the_sweep(
    queue: Queue,
    images: ImageStore,
    hand_worker: HandWorker,
    database: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = await finished(queue, hand_worker)
    assert await retention(queue, images).sweep_orphans() == 0
    others = [tmp_path / folder for folder in ("lost+found/#12", ".Trash-1000/files", "a b/c", "backup/2024")]
    for folder in others:
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"theirs")
    gone = [f"job_{number:032}" for number in range(3)]
    for job in gone:
        images.put("local", job, png())
    aged(tmp_path, 2 * 3600)
    images.put("local", kept, b"a preview")
    aged(tmp_path, 2 * 3600)
    database.hset(f"{ROOT}job:{kept}", "finished", int((time.time() - 2 * 3600) * 1000))
    monkeypatch.setattr(images._objects, "remove", refusing)
    remove = images._objects.remove_folder

    def fails_once(folder: str) -> None:
        if folder.endswith(gone[1]):
            raise StoreFailed("it belongs to somebody else")
        remove(folder)

    monkeypatch.setattr(images._objects, "remove_folder", fails_once)
    with capture_logs() as lines:
        assert await retention(queue, images).sweep_orphans() == 2
    warned = {line.get("folder") or line.get("job_id") for line in lines if line["log_level"] == "warning"}
    assert warned == {gone[1], kept}
    assert {folder.job for folder in images.jobs()} == {kept, gone[1]}
    assert all((folder / "x").exists() for folder in others)


async def test_a_redis_that_loses_its_data_during_a_sweep_costs_no_picture(
    queue: Queue,
    images: ImageStore,
    hand_worker: HandWorker,
    database: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(2):
        await finished(queue, hand_worker)
    assert await retention(queue, images).sweep_orphans() == 0
    aged(tmp_path, 2 * 3600)
    keeper, asked = retention(queue, images), queue.finished

    async def forgets(job_ids: Sequence[str]) -> Any:
        database.flushdb()
        return await asked(job_ids)

    monkeypatch.setattr(queue, "finished", forgets)
    with capture_logs() as lines:
        assert await keeper.sweep_orphans() == 0
    assert [line["event"] for line in lines] == ["the sweep ends: Redis has lost its data since it began"]
    assert len(list(images.jobs())) == 2


async def test_jobs_that_were_to_be_kept_for_ever_go_where_they_have_a_lifetime_now(
    valkey: EmbeddedServer, database: redis.Redis, images: ImageStore, tmp_path: Path
) -> None:
    for_ever = QueuePolicy(job_ttl_s=None)
    queue, work = Queue(valkey.url, for_ever), WorkerQueue(valkey.url, "w", for_ever)
    jobs = [await finished(queue, HandWorker(work, images)) for _ in range(2)]
    work.close()
    await queue.close()
    database.hset(f"{ROOT}job:{jobs[0]}", "finished", int((time.time() - 2 * 3600) * 1000))
    aged(tmp_path, 2 * 3600)
    queue = Queue(valkey.url, QueuePolicy(job_ttl_s=3600))
    keeper = retention(queue, images, job_ttl_s=3600)
    assert await keeper.sweep_orphans() == 0
    await asyncio.sleep(0.01)
    assert [await queue.job(job) is None for job in jobs] == [True, False]
    assert await keeper.sweep_orphans() == 1
    assert [folder.job for folder in images.jobs()] == jobs[1:]
    await queue.close()


async def test_so_many_jobs_are_kept_at_most_and_pictures_without_a_job_cost_none(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.retention.CHUNK", 2)  # several looks, as at a large store
    jobs = [await finished(queue, hand_worker) for _ in range(5)]
    for age, job_id in enumerate(jobs):
        aged(tmp_path / "local" / job_id, 500 - age)
    images.put("local", GONE, bytes(100_000))
    kept = sum(folder.size_bytes for folder in images.jobs() if folder.job != GONE)
    keeper = retention(queue, images, keep_gb=kept / 10**9)
    assert await keeper.keep_within_bound() == 0
    monkeypatch.setattr("server.retention.KEEP_JOBS", 4)
    assert await keeper.keep_within_bound() == 1
    assert [await queue.job(job) is None for job in jobs] == [True, *[False] * 4]


async def test_no_job_is_given_up_for_pictures_that_do_not_go(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await finished(queue, hand_worker) for _ in range(3)]
    monkeypatch.setattr(images._objects, "remove_folder", refusing)
    with capture_logs() as lines:
        assert await retention(queue, images, keep_gb=0).keep_within_bound() == 1
    assert lines[-2]["event"] == "no more jobs are deleted: their pictures do not go"
    assert sum([await queue.job(job) is not None for job in jobs]) == 2


async def test_chores_are_done_at_the_memory_limit_for_they_make_room(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, database: redis.Redis
) -> None:
    await finished(queue, hand_worker)
    database.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="memory limit"):
            await submitted(queue)
        keeper = retention(queue, images, keep_gb=0)
        await keeper._locked("keep", 60, keeper.keep_within_bound)()
    finally:
        database.config_set("maxmemory", 0)
    assert list(images.jobs()) == []


async def test_a_store_that_cannot_be_swept_is_told_of(
    queue: Queue, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests notice nothing of it, and it fills up."""
    monkeypatch.setattr("server.retention.ORPHANS_EVERY_S", 0.05)
    monkeypatch.setattr(images, "jobs", refusing)
    with capture_logs() as lines:
        upkeep = asyncio.create_task(retention(queue, images).run())
        await asyncio.sleep(0.5)
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)
    assert {(line["log_level"], line["reason"]) for line in lines} == {("warning", "it may not be listed")}


def refusing(*_: object) -> None:
    raise StoreFailed("it may not be listed")


async def test_previews_go_with_their_events_and_pictures_stay(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, swept_hours_later: SweptHoursLater
) -> None:
    job_id = await finished(queue, hand_worker)
    preview = images.put("local", job_id, b"a preview")
    await swept_hours_later(job_id)
    with pytest.raises(ImageMissing):
        images.get("local", job_id, preview)
    stored = await queue.job(job_id)
    assert stored is not None
    [record] = stored.images.values()
    assert images.get("local", job_id, record["sha256"])


@pytest.mark.parametrize("count", [1, 2])
async def test_pictures_that_a_failed_job_was_given_stay_for_whoever_tries_it_again(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, swept_hours_later: SweptHoursLater, count: int
) -> None:
    new = new_job(model="tiny")
    hashes = [images.put("local", new.id, png((i, 0, 0))) for i in range(count)]
    records = {f"img_{i}": {"sha256": sha, "master_sha256": sha} for i, sha in enumerate(hashes)}
    new.request.update(stored_as(records))
    await queue.submit(new)
    hand_worker.takes().is_cancelled()
    await swept_hours_later(new.id)
    for sha in hashes:
        assert images.get("local", new.id, sha)


async def test_over_the_bound_the_oldest_finished_jobs_go_first(
    queue: Queue, images: ImageStore, hand_worker: HandWorker, tmp_path: Path
) -> None:
    jobs = [await finished(queue, hand_worker, pictures=2) for _ in range(3)]
    await queue.submit(new_job(model="tiny"))
    running = hand_worker.takes()
    running.draws()
    for age, job_id in zip((400, 300, 200, 500), [*jobs, running.lease.id], strict=True):
        aged(tmp_path / "local" / job_id, age)
    sizes = {folder.job: folder.size_bytes for folder in images.jobs()}
    bound = (sum(sizes.values()) - sizes[jobs[0]] - sizes[jobs[1]] + 1) / 10**9
    assert await retention(queue, images, keep_gb=bound).keep_within_bound() == 2
    assert {folder.job for folder in images.jobs()} == {jobs[2], running.lease.id}
    assert await queue.job(jobs[0]) is None
    assert await queue.job(jobs[2]) is not None


@pytest.mark.parametrize(("job_ttl_s", "is_kept"), [(None, False), (3600, True)])
async def test_upkeep_minds_the_bound_only_where_jobs_have_no_lifetime(
    queue: Queue,
    images: ImageStore,
    hand_worker: HandWorker,
    monkeypatch: pytest.MonkeyPatch,
    job_ttl_s: int | None,
    is_kept: bool,
) -> None:
    monkeypatch.setattr("server.retention.KEEP_EVERY_S", 0.05)
    job_id = await finished(queue, hand_worker)
    upkeep = asyncio.create_task(retention(queue, images, keep_gb=0, job_ttl_s=job_ttl_s).run())
    for _ in range(20 if is_kept else 200):  # a second in which nothing happens, or ten for what is soon done
        await asyncio.sleep(0.05)
        if await queue.job(job_id) is None:
            break
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)
    assert (await queue.job(job_id) is not None) is is_kept


async def test_upkeep_that_a_fault_of_ours_ends_is_told_of_and_begun_again(
    valkey: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app._REST_S", 0.01)
    is_swept, sweep = asyncio.Event(), Queue.sweep

    async def swept(queue: Queue) -> int:
        count = await sweep(queue)
        is_swept.set()
        return count

    monkeypatch.setattr(Queue, "sweep", raising(RuntimeError("a fault of ours"), 1, swept))
    app = create_app(Settings(redis_url=valkey.url, data_dir=tmp_path))
    with capture_logs() as lines:
        async with app.router.lifespan_context(app), asyncio.timeout(10):
            await is_swept.wait()
    failed = [line for line in lines if line["event"].startswith("background work failed")]
    assert [(line["log_level"], line["work"], line["exc_info"]) for line in failed] == [("error", "retention", True)]


@pytest.mark.parametrize(("pictures", "kept_for_s"), [(0, 7 * 24 * 3600), (1, None)])
async def test_where_jobs_have_no_lifetime_one_that_came_to_nothing_has(
    pictures: int, kept_for_s: float | None, valkey: EmbeddedServer, database: redis.Redis, images: ImageStore
) -> None:
    """It has no picture, and so no part in R3_KEEP_GB."""
    for_ever = QueuePolicy(job_ttl_s=None)
    queue, work = Queue(valkey.url, for_ever), WorkerQueue(valkey.url, "w", for_ever)
    job_id = await submitted(queue, model="tiny")
    hand = HandWorker(work, images).takes()
    for _ in range(pictures):
        hand.draws()
    hand.is_cancelled()
    assert database.ttl(f"{ROOT}job:{job_id}") == (-1 if kept_for_s is None else pytest.approx(kept_for_s, abs=60))
    work.close()
    await queue.close()


async def test_only_one_process_at_a_time_sweeps(queue: Queue, images: ImageStore) -> None:
    first, second = retention(queue, images), retention(queue, images)
    done: list[int] = []

    async def work() -> int:
        done.append(1)
        return 0

    for keeper in (first, second, first):
        await keeper._locked("test", 60, work)()
    assert done == [1]


async def test_who_asked_first_and_heard_no_answer_has_the_turn(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt that repeats it finds the key held, by itself."""
    asked = queue._redis.evalsha
    assert await queue.take_turn("another", 60)  # from now on Redis knows the script
    lost = [True]

    async def set_and_lose(*args: Any, **named: Any) -> Any:
        answer = await asked(*args, **named)
        if lost and lost.pop():
            raise redis.ConnectionError("Connection closed by server.")
        return answer

    monkeypatch.setattr(queue._redis, "evalsha", set_and_lose)
    assert await queue.take_turn("test", 60)
    assert not await queue.take_turn("test", 60)


async def test_upkeep_ends_when_it_is_cancelled_at_whatever_moment(
    queue: Queue, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that is told to stop would wait for it for ever."""
    monkeypatch.setattr("server.retention.ORPHANS_EVERY_S", 0.0005)
    monkeypatch.setattr("server.retention.KEEP_EVERY_S", 0.0005)
    for _ in range(100):
        upkeep = asyncio.create_task(retention(queue, images).run())
        await asyncio.sleep(random.random() * 0.01)
        upkeep.cancel()
        assert (await asyncio.wait([upkeep], timeout=10))[0], "it goes on"
