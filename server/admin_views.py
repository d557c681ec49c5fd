"""What operators ask and are answered: queries, bodies and answers of routes/admin.py."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.job_view import job_json
from server.queue import StoredJob
from server.queue_records import rfc3339
from server.schemas import JobStatus
from server.views import JobView, Time, View

Json = dict[str, Any]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
POISONED: Final = "poisoned"


class OperatorJobsQuery(BaseModel):
    """Which of everyone's jobs to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str | None = Field(None, max_length=128, description="Only this tenant's; everyone's unless given.")
    status: JobStatus | Literal["poisoned"] | None = Field(
        None, description="Only jobs of this status; poisoned: those that were given up in the last 7 days."
    )
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=512, description="next_cursor of the page before.")


class PauseCreate(BaseModel):
    """What to pause or to resume."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: ModelName | None = Field(None, description="One model's queue; every model's unless given.")


class ForgetCreate(BaseModel):
    """What to forget."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: ModelName = Field(description="A model that no worker serves any more.")


class OperatorJobView(JobView):
    """A job as an operator sees it."""

    tenant: str
    priority: Literal["high", "normal", "low"]
    cost: float = Field(description="At most, in 512 px pictures of 49 steps.")


class OperatorJobList(View):
    """A page of everyone's jobs, newest first."""

    jobs: list[OperatorJobView]
    next_cursor: str | None


class ModelQueueView(View):
    """One model's queue."""

    model: str
    waiting: int
    running: int
    cost: float = Field(description="Of what waits, in 512 px pictures of 49 steps.")
    oldest_s: float = Field(description="Age of the job that waits longest.")
    seconds_left: float | None = Field(description="Until all that waits is worked off; null where no rate is known.")
    workers: int
    paused: bool


class WorkerView(View):
    """A worker that is heard from."""

    id: str
    model: str
    version: str
    holding: int = Field(description="Jobs.")
    room: int = Field(description="More trajectories that it would take.")
    draining: bool
    age_s: float = Field(description="Since it was last heard from.")
    started_at: Time | None


class QueueView(View):
    """How the queues are."""

    models: list[ModelQueueView]
    workers: list[WorkerView]
    waiting: int
    running: int
    cost: float
    oldest_s: float
    reclaimed: int = Field(description="Leases taken back from lost workers, ever.")
    poisoned: int = Field(description="Jobs given up, ever.")
    all_paused: bool = Field(description="Whether every model is paused, also those to come.")


def operator_job_json(job: StoredJob, position: tuple[int | None, float | None] = (None, None)) -> Json:
    """An OperatorJobView."""
    return {**job_json(job, position), "tenant": job.tenant, "priority": job.priority, "cost": job.cost}


def queue_json(depth: Json, workers: list[Json]) -> Json:
    """A QueueView, of what the queue and the workers say of themselves."""
    return {
        "models": [_model_json(name, numbers, workers) for name, numbers in sorted(depth["models"].items())],
        "workers": [_worker_json(worker) for worker in workers],
        **{name: depth[name] for name in ("waiting", "running", "cost", "oldest_s", "reclaimed", "poisoned")},
        "all_paused": bool(depth["all_paused"]),
    }


def _model_json(name: str, numbers: Json, workers: list[Json]) -> Json:
    return {
        "model": name,
        **{key: numbers[key] for key in ("waiting", "running", "cost", "oldest_s")},
        "seconds_left": numbers.get("seconds_left"),
        "workers": sum(worker.get("model") == name for worker in workers),
        "paused": bool(numbers["paused"]),
    }


def _worker_json(worker: Json) -> Json:
    started_s = worker.get("started_at_s")
    return {
        "id": worker["id"],
        "model": worker.get("model", ""),
        "version": worker.get("version", ""),
        "holding": worker.get("holding", 0),
        "room": worker.get("room", 0),
        "draining": bool(worker.get("draining")),
        "age_s": worker["age_s"],
        "started_at": None if started_s is None else rfc3339(started_s * 1000),
    }
