"""What a worker holds: the leases that are renewed, and the jobs that its engine works on. No I/O here."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from r3core.engine.batch import Picture
from r3core.types import Request, Trajectory, Usage
from server.cost import drawn_cost
from server.queue_records import JUDGED_USAGE, Ending, Json, Lease

# Why a job is to end before its trajectories do; a stronger reason replaces a weaker one.
Turn = Literal["given_back", "deadline", "stopped", "failed", "cancelled", "lost"]
_STRENGTH: Final[dict[Turn | None, int]] = {
    None: 0,
    "given_back": 1,
    "deadline": 2,
    "stopped": 3,
    "failed": 4,
    "cancelled": 5,
    "lost": 6,
}
DEADLINE_ERROR: Final[Json] = {
    "code": "deadline_exceeded",
    "message": "its deadline passed before its first picture was finished",
}

LATE_ERROR: Final[Json] = {**DEADLINE_ERROR, "message": "its deadline passed before it was finished"}


class Leases:
    """The leases in this worker's hands, for all of its threads, and what was ordered of jobs still on their way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}
        self._early: dict[str, Turn] = {}

    def add(self, lease: Lease) -> None:
        """Begin to renew a lease."""
        with self._lock:
            self._held[lease.id] = lease

    def drop(self, lease: Lease) -> None:
        """Renew it no longer."""
        with self._lock:
            if self._held.get(lease.id) is lease:
                del self._held[lease.id]
                self._early.pop(lease.id, None)

    def holds(self, lease: Lease) -> bool:
        """Whether that very lease is still held."""
        with self._lock:
            return self._held.get(lease.id) is lease

    def order(self, job_id: str, turn: Turn) -> None:
        """Remember an order for whoever begins the job; of no effect where its lease is not held."""
        with self._lock:
            if job_id in self._held:
                self._early[job_id] = turn

    def ordered(self, job_id: str) -> Turn | None:
        """What was ordered of the job meanwhile; told once."""
        with self._lock:
            return self._early.pop(job_id, None)

    def all(self) -> list[Lease]:
        """Every lease that is held."""
        with self._lock:
            return list(self._held.values())

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)


Waiting = tuple[Trajectory, tuple[Picture, ...]]


@dataclass(frozen=True)
class Ready:
    """A leased job with the trajectories that are left to do, each with the pictures that it goes on from."""

    lease: Lease
    request: Request
    left: tuple[Waiting, ...]


@dataclass
class HeldJob:
    """A job while the engine works on it."""

    lease: Lease
    waiting: deque[Waiting]
    """What the engine has had no room for yet."""
    newest: dict[int, Trajectory]
    """What was made of each trajectory that was left to do."""
    open: set[int]
    """The trajectories that have not ended."""
    told: dict[int, Usage]
    """What was spent on each by the last checkpoint."""
    turn: Turn | None = None
    error: Json | None = None
    is_unfinished: bool = False
    """Whether a trajectory was put aside for another worker."""
    compute_s: float = 0.0
    began_s: float = 0.0
    has_advanced: bool = False
    """Whether it has finished a picture under this lease."""

    @classmethod
    def begun(cls, ready: Ready, now_s: float) -> HeldJob:
        """The job with everything still to do; `now_s` by the monotonic clock."""
        newest = {trajectory.index: trajectory for trajectory, _ in ready.left}
        told = {index: trajectory.usage for index, trajectory in newest.items()}
        return cls(ready.lease, deque(ready.left), newest, set(newest), told, began_s=now_s)

    @property
    def has_picture(self) -> bool:
        """Whether any trajectory, those that ended before included, has a finished picture."""
        stored = self.lease.job.trajectories
        return any(t.rounds for t in self.newest.values()) or any(t is not None and t["rounds"] for t in stored)

    @property
    def is_overdue(self) -> bool:
        """Whether its deadline has passed."""
        deadline_at_ms = self.lease.job.deadline_at_ms
        return deadline_at_ms is not None and time.time() * 1000 >= deadline_at_ms

    def key(self, index: int) -> str:
        """What the engine calls trajectory `index`; a job that comes back under a new lease is another."""
        return f"{self.lease.id}/{self.lease.token}/{index}"

    def turn_to(self, turn: Turn, error: Json | None = None) -> bool:
        """Have it end for `turn`, unless it ends for something as strong already; whether this changes anything."""
        if turn == "deadline" and not (self.has_picture and self._kind == "generate"):
            turn, error = "failed", DEADLINE_ERROR if self._kind == "generate" else LATE_ERROR
        if _STRENGTH[turn] <= _STRENGTH[self.turn]:
            return False
        self.turn, self.error = turn, error
        return True

    def ending(self) -> Ending | None:
        """How the job ends now that no trajectory is open; None where it is to be given back."""
        if self.turn == "failed":
            return Ending("failed", self.error)
        if self.is_unfinished:
            return None
        return Ending("cancelled" if self.turn == "cancelled" else "succeeded")

    def spent_on(self, trajectory: Trajectory) -> dict[str, float]:
        """What was spent on the trajectory, and on the job's computing, since this was last asked."""
        before, now = self.told[trajectory.index], trajectory.usage
        self.told[trajectory.index] = now
        compute_s, self.compute_s = self.compute_s, 0.0
        return {
            "text_tokens": now.text_tokens - before.text_tokens,
            "denoise_steps": now.denoise_steps - before.denoise_steps,
            "forwards": now.forwards - before.forwards,
            **{name: getattr(now, name) - getattr(before, name) for name in JUDGED_USAGE},
            "compute_s": round(compute_s, 6),
            "cost": self._cost(trajectory, before),
        }

    @property
    def _kind(self) -> str:
        return str(self.lease.job.request.get("request", {}).get("kind", "generate"))

    def _cost(self, trajectory: Trajectory, before: Usage) -> float:
        """Of what is drawn by its steps; a job that mostly looks and writes costs at its end what was estimated."""
        if self._kind == "generate":
            now, then = (drawn_cost(trajectory.request, spent.denoise_steps) for spent in (trajectory.usage, before))
            return now - then
        return 0.0 if trajectory.stop_reason is None else self.lease.job.cost
