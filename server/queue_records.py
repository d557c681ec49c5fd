"""The values that cross the border between the service and Redis, and how they are written down. No I/O here.

Every key, and every field of a job's hash, is described in `server/queue.py`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Self, cast

from server.keys import NO_LIMITS, TenantLimits, tenant_name
from server.rate_limits import Limit
from server.settings import Settings
from server.traces import trace_id_of

ROOT: Final = "{r3}:"  # one hash tag, so that a cluster keeps all keys together
ALIVE_FOR_S: Final = 15.0  # a worker not heard from for this long is not counted
WEIGHT_OF: Final = {"high": 4.0, "normal": 1.0, "low": 0.25}
TERMINAL_STATUSES: Final = frozenset({"succeeded", "failed", "cancelled"})
TERMINAL_EVENTS: Final = frozenset({"job.succeeded", "job.failed", "job.cancelled"})
JUDGED_USAGE: Final = ("images", "discarded_images", "discarded_forwards")
USAGE_FIELDS: Final = ("text_tokens", "denoise_steps", "forwards", "compute_s", *JUDGED_USAGE)

Priority = Literal["high", "normal", "low"]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Json = dict[str, Any]


class Event(NamedTuple):
    """One event as the API writes it out: its name, and its data with `job_id`, `trajectory` and `at`."""

    name: str
    data: Json


class LoggedEvent(NamedTuple):
    """An event of a job's log. Numbers begin at 1 and rise by one."""

    number: int
    name: str
    data: Json


@dataclass(frozen=True)
class Live:
    """A message of the live feed. `number` is None for events that are not logged; at `resync` read the logs again."""

    job_id: str = ""
    number: int | None = None
    event: Event | None = None
    resync: bool = False


@dataclass(frozen=True)
class QueuePolicy:
    """The operator's numbers that the scripts work by."""

    lease_s: float = 15.0
    max_strikes: int = 3
    event_ttl_s: float = 3600
    job_ttl_s: float | None = 24 * 3600
    poisoned_ttl_s: float = 7 * 24 * 3600
    idempotency_ttl_s: float = 24 * 3600
    queue_limit: int = 1000
    tenant_queue_limit: int = 1000
    queue_cost_limit: float = 20_000.0
    tenant_queue_cost_limit: float = 20_000.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The policy that the settings ask for."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    def to_arg(self) -> str:
        """The form that every script takes as its first argument; times in ms, no lifetime as null."""
        return dumps(
            {
                "lease_ms": int(self.lease_s * 1000),
                "max_strikes": self.max_strikes,
                "event_ttl_ms": int(self.event_ttl_s * 1000),
                "job_ttl_ms": None if self.job_ttl_s is None else int(self.job_ttl_s * 1000),
                "poisoned_ttl_ms": int(self.poisoned_ttl_s * 1000),
                "idem_ttl_ms": int(self.idempotency_ttl_s * 1000),
                "jobs": self.queue_limit,
                "tenant_jobs": self.tenant_queue_limit,
                "cost": self.queue_cost_limit,
                "tenant_cost": self.tenant_queue_cost_limit,
            }
        )


@dataclass(frozen=True)
class NewJob:
    """A job as it is submitted. Raises ValueError for what the queue cannot hold.

    `request` is what the worker needs: {"version": STORED_VERSION, "request": asdict(Request), "start_image": id or
    None, "output_format": …, "output_compression": …, "trace": see traces.py}; `params` is what the job shows; `cost`
    see cost.py; `trajectories` is n; `quotas` are the tenant's.
    """

    id: str
    tenant: str
    model: str
    request: Json
    params: Json
    cost: float
    priority: Priority = "normal"
    idempotency_key: str | None = None
    body_hash: str = ""
    deadline_at_ms: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    parent: Json | None = None
    webhook: Json | None = None
    quotas: TenantLimits = NO_LIMITS

    def __post_init__(self) -> None:
        tenant_name(self.tenant)
        if not self.cost > 0:
            raise ValueError(f"cost {self.cost} of job {self.id} must be positive")

    @property
    def trajectories(self) -> int:
        """How many trajectories the job asks for."""
        return int(self.request.get("request", {}).get("n", 1))


@dataclass(frozen=True)
class Submitted:
    """The job that a submission came to; `replayed` where its key had made it before; what is left of quotas."""

    id: str
    replayed: bool
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Ending:
    """How a job ends, as its worker says it."""

    status: Literal["succeeded", "failed", "cancelled"]
    error: Json | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a worker stores, announces and perhaps ends in one script. `number` is the job's next, from 1 on.

    `usage` is what was spent since the last one (names of `USAGE_FIELDS`, and `cost` in the units of cost.py).
    """

    number: int
    index: int | None = None
    trajectory: Json | None = None
    events: Sequence[tuple[str, Json]] = ()
    images: Mapping[str, Json] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    ending: Ending | None = None


@dataclass(frozen=True)
class StoredJob:
    """A job as Redis holds it. Times are ms since 1970.

    `trajectories[i]` is what `Trajectory.to_json` wrote, None where trajectory i has nothing finished; where such a job
    has succeeded all the same, `stop_reason` ("stopped" or "deadline") says why. `images` maps image ids to their
    records. `error` is {"code", "message"}.
    """

    id: str
    tenant: str
    model: str
    priority: Priority
    cost: float
    status: Status
    request: Json
    params: Json
    metadata: dict[str, str]
    parent: Json | None
    webhook: Json | None
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    deadline_at_ms: int | None
    attempt: int
    trajectories: list[Json | None]
    images: dict[str, Json]
    error: Json | None
    usage: dict[str, float]
    cancel_asked: bool
    stop_asked: bool
    stop_reason: str | None
    last_event: int

    @property
    def is_finished(self) -> bool:
        """Whether the job is at its end."""
        return self.status in TERMINAL_STATUSES

    @classmethod
    def from_hash(cls, job_id: str, stored: Mapping[str, str]) -> Self:
        """The job whose hash is `stored`."""
        return cls(
            id=job_id,
            tenant=stored["tenant"],
            model=stored["model"],
            priority=cast(Priority, stored["priority"]),
            cost=float(stored["cost"]),
            status=cast(Status, stored["status"]),
            request=json.loads(stored["request"]),
            params=json.loads(stored["params"]),
            metadata=json.loads(stored["metadata"]),
            parent=json_or_none(stored.get("parent")),
            webhook=json_or_none(stored.get("webhook")),
            created_ms=int(stored["created"]),
            started_ms=_int_or_none(stored.get("started")),
            finished_ms=_int_or_none(stored.get("finished")),
            deadline_at_ms=_int_or_none(stored.get("deadline")),
            attempt=int(stored.get("attempt", 0)),
            trajectories=[json_or_none(stored.get(f"t:{i}")) for i in range(int(stored["n"]))],
            images={name[2:]: json.loads(value) for name, value in stored.items() if name.startswith("i:")},
            error=json_or_none(stored.get("error")),
            usage=_usage(stored),
            cancel_asked="cancel" in stored,
            stop_asked="stop" in stored,
            stop_reason=stored.get("stop_reason"),
            last_event=int(stored.get("last_event", 0)),
        )


@dataclass(frozen=True)
class Lease:
    """A job in a worker's hands until its deadline, renewed while it works.

    `alone`: it must be the only one its worker holds until its next checkpoint; `checkpoint` is the number of its last.
    """

    id: str
    token: int
    attempt: int
    alone: bool
    checkpoint: int
    job: StoredJob

    @property
    def named(self) -> Json:
        """What every log line about it says."""
        return {"job_id": self.id, "request_id": self.job.request.get("request_id"), **trace_id_of(self.job.request)}

    @property
    def resumed(self) -> bool:
        """Whether another attempt was made before."""
        return self.attempt > 1


def dumps(value: object) -> str:
    """Compact ASCII JSON: scripts look for `"stop_reason":null` in it, and lone surrogates survive it."""
    return json.dumps(value, separators=(",", ":"))


def new_job_id() -> str:
    """A job's id: 128 random bits."""
    return f"job_{secrets.token_hex(16)}"


def rfc3339(at_ms: float) -> str:
    """A time in ms since 1970 as the API writes it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def picture(image_id: str, record: Mapping[str, Any]) -> Json:
    """An image's public form, as it stands in events and in jobs; the link is bare."""
    shown = {name: record[name] for name in ("width", "height", "format", "sha256")}
    return {"id": image_id, "url": f"/images/{image_id}", **shown}


def _usage(stored: Mapping[str, str]) -> dict[str, float]:
    spent = {name: float(stored.get(f"u:{name}", 0)) for name in USAGE_FIELDS}
    return {name: value if name == "compute_s" else int(value) for name, value in spent.items()}


def _int_or_none(text: str | None) -> int | None:
    return int(text) if text else None


def json_or_none(text: str | None) -> Any:
    """What a JSON text says, None for no text."""
    return json.loads(text) if text else None
