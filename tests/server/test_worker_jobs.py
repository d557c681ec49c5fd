"""A worker from job to event: what it says and in which order, how jobs end, and what is stored. A real queue."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from r3core.engine.engine import Engine, new_image_id
from r3core.fake import FakeRunner
from r3core.types import ImageSampling, Request
from server import __version__
from server.embedded import EmbeddedServer
from server.encoding import PictureTexts, pixels_of, png
from server.engines import FAKE
from server.images import ImageStore
from server.inbox import Inbox
from server.queue import Event, NewJob, Queue, StoredJob
from server.queue_records import TERMINAL_EVENTS, QueuePolicy, job_cost, new_job_id
from server.queue_worker import WorkerQueue
from server.settings import Settings
from server.worker import Worker
from server.worker_health import Vitals

FEW_STEPS = ImageSampling(num_timesteps=5)
ASKED = Request("a cat edits=2", width=64, height=48, seed=7, generate=FEW_STEPS, refine=FEW_STEPS)


class RunningWorker:
    """A worker in a thread of this process, so that a test can look inside; left when the test ends."""

    def __init__(self, settings: Settings, runner: FakeRunner) -> None:
        assert settings.redis_url is not None
        self.inbox, self.vitals, self.runner = Inbox(), Vitals(is_loaded=True), runner
        self.work = WorkerQueue(settings.redis_url, f"worker-{id(self)}", QueuePolicy.from_settings(settings))
        engine = Engine(runner, settings.max_trajectories)
        self.worker = Worker(settings, engine, FAKE, self.work, self.inbox, self.vitals)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.code = self.worker.run()

    def leave(self, times: int = 1) -> int | None:
        for _ in range(times):
            self.inbox.leave()
        self._thread.join(20)
        self.work.close()
        return self.code


Start = Callable[..., RunningWorker]


@pytest.fixture
def settings(queue_server: EmbeddedServer, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=queue_server.url, data_dir=tmp_path, lease_s=5.0, renew_s=0.2, drain_s=10.0, max_trajectories=4
    )


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    return ImageStore(settings.image_store_url)


@pytest.fixture
def start(settings: Settings, queue: Queue) -> Iterator[Start]:
    """Starts workers."""
    started: list[RunningWorker] = []

    def begin(step_s: float = 0.0, **changes: Any) -> RunningWorker:
        started.append(RunningWorker(settings.model_copy(update=changes), FakeRunner(step_s=step_s)))
        return started[-1]

    yield begin
    for worker in started:
        worker.leave(times=2)


def new_job(asked: Request = ASKED, **fields: Any) -> NewJob:
    extra = fields.pop("extra", {})
    body = {"request": asdict(asked), "start_image": None, "output_format": "png", "output_compression": None, **extra}
    return NewJob(new_job_id(), "local", FAKE.name, body, {}, job_cost(asked), **fields)


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
    job = await queue.job(job_id)
    assert job is not None
    return job


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - what is waited for lies in Redis
            await asyncio.sleep(0.01)


def outline(events: list[Event]) -> list[str]:
    """The names in order, repeated deltas and progress once."""
    return [name for name, _ in groupby(event.name for event in events)]


ROUND = ["reflect.delta", "reflect.done", "image.progress", "image"]


async def test_a_job_is_told_from_its_place_in_the_queue_to_its_end(queue: Queue, start: Start) -> None:
    start(step_s=0.003)
    job, events = await run(queue)
    expected = ["job.queued", "job.started", "reason.delta", "reason.done", "image.progress", "image"]
    expected += [*ROUND, *ROUND, "reflect.delta", "reflect.done", "trajectory.done", "job.succeeded"]
    told = outline(events)
    # Live progress is told at most ten times a second, so that a fast picture may have none.
    assert [name for name in told if name != "image.progress"] == [n for n in expected if n != "image.progress"]
    assert told[:6] == expected[:6]
    assert (job.status, job.attempt, job.error) == ("succeeded", 1, None)
    logged = [event.data["at"] for event in await queue.events(job.id)]
    assert logged == sorted(logged)


async def test_the_pieces_of_a_text_joined_are_the_text(queue: Queue, start: Start) -> None:
    start(step_s=0.005)
    _, events = await run(queue, replace(ASKED, prompt="a cat edits=1 words=80"))
    said = [event for event in events if event.name in ("reason.delta", "reason.done", "reflect.delta", "reflect.done")]
    pieces = ""
    for event in said:
        if event.name.endswith(".delta"):
            pieces += event.data["text"]
        else:
            assert pieces == event.data["text"]
            pieces = ""
    assert 3 <= sum(event.name == "reason.delta" for event in said) <= 8  # 80 words in about half a second
    last = [event for event in said if event.name == "reflect.done"][-1]
    assert (last.data["verdict"], last.data["instruction"]) == ("satisfied", "No further edit needed.")
    assert last.data["thought"].endswith("Picture 1 is right.")
    assert last.data["round"] == 1


async def test_what_is_stored_is_what_was_told(queue: Queue, start: Start, store: ImageStore) -> None:
    start()
    job, events = await run(queue)
    [trajectory] = job.trajectories
    assert trajectory is not None
    told = [event.data for event in events if event.name == "image"]
    assert [data["round"] for data in told] == [0, 1, 2]
    assert [data["instruction"] for data in told] == [None, "Add thing number 1.", "Add thing number 2."]
    assert [kept["image"]["id"] for kept in trajectory["rounds"]] == [data["image"]["id"] for data in told]
    assert trajectory["stop_reason"] == "satisfied"
    done = next(event.data for event in events if event.name == "trajectory.done")
    assert (done["stop_reason"], done["image"]) == ("satisfied", told[-1]["image"])
    for data in told:
        record = await queue.image(data["image"]["id"])
        assert record is not None
        assert (record["tenant"], record["job"], record["round"]) == ("local", job.id, data["round"])
        assert data["image"]["url"] == f"/images/{data['image']['id']}"
        content = store.get("local", job.id, record["sha256"])
        assert pixels_of(content).shape == (48, 64, 3)
    assert set(job.images) == {data["image"]["id"] for data in told}


async def test_a_png_says_what_it_was_made_from(queue: Queue, start: Start, store: ImageStore) -> None:
    start()
    job, _ = await run(queue, replace(ASKED, prompt="ein Kätzchen edits=1 ✨", n=2))
    for record in job.images.values():
        with PILImage.open(io.BytesIO(store.get("local", job.id, record["master_sha256"]))) as opened:
            assert opened.info["prompt"] == "ein Kätzchen edits=1 ✨"
            assert opened.info["seed"] == str(7 + record["trajectory"])
            assert opened.info["round"] == str(record["round"])
            assert opened.info["Software"] == f"r3-server {__version__}"


@pytest.mark.parametrize("name", ["webp", "jpeg"])
async def test_pictures_are_delivered_as_asked_beside_their_masters(
    queue: Queue, start: Start, store: ImageStore, name: str
) -> None:
    start()
    job, events = await run(queue, extra={"output_format": name, "output_compression": 40})
    for event in events:
        if event.name == "image":
            record = job.images[event.data["image"]["id"]]
            assert event.data["image"]["format"] == record["format"] == name
            assert record["sha256"] != record["master_sha256"]
            with PILImage.open(io.BytesIO(store.get("local", job.id, record["sha256"]))) as sent:
                assert (sent.format, sent.size) == (name.upper(), (64, 48))
            assert pixels_of(store.get("local", job.id, record["master_sha256"])).shape == (48, 64, 3)


async def test_previews_are_small_webps_kept_with_the_events(queue: Queue, start: Start, store: ImageStore) -> None:
    start()
    job, events = await run(queue, replace(ASKED, prompt="a cat edits=0", width=512, height=256, previews=2))
    previews = [event for event in events if event.name == "image.preview"]
    assert [event.data["round"] for event in previews] == [0, 0]
    for event in previews:
        shown = event.data["image"]
        record = await queue.image(shown["id"])
        assert record is not None
        assert record["preview"]
        with PILImage.open(io.BytesIO(store.get("local", job.id, record["sha256"]))) as small:
            assert (small.format, small.size) == ("WEBP", (256, 128))
    assert "image.preview" not in [event.name for event in await queue.events(job.id)]


async def test_usage_adds_up(queue: Queue, start: Start) -> None:
    start(step_s=0.001)
    job, _ = await run(queue, replace(ASKED, n=2))
    sums = dict.fromkeys(("text_tokens", "denoise_steps", "forwards"), 0)
    for trajectory in job.trajectories:
        assert trajectory is not None
        for name in sums:
            sums[name] += trajectory["usage"][name]
    assert {name: job.usage[name] for name in sums} == sums
    assert sums["denoise_steps"] == 2 * 3 * 4
    assert 0 < job.usage["compute_s"] < 10


async def test_several_trajectories_end_each_and_then_the_job(queue: Queue, start: Start) -> None:
    start()
    job, events = await run(queue, replace(ASKED, n=3))
    done = [event.data["trajectory"] for event in events if event.name == "trajectory.done"]
    assert sorted(done) == [0, 1, 2]
    assert events[-1].name == "job.succeeded"
    for index in range(3):
        names = [e.name for e in events if e.data["trajectory"] == index and not e.name.endswith(("delta", "progress"))]
        assert names == ["reason.done", "image", *["reflect.done", "image"] * 2, "reflect.done", "trajectory.done"]
    assert len({kept["rounds"][-1]["image"]["id"] for kept in job.trajectories if kept}) == 3


async def test_a_job_of_more_trajectories_than_the_engine_holds_is_run_piece_by_piece(
    queue: Queue, start: Start
) -> None:
    worker = start(max_trajectories=2)
    job, _ = await run(queue, replace(ASKED, n=4))
    assert job.status == "succeeded"
    assert all(kept is not None and kept["stop_reason"] == "satisfied" for kept in job.trajectories)
    assert max(len({*batch.text, *batch.draw}) for batch in worker.runner.batches) <= 2


async def test_a_given_picture_is_round_zero(queue: Queue, start: Start, store: ImageStore) -> None:
    start()
    pixels = np.full((48, 64, 3), 99, dtype=np.uint8)
    asked = replace(ASKED, given_image=True, think=False, instruction="Make it red.", max_rounds=1)
    new = new_job(asked)
    image_id = new_image_id()
    digest = store.put("local", new.id, png(pixels, PictureTexts("", 0, 0)))
    place = {"tenant": "local", "job": new.id, "trajectory": None, "round": 0, "preview": False}
    record = {**place, "width": 64, "height": 48, "format": "png", "sha256": digest, "master_sha256": digest}
    await queue.register_image(image_id, record, ttl_s=60)
    await queue.submit(replace(new, request={**new.request, "start_image": image_id}))
    job = await ended(queue, new.id)
    names = [event.name for event in await queue.events(job.id)]
    assert names == ["job.queued", "job.started", "image", "image", "trajectory.done", "job.succeeded"]
    first, second = [event.data for event in await queue.events(job.id) if event.name == "image"]
    assert (first["image"]["id"], first["instruction"]) == (image_id, None)
    assert second["instruction"] == "Make it red."
    assert np.array_equal(pixels_of(store.get("local", job.id, job.images[image_id]["master_sha256"])), pixels)


async def test_a_job_whose_given_picture_is_gone_fails_and_others_go_on(queue: Queue, start: Start) -> None:
    start()
    job, _ = await run(queue, replace(ASKED, given_image=True), extra={"start_image": "img_gone"})
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "storage_failed")
    assert (await run(queue))[0].status == "succeeded"


async def test_one_trajectory_that_raises_fails_its_job_and_no_other(queue: Queue, start: Start) -> None:
    start(step_s=0.002)
    bad = new_job(replace(ASKED, prompt="a dog raise=refine", n=2))
    await queue.submit(bad)
    good, _ = await run(queue)
    assert good.status == "succeeded"
    failed = await ended(queue, bad.id)
    assert failed.error is not None
    assert (failed.status, failed.error["code"]) == ("failed", "step_failed")
    assert "refine failed" in failed.error["message"]
    assert [kept is not None and len(kept["rounds"]) for kept in failed.trajectories] == [1, 1]
    names = [event.name for event in await queue.events(bad.id)]
    assert names.count("job.failed") == 1
    assert names[-1] == "job.failed"


async def test_a_prompt_of_too_many_tokens_fails_by_its_code(queue: Queue, start: Start) -> None:
    start()
    job, events = await run(queue, replace(ASKED, prompt="x" * 5000))
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "prompt_too_long")
    assert outline(events) == ["job.queued", "job.started", "job.failed"]


async def test_cancel_ends_a_running_job_within_half_a_second(queue: Queue, start: Start) -> None:
    start(step_s=0.02)
    new = new_job(replace(ASKED, generate=ImageSampling(num_timesteps=200), n=2))
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    began = time.monotonic()
    assert await queue.cancel(new.id) == "accepted"
    job = await ended(queue, new.id)
    assert time.monotonic() - began < 0.5
    assert job.status == "cancelled"
    names = [event.name for event in await queue.events(new.id)]
    assert names[-1] == "job.cancelled"
    assert "trajectory.done" not in names
    assert (await run(queue))[0].status == "succeeded"  # the place is free


async def test_stop_ends_a_job_with_its_newest_pictures(queue: Queue, start: Start) -> None:
    start(step_s=0.01)
    slow = replace(ASKED, refine=ImageSampling(num_timesteps=200))
    new = new_job(slow)
    await queue.submit(new)
    await until_event(queue, new.id, "image")
    assert await queue.stop(new.id) == "accepted"
    job = await ended(queue, new.id)
    [kept] = job.trajectories
    assert kept is not None
    assert (job.status, kept["stop_reason"], len(kept["rounds"])) == ("succeeded", "stopped", 1)
    events = await queue.events(new.id)
    assert [event.name for event in events[-2:]] == ["trajectory.done", "job.succeeded"]
    assert events[-2].data["image"]["id"] == kept["rounds"][0]["image"]["id"]
    assert await queue.stop(new.id) == "accepted"


async def test_a_stopped_trajectory_without_a_picture_ends_without_one(queue: Queue, start: Start) -> None:
    """With room for one, the second trajectory has not begun when the first has its picture."""
    start(step_s=0.01, max_trajectories=1)
    new = new_job(replace(ASKED, n=2, refine=ImageSampling(num_timesteps=200)))
    await queue.submit(new)
    await until_event(queue, new.id, "image")
    assert await queue.stop(new.id) == "accepted"
    job = await ended(queue, new.id)
    assert job.status == "succeeded"
    assert [kept is not None and kept["stop_reason"] for kept in job.trajectories] == ["stopped", "stopped"]
    done = {e.data["trajectory"]: e.data["image"] for e in await queue.events(new.id) if e.name == "trajectory.done"}
    assert done[0] is not None
    assert done[1] is None


async def test_a_deadline_keeps_what_is_finished(queue: Queue, start: Start) -> None:
    start(step_s=0.01)
    asked = replace(ASKED, refine=ImageSampling(num_timesteps=200))
    job, events = await run(queue, asked, deadline_at_ms=int(time.time() * 1000) + 700)
    [kept] = job.trajectories
    assert kept is not None
    assert (job.status, kept["stop_reason"], len(kept["rounds"])) == ("succeeded", "deadline", 1)
    assert outline(events)[-2:] == ["trajectory.done", "job.succeeded"]


async def test_a_deadline_before_the_first_picture_fails_the_job(queue: Queue, start: Start) -> None:
    start(step_s=0.01)
    asked = replace(ASKED, generate=ImageSampling(num_timesteps=200))
    job, events = await run(queue, asked, deadline_at_ms=int(time.time() * 1000) + 400)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "deadline_exceeded")
    assert events[-1].name == "job.failed"


async def test_a_worker_that_leaves_finishes_the_round_in_hand_and_gives_the_rest_back(
    queue: Queue, start: Start
) -> None:
    leaving = start(step_s=0.02)
    new = new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    assert leaving.leave() == 0
    job = await read(queue, new.id)
    [kept] = job.trajectories
    assert kept is not None
    assert (job.status, len(kept["rounds"])) == ("queued", 1)
    start()
    job = await ended(queue, new.id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    await whole(queue, job, attempts=2)


async def test_a_worker_that_must_leave_at_once_gives_back_what_it_holds(queue: Queue, start: Start) -> None:
    leaving = start(step_s=0.02)
    new = new_job(replace(ASKED, generate=ImageSampling(num_timesteps=200)))
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    began = time.monotonic()
    assert leaving.leave(times=2) == 0
    assert time.monotonic() - began < 2
    job = await read(queue, new.id)
    assert (job.status, job.trajectories) == ("queued", [None])
    assert await queue.workers() == []


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


async def test_an_engine_that_fails_gives_its_jobs_back_with_their_strikes(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = start(step_s=0.01)
    new = new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "job.started")

    def lost(_batch: object) -> dict[str, Any]:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(failing.runner, "run", lost)

    async def given_back() -> bool:
        return (await read(queue, new.id)).status == "queued"

    await until(given_back)
    assert failing.leave() == 1
    start()
    assert (await ended(queue, new.id)).attempt == 2


async def test_a_picture_that_cannot_be_stored_fails_its_job_alone(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    put = ImageStore.put
    bad = new_job()

    def full(self: ImageStore, tenant: str, job: str, content: bytes) -> str:
        if job == bad.id:
            raise OSError(28, "No space left on device")
        return put(self, tenant, job, content)

    monkeypatch.setattr(ImageStore, "put", full)
    monkeypatch.setattr("server.publisher.STORE_TRIES", 2)
    await queue.submit(bad)
    good, _ = await run(queue)
    assert good.status == "succeeded"
    job = await ended(queue, bad.id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "storage_failed")


async def test_a_worker_says_that_it_lives_and_what_it_serves(queue: Queue, start: Start) -> None:
    start()

    async def heard() -> bool:
        return bool(await queue.workers())

    await until(heard)
    alive = await queue.workers()
    assert (alive[0]["model"], alive[0]["holding"], alive[0]["room"]) == ("fake", 0, 4)
    assert set(await queue.models()) == {"fake"}
