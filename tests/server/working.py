"""A worker in a thread of the test's process, the jobs that it is given, and waiting for what comes of them."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import numpy as np

from r3core.engine.engine import Engine, new_image_id
from r3core.fake import FakeRunner
from r3core.types import ImageSampling, Request
from r3core.versions import STORED_VERSION
from server.cost import job_cost
from server.encoding import PictureTexts, png
from server.engines import FAKE
from server.images import ImageStore
from server.inbox import Inbox
from server.queue import Event, NewJob, Queue, QueueUnavailable, StoredJob
from server.queue_records import TERMINAL_EVENTS, QueuePolicy, new_job_id
from server.queue_worker import WorkerQueue
from server.settings import Settings
from server.traces import OFF, Traces
from server.worker import Worker
from server.worker_health import Vitals

FEW_STEPS = ImageSampling(num_timesteps=5)
FOR_EVER = ImageSampling(num_timesteps=100_000)  # a picture that is still being drawn when the test ends
LONG = ImageSampling(num_timesteps=200)  # seconds of a slow worker's time, nothing of a fast one's
ASKED = Request("a cat edits=2", width=64, height=48, seed=7, generate=FEW_STEPS, refine=FEW_STEPS)


class RunningWorker:
    """A worker in a thread of this process, so that a test can look inside; left when the test ends."""

    def __init__(self, settings: Settings, runner: FakeRunner, traces: Traces = OFF) -> None:
        assert settings.redis_url is not None
        self.vitals = Vitals(is_loaded=True, traces=traces, hung_after_s=math.inf)  # or it would end this process
        self.inbox, self.runner = Inbox(), runner
        self.work = WorkerQueue(settings.redis_url, f"worker-{id(self)}", QueuePolicy.from_settings(settings))
        engine = Engine(runner, settings.max_trajectories)
        self.worker = Worker(settings, engine, FAKE, self.work, self.inbox, self.vitals)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.code = self.worker.run()

    def leave(self, times: int = 1) -> int | None:
        """Ask it to leave; its exit code, None where it does not end."""
        for _ in range(times):
            self.inbox.leave()
        self._thread.join(20)
        self.work.close()
        return self.code


Start = Callable[..., RunningWorker]


def new_job(asked: Request = ASKED, **fields: Any) -> NewJob:
    """A job for the fake model; `extra` goes into what the worker is given."""
    extra = fields.pop("extra", {})
    stored = {"version": STORED_VERSION, "request": asdict(asked)}
    body = {**stored, "start_image": None, "output_format": "png", "output_compression": None, **extra}
    return NewJob(new_job_id(), "local", FAKE.name, body, {}, job_cost(asked), **fields)


async def with_a_picture(
    queue: Queue, store: ImageStore, pixels: np.ndarray[Any, Any], asked: Request
) -> tuple[NewJob, str]:
    """A job, not yet submitted, that starts from a stored picture, and that picture's id."""
    new, image_id = new_job(asked), new_image_id()
    digest = store.put("local", new.id, png(pixels, PictureTexts("", 0, 0)))
    height, width, _ = pixels.shape
    place = {"tenant": "local", "job": new.id, "trajectory": None, "round": 0, "preview": False}
    record = {**place, "width": width, "height": height, "format": "png", "sha256": digest, "master_sha256": digest}
    await queue.register_image(image_id, record, ttl_s=60)
    return replace(new, request={**new.request, "start_image": image_id}), image_id


async def run(queue: Queue, asked: Request = ASKED, **fields: Any) -> tuple[StoredJob, list[Event]]:
    """A job that was run to its end, and all that was said of it, live events included."""
    new = new_job(asked, **fields)
    events: list[Event] = []
    feed = queue.follow()
    await anext(feed)
    await queue.submit(new)
    async with asyncio.timeout(20):
        async for live in feed:
            if live.job_id == new.id and live.event is not None:
                events.append(live.event)
                if live.event.name in TERMINAL_EVENTS:
                    break
    await feed.aclose()
    job = await read(queue, new.id)
    return job, events


async def until_event(queue: Queue, job_id: str, name: str, count: int = 1) -> None:
    """Waits until that many events of that name are in the log."""

    async def there() -> bool:
        return sum(event.name == name for event in await queue.events(job_id)) >= count

    await until(there)


async def ended(queue: Queue, job_id: str, timeout_s: float = 20) -> StoredJob:
    """The job, once it is at its end."""

    async def over() -> bool:
        return (await read(queue, job_id)).is_finished

    await until(over, timeout_s)
    return await read(queue, job_id)


async def read(queue: Queue, job_id: str) -> StoredJob:
    """The job as it stands, which must be there."""
    job = await queue.job(job_id)
    assert job is not None
    return job


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    """Waits until the condition holds; while Redis is away, or this machine too busy to ask it, it does not."""
    async with asyncio.timeout(timeout_s):
        while not await _holds(condition):  # noqa: ASYNC110 - what is waited for lies in Redis
            await asyncio.sleep(0.01)


async def _holds(condition: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await condition()
    except QueueUnavailable:
        return False


def outline(events: list[Event]) -> list[str]:
    """The names in order, repeated deltas and progress once."""
    return [name for name, _ in groupby(event.name for event in events)]


async def whole(queue: Queue, job: StoredJob, attempts: int) -> None:
    """The log has no gap, every picture is announced once, and texts are made again only after a new start."""
    events = await queue.events(job.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    names = [event.name for event in events]
    assert names.count("job.started") == attempts
    assert [event.data["round"] for event in events if event.name == "image"] == [0, 1, 2]
    assert len(set(job.images)) == 3
    assert names.count("trajectory.done") == 1
    assert names[-1] == "job.succeeded"


async def between_two(
    queue: Queue, prompt: str, good: Sequence[Request] = (ASKED, ASKED)
) -> tuple[NewJob, list[NewJob]]:
    """A job with this prompt, submitted between two good ones, and those."""
    bad, beside = new_job(replace(ASKED, prompt=prompt)), [new_job(asked) for asked in good]
    for new in (beside[0], bad, beside[1]):
        await queue.submit(new)
    return bad, beside


async def given_up(queue: Queue, poison: NewJob, beside: Sequence[NewJob]) -> None:
    """The one ends as poison after three attempts, and those beside it succeed."""
    job = await ended(queue, poison.id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", "poison_job", 3)
    for new in beside:
        await whole(queue, done := await ended(queue, new.id), attempts=done.attempt)
