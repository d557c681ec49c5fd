"""What is handed to the publisher: one class for each thing that a worker says of a job in its hands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r3core.types import Image, Trajectory
from server.queue_records import Ending, Event, Json, Lease, rfc3339

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass(frozen=True)
class Say:
    """Log events of a job."""

    lease: Lease
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Tell:
    """Announce an event that is not logged; left out when there is too much to do."""

    lease: Lease
    event: Event


@dataclass(frozen=True)
class Show:
    """Announce a preview; left out when there is too much to do."""

    lease: Lease
    index: int
    round: int
    pixels: Pixels
    event: Event


@dataclass(frozen=True)
class Keep:
    """Store a finished picture and the trajectory that it belongs to, and announce it.

    `place` is its `round`, and its `candidate` where the round has several.
    """

    lease: Lease
    place: dict[str, int]
    image: Image
    instruction: str | None
    pixels: Pixels
    trajectory: Trajectory
    usage: dict[str, float]
    at_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class End:
    """Store a trajectory at its end, announced where it has a stop reason, and with an ending end the job."""

    lease: Lease
    trajectory: Trajectory | None
    usage: dict[str, float]
    ending: Ending | None
    at_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class GiveBack:
    """Give a job back for another worker, with or without the strike that its lease cost."""

    lease: Lease
    forgive: bool = True


@dataclass(frozen=True)
class Forget:
    """Nothing more will be written under the lease, which is lost."""

    lease: Lease


Item = Say | Tell | Show | Keep | End | GiveBack | Forget


def event(lease: Lease, name: str, trajectory: int | None, at_s: float | None = None, **fields: object) -> Event:
    """An event of a job, as of now unless another time (Unix seconds) is given."""
    at = rfc3339((time.time() if at_s is None else at_s) * 1000)
    return Event(name, {"job_id": lease.id, "trajectory": trajectory, "at": at, **fields})


def record_of(
    lease: Lease, trajectory: int, place: Mapping[str, int], size: tuple[int, int], *, preview: bool, **form: str
) -> Json:
    """What is kept of a stored picture; `form` is its format, the hashes of its bytes, and what made it."""
    whose: Json = {"tenant": lease.job.tenant, "job": lease.id, "trajectory": trajectory, **place}
    return {**whose, "preview": preview, "width": size[0], "height": size[1], **form}
