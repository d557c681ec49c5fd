"""A worker from job to event: what it says and in which order, how jobs end, and what is stored. A real queue."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from server import __version__
from server.encoding import pixels_of
from server.images import ImageStore
from server.queue import Queue
from tests.server.promises import promised
from tests.server.working import (
    ASKED,
    FOR_EVER,
    LONG,
    Start,
    ended,
    new_job,
    outline,
    read,
    run,
    until,
    until_event,
    whole,
    with_a_picture,
)

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
    assert 3 <= sum(event.name == "reason.delta" for event in said) < 80  # 80 words in about half a second
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
    assert job.usage["compute_s"] > 0


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
    new, image_id = await with_a_picture(queue, store, pixels, asked)
    await queue.submit(new)
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


async def test_cancel_ends_a_running_job_at_once(queue: Queue, start: Start) -> None:
    start(step_s=0.02)
    new = new_job(replace(ASKED, generate=FOR_EVER, n=2))
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    with promised(0.5):
        assert await queue.cancel(new.id) == "accepted"
        job = await ended(queue, new.id)
    assert job.status == "cancelled"
    names = [event.name for event in await queue.events(new.id)]
    assert names[-1] == "job.cancelled"
    assert "trajectory.done" not in names
    assert (await run(queue))[0].status == "succeeded"  # the place is free


async def test_stop_ends_a_job_with_its_newest_pictures(queue: Queue, start: Start) -> None:
    start(step_s=0.01)
    new = new_job(replace(ASKED, refine=FOR_EVER))
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
    new = new_job(replace(ASKED, n=2, refine=FOR_EVER))
    await queue.submit(new)
    await until_event(queue, new.id, "image")
    assert await queue.stop(new.id) == "accepted"
    job = await ended(queue, new.id)
    assert job.status == "succeeded"
    assert [kept is not None and kept["stop_reason"] for kept in job.trajectories] == ["stopped", "stopped"]
    done = {e.data["trajectory"]: e.data["image"] for e in await queue.events(new.id) if e.name == "trajectory.done"}
    assert done[0] is not None
    assert done[1] is None


async def test_a_deadline_keeps_what_is_finished(queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start(step_s=0.01)
    new = new_job(replace(ASKED, refine=FOR_EVER), deadline_at_ms=int(time.time() * 1000) + 3600_000)
    await queue.submit(new)
    await until_event(queue, new.id, "image")
    monkeypatch.setattr("server.held.time", an_hour_later)
    job = await ended(queue, new.id)
    [kept] = job.trajectories
    assert kept is not None
    assert (job.status, kept["stop_reason"], len(kept["rounds"])) == ("succeeded", "deadline", 1)
    names = [event.name for event in await queue.events(new.id)]
    assert names[-2:] == ["trajectory.done", "job.succeeded"]


class an_hour_later:  # noqa: N801 - stands for the module
    """The clock that deadlines are read from."""

    @staticmethod
    def time() -> float:
        return time.time() + 3601


async def test_a_deadline_before_the_first_picture_fails_the_job(queue: Queue, start: Start) -> None:
    start(step_s=0.01)
    asked = replace(ASKED, generate=FOR_EVER)
    job, events = await run(queue, asked, deadline_at_ms=int(time.time() * 1000) + 400)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "deadline_exceeded")
    assert events[-1].name == "job.failed"


async def test_a_worker_that_leaves_finishes_the_round_in_hand_and_gives_the_rest_back(
    queue: Queue, start: Start
) -> None:
    leaving = start(step_s=0.02)
    new = new_job(replace(ASKED, generate=LONG))
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
    new = new_job(replace(ASKED, generate=FOR_EVER))
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    with promised(2.0):
        assert leaving.leave(times=2) == 0
    job = await read(queue, new.id)
    assert (job.status, job.trajectories) == ("queued", [None])
    assert await queue.workers() == []


async def test_an_engine_that_fails_gives_its_jobs_back_with_their_strikes(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = start(step_s=0.01)
    new = new_job(replace(ASKED, generate=LONG))
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
    monkeypatch.setattr("server.images.STORE_TRIES", 2)
    await queue.submit(bad)
    good, _ = await run(queue)
    assert good.status == "succeeded"
    job = await ended(queue, bad.id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "storage_failed")


async def test_a_worker_says_that_it_lives_and_what_it_serves(queue: Queue, start: Start) -> None:
    start()

    async def heard() -> bool:
        return bool(await queue.workers()) and bool(await queue.models())  # two writes, and the model's comes second

    await until(heard)
    alive = await queue.workers()
    assert (alive[0]["model"], alive[0]["holding"], alive[0]["room"]) == ("fake", 0, 4)
    assert set(await queue.models()) == {"fake"}
