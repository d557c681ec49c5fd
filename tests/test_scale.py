"""The load test: its rules and its clients can find fault, and the harness itself works."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from benchmarks.scaling import figures
from benchmarks.scaling.measure import unlike_redis
from benchmarks.scaling.plan import Point, Run, edits_of, owner_of
from benchmarks.scaling.point import is_whole
from benchmarks.scaling.streams import Job, Seen, Stream
from server.queue_records import ROOT
from tests.server.processes import private_server
from tests.server.waiting import until

PROJECT = Path(__file__).resolve().parent.parent
QUIET = {
    "there_are": 8,
    "all": 2.0,
    "others": 0.1,
    "redis": 0.2,
    "redis_main_thread": 0.2,
    "generator": 0.2,
    "apis": 0.3,
    "busiest_api": 0.2,
    "workers": 1.0,
    "busiest_worker_process": 0.3,
}
NOTHING_LOST = {"not_ended": 0, "ended_twice": 0, "failed": 0, "gaps_or_repeats": 0, "unlike_redis": 0}


# rules


def test_percentiles_are_values_that_were_measured() -> None:
    assert figures.spread([]) == {"count": 0, "p50": None, "p99": None, "max": None}
    assert figures.spread([3.0, 1.0, 2.0]) == {"count": 3, "p50": 2.0, "p99": 3.0, "max": 3.0}
    hundred = figures.spread([float(i) for i in range(1, 101)])
    assert (hundred["p50"], hundred["p99"]) == (50.0, 99.0)


def test_fairness_is_what_each_had_for_its_weight_among_those_that_wanted_more() -> None:
    def tenants(gold: float, flood: float) -> dict[str, Any]:
        return {
            "gold": {"weight": 4.0, "is_modest": False, "device_s": gold},
            "flood": {"weight": 1.0, "is_modest": False, "device_s": flood},
            "modest": {"weight": 1.0, "is_modest": True, "device_s": 1e9},
        }

    fair = figures.fairness(tenants(400, 100))
    assert fair["jain"] == pytest.approx(1.0)
    assert fair["shares"] == {"gold": {"due": 0.8, "had": 0.8}, "flood": {"due": 0.2, "had": 0.2}}
    assert figures.fairness(tenants(0, 100))["jain"] == pytest.approx(0.5)
    assert figures.fairness(tenants(0, 0))["jain"] is None


@pytest.mark.parametrize(
    ("changes", "lag_s", "turning", "limit", "is_usable"),
    [
        ({}, 0.01, 0.99, figures.DEVICES, True),
        ({}, 0.01, 0.5, figures.UNKNOWN, True),
        ({"redis_main_thread": 0.95}, 0.01, 0.5, figures.REDIS, True),
        ({"busiest_api": 0.95}, 0.01, 0.5, figures.API, True),
        ({"generator": 0.85}, 0.01, 0.99, figures.GENERATOR, False),
        ({}, 0.2, 0.99, figures.GENERATOR, False),
        ({"busiest_worker_process": 0.85}, 0.01, 0.99, figures.SIMULATION, False),
        ({"all": 7.5}, 0.01, 0.99, figures.MACHINE, False),
    ],
)
def test_what_was_the_limit_is_computed(
    changes: dict[str, float], lag_s: float, turning: float, limit: str, is_usable: bool
) -> None:
    found = figures.limits(QUIET | changes, lag_s, turning)
    assert limit in found
    assert figures.is_usable(found) is is_usable


@pytest.mark.parametrize("what", list(NOTHING_LOST))
def test_anything_lost_is_a_loss(what: str) -> None:
    assert is_whole(NOTHING_LOST)
    assert not is_whole({**NOTHING_LOST, what: 1})


def test_a_short_or_fast_point_is_a_trial() -> None:
    assert not Point(1).is_trial
    assert Point(1, minutes=1).is_trial
    assert Point(1, speedup=2).is_trial
    assert not Point(64, backlog=10_000).is_trial
    assert [point.is_trial for point in Run().points(Point(1))] == [False] * 6


def test_at_any_time_of_the_start_each_tenant_has_offered_its_share() -> None:
    first = [tenant.name for tenant in Point(64, places=8).first_jobs()]
    assert len(first) > 1000
    for begun in (70, 350, 700):
        had = Counter(first[:begun])
        for name, share in {"gold": 4 / 7, "silver": 2 / 7, "flood": 1 / 7}.items():
            assert had[name] == pytest.approx(begun * share, abs=3)


def test_in_a_backlog_every_tenant_has_as_many_jobs_of_either_kind_at_each_api() -> None:
    kinds = Counter((owner_of(number).name, edits_of(number), number % 2) for number in range(1600))
    assert len(kinds) == 16
    assert set(kinds.values()) == {100}


# what a client sees


def sent(numbers: list[int], name: str = "image.progress") -> bytes:
    """Events of these numbers, as the server writes them; 0 for one without."""
    data = '{"job_id":"job_1","trajectory":0,"at":"2026-01-01T00:00:00.000Z"}'
    heads = [f"id: {number}\n" if number else "" for number in numbers]
    return "".join(f"{head}event: {name}\ndata: {data}\n\n" for head in heads).encode()


@pytest.mark.parametrize(
    ("chunks", "gaps", "ends"),
    [
        ([sent([1, 2, 0, 3]), sent([4], "job.succeeded")], 0, 1),
        ([sent([1, 2])[:-20], sent([1, 2])[-20:], sent([3], "job.failed")], 0, 1),
        ([sent([1, 3]), sent([4], "job.succeeded")], 1, 1),
        ([sent([1, 2, 2]), sent([3], "job.succeeded")], 1, 1),
        ([sent([1]), sent([2, 3], "job.succeeded")], 0, 2),
    ],
)
async def test_gaps_repeats_and_second_ends_are_seen(chunks: list[bytes], gaps: int, ends: int) -> None:
    class Nowhere(asyncio.Transport):
        def write(self, data: Any) -> None: ...
        def close(self) -> None: ...

    job, seen = Job("job_1", 0, "gold"), Seen(begin_s=0.0)
    stream = Stream(job, seen, b"")
    stream.connection_made(Nowhere())
    for chunk in chunks:
        stream.data_received(chunk)
    stream.connection_lost(None)
    assert (seen.gaps, job.ends, stream.over.result()) == (gaps, ends, True)


def test_what_redis_knows_otherwise_is_counted() -> None:
    with private_server() as server, redis.Redis.from_url(server.url, decode_responses=True) as db:
        for name, status, last in (
            ("a", "succeeded", 9),
            ("b", "succeeded", 9),
            ("c", "running", 9),
            ("d", "failed", 9),
        ):
            db.hset(f"{ROOT}job:{name}", mapping={"status": status, "last_event": last})
        assert unlike_redis(db, {"a": ("succeeded", 9), "d": ("failed", 0)}) == 0
        assert unlike_redis(db, {"b": ("succeeded", 8)}) == 1  # an event more than its client saw
        assert unlike_redis(db, {"c": (None, 9)}) == 1  # it has not ended
        assert unlike_redis(db, {"d": ("succeeded", 9)}) == 1
        assert unlike_redis(db, {"e": ("succeeded", 9)}) == 1  # it is gone


# the harness

TRIAL = [sys.executable, "-m", "benchmarks.scale", "--workers", "2", "--crowded", "0", "--speedup", "40"]


def test_a_trial_of_two_workers_and_a_backlog_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    asked = ["--minutes", "0.05", "--backlog", "12", "--backlog-workers", "2", "--results", str(out)]
    done = subprocess.run([*TRIAL, *asked], cwd=PROJECT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    points = json.loads(out.read_text())["points"]
    assert list(points) == ["backlog-12-2", "workers-2"]
    for name, point in points.items():
        assert point["is_trial"], name
        assert not point["is_usable"], name
        assert point["is_whole"], point["loss"]
        assert point["done"] > 0, name
        assert all(point[of]["count"] for of in ("wait_s", "event_s", "picture_s")), name
        assert all(point["cores"][kind] > 0 for kind in ("redis", "apis", "workers", "generator")), name
    backlog = points["backlog-12-2"]
    assert (backlog["loss"]["acknowledged"], backlog["loss"]["cancelled"]) == (12, 0)  # the load takes nothing back
    assert points["workers-2"]["loss"]["cancelled"] > 0  # and here what still waited at the end


def test_who_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    """Each part is named in the log of what was started: by their command lines, which hold the folder."""
    asked = ["--minutes", "5", "--backlog", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*TRIAL, *asked], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            until(lambda: any("generator.log" in str(path) for path in tmp_path.glob("*/*")), 60)
            assert len(of_folder(tmp_path)) >= 3
            run.send_signal(signal.SIGINT)
            assert run.wait(40) == 130
        finally:
            run.kill()
    assert not of_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def of_folder(folder: Path) -> list[int]:
    """The processes whose command line or settings name the folder, but the harness's own."""
    time.sleep(0.1)
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            said = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(folder / "r3-scale-")) in said:
            found.append(int(place.name))
    return found
