"""Leases: the fence, strikes and poison, what a dead worker leaves, giving back, and calls that are repeated."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue import OutOfOrder, Queue
from server.queue_errors import QueueUnavailable
from server.queue_records import Checkpoint, Ending
from server.queue_worker import WorkerQueue
from tests.server.conftest import POLICY
from tests.server.jobs import MODEL, lapse, leased, leased_ids, names, picture_done, stored, submitted, trajectory

NewWorker = Callable[..., WorkerQueue]
IN_AN_HOUR_MS = int(time.time() * 1000) + 3600_000


def is_overdue(db: redis.Redis, job_id: str) -> None:
    """The deadline of a waiting job has passed, as of now."""
    db.zadd("{r3}:due", {job_id: 1.0}, xx=True)


async def test_a_leased_job_is_running_and_says_so(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    assert (lease.id, lease.attempt, lease.resumed, lease.alone, lease.checkpoint) == (sent, 1, False, False, 0)
    found = await stored(queue, sent)
    assert (found.status, found.attempt) == ("running", 1)
    assert found.started_ms is not None
    events = await queue.events(sent)
    assert [event.name for event in events] == ["job.queued", "job.started"]
    assert events[1].data["attempt"] == 1
    assert events[1].data["resumed_from_round"] is None


async def test_a_renewed_lease_stays(queue: Queue, new_worker: NewWorker, db: redis.Redis) -> None:
    worker, other = new_worker(), new_worker()
    await submitted(queue)
    lease = leased(worker)
    for _ in range(4):
        lapse(db, lease.id)
        assert worker.renew([(lease.id, lease.token)]) == {lease.id: "ok"}
        assert other.lease(MODEL, 1, 0) == []
    assert worker.renew([]) == {}


async def test_a_dead_workers_job_is_taken_by_another_with_what_was_finished(
    queue: Queue, new_worker: NewWorker, db: redis.Redis
) -> None:
    dead, heir = new_worker(), new_worker()
    sent = await submitted(queue, n=2)
    lease = leased(dead, 2)
    dead.checkpoint(sent, lease.token, picture_done(lease, 1, 0, index=1))
    lapse(db, sent)
    taken = leased(heir, 2)
    assert (taken.id, taken.attempt, taken.resumed, taken.checkpoint) == (sent, 2, True, 1)
    assert taken.token > lease.token
    assert taken.job.trajectories == [None, trajectory(1, 1)]
    assert list(taken.job.images) == ["img_1_0"]
    events = await queue.events(sent)
    assert [event.name for event in events] == ["job.queued", "job.started", "image", "job.started"]
    assert events[-1].data["resumed_from_round"] == [None, 0]
    assert (await queue.depth())["reclaimed"] == 1


async def test_a_zombies_writes_are_refused(queue: Queue, new_worker: NewWorker, db: redis.Redis) -> None:
    zombie, heir = new_worker(), new_worker()
    sent = await submitted(queue)
    old = leased(zombie)
    lapse(db, sent)
    new = leased(heir)
    assert zombie.renew([(sent, old.token)]) == {sent: "lost"}
    assert zombie.publish(sent, old.token, [("reason.delta", {"job_id": sent})]) == "lost"
    assert zombie.checkpoint(sent, old.token, picture_done(old, 1)) == "lost"
    assert zombie.release(sent, old.token) == "lost"
    zombie.preview(sent, old.token, ("img_p", {}), ("image.preview", {"job_id": sent}))
    assert await queue.image("img_p") is None
    assert (await stored(queue, sent)).images == {}
    assert heir.checkpoint(sent, new.token, picture_done(new, 1)) == "ok"


async def test_what_a_zombie_says_live_is_not_heard(queue: Queue, new_worker: NewWorker, db: redis.Redis) -> None:
    zombie, heir = new_worker(), new_worker()
    sent = await submitted(queue)
    old = leased(zombie)
    lapse(db, sent)
    new = leased(heir)
    feed = queue.follow()
    assert (await anext(feed)).resync
    zombie.live(sent, old.token, ("image.progress", {"job_id": sent, "step": 1}))
    heir.live(sent, new.token, ("image.progress", {"job_id": sent, "step": 2}))
    heard = (await anext(feed)).event
    assert heard is not None
    assert heard.data["step"] == 2
    await feed.aclose()


async def test_after_an_outage_who_lives_renews_before_anything_is_taken_back(
    queue: Queue, new_worker: NewWorker, db: redis.Redis
) -> None:
    """Nobody could for longer than a lease, and who looks first is chance."""
    alive, dead, other = new_worker(), new_worker(), new_worker()
    other.register({"name": MODEL})
    kept, left = await submitted(queue), await submitted(queue)
    held, lost = leased(alive), leased(dead)
    for visit in (queue.sweep, lambda: other.lease(MODEL, 1, 0), lambda: other.heartbeat({"model": MODEL})):
        for one in (held, lost):
            lapse(db, one.id)
        db.hset("{r3}:visits", mapping={"last": int(time.time() * 1000) - 60_000, "reap_from": 0})
        if inspect.isawaitable(looked := visit()):
            await looked
        assert other.lease(MODEL, 1, 0) == []
        assert await queue.sweep() == 0
        assert alive.renew([(kept, held.token)]) == {kept: "ok"}
    db.hset("{r3}:visits", "reap_from", int(time.time() * 1000))  # the time that it gives has passed
    assert await queue.sweep() == 1
    assert ((await stored(queue, kept)).status, (await stored(queue, left)).status) == ("running", "queued")


async def test_where_leases_are_short_a_sweep_each_second_is_no_outage(
    queue: Queue, worker: WorkerQueue, queue_server: EmbeddedServer, db: redis.Redis
) -> None:
    worker.register({"name": MODEL})
    left = await submitted(queue)
    leased(worker)
    short = Queue(queue_server.url, replace(POLICY, lease_s=1.0))
    lapse(db, left)
    db.hset("{r3}:visits", mapping={"last": int(time.time() * 1000) - 1100, "reap_from": 0})
    assert await short.sweep() == 1
    await short.close()


async def test_the_time_to_renew_after_an_outage_is_half_a_lease(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    db.hset("{r3}:visits", "last", int(time.time() * 1000) - 60_000)
    worker.heartbeat({"model": MODEL})
    seconds = float(db.hget("{r3}:visits", "reap_from") or 0) / 1000 - time.time()
    assert seconds == pytest.approx(POLICY.lease_s / 2, abs=1)
    db.hset("{r3}:visits", "reap_from", int(time.time() * 1000) + 3600_000)  # by a clock that has gone back since
    worker.heartbeat({"model": MODEL})
    assert db.hget("{r3}:visits", "reap_from") == "0"


async def test_a_lease_that_has_expired_but_was_not_taken_may_be_renewed(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    await submitted(queue)
    lease = leased(worker)
    lapse(db, lease.id)
    assert worker.renew([(lease.id, lease.token)]) == {lease.id: "ok"}


async def test_three_starts_without_a_checkpoint_are_poison(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    sent = await submitted(queue)
    for attempt in (1, 2, 3):
        assert leased(worker).attempt == attempt
        lapse(db, sent)
    assert worker.lease(MODEL, 1, 0) == []
    found = await stored(queue, sent)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error["code"] == "poison_job"
    assert "3 times" in found.error["message"]
    assert (await names(queue, sent))[-1] == "job.failed"
    assert db.zrange("{r3}:dead", 0, -1) == [sent]
    assert (await queue.depth())["poisoned"] == 1


async def test_a_checkpoint_clears_the_strikes(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    sent = await submitted(queue)
    for number in range(1, 5):
        lease = leased(worker)
        assert worker.checkpoint(sent, lease.token, picture_done(lease, number, number - 1)) == "ok"
        lapse(db, sent)
    assert leased(worker).attempt == 5
    assert (await stored(queue, sent)).status == "running"


async def test_a_job_with_two_strikes_goes_alone(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    killer = await submitted(queue)
    for _ in range(2):
        assert leased(worker).id == killer
        lapse(db, killer)
    innocent = await submitted(queue)
    assert worker.lease(MODEL, 8, holding=1) == []  # it waits at the head for a worker that holds nothing
    lease = leased(worker, 8)
    assert (lease.id, lease.alone) == (killer, True)
    assert leased(worker, 8, holding=0).id == innocent


async def test_what_is_before_a_job_with_two_strikes_is_given_without_it(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    await submitted(queue, cost=100.0)
    for _ in range(2):
        lapse(db, leased(worker).id)
    first = await submitted(queue, "other", cost=0.01, priority="high")
    # The clock stands at the killer's place, so the new job comes after it; without the killer it is given at once.
    killer = leased(worker, 8)
    assert killer.alone
    assert leased_ids(worker, 8) == [first]


async def test_release_keeps_the_place_and_takes_back_the_strike(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    sent = [await submitted(queue) for _ in range(3)]
    for attempt in range(1, 6):  # more often than strikes allow
        lease = leased(worker)
        assert (lease.id, lease.attempt, lease.alone) == (sent[0], attempt, False)
        assert worker.release(lease.id, lease.token) == "ok"
        assert (await stored(queue, sent[0])).status == "queued"
        assert db.hget(f"{{r3}}:job:{sent[0]}", "strikes") == "0"
        assert worker.publish(lease.id, lease.token, [("x", {"job_id": sent[0]})]) == "lost"
    assert leased_ids(worker, 3) == sent


async def test_release_after_a_checkpoint_leaves_no_strike_below_zero(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    worker.release(sent, lease.token)
    assert db.hget(f"{{r3}}:job:{sent}", "strikes") == "0"


async def test_release_wakes_the_others(queue: Queue, new_worker: NewWorker) -> None:
    leaving, other = new_worker(), new_worker()
    await submitted(queue)
    lease = leased(leaving)
    feed = other.control()
    assert next(feed) == ("wake", "")
    leaving.release(lease.id, lease.token)
    assert next(feed) == ("wake", MODEL)


async def test_a_call_repeated_after_a_lost_answer_appends_nothing(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    with lost_answers(worker):
        assert worker.publish(sent, lease.token, [("reason.delta", {"job_id": sent, "text": "a"})]) == "ok"
        assert worker.checkpoint(sent, lease.token, picture_done(lease, 1)) == "ok"
        assert worker.checkpoint(sent, lease.token, Checkpoint(2, ending=Ending("succeeded"))) == "ok"
    assert await names(queue, sent) == ["job.queued", "job.started", "reason.delta", "image", "job.succeeded"]
    assert (await stored(queue, sent)).usage["denoise_steps"] == 49


async def test_a_lease_whose_answer_was_lost_is_given_again(queue: Queue, worker: WorkerQueue) -> None:
    sent = [await submitted(queue), await submitted(queue)]
    with lost_answers(worker), pytest.raises(QueueUnavailable):
        worker.lease(MODEL, 1, 0)
    assert leased_ids(worker, 1) == sent[:1]
    assert leased_ids(worker, 1) == sent[1:]
    assert [(await stored(queue, i)).attempt for i in sent] == [1, 1]


async def test_a_checkpoint_out_of_order_is_refused(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    with pytest.raises(OutOfOrder, match="checkpoint 2"):
        worker.checkpoint(sent, lease.token, picture_done(lease, 2))
    assert worker.checkpoint(sent, lease.token, picture_done(lease, 1)) == "ok"
    with pytest.raises(OutOfOrder):
        worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    assert await names(queue, sent) == ["job.queued", "job.started", "image"]


async def test_the_last_checkpoint_ends_the_job_in_the_same_script(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    done = replace(
        picture_done(lease, 1), trajectory=trajectory(1, stop_reason="satisfied"), ending=Ending("succeeded")
    )
    assert worker.checkpoint(sent, lease.token, done) == "ok"
    found = await stored(queue, sent)
    assert (found.status, found.error, found.trajectories[0]) == ("succeeded", None, done.trajectory)
    assert {name: spent for name, spent in found.usage.items() if spent} == {
        "denoise_steps": 49,
        "forwards": 90,
        "compute_s": 0.25,
    }
    assert found.finished_ms is not None
    assert (await queue.events(sent))[-1].data["trajectory"] is None
    assert worker.renew([(sent, lease.token)]) == {sent: "lost"}
    assert worker.publish(sent, lease.token, [("x", {"job_id": sent})]) == "lost"
    assert worker.lease(MODEL, 1, 0) == []


async def test_a_failed_job_keeps_its_error(queue: Queue, worker: WorkerQueue) -> None:
    sent = await submitted(queue)
    lease = leased(worker)
    error = {"code": "step_failed", "message": 'it said "no"'}
    worker.checkpoint(sent, lease.token, Checkpoint(1, ending=Ending("failed", error)))
    found = await stored(queue, sent)
    assert (found.status, found.error) == ("failed", error)
    assert (await queue.events(sent))[-1].data["error"] == error


async def test_a_waiting_job_whose_deadline_passed_fails(queue: Queue, worker: WorkerQueue) -> None:
    late, other = await submitted(queue, deadline_at_ms=int(time.time() * 1000) - 1), await submitted(queue)
    assert leased_ids(worker, 2) == [other]
    found = await stored(queue, late)
    assert found.error is not None
    assert (found.status, found.error["code"]) == ("failed", "deadline_exceeded")


async def test_the_sweep_does_what_a_worker_would(queue: Queue, worker: WorkerQueue, db: redis.Redis) -> None:
    worker.register({"name": MODEL})
    late = await submitted(queue, deadline_at_ms=IN_AN_HOUR_MS)
    orphan = await submitted(queue, "other", priority="high")
    assert leased(worker).id == orphan
    lapse(db, orphan)
    is_overdue(db, late)
    assert await queue.sweep() == 2
    assert (await stored(queue, late)).status == "failed"
    assert (await stored(queue, orphan)).status == "queued"
    assert await queue.sweep() == 0


async def test_a_waiting_job_of_which_nothing_is_left_is_passed_over_and_struck_off(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    """As after an eviction, or where somebody deleted keys by hand."""
    gone, sent = await submitted(queue), await submitted(queue)
    db.delete(f"{{r3}}:job:{gone}")
    assert leased_ids(worker, 2) == [sent]
    assert db.zrange(f"{{r3}}:wait:{MODEL}", 0, -1) == []


async def test_a_leased_job_of_which_nothing_is_left_is_struck_off_when_its_lease_runs_out(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    worker.register({"name": MODEL})
    gone, sent = await submitted(queue), await submitted(queue)
    assert leased(worker).id == gone
    db.delete(f"{{r3}}:job:{gone}")
    lapse(db, gone)
    assert leased_ids(worker, 1) == [sent]
    assert db.zrange(f"{{r3}}:lease:{MODEL}", 0, -1) == [sent]
    assert await queue.sweep() == 0


async def test_a_deadline_of_a_job_of_which_nothing_is_left_is_struck_off(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    gone, sent = await submitted(queue, deadline_at_ms=IN_AN_HOUR_MS), await submitted(queue)
    db.delete(f"{{r3}}:job:{gone}")
    is_overdue(db, gone)
    assert leased_ids(worker, 1) == [sent]
    assert db.exists("{r3}:due") == 0


async def test_a_deadline_passed_while_waiting_keeps_what_was_finished(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    sent = await submitted(queue, n=2, deadline_at_ms=IN_AN_HOUR_MS)
    lease = leased(worker, 2)
    worker.checkpoint(sent, lease.token, picture_done(lease, 1))
    worker.release(sent, lease.token)
    is_overdue(db, sent)
    await queue.sweep()
    found = await stored(queue, sent)
    assert (found.status, found.stop_reason) == ("succeeded", "deadline")
    assert found.trajectories == [trajectory(1, stop_reason="deadline"), None]
    events = await queue.events(sent)
    assert [(event.name, event.data["trajectory"]) for event in events[-3:]] == [
        ("trajectory.done", 0),
        ("trajectory.done", 1),
        ("job.succeeded", None),
    ]
    assert events[-3].data["image"] == {
        "id": "img_0_0",
        "url": "/images/img_0_0",
        "width": 64,
        "height": 64,
        "format": "png",
        "sha256": found.images["img_0_0"]["sha256"],
    }
    assert events[-2].data["image"] is None


class lost_answers:  # noqa: N801 - reads as a statement where it is used
    """Every script's first answer is lost on its way."""

    def __init__(self, worker: WorkerQueue) -> None:
        self._worker, self._eval = worker, worker._eval
        self._lost: set[tuple[object, ...]] = set()

    def __enter__(self) -> None:
        self._worker._eval = self._forgetful  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._worker._eval = self._eval  # type: ignore[method-assign]

    def _forgetful(self, name: str, args: tuple[str | float, ...]) -> object:
        answer = self._eval(name, args)
        if (name, args) not in self._lost:
            self._lost.add((name, args))
            raise redis.ConnectionError("the answer was lost")
        return answer
