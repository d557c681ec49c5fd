"""Webhooks in the queue, on both servers: put down at a job's end, leased to one, struck off; and their secrets."""

from __future__ import annotations

import asyncio

import pytest
import redis

from server.queue import Queue
from server.queue_hooks import LEASE_S, ROTATION_GRACE_S
from server.queue_records import Checkpoint, Ending
from server.queue_worker import WorkerQueue
from tests.server.delivering import cancelled, due, waiting
from tests.server.jobs import lapse, leased, picture_done, submitted

HOOK = {"url": "https://example.org/hook", "events": None}


async def test_every_kind_of_end_puts_the_webhook_down(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    ends = [Ending("succeeded"), Ending("failed", {"code": "step_failed", "message": "m"}), Ending("cancelled")]
    finished = []
    for ending in ends:
        finished.append(await submitted(queue, webhook=HOOK))
        lease = leased(worker)
        assert worker.checkpoint(lease.id, lease.token, Checkpoint(1, ending=ending)) == "ok"
    stopped = await submitted(queue, webhook=HOOK)
    lease = leased(worker)
    worker.checkpoint(stopped, lease.token, picture_done(lease, 1))
    await queue.stop(stopped)
    lapse(db, stopped)
    poisoned = await submitted(queue, webhook=HOOK)
    for _ in range(3):
        lapse(db, leased(worker).id)
    assert worker.lease("tiny", 1, 0) == []
    overdue = await submitted(queue, webhook=HOOK, deadline_at_ms=1)
    await queue.sweep()
    assert set(waiting(db)) == {*finished, stopped, poisoned, overdue}


@pytest.mark.parametrize(
    ("events", "is_put_down"),
    [(None, True), (["job.cancelled"], True), (["job.succeeded", "job.cancelled"], True), (["job.succeeded"], False)],
)
async def test_only_the_ends_that_were_asked_for_are_put_down(
    queue: Queue, db: redis.Redis, events: list[str] | None, is_put_down: bool
) -> None:
    sent = await submitted(queue, webhook={**HOOK, "events": events})
    await queue.cancel(sent)
    assert bool(waiting(db)) is is_put_down


async def test_a_webhook_is_leased_to_one_until_its_lease_is_over(queue: Queue, db: redis.Redis) -> None:
    sent = await cancelled(queue, tenant="acme")
    [hook] = await queue.hooks.lease(10)
    assert (hook.job_id, hook.tenant, hook.tries) == (sent, "acme", 0)
    assert 0 <= hook.age_s < 30
    assert await queue.hooks.lease(10) == []
    left_ms = float(db.zscore("{r3}:hooks", sent)) - float(db.time()[0]) * 1000  # type: ignore[arg-type]
    assert LEASE_S - 30 < left_ms / 1000 <= LEASE_S + 1
    due(db, sent)
    [again] = await queue.hooks.lease(10)
    assert (again.job_id, again.tries) == (sent, 0)
    assert again.fence != hook.fence


async def test_many_callers_never_get_the_same_webhook(queue: Queue, db: redis.Redis) -> None:
    sent = {await cancelled(queue) for _ in range(20)}
    rounds = await asyncio.gather(*(queue.hooks.lease(3) for _ in range(10)))
    got = [hook.job_id for hooks in rounds for hook in hooks]
    assert sorted(got) == sorted(sent)


async def test_a_failed_attempt_is_due_again_later_and_counted(queue: Queue, db: redis.Redis) -> None:
    sent = await cancelled(queue)
    [hook] = await queue.hooks.lease(1)
    await queue.hooks.later(hook, 60.0, tried=True)
    assert await queue.hooks.lease(1) == []
    due(db, sent)
    [second] = await queue.hooks.lease(1)
    assert second.tries == 1
    await queue.hooks.later(second, 0.0, tried=False)
    [third] = await queue.hooks.lease(1)
    assert third.tries == 1


async def test_who_lost_the_lease_cannot_put_the_webhook_off_but_can_say_it_was_taken(
    queue: Queue, db: redis.Redis
) -> None:
    sent = await cancelled(queue)
    [zombie] = await queue.hooks.lease(1)
    due(db, sent)
    [holder] = await queue.hooks.lease(1)
    before = db.zscore("{r3}:hooks", sent)
    await queue.hooks.later(zombie, 0.0, tried=True)
    assert db.zscore("{r3}:hooks", sent) == before
    await queue.hooks.end(sent)
    await queue.hooks.later(holder, 0.0, tried=True)
    assert waiting(db) == []


async def test_a_deleted_jobs_webhook_is_gone_and_an_expired_jobs_is_told_once(queue: Queue, db: redis.Redis) -> None:
    deleted, expired, taken = [await cancelled(queue) for _ in range(3)]
    await queue.delete(deleted)
    db.delete(f"{{r3}}:job:{expired}")
    hooks = {hook.job_id: hook for hook in await queue.hooks.lease(10)}
    assert set(hooks) == {expired, taken}
    assert hooks[expired].tenant is None
    assert waiting(db) == [taken]
    await queue.delete(taken)
    await queue.hooks.later(hooks[taken], 0.0, tried=True)
    assert waiting(db) == []


async def test_a_call_repeated_after_a_lost_answer_changes_nothing(queue: Queue, db: redis.Redis) -> None:
    for _ in range(3):
        await cancelled(queue)
    run = queue._link.run
    first = await run("hook_lease", "a-claim", 2, 60_000)
    assert await run("hook_lease", "a-claim", 2, 60_000) == first
    job_id, _, fence, *_ = first
    assert await run("hook_later", job_id, fence, 1, 1000) == "ok"
    assert await run("hook_later", job_id, fence, 1, 1000) == "ok"
    assert db.hget(f"{{r3}}:job:{job_id}", "hook_tries") == "1"
    assert await run("hook_end", job_id) == await run("hook_end", job_id) == "ok"
    assert 0 < int(db.pttl("{r3}:hooked:a-claim")) <= 60_000


async def test_at_the_memory_limit_webhooks_are_still_delivered(queue: Queue, db: redis.Redis) -> None:
    await cancelled(queue)
    db.config_set("maxmemory", 1)
    try:
        [hook] = await queue.hooks.lease(1)
        assert len(await queue.hooks.signing_secrets("local")) == 1
        await queue.hooks.later(hook, 0.0, tried=True)
        await queue.hooks.end(hook.job_id)
    finally:
        db.config_set("maxmemory", 0)
    assert waiting(db) == []


async def test_a_secret_is_made_once_and_shown_once(queue: Queue) -> None:
    hooks = queue.hooks
    [made] = await hooks.signing_secrets("acme")
    assert await hooks.signing_secrets("acme") == [made]
    assert await hooks.show_secret("acme") == made
    assert await hooks.show_secret("acme") is None
    other = await hooks.show_secret("other")
    assert await hooks.signing_secrets("other") == [other]
    assert other != made


async def test_after_a_rotation_both_are_signed_with_until_the_grace_is_over(queue: Queue, db: redis.Redis) -> None:
    hooks = queue.hooks
    first = await hooks.rotate_secret("acme")
    assert await hooks.signing_secrets("acme") == [first]
    second = await hooks.rotate_secret("acme")
    assert await hooks.show_secret("acme") is None
    assert await hooks.signing_secrets("acme") == [second, first]
    seconds, _ = db.time()
    until_ms = int(db.hget("{r3}:hook_secret:acme", "previous_until") or 0)
    assert ROTATION_GRACE_S - 60 < until_ms / 1000 - seconds <= ROTATION_GRACE_S + 1
    db.hset("{r3}:hook_secret:acme", "previous_until", 1)
    assert await hooks.signing_secrets("acme") == [second]


async def test_a_repeated_rotation_rotates_once(queue: Queue) -> None:
    run = queue._link.run
    assert await run("hook_secret", "acme", "rotate", "whsec_a", "call-1", 1000) == ["whsec_a"]
    assert await run("hook_secret", "acme", "rotate", "whsec_b", "call-2", 1000) == ["whsec_b"]
    assert await run("hook_secret", "acme", "rotate", "whsec_b", "call-2", 1000) == ["whsec_b"]
    assert await queue.hooks.signing_secrets("acme") == ["whsec_b", "whsec_a"]
    assert await run("hook_secret", "other", "show", "whsec_c", "call-3", 0) == ["whsec_c"]
    assert await run("hook_secret", "other", "show", "whsec_d", "call-3", 0) == ["whsec_c"]
