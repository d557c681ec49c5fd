"""Submitting: idempotency, bounds, what is stored, and what a server must be."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

from server.embedded import EmbeddedServer
from server.queue import IdempotencyMismatch, Queue, QueueFull, QueueUnavailable, ServerTooOld
from server.queue_records import USAGE_FIELDS, Ending
from server.queue_scripts import refuse_old_server, translated
from server.queue_worker import WorkerQueue
from tests.server.conftest import POLICY
from tests.server.jobs import MODEL, job, leased, names, picture_done, stored, submitted
from tests.server.promises import promised


async def test_a_submitted_job_can_be_read_back(queue: Queue) -> None:
    new = job(metadata={"a": "b"}, parent={"job": "job_1", "trajectory": 0, "round": 2}, deadline_at_ms=2**42)
    assert await queue.submit(new) == (await queue.submit(new))  # a repeated call is the same submission
    found = await stored(queue, new.id)
    assert (found.status, found.tenant, found.model, found.cost) == ("queued", "local", MODEL, 4.0)
    assert (found.metadata, found.parent, found.deadline_at_ms) == (new.metadata, new.parent, 2**42)
    assert found.request == json.loads(json.dumps(new.request))  # a seed of 2^53 - 1 included
    assert found.trajectories == [None]
    assert set(found.usage) == set(USAGE_FIELDS)
    assert not any(found.usage.values())
    [event] = await queue.events(new.id)
    assert (event.number, event.name) == (1, "job.queued")
    assert event.data["position"] == 1
    assert event.data["eta_s"] is None
    assert event.data["trajectory"] is None


async def test_an_unknown_job_is_none(queue: Queue) -> None:
    assert await queue.job("job_x") is None
    assert await queue.events("job_x") == []


async def test_the_same_key_and_body_give_the_same_job(queue: Queue) -> None:
    first = await queue.submit(job(idempotency_key="k", body_hash="h"))
    again = await queue.submit(job(idempotency_key="k", body_hash="h"))
    assert (first.replayed, again.replayed) == (False, True)
    assert again.id == first.id


async def test_the_same_key_with_another_body_is_refused(queue: Queue) -> None:
    await queue.submit(job(idempotency_key="k", body_hash="h"))
    with pytest.raises(IdempotencyMismatch, match="use a new key"):
        await queue.submit(job(idempotency_key="k", body_hash="other"))


async def test_two_tenants_may_use_the_same_key(queue: Queue) -> None:
    first = await queue.submit(job("a", idempotency_key="k", body_hash="h"))
    second = await queue.submit(job("b", idempotency_key="k", body_hash="other"))
    assert first.id != second.id


async def test_fifty_submits_at_once_with_one_key_make_one_job(queue: Queue, worker: WorkerQueue) -> None:
    answers = await asyncio.gather(*(queue.submit(job(idempotency_key="k", body_hash="h")) for _ in range(50)))
    assert len({answer.id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(worker.lease(MODEL, 60, 0)) == 1


async def test_a_key_whose_job_was_deleted_is_free_again(queue: Queue) -> None:
    first = await submitted(queue, idempotency_key="k", body_hash="h")
    await queue.cancel(first)
    assert await queue.delete(first) == "deleted"
    assert not (await queue.submit(job(idempotency_key="k", body_hash="other"))).replayed


@pytest.mark.parametrize(
    ("limits", "tenant", "scope"),
    [
        ({"queue_limit": 2}, "b", "server"),
        ({"tenant_queue_limit": 2}, "a", "tenant"),
        ({"queue_cost_limit": 10}, "b", "server"),
        ({"tenant_queue_cost_limit": 10}, "a", "tenant"),
    ],
)
async def test_a_full_queue_refuses(
    queue_server: EmbeddedServer, db: redis.Redis, queue: Queue, limits: dict[str, int], tenant: str, scope: str
) -> None:
    bounded = Queue(queue_server.url, replace(POLICY, **limits))
    first = await submitted(bounded, "a")
    await submitted(bounded, "a")
    with pytest.raises(QueueFull) as full:
        await submitted(bounded, tenant)
    assert full.value.scope == scope
    assert 1 <= full.value.retry_after_s <= 120
    if scope == "tenant":
        await submitted(bounded, "b")  # the others are not held up
    await bounded.cancel(first)
    await submitted(bounded, tenant)
    await bounded.close()


async def test_a_full_queue_that_never_ended_a_job_has_one_come_again_in_ten_seconds(
    queue_server: EmbeddedServer, db: redis.Redis
) -> None:
    """Nothing says how fast it is worked off."""
    bounded = Queue(queue_server.url, replace(POLICY, queue_limit=1))
    await submitted(bounded)
    with pytest.raises(QueueFull) as full:
        await submitted(bounded)
    assert full.value.retry_after_s == 10
    await bounded.close()


async def test_what_is_leased_does_not_fill_the_queue(queue_server: EmbeddedServer, worker: WorkerQueue) -> None:
    bounded = Queue(queue_server.url, replace(POLICY, queue_limit=1))
    await submitted(bounded)
    leased(worker)
    await submitted(bounded)
    await bounded.close()


async def test_a_job_larger_than_the_bound_is_taken_when_nothing_waits(
    queue_server: EmbeddedServer, db: redis.Redis
) -> None:
    bounded = Queue(queue_server.url, replace(POLICY, queue_cost_limit=10))
    await submitted(bounded, cost=100)
    with pytest.raises(QueueFull):
        await submitted(bounded, cost=1)
    await bounded.close()


@pytest.mark.parametrize(("tenant", "cost"), [("a:b", 1.0), ("", 1.0), ("a", 0.0), ("a", float("nan"))])
def test_what_the_queue_cannot_hold_is_refused(tenant: str, cost: float) -> None:
    with pytest.raises(ValueError, match=r"tenant|cost"):
        job(tenant, cost=cost)


async def test_at_the_memory_limit_submits_are_refused_and_running_jobs_finish(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    running, waiting = await submitted(queue), await submitted(queue)
    lease = leased(worker)
    db.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable, match="memory limit"):
        await submitted(queue)
    with pytest.raises(OutOfMemoryError):
        db.set("x", "y")
    assert worker.renew([(lease.id, lease.token)]) == {lease.id: "ok"}
    assert worker.publish(lease.id, lease.token, [("reason.done", {"job_id": lease.id})]) == "ok"
    assert worker.checkpoint(lease.id, lease.token, picture_done(lease, 1, ending=Ending("succeeded"))) == "ok"
    worker.heartbeat({"model": MODEL})
    assert (await stored(queue, running)).status == "succeeded"
    assert (await names(queue, running))[-1] == "job.succeeded"
    assert await queue.cancel(waiting) == "accepted"
    assert await queue.delete(running) == "deleted"
    db.config_set("maxmemory", 0)
    await submitted(queue)


async def test_scripts_are_loaded_again_after_the_server_forgot_them(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    await submitted(queue)
    db.script_flush()
    await submitted(queue)
    db.script_flush()
    assert len(worker.lease(MODEL, 2, 0)) == 2


async def test_a_supported_server_passes_the_version_check(queue: Queue, worker: WorkerQueue) -> None:
    await queue.ping()
    worker.ping()


@pytest.mark.parametrize(
    "error",
    [
        *(redis.ConnectionError("x"), redis.TimeoutError("x"), OSError("x"), BusyLoadingError("x")),
        *(ReadOnlyError("x"), MasterDownError("x"), ClusterDownError("x"), TryAgainError("x")),
        redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("LOADING Redis is loading the dataset in memory script: x, on @user_script:1."),
    ],
)
def test_what_passes_by_itself_is_unavailable(error: Exception) -> None:
    assert isinstance(translated(error), QueueUnavailable)


def test_a_fault_of_ours_is_seen_as_it_is() -> None:
    assert translated(redis.ResponseError("WRONGTYPE Operation against a key")) is None


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7"])
def test_an_older_redis_is_refused_with_its_version_and_the_remedy(version: str) -> None:
    with pytest.raises(ServerTooOld, match=rf"{version}.*upgrade"):
        refuse_old_server({"redis_version": version})


def test_a_valkey_is_known_by_the_redis_it_is_compatible_with() -> None:
    refuse_old_server({"redis_version": "7.2.4", "valkey_version": "9.1.2"})


async def test_a_server_that_is_away_is_unavailable_within_two_seconds() -> None:
    gone = Queue("unix:///nonexistent/r3.sock")
    with promised(2.0), pytest.raises(QueueUnavailable) as away:
        await gone.job("job_x")
    assert away.value.retry_after_s > 0
    await gone.close()
