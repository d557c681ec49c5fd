"""What a worker counts of the jobs beside /generate."""

from __future__ import annotations

from dataclasses import replace

from r3core.events import Described, TextDelta
from r3core.loop import ended, start_from
from r3core.types import Image, Trajectory
from server.tally import Tally
from server.worker_metrics import WorkerMetrics
from tests.server.test_metrics import held, lease_of, picture, value
from tests.server.working import ASKED

ROUNDTRIP = replace(ASKED, kind="roundtrip", given_image=True, think=False, max_rounds=0)


def test_a_round_trip_describes_and_draws_and_is_no_loop_that_stopped() -> None:
    metrics = WorkerMetrics()
    tally, job = Tally(metrics), held(lease_of(0, 0), ROUNDTRIP)
    given = start_from(Trajectory(ROUNDTRIP), Image("img_0", 64, 48))
    tally.begun(job)
    tally.added(job, 0)
    tally.said(job, 0, picture(given, 0))
    tally.said(job, 0, TextDelta("describe", 0, "a cat"))
    tally.said(job, 0, Described("a cat"))
    tally.said(job, 0, picture(given, 1))
    tally.stopped(ended(given, "done"))
    told = metrics.exposition
    for phase, count in {"describe": 1, "generate": 1, "refine": 0}.items():
        assert value(told, "r3_phase_seconds_count", phase=phase) == count, phase
    assert value(told, "r3_images_total", phase="generate") == 1
    assert value(told, "r3_rounds_count") == 0
    assert value(told, "r3_stops_total", reason="done") is None
