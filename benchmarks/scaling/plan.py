"""What is offered to whom: the simulated device and its job, the tenants, and the points that are measured. No I/O.

The device takes as long as an H200 would for R3 at 512x512 (docs/scaling.md says where that comes from): a token
2.95 ms whatever the batch, a guidance branch of a denoising step 18.6 ms. A whole loop of three texts, a picture and
two refinements then takes 8 s of the device. Nothing is computed: the device sleeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from r3core.engine.batch import Part
from r3core.fake import Pace
from r3core.schedule import branches_per_step
from r3core.types import GENERATE_DEFAULTS, REFINE_DEFAULTS

TOKEN_S: Final = 0.00295
BRANCH_S: Final = 0.0186
SIDE: Final = 512
WORDS: Final = 160
TOKENS_A_TEXT: Final = WORDS + 5  # what FakeRunner says beside the words, about
EDITS: Final = (1, 2)  # half of the jobs are satisfied after one refinement, half run to the limit of two
FULL_MINUTES: Final = 5.0
WARM_UP_S: Final = 30.0
QUEUED_FACTOR: Final = 2.0  # a tenant offers this many times the places that are its share: as many wait as run
QUEUED_AT_LEAST: Final = 4
CROWD: Final = 8


@dataclass(frozen=True)
class Tenant:
    """Who offers jobs. `floods`: so many times what the others with its weight offer. With `share` it offers that part
    of what the devices can do, steadily, and no more; the others offer all they can.
    """

    name: str
    weight: float
    floods: float = 1.0
    share: float | None = None


TENANTS: Final = (
    Tenant("gold", 4.0),
    Tenant("silver", 2.0),
    Tenant("flood", 1.0, floods=7.0),
    Tenant("modest", 1.0, share=0.05),
)


@dataclass(frozen=True)
class Point:
    """One measurement. With `backlog` that many jobs are put there at once and worked off, however long it takes."""

    workers: int
    minutes: float = FULL_MINUTES
    backlog: int = 0
    speedup: float = 1.0
    places: int = 1
    apis: int = 2
    per_process: int = 16
    follow: float = 0.8

    @property
    def name(self) -> str:
        """What the results call it."""
        workers = f"{self.workers}" if self.places == 1 else f"{self.workers}x{self.places}"
        return f"backlog-{self.backlog}-{workers}" if self.backlog else f"workers-{workers}"

    @property
    def is_trial(self) -> bool:
        """Whether it is too short, or too fast, to be used for a conclusion."""
        return self.speedup != 1.0 or (not self.backlog and self.minutes < FULL_MINUTES)

    @property
    def warm_up_s(self) -> float:
        """What passes before anything counts: the first jobs are to be gone, the others to have drifted apart."""
        twice_a_job_s = 2 * self.places * mean_job_s()
        return 0.0 if self.backlog else max(WARM_UP_S, twice_a_job_s) / self.speedup

    @property
    def capacity_jobs_per_s(self) -> float:
        """What the devices could do if they had one job at a time and never waited."""
        return self.workers * self.speedup / mean_job_s()

    @property
    def limit_s(self) -> float:
        """After so long a backlog is given up."""
        return 60 + 2 * self.backlog / self.capacity_jobs_per_s

    def outstanding(self, tenant: Tenant) -> int:
        """How many of its jobs a tenant that offers all it can keeps waiting or running."""
        shares = sum(one.weight for one in TENANTS if one.share is None)
        fair = self.workers * self.places * tenant.weight / shares
        return QUEUED_AT_LEAST + round(QUEUED_FACTOR * fair * tenant.floods)

    def first_jobs(self) -> list[Tenant]:
        """Whose jobs are offered at the start, in the order in which they are due."""
        greedy = [tenant for tenant in TENANTS if tenant.share is None]
        due = [((number + 1) / one.weight, one) for one in greedy for number in range(self.outstanding(one))]
        return [tenant for _, tenant in sorted(due, key=lambda pair: pair[0])]

    def rate(self, tenant: Tenant) -> float:
        """Jobs a second that a tenant offers which keeps to a part of what the devices can do."""
        return (tenant.share or 0.0) * self.capacity_jobs_per_s

    def to_json(self) -> dict[str, Any]:
        """What the results say of it."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """Which points are measured: one for each of `workers`, and two others unless they are 0."""

    workers: Sequence[int] = (1, 4, 16, 64)
    crowded: int = 4
    """Workers of the point at which each has as many jobs at a time as R3_MAX_TRAJECTORIES allows."""
    backlog: int = 10_000
    backlog_workers: int = 64
    backlog_follow: float = 0.25
    """Each waiting stream is told its place once a second: were all of a backlog followed, two cores would do little
    else.
    """

    def points(self, common: Point) -> list[Point]:
        """They, in their order; what else holds for all of them is as in `common`."""
        found = [replace(common, workers=count) for count in self.workers]
        if self.crowded:
            found.append(replace(common, workers=self.crowded, places=CROWD))
        if self.backlog:
            workers, follow = self.backlog_workers, self.backlog_follow
            found.append(replace(common, workers=workers, backlog=self.backlog, follow=follow))
        return found


def pace(speedup: float) -> Pace:
    """How long a forward takes on the simulated device."""

    def seconds(part: Part, _size: int, branches: int) -> float:
        return (TOKEN_S if part == "text" else BRANCH_S * branches) / speedup

    return seconds


def job_s(edits: int) -> float:
    """What the device needs for one job alone: a text, a picture, then a reflection and a refinement an edit.

    A job that reaches the limit of its rounds does not reflect on its last picture.
    """
    texts = 1 + min(edits + 1, max(EDITS))
    drawn = sum(branches_per_step(GENERATE_DEFAULTS, edit=False)) * BRANCH_S
    refined = sum(branches_per_step(REFINE_DEFAULTS, edit=True)) * BRANCH_S
    return texts * TOKENS_A_TEXT * TOKEN_S + drawn + edits * refined


def mean_job_s() -> float:
    """The same over all jobs."""
    return sum(job_s(edits) for edits in EDITS) / len(EDITS)


def edits_of(number: int) -> int:
    """How many refinements job `number` needs; which API process takes it goes by the number itself."""
    return EDITS[number // 2 % len(EDITS)]


def owner_of(number: int) -> Tenant:
    """Whose job `number` of a backlog is: every tenant has as many, of either kind, at each API process."""
    return TENANTS[number // 4 % len(TENANTS)]


def body(number: int) -> dict[str, Any]:
    """The request of job `number`."""
    edits = edits_of(number)
    prompt = f"job {number}: three red apples on a wooden table edits={edits} words={WORDS}"
    size = f"{SIDE}x{SIDE}"
    return {"prompt": prompt, "size": size, "seed": number, "max_rounds": max(EDITS), "metadata": {"n": str(number)}}


def is_followed(number: int, follow: float) -> bool:
    """Whether the client of job `number` follows its stream; the others ask now and then."""
    return (number * 0.6180339887) % 1.0 < follow
