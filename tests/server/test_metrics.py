"""What API and worker measure: each number is there, means what it says, and no client can make more of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from r3core.engine.batch import MemoryPlan, Took
from r3core.errors import OutOfMemory
from r3core.events import ImageReady, Progress, Reasoned, Reflected, TextDelta
from r3core.loop import ended
from r3core.types import Image, Reflection, Request, Round, Trajectory, Verdict
from server.exposition import Exposition
from server.held import HeldJob, Ready
from server.metrics import Metrics
from server.queue_records import Lease
from server.tally import Tally
from server.worker_metrics import WorkerMetrics
from tests.server.test_worker_parts import LEASE
from tests.server.working import ASKED

WITH_A_PICTURE = Trajectory(ASKED, 0, rounds=(Round(0, Image("img_1", 64, 48)),))


def value(exposition: Exposition, name: str, **labels: str) -> float | None:
    """What one series says; None where there is none such."""
    for family in exposition.families():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def held(lease: Lease, request: Request = ASKED) -> HeldJob:
    ready = Ready(lease, request, ((Trajectory(request, 0), ()),))
    return HeldJob.begun(ready, time.monotonic())


def picture(trajectory: Trajectory, round_: int) -> ImageReady:
    import numpy as np

    image = Image(f"img_{round_}", 64, 48)
    return ImageReady(round_, image, "add" if round_ else None, np.zeros((48, 64, 3), dtype=np.uint8), trajectory)


def lease_of(submitted_s_ago: float, waited_s: float, attempt: int = 1) -> Lease:
    created_ms = int((time.time() - submitted_s_ago) * 1000)
    job = replace(LEASE.job, created_ms=created_ms, started_ms=created_ms + int(waited_s * 1000))
    return replace(LEASE, attempt=attempt, job=job)


# the worker


def test_times_count_from_submission_and_each_is_told_once_a_job() -> None:
    metrics = WorkerMetrics()
    tally, job = Tally(metrics), held(lease_of(submitted_s_ago=9, waited_s=4))
    tally.begun(job)
    tally.added(job, 0)
    for _ in range(3):
        tally.said(job, 0, TextDelta("reason", 0, "a"))
    tally.said(job, 0, Reasoned("a plan"))
    tally.said(job, 0, picture(Trajectory(ASKED), 0))
    tally.said(job, 0, Reflected(0, Reflection("", "", Verdict.EDIT, "add")))
    tally.said(job, 0, picture(Trajectory(ASKED), 1))
    tally.stopped(ended(WITH_A_PICTURE, "satisfied"))
    tally.left(job, "succeeded")
    told = metrics.exposition
    assert value(told, "r3_request_queue_time_seconds_sum") == pytest.approx(4)
    for name in ("time_to_first_token", "time_to_first_image"):
        assert value(told, f"r3_{name}_seconds_count") == 1, name
        assert value(told, f"r3_{name}_seconds_sum") == pytest.approx(9, abs=2), name
    for phase in ("reason", "generate", "reflect", "refine"):
        assert value(told, "r3_phase_seconds_count", phase=phase) == 1, phase
    assert value(told, "r3_images_total", phase="generate") == 1
    assert value(told, "r3_images_total", phase="refine") == 1
    assert value(told, "r3_stops_total", reason="satisfied") == 1
    assert value(told, "r3_request_inference_time_seconds_count") == 1
    assert value(told, "r3_jobs_total", outcome="succeeded") == 0  # its end is not written yet


def test_a_phase_lasts_from_the_end_of_the_one_before() -> None:
    metrics = WorkerMetrics()
    tally, job = Tally(metrics), held(lease_of(0, 0))
    tally.begun(job)
    tally.added(job, 0)
    time.sleep(0.05)
    tally.said(job, 0, Reasoned("a plan"))
    time.sleep(0.1)
    tally.said(job, 0, Progress(0, 1, 4))
    tally.said(job, 0, picture(Trajectory(ASKED), 0))
    assert (value(metrics.exposition, "r3_phase_seconds_sum", phase="reason") or 0) >= 0.05
    assert (value(metrics.exposition, "r3_phase_seconds_sum", phase="generate") or 0) >= 0.1


def test_a_job_that_goes_on_elsewhere_waited_once_and_had_its_first_token_elsewhere() -> None:
    metrics = WorkerMetrics()
    lease = lease_of(submitted_s_ago=60, waited_s=4, attempt=2)
    lease = replace(lease, job=replace(lease.job, trajectories=[WITH_A_PICTURE.to_json(), None]))
    tally, job = Tally(metrics), held(lease)
    tally.begun(job)
    tally.added(job, 0)
    tally.said(job, 0, TextDelta("reflect", 0, "a"))
    tally.said(job, 0, picture(WITH_A_PICTURE, 1))
    tally.left(job, "given_back")
    for name in ("request_queue_time", "time_to_first_token", "time_to_first_image", "e2e_request_latency"):
        assert value(metrics.exposition, f"r3_{name}_seconds_count") == 0, name
    assert value(metrics.exposition, "r3_request_inference_time_seconds_count") == 1


def test_a_picture_that_was_given_was_not_drawn() -> None:
    metrics = WorkerMetrics()
    given = replace(ASKED, given_image=True)
    tally, job = Tally(metrics), held(lease_of(2, 0), given)
    tally.begun(job)
    tally.added(job, 0)
    tally.said(job, 0, picture(Trajectory(given), 0))
    assert value(metrics.exposition, "r3_time_to_first_image_seconds_count") == 0
    assert value(metrics.exposition, "r3_phase_seconds_count", phase="generate") == 0
    tally.said(job, 0, picture(Trajectory(given), 1))
    assert value(metrics.exposition, "r3_time_to_first_image_seconds_count") == 1
    assert value(metrics.exposition, "r3_phase_seconds_count", phase="refine") == 1


def test_nothing_is_remembered_of_jobs_that_left() -> None:
    tally = Tally(WorkerMetrics())
    job = held(lease_of(0, 0))
    tally.begun(job)
    tally.added(job, 0)
    tally.said(job, 0, TextDelta("reason", 0, "a"))
    tally.said(job, 0, picture(Trajectory(ASKED), 0))
    tally.left(job, "lost")
    assert (tally._phase_began_s, tally._written, tally._drawn) == ({}, set(), set())


def test_a_failure_is_counted_by_its_code() -> None:
    metrics = WorkerMetrics()
    Tally(metrics).failed(OutOfMemory("full"))
    assert value(metrics.exposition, "r3_failures_total", code="out_of_memory") == 1


def test_forwards_are_counted_with_their_company() -> None:
    metrics = WorkerMetrics()
    metrics.took(
        [Took("text", 0.03, 2), Took("denoise", 0.3, 3, 8), Took("denoise", 0.1, 1, 2), Took("decode", 0.2, 1)]
    )
    told = metrics.exposition
    assert value(told, "r3_generation_tokens_total") == 2
    assert value(told, "r3_denoise_steps_total") == 4
    assert value(told, "r3_branch_forwards_total") == 10
    assert value(told, "r3_denoise_step_seconds_sum") == pytest.approx(0.4)
    assert value(told, "r3_denoise_batch_size_sum") == 4
    assert value(told, "r3_denoise_batch_size_bucket", le="1.0") == 1
    assert value(told, "r3_phase_seconds_sum", phase="decode") == pytest.approx(0.2)


def test_a_device_that_is_lost_hides_none_of_the_other_numbers() -> None:
    def lost() -> int:
        raise RuntimeError("CUDA error: device-side assert triggered")

    metrics = WorkerMetrics()
    metrics.planned(MemoryPlan("cuda", 1, 2, 3, 4, 140 * 10**9, batch_rows=4, forward_rows=5, kept_rows=6), lost)
    text = metrics.exposition.text().decode()
    assert "r3_gpu_memory_used_bytes NaN" in text
    assert value(metrics.exposition, "r3_gpu_memory_bytes") == 140 * 10**9
    assert "r3_kv_cache_planned_bytes 2.0" in text


def test_every_series_of_a_loaded_worker_names_its_model() -> None:
    metrics = WorkerMetrics()
    metrics.loaded("r3-7b", "0" * 16, "1.0", 31.5)
    series = list(samples(metrics.exposition.text()))
    assert all(labels["model"] == "r3-7b" for _, labels, _ in series)
    assert ("r3_load_seconds", {"model": "r3-7b"}, 31.5) in series
    assert ("r3_model_info", {"model": "r3-7b", "hash": "0" * 16, "version": "1.0"}, 1.0) in series


def test_redis_is_not_told_to_be_away_while_a_model_loads_and_nobody_asks_it() -> None:
    """R3QueueAway fires after a minute of 0: each cold start of a large model would be an alarm."""
    metrics = WorkerMetrics()
    assert value(metrics.exposition, "r3_queue_up") is None
    metrics.loaded("r3-7b", "0" * 16, "1.0", 31.5)
    assert value(metrics.exposition, "r3_queue_up", model="r3-7b") == 0  # asked from now on
    metrics.redis_up.set(True)
    assert value(metrics.exposition, "r3_queue_up", model="r3-7b") == 1


def test_what_will_be_counted_is_there_from_the_beginning_as_0() -> None:
    """Who asks for an increase misses what a series began with."""
    told = WorkerMetrics().exposition
    for name, label, of in [
        ("r3_jobs_total", "outcome", ["succeeded", "failed", "cancelled", "given_back", "lost"]),
        ("r3_stops_total", "reason", ["satisfied", "max_rounds", "malformed", "deadline", "stopped"]),
        ("r3_images_total", "phase", ["generate", "refine"]),
        ("r3_phase_seconds_count", "phase", ["reason", "generate", "reflect", "refine", "decode", "encode", "store"]),
    ]:
        assert [value(told, name, **{label: one}) for one in of] == [0] * len(of)


# the API


def test_the_queues_numbers_are_left_out_while_it_is_away_so_that_no_counter_seems_to_start_anew() -> None:
    metrics = Metrics("1.0")
    numbers = {"waiting": 3, "running": 2, "cost": 5.0, "oldest_s": 7.5, "paused": 0}
    depth = {"models": {"tiny": numbers, "old": numbers}, "reclaimed": 4, "poisoned": 1}
    for _ in range(2):
        metrics.set_queue(depth, [{"model": "tiny"}, {"model": "tiny"}])
        assert value(metrics.exposition, "r3_queue_up") == 1
        assert value(metrics.exposition, "r3_queue_reclaimed_total") == 4
        assert value(metrics.exposition, "r3_queue_oldest_seconds", model="tiny") == 7.5
        assert value(metrics.exposition, "r3_workers", model="tiny") == 2
        assert value(metrics.exposition, "r3_workers", model="old") == 0  # what an alert on missing workers looks at
        assert value(metrics.exposition, "r3_queue_work_seconds", model="tiny") is None  # no pace is known yet
        metrics.set_queue(None)
        assert value(metrics.exposition, "r3_queue_up") == 0
        for name in ("r3_queue_reclaimed_total", "r3_queue_poisoned_total", "r3_queue_waiting", "r3_workers"):
            assert value(metrics.exposition, name) is None, name


# both


def samples(text: bytes) -> Iterable[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


@pytest.mark.parametrize("exposition", [Metrics("1.0").exposition, WorkerMetrics().exposition], ids=["API", "worker"])
def test_metrics_have_names_with_units_and_no_series_that_nobody_asks_for(exposition: Exposition) -> None:
    families: list[Metric] = list(exposition.families())
    assert len(families) > 10
    for family in families:
        assert family.name.startswith(("r3_", "process_")), family.name
        assert family.documentation, family.name
        unitless = family.type == "histogram" and not family.name.endswith(("_seconds", "_bytes"))
        assert not unitless or family.name in ("r3_rounds", "r3_denoise_batch_size"), family.name
    names = {name for name, _, _ in samples(exposition.text())}
    assert not [name for name in names if name.endswith("_created")]


def test_a_process_tells_its_memory_and_its_open_files() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("only Linux tells")
    told = Metrics("1.0").exposition
    assert (value(told, "process_resident_memory_bytes") or 0) > 10**6
    assert (value(told, "process_open_fds") or 0) > 2
