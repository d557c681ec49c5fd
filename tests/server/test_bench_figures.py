"""What `r3 bench` makes of watched jobs: the overhead of each, its phases, how late the latest were, and the words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from r3core.bench.line import Ceiling, Line, quantile
from server.bench.bodies import gaps_s
from server.bench.figures import Overhead, allowed_s, overhead_of
from server.bench.shown import tables, told
from server.bench.watching import Arrived, Watched

SENT_AT_S = 1_000_000_000.0


def came(after_s: float, name: str, made_s: float | None = None, **data: Any) -> Arrived:
    """An event; it was made `made_s` after the request was sent, or as it arrived."""
    at_s = SENT_AT_S + (after_s if made_s is None else made_s)
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    return Arrived(after_s, name, {"at": at, **data})


WATCHED = Watched(
    SENT_AT_S,
    [
        came(0.004, "job.queued"),
        came(0.010, "job.started", made_s=0.006),
        came(0.050, "reason.delta"),
        came(0.210, "reason.done"),
        came(0.300, "image.preview"),
        came(0.610, "image", round=0),
        came(0.910, "reflect.done"),
        came(1.310, "image", round=1),
        came(1.510, "reflect.done"),
        came(2.110, "image", round=2),
        came(2.120, "trajectory.done", made_s=2.100),
        came(2.125, "job.succeeded"),
    ],
    {"compute_s": 2.080},
)


def test_what_the_engine_did_not_take_of_a_job_is_its_overhead() -> None:
    found = overhead_of(WATCHED)
    assert found.overhead_s == pytest.approx(0.045)
    assert found.until_taken_s == pytest.approx(0.006, abs=1e-6)
    assert found.told_s == pytest.approx(0.025, abs=1e-6)
    assert found.between_s == pytest.approx(0.014, abs=1e-6)


@pytest.mark.parametrize(("engine_s", "allowed"), [(0.1, 0.015), (0.5, 0.015), (1.0, 0.030), (10.0, 0.3)])
def test_three_percent_are_allowed_or_fifteen_milliseconds_whichever_is_more(engine_s: float, allowed: float) -> None:
    assert allowed_s(engine_s) == pytest.approx(allowed)
    assert Overhead(engine_s + allowed, engine_s, 0.0, 0.0).of_allowed == pytest.approx(1.0)
    assert Overhead(engine_s + 2 * allowed, engine_s, 0.0, 0.0).of_allowed == pytest.approx(2.0)


def test_a_phase_goes_from_the_end_of_the_one_before_to_its_own() -> None:
    phases = WATCHED.phases()
    assert list(phases) == ["reason", "generate", "reflect", "refine"]
    assert phases["reason"] == pytest.approx(0.2)
    assert phases["generate"] == pytest.approx(0.4)
    assert phases["reflect"] == pytest.approx(0.25)  # of two
    assert phases["refine"] == pytest.approx(0.5)


def test_firsts_are_when_something_could_be_seen() -> None:
    assert WATCHED.first_word_s == 0.05
    assert WATCHED.first_s("image.preview") == 0.3
    assert WATCHED.first_picture_s == 0.61
    assert WATCHED.total_s == 2.125


def test_of_few_values_the_latest_is_the_ninety_ninth_of_a_hundred() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert quantile([float(n) for n in range(1, 201)], 0.99) == 198.0


def test_requests_come_at_the_rate_that_is_offered_the_same_whenever_it_is_measured() -> None:
    gaps = list(gaps_s(4000, 2.0, run=0))
    assert sum(gaps) / 4000 == pytest.approx(0.5, rel=0.05)
    assert gaps == list(gaps_s(4000, 2.0, run=0))
    assert gaps != list(gaps_s(4000, 2.0, run=1))


def test_a_line_says_what_it_is_its_spread_and_its_share_of_the_ceiling() -> None:
    ceiling = Ceiling(gflop_per_s=100.0, gbytes_per_s=10.0)
    line = Line("decode", "tokens decoded", "tokens/s", (40.0, 50.0, 60.0), {"batch": 4}, gflop=0.1, gbytes=0.1)
    assert told(line, ceiling) == (
        "decode: tokens decoded (batch 4): 50 tokens/s (40–60 tokens/s), 50.0 % of the ceiling"
    )
    assert told(Line("x", "reason", "s", (0.5,), {"phase": "reason"}), None) == "x: reason: 0.5 s"
    assert (
        told(Line("memory", "taken", "bytes", (2_500_000.0,), {"side": 96}), None) == "memory: taken (side 96): 2.5 MB"
    )


def test_every_part_has_a_table_of_its_own() -> None:
    lines = [Line("a", "one", "s", (1.0,)), Line("a", "two", "ms", (2.0, 4.0)), Line("b", "three", "times", (1.5,))]
    first, second = tables(lines, None).split("\n\n")
    assert [line.split("  ")[0] for line in first.splitlines()] == ["A", "one", "two"]
    assert "2–4 ms" in first
    assert "1.5×" in second
