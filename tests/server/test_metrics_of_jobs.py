"""What a worker measures of whole jobs: of one that succeeds, and of ends that are not what the engine thought."""

from __future__ import annotations

from dataclasses import replace

import pytest

from r3core.judge import Counts, ScoreStop
from r3core.types import EarlyStop
from server.images import ImageStore
from server.queue import Queue
from tests.server.test_metrics import value
from tests.server.working import ASKED, Start, ended, new_job, run, until

STOP = ScoreStop("lift", at_least=5.0)


async def test_a_worker_measures_a_whole_job(queue: Queue, start: Start) -> None:
    worker = start(0.002)
    job, _ = await run(queue)
    told = worker.vitals.metrics.exposition

    async def counted() -> bool:
        return value(told, "r3_jobs_total", outcome="succeeded") == 1

    await until(counted)
    assert value(told, "r3_stops_total", reason="satisfied") == 1
    assert value(told, "r3_rounds_sum") == 2
    assert value(told, "r3_images_total", phase="generate") == 1
    assert value(told, "r3_images_total", phase="refine") == 2
    assert value(told, "r3_generation_tokens_total") == job.usage["text_tokens"]
    assert value(told, "r3_denoise_steps_total") == job.usage["denoise_steps"] == 12
    assert value(told, "r3_branch_forwards_total") == job.usage["forwards"]
    for phase, times in {"reason": 1, "generate": 1, "reflect": 3, "refine": 2, "decode": 3, "encode": 3}.items():
        assert value(told, "r3_phase_seconds_count", phase=phase) == times, phase
    for name in ("request_queue_time", "time_to_first_token", "time_to_first_image", "e2e_request_latency"):
        assert value(told, f"r3_{name}_seconds_count") == 1, name
    busy_s = value(told, "r3_engine_step_seconds_sum") or 0
    assert job.usage["compute_s"] == pytest.approx(busy_s, rel=0.2)
    told_of = worker.vitals.metrics.exposition.text().decode()
    assert job.id not in told_of
    assert "cat" not in told_of


async def test_steps_are_counted_however_short_they_are(queue: Queue, start: Start) -> None:
    """Many hundreds in the time between two looks at what is under way."""
    worker = start(0.0)
    many = replace(ASKED.generate, num_timesteps=400)
    job, _ = await run(queue, replace(ASKED, generate=many, refine=many))
    told = worker.vitals.metrics.exposition

    async def counted() -> bool:
        return value(told, "r3_jobs_total", outcome="succeeded") == 1

    await until(counted)
    assert value(told, "r3_denoise_steps_total") == job.usage["denoise_steps"] > 1000
    assert value(told, "r3_trajectories_running") == 0
    assert value(told, "r3_trajectories_room") == worker.worker._engine.room


async def test_a_worker_measures_what_a_search_drew_and_threw_away(queue: Queue, start: Start) -> None:
    worker = start(0.002)
    asked = replace(ASKED, prompt="a cat edits=9 scores=35", scorers=("vqa", "lift"), max_rounds=2)
    job, _ = await run(queue, replace(asked, candidates=Counts(3, 2), early_stop=EarlyStop(score=STOP)))
    told = worker.vitals.metrics.exposition

    async def counted() -> bool:
        return value(told, "r3_jobs_total", outcome="succeeded") == 1

    await until(counted)
    assert value(told, "r3_stops_total", reason="score") == 1
    assert value(told, "r3_images_total", phase="generate") == 3
    assert value(told, "r3_images_total", phase="refine") == 2
    assert value(told, "r3_candidates_total") == 5
    assert value(told, "r3_images_discarded_total") == job.usage["discarded_images"] == 3
    # A fan is drawn by one step, and scored by one.
    for phase, times in {"reason": 1, "generate": 1, "judge": 2, "reflect": 1, "refine": 1, "encode": 5}.items():
        assert value(told, "r3_phase_seconds_count", phase=phase) == times, phase


async def test_a_job_that_fails_is_counted_by_its_code(queue: Queue, start: Start) -> None:
    worker = start()
    new = new_job(replace(ASKED, prompt="a cat raise=refine"))
    await queue.submit(new)
    await ended(queue, new.id)
    told = worker.vitals.metrics.exposition

    async def counted() -> bool:
        return value(told, "r3_jobs_total", outcome="failed") == 1

    await until(counted)
    assert value(told, "r3_failures_total", code="step_failed") == 1


async def test_a_job_that_cannot_be_begun_or_stored_counts_as_failed(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ImageStore, tenant: str, job: str, content: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageStore, "put", full)
    monkeypatch.setattr("server.images.STORE_TRIES", 1)
    told = start().vitals.metrics.exposition
    await run(queue, replace(ASKED, given_image=True), extra={"start_image": "img_gone"})
    await run(queue)

    async def counted() -> bool:
        return value(told, "r3_jobs_total", outcome="failed") == 2

    await until(counted)
    assert value(told, "r3_failures_total", code="storage_failed") == 2
    assert value(told, "r3_jobs_total", outcome="succeeded") == 0


async def test_an_end_that_was_not_written_is_not_counted_as_one(queue: Queue, start: Start) -> None:
    """As where the worker stood still for longer than its lease: another did the job, and counts it."""
    worker = start()
    worker.work.checkpoint = lambda *_: "lost"  # type: ignore[method-assign]
    new = new_job(replace(ASKED, max_rounds=0))
    await queue.submit(new)
    told = worker.vitals.metrics.exposition

    async def counted() -> bool:
        return (value(told, "r3_jobs_total", outcome="lost") or 0) >= 1

    await until(counted)
    assert value(told, "r3_jobs_total", outcome="succeeded") == 0
    assert value(told, "r3_e2e_request_latency_seconds_count") == 0
