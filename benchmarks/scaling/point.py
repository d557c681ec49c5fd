"""One point measured: start everything, let the load stand, look at both ends of the window, judge what was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from benchmarks.scaling.figures import fairness, is_usable, limits, per_job
from benchmarks.scaling.measure import (
    Sample,
    cores_used,
    devices_used,
    kept_bytes,
    peak_bytes,
    redis_used,
    sample,
    sockets,
    unlike_redis,
)
from benchmarks.scaling.parts import Broken, Parts, running, start_clients
from benchmarks.scaling.plan import Point

Json = dict[str, Any]
LOOK_EVERY_S = 0.1
DRAINED_WITHIN_S = 600.0  # who did not follow a backlog asks now: thousands


def measured(point: Point, say: Callable[[str], None]) -> Json:
    """The point's figures. Raises Broken where a part ends by itself."""
    say(f"{point.name}: {point.workers} workers, {point.apis} APIs, about {_minutes(point):.1f} minutes")
    with running(point) as parts, redis.Redis.from_url(parts.redis_url, decode_responses=True) as db:
        out = start_clients(parts)
        begin_s = _begun(parts)
        say(f"{point.name}: the load stands; {max(begin_s - time.time(), 0):.0f} s until it counts")
        _sleep_until(parts, begin_s)
        before = sample(parts.pids, parts.stats, db)
        parts.until(lambda: "end\n" in _said(parts), "the window's end", _window_s(point) + 60)
        after = sample(parts.pids, parts.stats, db)
        memory = {name: peak_bytes(pid) for name, pid in parts.pids.items()}
        connections = sum(sockets(parts.pids[name]) for name in parts.stats)
        say(f"{point.name}: measured; what is left is cancelled")
        saw = _result(parts, out)
        jobs = {name: (ended, last) for name, (ended, last) in saw.pop("jobs").items()}
        known = {"unlike": unlike_redis(db, jobs), "kept_bytes": kept_bytes(db, jobs), "connections": connections}
    return _judged(point, before, after, saw, {**known, "peak_bytes": memory})


def _judged(point: Point, before: Sample, after: Sample, saw: Json, known: Json) -> Json:
    cores, used = cores_used(before, after), redis_used(before, after)
    devices = devices_used(before, after, point.workers)
    found = limits(cores, saw["lag_s"]["p99"], devices["turning"])
    window_s = saw["window_s"]
    loss = {**saw["loss"], "unlike_redis": known["unlike"]}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "asked": point.to_json(),
        "is_trial": point.is_trial,
        "limits": found,
        "is_usable": is_usable(found) and not point.is_trial,
        "window_s": window_s,
        "offered_per_s": saw["submitted"] / (saw["submitting_s"] if point.backlog else window_s),
        "done": saw["done"],
        "done_per_s": saw["done"] / window_s,
        "devices": devices,
        "wait_s": saw["wait_s"],
        "event_s": saw["event_s"],
        "picture_s": saw["picture_s"],
        "events": saw["events"],
        "events_per_s": sum(saw["events"].values()) / window_s,
        "cores": cores,
        "generator_lag_s": saw["lag_s"],
        "redis": {**used, "kept_bytes": known["kept_bytes"], "worker_connections": known["connections"]},
        "peak_bytes": known["peak_bytes"],
        "tenants": saw["tenants"],
        "fairness": fairness(saw["tenants"]),
        "refused": saw["refused"],
        "loss": loss,
        "is_whole": is_whole(loss),
        "per_job": per_job(saw["done"], window_s, saw, used, cores),
    }


def is_whole(loss: Json) -> bool:
    """Whether every job ended once, every event came once, and Redis knows the same."""
    return not any(loss[name] for name in ("not_ended", "ended_twice", "failed", "gaps_or_repeats", "unlike_redis"))


def _begun(parts: Parts) -> float:
    parts.until(lambda: "begin " in _said(parts), "the load")
    return float(_said(parts).split("begin ", 1)[1].split("\n", 1)[0])


def _said(parts: Parts) -> str:
    return parts.log("generator").read_text()


def _sleep_until(parts: Parts, at_s: float) -> None:
    while (left_s := at_s - time.time()) > 0:
        parts.look()
        time.sleep(min(left_s, LOOK_EVERY_S))


def _window_s(point: Point) -> float:
    return point.limit_s if point.backlog else point.minutes * 60


def _minutes(point: Point) -> float:
    return (point.backlog / point.capacity_jobs_per_s if point.backlog else point.warm_up_s + point.minutes * 60) / 60


def _result(parts: Parts, out: Path) -> Json:
    """What the clients saw, once they have ended; the other parts must outlive them."""
    clients = parts.processes.pop("generator")
    deadline = time.monotonic() + DRAINED_WITHIN_S
    try:
        while clients.poll() is None and time.monotonic() < deadline:
            parts.look()
            time.sleep(LOOK_EVERY_S)
    finally:
        if clients.poll() is None:
            clients.kill()
            clients.wait()
    if clients.returncode != 0:
        raise Broken(f"the generator ended with {clients.returncode}: {parts.last_words('generator')}")
    saw: Json = json.loads(out.read_text())
    if saw["faults"]:
        raise Broken(f"clients met what they should not: {'; '.join(saw['faults'])}")
    return saw
