"""The lease protocol as a machine that walks at random against the real scripts: what it knows is what Redis must hold.

Two workers and an API submit, lease, renew, write, lose, cancel, stop, give back, end and delete jobs in any order.
Between any two steps something may crash: an answer is lost, and the call is made again by the queue's own code or not
at all; a worker dies or sleeps, before or after a call, and what it held or was just given runs out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.queue import QueuePolicy
from server.queue_errors import QueueUnavailable
from server.queue_records import TERMINAL_EVENTS, Checkpoint, Ending, Lease
from tests.server.jobs import MODEL, job, lapse, picture_done
from tests.server.known_jobs import Known, Worker
from tests.server.lost_answers import LossyQueue, LossyWorkerQueue

T = TypeVar("T")
MAX_STRIKES = 3
MOST_JOBS = 6
PICK = st.integers(0, 5)
WHO = st.integers(0, 1)
IS_LOST = st.booleans()
SELDOM = st.sampled_from([None, None, None, 0, 1, 2, 3, 4, 5])  # most walks must come far enough to finish pictures
POLICY = QueuePolicy(lease_s=60.0, max_strikes=MAX_STRIKES)  # leases expire when the walk says so, not by the clock
AN_HOUR_MS = 3_600_000


class LeaseProtocol(RuleBasedStateMachine):
    """See above."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.db = redis.Redis.from_url(self.url, decode_responses=True, protocol=2)
        self.db.flushall()
        self.queue = LossyQueue(self.url, POLICY)
        self.born: list[LossyWorkerQueue] = []
        self.workers = [self.new_worker(), self.new_worker()]
        self.known: dict[str, Known] = {}
        self.deleted: dict[str, Known] = {}

    def new_worker(self) -> Worker:
        self.born.append(LossyWorkerQueue(self.url, f"walker-{len(self.born)}", POLICY))
        self.born[-1].register({"name": MODEL})
        return Worker(self.born[-1])

    def teardown(self) -> None:
        self.do(self.queue.close())
        self.loop.close()
        for queue in self.born:
            queue.close()
        self.db.close()

    def do(self, asked: Coroutine[Any, Any, T], *, lost: bool = False) -> T:
        self.queue.loses = lost
        return self.loop.run_until_complete(asked)

    # jobs in

    @initialize(tenant=st.sampled_from("ab"))
    def begin(self, tenant: str) -> None:
        self.submit(tenant, 1.0, "", has_deadline=False, lost=False)

    @precondition(lambda self: len(self.known) < MOST_JOBS)
    @rule(
        tenant=st.sampled_from("ab"),
        cost=st.sampled_from([1.0, 4.0]),
        key=st.sampled_from(["", "", "k"]),
        has_deadline=st.booleans(),
        lost=IS_LOST,
    )
    def submit(self, tenant: str, cost: float, key: str, *, has_deadline: bool, lost: bool) -> None:
        number = len(self.known) + len(self.deleted)  # ties are broken by id: a walk must repeat
        deadline = int(time.time() * 1000) + AN_HOUR_MS if has_deadline else None
        new = job(tenant, cost=cost, id=f"job_{number}", idempotency_key=key or None, deadline_at_ms=deadline)
        same = [name for name, known in self.known.items() if key and (known.tenant, known.key) == (tenant, key)]
        submitted = self.do(self.queue.submit(new), lost=lost)
        assert (submitted.id, submitted.replayed) == (same[0] if same else new.id, bool(same))
        if not same:
            self.known[new.id] = Known(tenant, key, has_deadline)

    # leases

    @rule(who=WHO, room=st.integers(1, 3), lost=IS_LOST)
    def lease(self, who: int, room: int, *, lost: bool) -> None:
        worker = self.workers[who]
        if worker.unheard is not None:
            self.hear(who)
            return
        waiting, holding = self.waiting(), len(self.held_by(who))
        expected = self.given(waiting, room, holding)
        worker.queue.loses = lost
        try:
            given = worker.queue.lease(MODEL, room, holding)
        except QueueUnavailable:
            assert lost
            worker.unheard = (room, holding) if expected else None  # who was given nothing asks anew
            given = []
        assert [lease.id for lease in given] == ([] if lost else expected)
        for one in expected:
            known = self.known[one]
            known.status, known.holder = "running", who
            known.strikes += 1
            known.attempt += 1
        self.take(worker, given)

    def hear(self, who: int) -> None:
        """The worker asks again: it is given what is still its own of what it was given, and nothing new."""
        worker = self.workers[who]
        assert worker.unheard is not None
        mine = [name for name, known in self.known.items() if known.holder == who and known.lease is None]
        given = worker.queue.lease(MODEL, *worker.unheard)
        worker.unheard = None
        assert sorted(lease.id for lease in given) == sorted(mine)
        self.take(worker, given)

    def take(self, worker: Worker, given: list[Lease]) -> None:
        for lease in given:
            known = self.known[lease.id]
            known.lease, known.queue = lease, worker.queue
            assert (lease.attempt, lease.checkpoint) == (known.attempt, known.checkpoints)
            assert lease.alone == (known.strikes == MAX_STRIKES)

    def given(self, waiting: list[str], room: int, holding: int) -> list[str]:
        """Who is given: in order, but what is on its last strike goes to an idle worker and alone."""
        given: list[str] = []
        for one in waiting[:room]:
            last = self.known[one].strikes == MAX_STRIKES - 1
            if last and (holding or given):
                break
            given.append(one)
            if last:
                break
        return given

    @precondition(lambda self: self.held())
    @rule(pick=PICK)
    def renew(self, pick: int) -> None:
        one, known, worker, lease = self.picked(pick)
        expected = "cancel" if known.cancel else "stop" if known.stop else "ok"
        assert worker.renew([(one, lease.token)]) == {one: expected}

    # what workers write

    @precondition(lambda self: self.held())
    @rule(pick=PICK, lost=IS_LOST)
    def publish(self, pick: int, *, lost: bool) -> None:
        one, _, worker, lease = self.picked(pick)
        worker.loses = lost
        assert worker.publish(one, lease.token, [("reason.delta", {"job_id": one})]) == "ok"

    @precondition(lambda self: self.held())
    @rule(pick=PICK, lost=IS_LOST)
    def finish_a_picture(self, pick: int, *, lost: bool) -> None:
        one, known, worker, lease = self.picked(pick)
        done = picture_done(lease, known.checkpoints + 1, known.pictures)
        worker.loses = lost
        assert worker.checkpoint(one, lease.token, done) == "ok"
        known.checkpoints += 1
        known.pictures += 1
        known.strikes = 0

    @precondition(lambda self: self.held())
    @rule(pick=PICK, status=st.sampled_from(["succeeded", "failed", "cancelled"]), lost=IS_LOST)
    def end(self, pick: int, status: Any, *, lost: bool) -> None:
        one, known, worker, lease = self.picked(pick)
        done = Checkpoint(known.checkpoints + 1, usage={"cost": 1.0}, ending=Ending(status))
        worker.loses = lost
        assert worker.checkpoint(one, lease.token, done) == "ok"
        known.status = "cancelled" if known.cancel else status
        known.let_go()

    @precondition(lambda self: self.held())
    @rule(pick=PICK, lost=IS_LOST)
    def give_back(self, pick: int, *, lost: bool) -> None:
        one, known, worker, lease = self.picked(pick)
        worker.loses = lost
        assert worker.release(one, lease.token) == ("lost" if lost else "ok")  # which is the same to who gives it back
        known.strikes = max(0, known.strikes - 1)
        known.put_back()

    @rule(pick=PICK)
    def write_as_a_zombie(self, pick: int) -> None:
        every = {**self.known, **self.deleted}
        one = list(every)[pick % len(every)]
        for worker, old in every[one].zombies:
            assert worker.renew([(one, old.token)]) == {one: "lost"}
            assert worker.publish(one, old.token, [("x", {"job_id": one})]) == "lost"
            assert worker.checkpoint(one, old.token, picture_done(old, 99)) == "lost"
            assert worker.release(one, old.token) == "lost"

    # what dies

    @rule(who=st.sampled_from([None] * 8 + [0, 1]))
    def a_worker_dies(self, who: int | None) -> None:
        """Or sleeps, with all that it was about to do; what it held runs out one by one."""
        if who is None:
            return
        self.workers[who] = self.new_worker()
        for known in self.known.values():
            if known.holder == who:
                known.holder = None

    @precondition(lambda self: self.running())
    @rule(pick=SELDOM, lost=IS_LOST)
    def a_lease_runs_out(self, pick: int | None, *, lost: bool) -> None:
        if pick is None:
            return
        running = self.running()
        one = running[pick % len(running)]
        known = self.known[one]
        lapse(self.db, one)
        assert self.do(self.queue.sweep(), lost=lost) == (0 if lost else 1)  # the second time there is nothing to do
        if known.strikes >= MAX_STRIKES and not known.cancel and not (known.stop and known.pictures):
            known.status = "failed"
            known.let_go()
        else:
            known.put_back()

    @rule(pick=PICK)
    def a_deadline_passes(self, pick: int) -> None:
        """Of a job that waits; of one that runs its worker says it."""
        due = [one for one in self.waiting() if self.known[one].has_deadline]
        assert sorted(self.db.zrange("{r3}:due", 0, -1)) == sorted(due)
        for one in due[pick : pick + 1]:
            self.db.zadd("{r3}:due", {one: 1.0}, xx=True)
            assert self.do(self.queue.sweep()) == 1
            self.known[one].status = "succeeded" if self.known[one].pictures else "failed"

    # what clients ask

    @precondition(lambda self: self.known)
    @rule(pick=SELDOM, lost=IS_LOST)
    def cancel(self, pick: int | None, *, lost: bool) -> None:
        if pick is None:
            return
        one = list(self.known)[pick % len(self.known)]
        known = self.known[one]
        over = known.status in ("succeeded", "failed")
        assert self.do(self.queue.cancel(one), lost=lost) == ("already_finished" if over else "accepted")
        if known.status == "queued":
            known.status = "cancelled"
        elif known.status == "running":
            known.cancel = True

    @precondition(lambda self: self.known)
    @rule(pick=SELDOM, lost=IS_LOST)
    def stop(self, pick: int | None, *, lost: bool) -> None:
        if pick is None:
            return
        one = list(self.known)[pick % len(self.known)]
        known = self.known[one]
        answer = self.do(self.queue.stop(one), lost=lost)
        if not known.is_over:
            assert answer == ("accepted" if known.pictures else "no_image_yet")
            known.stop = known.stop or known.pictures > 0
            if known.status == "queued" and known.stop:
                known.status = "succeeded"
        else:
            assert answer == ("accepted" if known.stop and known.status == "succeeded" else "already_finished")

    @precondition(lambda self: self.known)
    @rule(pick=SELDOM, lost=IS_LOST)
    def delete(self, pick: int | None, *, lost: bool) -> None:
        if pick is None:
            return
        one = list(self.known)[pick % len(self.known)]
        answer = self.do(self.queue.delete(one), lost=lost)
        if not self.known[one].is_over:
            assert answer == "not_finished"
            return
        assert answer == ("not_found" if lost else "deleted")
        self.deleted[one] = self.known.pop(one)
        assert not list(self.db.scan_iter(f"*{one}"))

    # what is known

    def picked(self, pick: int) -> tuple[str, Known, LossyWorkerQueue, Lease]:
        held = self.held()
        one = held[pick % len(held)]
        known = self.known[one]
        assert known.lease is not None
        assert known.holder is not None
        return one, known, self.workers[known.holder].queue, known.lease

    def held(self) -> list[str]:
        """What a living worker knows that it holds."""
        return [one for one, known in self.known.items() if known.holder is not None and known.lease is not None]

    def held_by(self, who: int) -> list[str]:
        return [one for one in self.held() if self.known[one].holder == who]

    def running(self) -> list[str]:
        return [one for one, known in self.known.items() if known.status == "running"]

    def waiting(self) -> list[str]:
        return [str(i) for i in self.db.zrange(f"{{r3}}:wait:{MODEL}", 0, -1)]

    @invariant()
    def every_job_is_where_it_should_be(self) -> None:
        assert set(self.waiting()) == {one for one, known in self.known.items() if known.status == "queued"}
        assert set(self.db.zrange(f"{{r3}}:lease:{MODEL}", 0, -1)) == set(self.running())
        load = self.db.hgetall("{r3}:load")
        assert int(load.get("jobs", 0)) == len(self.waiting())
        for tenant in "ab":
            mine = [known for known in self.known.values() if known.tenant == tenant]
            assert int(load.get(f"active:{tenant}", 0)) == sum(not known.is_over for known in mine)
            assert self.db.zcard(f"{{r3}}:jobs:{tenant}") == len(mine)

    @invariant()
    def every_log_is_whole_and_ends_once(self) -> None:
        for name, known in self.known.items():
            events = self.do(self.queue.events(name))
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            ends = [event.name for event in events if event.name in TERMINAL_EVENTS]
            assert ends == ([f"job.{known.status}"] if known.is_over else [])
            assert not known.is_over or events[-1].name == ends[0]
            said = [event.name for event in events]
            assert (said.count("job.started"), said.count("image")) == (known.attempt, known.pictures)
            found = self.do(self.queue.job(name))
            assert found is not None
            assert found.status == known.status
