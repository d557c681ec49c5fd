"""Processor time, memory and Redis's own numbers, taken at the two ends of a window."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from server.queue_records import ROOT, TERMINAL_STATUSES

Json = dict[str, Any]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SOME: Final = 500


@dataclass(frozen=True)
class Sample:
    """The state at one moment. CPU in seconds since the process began."""

    at_s: float
    cpu_s: Mapping[str, float]
    machine_s: float
    devices: Mapping[str, Json]
    info: Json


def sample(pids: Mapping[str, int], stats: Mapping[str, Path], db: redis.Redis) -> Sample:
    """Take it."""
    return Sample(
        time.time(),
        {name: cpu_s(pid) for name, pid in pids.items()},
        machine_s(),
        {name: json.loads(path.read_text()) for name, path in stats.items()},
        db.info("everything"),
    )


def cpu_s(pid: int) -> float:
    """The processor time that a process has taken, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_s() -> float:
    """The processor time that the whole machine has spent on anything, waiting for a disk left out."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _io_wait, irq, soft_irq, steal = fields
    return (user + nice + system + irq + soft_irq + steal) / _TICKS


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def sockets(pid: int) -> int:
    """How many connections a process holds; a worker process has none but those to Redis."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            count += str(link.readlink()).startswith("socket:")
    return count


def kept_bytes(db: redis.Redis, jobs: Mapping[str, tuple[str | None, int]]) -> Json:
    """What Redis holds of a job that succeeded, on the average of some: its events, and all else under its name."""
    some = [name for name, (ended, _) in jobs.items() if ended == "succeeded"][-_SOME:]
    sizes = {of: [int(db.memory_usage(f"{ROOT}{of}:{name}", samples=0) or 0) for name in some] for of in ("ev", "job")}
    return {of: sum(found) / len(found) if found else None for of, found in sizes.items()}


def cores_used(before: Sample, after: Sample) -> Json:
    """How many cores were in use between two samples, by whom."""
    seconds = after.at_s - before.at_s
    used = {name: (after.cpu_s[name] - before.cpu_s[name]) / seconds for name in before.cpu_s}
    kinds = {kind: [value for name, value in used.items() if name.startswith(kind)] for kind in ("api", "worker")}
    ours = sum(used.values())
    everything = (after.machine_s - before.machine_s) / seconds
    return {
        "there_are": len(os.sched_getaffinity(0)),
        "all": everything,
        "others": max(everything - ours, 0.0),
        "redis": _rise(before, after, "used_cpu_user", "used_cpu_sys") / seconds,
        "redis_main_thread": _rise(before, after, "used_cpu_user_main_thread", "used_cpu_sys_main_thread") / seconds,
        "generator": used["generator"],
        "apis": sum(kinds["api"]),
        "busiest_api": max(kinds["api"]),
        "workers": sum(kinds["worker"]),
        "busiest_worker_process": max(kinds["worker"]),
    }


def redis_used(before: Sample, after: Sample) -> Json:
    """What Redis did between two samples."""
    seconds = after.at_s - before.at_s
    scripts = [one.info.get("cmdstat_evalsha", {"calls": 0, "usec": 0}) for one in (before, after)]
    return {
        "commands": _rise(before, after, "total_commands_processed"),
        "scripts_per_s": (scripts[1]["calls"] - scripts[0]["calls"]) / seconds,
        "script_us": (scripts[1]["usec"] - scripts[0]["usec"]) / max(scripts[1]["calls"] - scripts[0]["calls"], 1),
        "in_bytes": _rise(before, after, "total_net_input_bytes"),
        "out_bytes": _rise(before, after, "total_net_output_bytes"),
        "held_bytes": _rise(before, after, "used_memory"),
        "memory_bytes": after.info["used_memory"],
        "peak_bytes": after.info["used_memory_peak"],
        "clients": after.info["connected_clients"],
        "version": str(after.info.get("valkey_version") or after.info["redis_version"]),
    }


def devices_used(before: Sample, after: Sample, workers: int) -> Json:
    """Which part of the time, on the average, the devices computed, and the engines had a turn under way."""

    def share(what: str) -> float:
        used = 0.0
        for name, first in before.devices.items():
            last = after.devices[name]
            used += (last[what] - first[what]) / max(last["at_s"] - first["at_s"], 1e-9)
        return used / workers

    return {"busy": share("busy_s"), "turning": share("turning_s")}


def unlike_redis(db: redis.Redis, jobs: Mapping[str, tuple[str | None, int]]) -> int:
    """How many jobs stand otherwise in Redis than their clients saw: not ended, ended otherwise, or with more events.

    `jobs` says of each its end and the number of the last event that was seen, 0 where nobody followed.
    """
    names, unlike = list(jobs), 0
    for start in range(0, len(names), _SOME):
        some = names[start : start + _SOME]
        with db.pipeline(transaction=False) as asked:
            for name in some:
                asked.hmget(f"{ROOT}job:{name}", "status", "last_event")
            answers = asked.execute()
        for name, (status, last_event) in zip(some, answers, strict=True):
            ended, seen = jobs[name]
            is_whole = seen in (0, int(last_event or 0))
            unlike += not (status in TERMINAL_STATUSES and status == ended and is_whole)
    return unlike


def _rise(before: Sample, after: Sample, *names: str) -> float:
    return sum(float(after.info[name]) - float(before.info[name]) for name in names)
