"""What the scripts and the answers make of a judged trajectory is what r3core makes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from r3core.engine.engine import Engine
from r3core.events import ImageReady
from r3core.fake import FakeRunner
from r3core.judge import SCORERS, Counts
from r3core.loop import ended
from r3core.types import ImageSampling, Request, Trajectory
from r3core.versions import STORED_VERSION
from server.job_view import image_ids, job_json, trajectory_json, with_token
from server.queue import Queue
from server.queue_records import JUDGED_USAGE, Checkpoint, Json
from server.queue_worker import WorkerQueue
from tests.core.walking import alone, plain_picture
from tests.server.jobs import MODEL, leased, record, stored, submitted
from tests.server.test_worker_parts import STORED

FEW = ImageSampling(num_timesteps=2)


def judged(number: int) -> Request:
    """One of many requests that search, each another way."""
    draw = random.Random(number)
    scores = "".join(str(draw.randint(0, 9)) for _ in range(5))
    return Request(
        f"a cat edits=9 malformed={draw.randint(0, 4)}" + (f" scores={scores}" if draw.random() < 0.8 else ""),
        64,
        64,
        seed=number,
        max_rounds=4,
        given_image=draw.random() < 0.3,
        generate=FEW,
        refine=FEW,
        scorers=tuple(draw.sample(SCORERS, draw.randint(1, 4))),
        choose=draw.choice(["last", "best", "best"]),
        on_regression=draw.choice(["keep", "backtrack"]),
        candidates=Counts(draw.randint(1, 4), draw.randint(1, 3)),
        max_images=draw.choice([None, None, 6]),
    )


def kept(asked: Request) -> list[Trajectory]:
    """What is stored while the request is run: the trajectory at each of its pictures."""
    given = (plain_picture(),) if asked.given_image else ()
    events = alone(Engine(FakeRunner()), asked, given).events
    return [replace(event.trajectory, stop_reason=None) for event in events if isinstance(event, ImageReady)]


def some() -> Iterator[tuple[int, Trajectory]]:
    for number in range(30):
        prefixes = kept(judged(number))
        yield number, random.Random(number).choice(prefixes)
        yield number, prefixes[-1]


async def lost(queue: Queue, worker: WorkerQueue, trajectory: Trajectory) -> str:
    """A job that waits again, of which a worker has stored so much."""
    asked = {"version": STORED_VERSION, "request": asdict(trajectory.request)}
    job_id = await submitted(queue, request={**asked, "start_image": None, "output_format": "png"})
    lease = leased(worker)
    pictures = [(r.index, picture.image.id) for r in trajectory.rounds for picture in r.pictures]
    images = {name: record(job_id, 0, index) for index, name in pictures}
    spent = {name: getattr(trajectory.usage, name) for name in JUDGED_USAGE}
    assert worker.checkpoint(job_id, lease.token, Checkpoint(1, 0, trajectory.to_json(), (), images, spent)) == "ok"
    assert worker.release(job_id, lease.token) == "ok"
    return job_id


async def test_a_judged_job_that_waits_is_stopped_with_what_a_worker_would_have_stopped_it_with(
    queue: Queue, worker: WorkerQueue
) -> None:
    for number, trajectory in some():
        expected = ended(trajectory, "stopped")
        assert expected.result is not None
        job_id = await lost(queue, worker, trajectory)
        assert await queue.stop(job_id) == "accepted"
        job = await stored(queue, job_id)
        shown = job_json(job)
        [done] = [event.data for event in await queue.events(job_id) if event.name == "trajectory.done"]
        assert done["image"]["id"] == shown["trajectories"][0]["image"]["id"] == expected.result.image.id, number
        told = {name: shown["usage"][name] for name in JUDGED_USAGE}
        assert told == {name: getattr(expected.usage, name) for name in JUDGED_USAGE}, number


async def test_links_to_every_candidate_carry_the_token_and_all_are_known_to_be_the_jobs(
    queue: Queue, worker: WorkerQueue
) -> None:
    trajectory = kept(replace(judged(1), candidates=Counts(3, 2), given_image=False))[-1]
    job = await stored(queue, await lost(queue, worker, trajectory))
    shown = with_token(job_json(job), "t0ken")
    rounds = shown["trajectories"][0]["rounds"]
    urls = [one["image"]["url"] for round_ in rounds for one in round_["candidates"]]
    assert len(urls) > 3
    assert all(url.endswith("?token=t0ken") for url in urls)
    assert image_ids(shown) == set(job.images)


@pytest.mark.parametrize("version", [1, 2])
def test_a_trajectory_that_was_stored_before_there_were_scores_is_shown_without(version: int) -> None:
    """Of version 2 the one that was not judged; of both what clients have always been told."""
    path = Path(__file__).parents[1] / "core" / "stored" / f"version_{version}.json"
    value: Json = json.loads(path.read_text())
    asked, trajectory = value["request"], value["trajectory"]
    images = {r["image"]["id"]: record("job_1", 1, r["index"]) for r in trajectory["rounds"]}
    plain = replace(STORED, status="succeeded", model=MODEL, request={"request": asked})
    job = replace(plain, trajectories=[None, trajectory], images=images)
    shown = trajectory_json(job, 1)
    assert set(shown) == {"index", "seed", "reasoning", "rounds", "stop_reason", "image"}
    assert {tuple(round_) for round_ in shown["rounds"]} == {
        ("index", "image", "instruction", "reflection", "reflections")
    }
    assert shown["image"]["id"] == trajectory["rounds"][-1]["image"]["id"]
    assert set(job_json(job)["usage"]) == {"text_tokens", "denoise_steps", "forwards", "compute_s"}
