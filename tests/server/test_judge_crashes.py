"""Judged jobs whose worker is killed, or whose end is asked for, in the midst of a round's candidates: none is lost,
none is told twice, and each job ends once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r3core.judge import Counts
from r3core.types import Request
from server.embedded import EmbeddedServer
from server.job_view import job_json
from server.queue import Queue, StoredJob
from server.queue_records import TERMINAL_EVENTS, QueuePolicy
from tests.server.processes import StartWorker, WorkerProcess, worker_processes
from tests.server.working import ASKED, FOR_EVER, ended, new_job, read, until, until_event

DYING = "tests.server.dying_worker"
JUDGED = replace(
    ASKED,
    prompt="a cat edits=9 best=1 scores=352",
    max_rounds=2,
    scorers=("lift", "vqa"),
    candidates=Counts(3, 2),
    choose="best",
    on_regression="backtrack",
)
PICTURES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.fixture
async def queue(own_server: EmbeddedServer) -> AsyncIterator[Queue]:
    """The queue, which takes a job from a lost worker soon."""
    one = Queue(own_server.url, QueuePolicy(lease_s=1.0))
    yield one
    await one.close()


@pytest.fixture
def start(own_server: EmbeddedServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes, by default such as draw in no time."""
    with worker_processes(own_server.url, tmp_path) as start:
        yield lambda **settings: start(**{"fake_step_s": 0.0, "lease_s": 1.0, "renew_s": 0.1, **settings})


async def submitted(queue: Queue, asked: Request = JUDGED, **fields: Any) -> str:
    new = new_job(asked, **fields)
    await queue.submit(new)
    return new.id


async def there(queue: Queue, worker: WorkerProcess) -> WorkerProcess:
    """The worker, once it is heard from: from then on a deadline leaves it time enough."""

    async def heard() -> bool:
        return bool(await queue.workers())

    await until(heard)
    return worker


async def dead(worker: WorkerProcess, timeout_s: float = 20) -> None:
    """Waits until the worker has killed itself."""

    async def gone() -> bool:
        return not worker.is_running()

    await until(gone, timeout_s)
    assert worker.process.returncode == -9, worker.log.read_text()[-2000:]


async def announced(queue: Queue, job_id: str) -> list[dict[str, Any]]:
    return [event.data for event in await queue.events(job_id) if event.name == "image"]


def drawn(job: StoredJob) -> dict[tuple[int, int], str]:
    """The hash of each picture of the one trajectory, by round and candidate."""
    [trajectory] = job_json(job)["trajectories"]
    return {
        (round_["index"], number): one["image"]["sha256"]
        for round_ in trajectory["rounds"]
        for number, one in enumerate(round_["candidates"] or [round_])
    }


def outcome(job: StoredJob) -> Any:
    """What a run comes to, but for names, texts and times."""
    [trajectory] = job_json(job)["trajectories"]
    rounds = [
        (round_["chosen"], round_["from_round"], round_["scores"], round_["instruction"])
        for round_ in trajectory["rounds"]
    ]
    spent = {name: value for name, value in job.usage.items() if name != "compute_s"}
    return job.status, trajectory["stop_reason"], trajectory["image"]["sha256"], rounds, spent, drawn(job)


async def ends_once(queue: Queue, job_id: str) -> None:
    """The log is whole and has one terminal event, its last."""
    events = await queue.events(job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.name in TERMINAL_EVENTS for event in events].index(True) == len(events) - 1


@pytest.mark.parametrize(
    ("die_at", "workers"),
    # Each worker keeps one more picture than the last: every place where one can be lost, in one job.
    [("image 1 after", 7), ("image 2 before", 6)],
)
async def test_a_job_whose_workers_are_killed_at_every_picture_comes_to_what_it_would_have(
    queue: Queue, start: StartWorker, monkeypatch: pytest.MonkeyPatch, die_at: str, workers: int
) -> None:
    start_plain = start()
    whole = await ended(queue, await submitted(queue))
    start_plain.kill()
    assert sorted(drawn(whole)) == PICTURES
    job_id = await submitted(queue)
    monkeypatch.setenv("DIE_AT", die_at)
    for made in range(1, workers + 1):
        await dead(start(program=DYING))
        assert len(await announced(queue, job_id)) == made
    monkeypatch.delenv("DIE_AT")
    start()
    job = await ended(queue, job_id)
    assert outcome(job) == outcome(whole)
    told = [(data["round"], data["candidate"]) for data in await announced(queue, job_id)]
    assert told == PICTURES, "each is told once, in order"
    assert {data["image"]["id"] for data in await announced(queue, job_id)} == set(job.images)
    assert job.attempt == workers + 1
    await ends_once(queue, job_id)


async def test_scores_that_were_not_stored_are_said_again_and_are_the_same(
    queue: Queue, start: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE_AT", "score 4 after")
    job_id = await submitted(queue)
    await dead(start(program=DYING))
    monkeypatch.delenv("DIE_AT")
    start()
    job = await ended(queue, job_id)
    scores = [event.data for event in await queue.events(job_id) if event.name == "score"]
    by_place: dict[Any, list[Any]] = {}
    for said in scores:
        by_place.setdefault((said["round"], said["candidate"], said["scorer"]), []).append(said["value"])
    assert [len(values) for values in by_place.values()] == [2] * 4 + [1] * 10
    assert all(len(set(values)) == 1 for values in by_place.values())
    assert sorted(drawn(job)) == PICTURES
    await ends_once(queue, job_id)


@pytest.mark.parametrize("end", ["stopped", "deadline", "cancelled"])
async def test_a_job_that_nobody_holds_ends_with_the_candidates_that_it_has(
    queue: Queue, start: StartWorker, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Its worker was killed after two of three candidates; nobody is there but the API, which sweeps."""
    monkeypatch.setenv("DIE_AT", "image 2 after")
    worker = await there(queue, start(program=DYING))
    deadline = int((time.time() + 3) * 1000) if end == "deadline" else None
    job_id = await submitted(queue, deadline_at_ms=deadline)
    await dead(worker)
    if end == "stopped":
        assert await queue.stop(job_id) == "accepted"
    elif end == "cancelled":
        assert await queue.cancel(job_id) == "accepted"

    async def over() -> bool:
        await queue.sweep()
        return (await read(queue, job_id)).is_finished

    await until(over)
    job = await read(queue, job_id)
    assert sorted(drawn(job)) == [(0, 0), (0, 1)]
    await ends_once(queue, job_id)
    if end == "cancelled":
        assert job.status == "cancelled"
        return
    [trajectory] = job_json(job)["trajectories"]
    assert (job.status, trajectory["stop_reason"]) == ("succeeded", end)
    first = (await announced(queue, job_id))[0]["image"]
    assert trajectory["image"] == first, "of what is not scored the first stands"
    done = [event.data for event in await queue.events(job_id) if event.name == "trajectory.done"]
    assert [data["image"] for data in done] == [first]
    spent = job_json(job)["usage"]
    assert (spent["images"], spent["discarded_images"]) == (2, 1)
    assert spent["discarded_forwards"] * 2 == spent["forwards"]


async def test_a_job_that_nobody_holds_ends_with_its_best_picture(
    queue: Queue, start: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 scored best; the worker is killed with half of round 2, which is not scored."""
    monkeypatch.setenv("DIE_AT", "image 6 after")
    job_id = await submitted(queue)
    await dead(start(program=DYING))
    assert await queue.stop(job_id) == "accepted"

    async def over() -> bool:
        await queue.sweep()
        return (await read(queue, job_id)).is_finished

    await until(over)
    job = await read(queue, job_id)
    [trajectory] = job_json(job)["trajectories"]
    assert [len(round_["candidates"]) for round_ in trajectory["rounds"]] == [3, 2, 1]
    assert trajectory["image"] == trajectory["rounds"][1]["image"]
    done = [event.data for event in await queue.events(job_id) if event.name == "trajectory.done"]
    assert [data["image"] for data in done] == [trajectory["image"]]
    # Made from round 1's best, which was made from round 0's: four of six were for nothing.
    assert (job.usage["images"], job.usage["discarded_images"]) == (6, 4)


@pytest.mark.parametrize("end", ["stopped", "deadline", "cancelled"])
async def test_the_end_of_a_job_in_the_midst_of_candidates_that_are_being_drawn(
    queue: Queue, start: StartWorker, end: str
) -> None:
    await there(queue, start(fake_step_s=0.01))
    deadline = int((time.time() + 3) * 1000) if end == "deadline" else None
    job_id = await submitted(queue, replace(JUDGED, refine=FOR_EVER), deadline_at_ms=deadline)
    await until_event(queue, job_id, "reflect.done")
    if end == "stopped":
        assert await queue.stop(job_id) == "accepted"
    elif end == "cancelled":
        assert await queue.cancel(job_id) == "accepted"
    job = await ended(queue, job_id)
    await ends_once(queue, job_id)
    [trajectory] = job_json(job)["trajectories"]
    assert sorted(drawn(job)) == [(0, 0), (0, 1), (0, 2)]
    if end == "cancelled":
        assert job.status == "cancelled"
    else:
        assert (job.status, trajectory["stop_reason"]) == ("succeeded", end)
        assert trajectory["image"] == trajectory["rounds"][0]["candidates"][1]["image"], "the best is known by then"
        assert (job.usage["images"], job.usage["discarded_images"]) == (3, 2)


async def test_a_worker_that_leaves_gives_back_a_job_with_all_candidates_that_it_drew(
    queue: Queue, start: StartWorker
) -> None:
    leaving = start(fake_step_s=0.05, drain_s=10)
    job_id = await submitted(queue)
    await until_event(queue, job_id, "reason.done")
    leaving.process.terminate()
    assert leaving.process.wait(20) == 0
    assert len(await announced(queue, job_id)) == 3
    start()
    job = await ended(queue, job_id)
    assert [(data["round"], data["candidate"]) for data in await announced(queue, job_id)] == PICTURES
    assert job.attempt == 2
    await ends_once(queue, job_id)
