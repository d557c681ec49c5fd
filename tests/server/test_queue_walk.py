"""Random walks over the lease protocol against the real scripts, beside a model of it that fits on a page."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.embedded import EmbeddedServer
from server.queue import Queue, QueuePolicy
from server.queue_records import TERMINAL_EVENTS, Checkpoint, Ending, Lease
from server.queue_worker import WorkerQueue
from tests.server.jobs import MODEL, job, lapse, picture_done

T = TypeVar("T")
MAX_STRIKES = 3
PICK = st.integers(0, 5)
POLICY = QueuePolicy(lease_s=60.0, max_strikes=MAX_STRIKES)  # leases expire when the walk says so, not by the clock


@dataclass
class Known:
    """What the walk knows of a job."""

    status: str = "queued"
    strikes: int = 0
    attempt: int = 0
    pictures: int = 0
    checkpoints: int = 0
    cancel: bool = False
    stop: bool = False
    lease: Lease | None = None
    zombies: list[Lease] = field(default_factory=list)


class LeaseProtocol(RuleBasedStateMachine):
    """Submits, leases, writes, loses, cancels, stops, gives back and ends jobs in any order."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.db = redis.Redis.from_url(self.url, decode_responses=True, protocol=2)
        self.db.flushall()
        self.queue = Queue(self.url, POLICY)
        self.worker = WorkerQueue(self.url, "walker", POLICY)
        self.worker.register({"name": MODEL})
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        self.do(self.queue.close())
        self.loop.close()
        self.worker.close()
        self.db.close()

    def do(self, asked: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asked)

    @initialize(tenant=st.sampled_from("ab"))
    def begin(self, tenant: str) -> None:
        self.submit(tenant, 1.0)

    @precondition(lambda self: len(self.known) < 6)
    @rule(tenant=st.sampled_from("ab"), cost=st.sampled_from([1.0, 4.0]))
    def submit(self, tenant: str, cost: float) -> None:
        new = job(tenant, cost=cost, id=f"job_{len(self.known)}")  # ties are broken by id: a walk must repeat
        assert not self.do(self.queue.submit(new)).replayed
        self.known[new.id] = Known()

    @rule(room=st.integers(1, 3))
    def lease(self, room: int) -> None:
        waiting = self.waiting()
        holding = len(self.running())
        given = self.worker.lease(MODEL, room, holding)
        assert [lease.id for lease in given] == waiting[: len(given)]
        for lease in given:
            known = self.known[lease.id]
            assert lease.alone == (known.strikes == MAX_STRIKES - 1)
            assert not lease.alone or (holding == 0 and len(given) == 1)
            known.status, known.lease = "running", lease
            known.strikes += 1
            known.attempt += 1
            assert (lease.attempt, lease.checkpoint) == (known.attempt, known.checkpoints)
        if waiting and len(given) < min(room, len(waiting)):
            head = self.known[waiting[len(given)]]
            alone = [lease for lease in given if lease.alone]
            assert head.strikes == MAX_STRIKES - 1 or alone

    @precondition(lambda self: self.running())
    @rule(pick=PICK)
    def renew(self, pick: int) -> None:
        one, known, lease = self.picked(pick)
        expected = "cancel" if known.cancel else "stop" if known.stop else "ok"
        assert self.worker.renew([(one, lease.token)]) == {one: expected}

    @precondition(lambda self: self.running())
    @rule(pick=PICK)
    def publish(self, pick: int) -> None:
        one, _, lease = self.picked(pick)
        assert self.worker.publish(one, lease.token, [("reason.delta", {"job_id": one})]) == "ok"

    @precondition(lambda self: self.running())
    @rule(pick=PICK)
    def finish_a_picture(self, pick: int) -> None:
        one, known, lease = self.picked(pick)
        done = picture_done(lease, known.checkpoints + 1, known.pictures)
        assert self.worker.checkpoint(one, lease.token, done) == "ok"
        known.checkpoints += 1
        known.pictures += 1
        known.strikes = 0

    @precondition(lambda self: self.running())
    @rule(pick=PICK, status=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def end(self, pick: int, status: Any) -> None:
        one, known, lease = self.picked(pick)
        done = Checkpoint(known.checkpoints + 1, usage={"cost": 1.0}, ending=Ending(status))
        assert self.worker.checkpoint(one, lease.token, done) == "ok"
        known.status = "cancelled" if known.cancel else status
        self.let_go(known)

    @precondition(lambda self: self.running())
    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        one, known, lease = self.picked(pick)
        assert self.worker.release(one, lease.token) == "ok"
        known.strikes = max(0, known.strikes - 1)
        self.put_back(known)

    @precondition(lambda self: self.running())
    @rule(pick=PICK)
    def lose_the_worker(self, pick: int) -> None:
        one, known, _ = self.picked(pick)
        lapse(self.db, one)
        assert self.do(self.queue.sweep()) == 1
        if known.strikes >= MAX_STRIKES and not known.cancel and not (known.stop and known.pictures):
            known.status = "failed"
            self.let_go(known)
        else:
            self.put_back(known)

    @rule(pick=PICK)
    def write_as_a_zombie(self, pick: int) -> None:
        one = list(self.known)[pick % len(self.known)]
        for old in self.known[one].zombies:
            assert self.worker.renew([(one, old.token)]) == {one: "lost"}
            assert self.worker.publish(one, old.token, [("x", {"job_id": one})]) == "lost"
            assert self.worker.checkpoint(one, old.token, picture_done(old, 99)) == "lost"
            assert self.worker.release(one, old.token) == "lost"

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        one = list(self.known)[pick % len(self.known)]
        known = self.known[one]
        over = known.status in ("succeeded", "failed")
        assert self.do(self.queue.cancel(one)) == ("already_finished" if over else "accepted")
        if known.status == "queued":
            known.status = "cancelled"
        elif known.status == "running":
            known.cancel = True

    @rule(pick=PICK)
    def stop(self, pick: int) -> None:
        one = list(self.known)[pick % len(self.known)]
        known = self.known[one]
        answer = self.do(self.queue.stop(one))
        if known.status in ("queued", "running"):
            assert answer == ("accepted" if known.pictures else "no_image_yet")
            known.stop = known.stop or known.pictures > 0
            if known.status == "queued" and known.stop:
                known.status = "succeeded"
        else:
            assert answer == ("accepted" if known.stop and known.status == "succeeded" else "already_finished")

    @rule(pick=PICK)
    def delete_only_what_is_finished(self, pick: int) -> None:
        one = list(self.known)[pick % len(self.known)]
        if self.known[one].status in ("queued", "running"):
            assert self.do(self.queue.delete(one)) == "not_finished"

    def picked(self, pick: int) -> tuple[str, Known, Lease]:
        running = sorted(self.running(), key=list(self.known).index)
        one = running[pick % len(running)]
        lease = self.known[one].lease
        assert lease is not None
        return one, self.known[one], lease

    def put_back(self, known: Known) -> None:
        if known.cancel:
            known.status = "cancelled"
        elif known.stop and known.pictures:
            known.status = "succeeded"
        else:
            known.status = "queued"
        self.let_go(known)

    def let_go(self, known: Known) -> None:
        assert known.lease is not None
        known.zombies.append(known.lease)
        known.lease = None

    def waiting(self) -> list[str]:
        return [str(i) for i in self.db.zrange(f"{{r3}}:wait:{MODEL}", 0, -1)]

    def running(self) -> set[str]:
        return {name for name, known in self.known.items() if known.status == "running"}

    @invariant()
    def every_job_is_where_it_should_be(self) -> None:
        assert set(self.waiting()) == {name for name, known in self.known.items() if known.status == "queued"}
        leased = self.db.zrange(f"{{r3}}:lease:{MODEL}", 0, -1)
        assert set(leased) == self.running()
        load = self.db.hgetall("{r3}:load")
        assert int(load.get("jobs", 0)) == len(self.waiting())

    @invariant()
    def every_log_is_whole_and_ends_once(self) -> None:
        for name, known in self.known.items():
            events = self.do(self.queue.events(name))
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            ends = [event.name for event in events if event.name in TERMINAL_EVENTS]
            over = known.status not in ("queued", "running")
            assert ends == ([f"job.{known.status}"] if over else [])
            assert not over or events[-1].name == ends[0]
            assert sum(event.name == "job.started" for event in events) == known.attempt
            found = self.do(self.queue.job(name))
            assert found is not None
            assert found.status == known.status


def test_no_walk_breaks_the_lease_protocol(queue_server: EmbeddedServer) -> None:
    class Walk(LeaseProtocol):
        url = queue_server.url

    limits = settings(
        max_examples=50,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking a walk takes minutes, and the walk is printed as it is
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Walk, settings=limits)
