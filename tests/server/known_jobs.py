"""What a random walk over the lease protocol knows of the jobs and the workers in it: the protocol, on a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.queue_records import Lease
from tests.server.lost_answers import LossyWorkerQueue

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass
class Known:
    """What the walk knows of a job."""

    tenant: str
    key: str
    has_deadline: bool
    status: Status = "queued"
    strikes: int = 0
    attempt: int = 0
    pictures: int = 0
    checkpoints: int = 0
    cancel: bool = False
    stop: bool = False
    is_poisoned: bool = False
    holder: int | None = None
    """Which worker has it; None where nobody does, or where its worker is dead."""
    lease: Lease | None = None
    """None also where the answer that gave it was lost."""
    queue: LossyWorkerQueue | None = None
    """That of who holds, or last held, the lease."""
    zombies: list[tuple[LossyWorkerQueue, Lease]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether it is at its end."""
        return self.status not in ("queued", "running")

    def let_go(self) -> None:
        """Nobody has it any more; who had it may not know."""
        if self.lease is not None and self.queue is not None:
            self.zombies.append((self.queue, self.lease))
        self.lease = self.holder = None

    def put_back(self) -> None:
        """It waits again, unless its end was asked for meanwhile."""
        self.status = "cancelled" if self.cancel else "succeeded" if self.stop and self.pictures else "queued"
        self.let_go()

    def reclaimed(self, max_strikes: int) -> None:
        """It is taken from a worker that is lost, or failing: it waits again, unless that was its last strike."""
        self.is_poisoned = self.strikes >= max_strikes and not self.cancel and not (self.stop and self.pictures)
        self.put_back()
        if self.is_poisoned:
            self.status = "failed"


@dataclass
class Worker:
    """One worker's queue, and the lease call whose answer it never heard: its room and how many it held."""

    queue: LossyWorkerQueue
    unheard: tuple[int, int] | None = None
