"""What a random walk over the lease protocol stands on: the queue, its workers, and what must hold after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import redis
from hypothesis.stateful import RuleBasedStateMachine, invariant

from server.queue import QueuePolicy
from server.queue_records import TERMINAL_EVENTS, Lease
from tests.server.jobs import MODEL
from tests.server.known_jobs import Known, Worker
from tests.server.lost_answers import LossyQueue, LossyWorkerQueue

T = TypeVar("T")
MAX_STRIKES = 3
POLICY = QueuePolicy(lease_s=60.0, max_strikes=MAX_STRIKES)  # leases expire when the walk says so, not by the clock


class WalkedQueue(RuleBasedStateMachine):
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
        self.paused: set[str | None] = set()

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

    def given(self, waiting: list[str], room: int, holding: int) -> list[str]:
        """Who is given: in order, what is on its last strike to an idle worker and alone; in a pause nobody."""
        given: list[str] = []
        if self.paused & {MODEL, None}:
            return given
        for one in waiting[:room]:
            last = self.known[one].strikes == MAX_STRIKES - 1
            if last and (holding or given):
                break
            given.append(one)
            if last:
                break
        return given

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
    def every_pause_and_every_job_that_was_given_up_is_known(self) -> None:
        assert {name or None for name in self.db.hkeys("{r3}:paused")} == self.paused
        poisoned = {one for one, known in self.known.items() if known.is_poisoned}
        assert set(self.db.zrange("{r3}:dead", 0, -1)) == poisoned

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
            assert int(self.db.hget(f"{{r3}}:job:{name}", "strikes") or 0) == known.strikes
            found = self.do(self.queue.job(name))
            assert found is not None
            assert found.status == known.status
