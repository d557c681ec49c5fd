"""The lease protocol as a machine that walks at random against the real scripts: what it knows is what Redis must hold.

Two workers and an API submit, lease, renew, write, lose, cancel, stop, give back (with the strike forgiven or not), end
and delete jobs, and an operator pauses and resumes their queue, in any order.
Between any two steps something may crash: an answer is lost, and the call is made again by the queue's own code or not
at all; a worker dies or sleeps, before or after a call, and what it held or was just given runs out.
"""

from __future__ import annotations

import time
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from server.queue_errors import QueueUnavailable
from server.queue_records import Checkpoint, Ending, Lease
from tests.server.jobs import MODEL, job, lapse, picture_done
from tests.server.known_jobs import Known, Worker
from tests.server.walked_queue import MAX_STRIKES, WalkedQueue

MOST_JOBS = 6
PICK = st.integers(0, 5)
WHO = st.integers(0, 1)
IS_LOST = st.booleans()
SELDOM = st.sampled_from([None, None, None, 0, 1, 2, 3, 4, 5])  # most walks must come far enough to finish pictures
AN_HOUR_MS = 3_600_000


class LeaseProtocol(WalkedQueue):
    """See above."""

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
        known.strikes = 0
        known.let_go()

    @precondition(lambda self: self.held())
    @rule(pick=PICK, forgive=st.booleans(), lost=IS_LOST)
    def give_back(self, pick: int, *, forgive: bool, lost: bool) -> None:
        one, known, worker, lease = self.picked(pick)
        worker.loses = lost
        released = worker.release(one, lease.token, forgive=forgive)
        assert released == ("lost" if lost else "ok")  # which is the same to who gives it back
        if forgive:
            known.strikes = max(0, known.strikes - 1)
            known.put_back()
        else:
            known.reclaimed(MAX_STRIKES)

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
        known.reclaimed(MAX_STRIKES)

    @rule(pick=PICK)
    def a_deadline_passes(self, pick: int) -> None:
        """Of a job that waits; of one that runs its worker says it."""
        due = [one for one in self.waiting() if self.known[one].has_deadline]
        assert sorted(self.db.zrange("{r3}:due", 0, -1)) == sorted(due)
        for one in due[pick : pick + 1]:
            self.db.zadd("{r3}:due", {one: 1.0}, xx=True)
            assert self.do(self.queue.sweep()) == 1
            self.known[one].status = "succeeded" if self.known[one].pictures else "failed"

    # what operators ask

    @rule(what=st.sampled_from([MODEL, None, "another"]), lost=IS_LOST)
    def pause(self, what: str | None, *, lost: bool) -> None:
        self.do(self.queue.admin.pause(what), lost=lost)
        self.paused.add(what)

    @precondition(lambda self: self.paused)
    @rule(what=st.sampled_from([None, MODEL, None, "another"]), lost=IS_LOST)
    def resume(self, what: str | None, *, lost: bool) -> None:
        ended = bool(self.paused) if what is None else what in self.paused
        assert self.do(self.queue.admin.resume(what), lost=lost) is (ended and not lost)  # the second time nothing is
        self.paused = set() if what is None else self.paused - {what}

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
