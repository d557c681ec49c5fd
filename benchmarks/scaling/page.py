"""The tables of docs/scaling.md: what was measured, and what follows from it on paper for a thousand GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.scaling.figures import DEVICES, Json
from benchmarks.scaling.plan import SIDE, Point, Run
from benchmarks.scaling.plots import TITLES, steady

BEGIN: Final = "<!-- begin {name}: written by `python -m benchmarks.scale` -->\n"
END: Final = "<!-- end {name} -->\n"
FLEET: Final = 1000
REDIS_SHARE: Final = (
    0.6  # of one core, that a primary is planned for: the rest is for peaks and for writing its log anew
)
PICTURE_BYTES: Final = SIDE * SIDE * 3  # as many as its pixels: a PNG has no more to speak of
EVENT_TTL_S: Final = 3600  # the default of R3_EVENT_TTL_S
DAY_S: Final = 24 * 3600  # that of R3_JOB_TTL_S

Cell = Callable[[Json], str]


def write_page(page: Path, results: Mapping[str, Any]) -> None:
    """Put the tables in their places."""
    page.write_text(with_tables(page.read_text(), results))


def with_tables(text: str, results: Mapping[str, Any]) -> str:
    """The page with the tables that the results make."""
    for name, table in tables(results).items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, found, rest = text.partition(begin)
        assert found, f"the page has no place for {name}"
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Each by the name of its place."""
    points = ordered(results)
    return {
        "times": _table(points, _TIMES),
        "plots": _plots(results),
        "cores": _table(points, _CORES),
        "tenants": _table(points, _TENANTS),
        "machine": _machine(results, points),
        "paper": paper(results),
    }


def ordered(results: Mapping[str, Any]) -> dict[str, Json | None]:
    """All points of a full run, None where one was not measured, then whatever else was."""
    planned = {point.name: results["points"].get(point.name) for point in Run().points(Point(1))}
    return planned | {name: point for name, point in results["points"].items() if name not in planned}


def _table(points: Mapping[str, Json | None], columns: Mapping[str, Cell]) -> str:
    lines = [f"| point | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, point in points.items():
        if point is None:
            lines.append(f"| {name} | not measured yet |{' |' * (len(columns) - 1)}")
        else:
            mark = " (a trial)" if point["is_trial"] else ""
            lines.append(f"| {name}{mark} | {' | '.join(cell(point) for cell in columns.values())} |")
    return "\n".join(lines) + "\n"


def _two(spread: Json, scale: float, unit: str) -> str:
    """The middle and the 99th of a hundred."""
    if not spread["count"]:
        return "none"
    return f"{number(spread['p50'] * scale)}, {number(spread['p99'] * scale)} {unit}"


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_TIMES: Final[dict[str, Cell]] = {
    "offered a second": lambda p: number(p["offered_per_s"]),
    "done a second": lambda p: number(p["done_per_s"]),
    "devices busy": lambda p: f"{p['devices']['busy']:.0%}",
    "engines turning": lambda p: f"{p['devices']['turning']:.0%}",
    "wait for a worker, p50, p99": lambda p: _two(p["wait_s"], 1, "s"),
    "events a second": lambda p: number(p["events_per_s"]),
    "event to client, p50, p99": lambda p: _two(p["event_s"], 1000, "ms"),
    "picture to client, p50, p99": lambda p: _two(p["picture_s"], 1000, "ms"),
    "the limit": lambda p: "; ".join(p["limits"]) + ("" if p["is_usable"] else " (**no conclusion**)"),
}
_CORES: Final[dict[str, Cell]] = {
    "Redis": lambda p: f"{p['cores']['redis']:.2f}",
    "APIs": lambda p: f"{p['cores']['apis']:.2f}",
    "workers": lambda p: f"{p['cores']['workers']:.2f}",
    "generator": lambda p: f"{p['cores']['generator']:.2f}",
    "others": lambda p: f"{p['cores']['others']:.2f}",
    "all": lambda p: f"{p['cores']['all']:.2f} of {p['cores']['there_are']}",
    "Redis, a job": lambda p: f"{number(p['per_job']['redis_cpu_ms'])} ms" if p["per_job"] else "none",
    "APIs, a job": lambda p: f"{number(p['per_job']['api_cpu_ms'])} ms" if p["per_job"] else "none",
    "Redis's scripts, each": lambda p: f"{number(p['redis']['script_us'])} µs",
    "Redis's memory": lambda p: f"{number(p['redis']['memory_bytes'] / 1e6)} MB",
}
_TENANTS: Final[dict[str, Cell]] = {
    "had, and due": lambda p: ", ".join(
        f"{name} {one['had']:.1%} of {one['due']:.1%}" for name, one in sorted(p["fairness"]["shares"].items())
    ),
    "Jain's index": lambda p: "none" if p["fairness"]["jain"] is None else f"{p['fairness']['jain']:.3f}",
    "modest waited, p50, p99": lambda p: _two(p["tenants"]["modest"]["wait_s"], 1, "s"),
    "flood waited, p50, p99": lambda p: _two(p["tenants"]["flood"]["wait_s"], 1, "s"),
    "jobs, followed": lambda p: f"{p['loss']['acknowledged']:,}, {p['loss']['followed']:,}",
    "lost": lambda p: "nothing" if p["is_whole"] else f"**{_lost(p['loss'])}**",
}


def _lost(loss: Json) -> str:
    """What is not as it should be; that streams were resumed is no loss."""
    told = ("not_ended", "ended_twice", "failed", "gaps_or_repeats", "unlike_redis")
    return ", ".join(f"{loss[name]:,} {name.replace('_', ' ')}" for name in told if loss[name])


def _plots(results: Mapping[str, Any]) -> str:
    if len(steady(results)) < 2:
        return "Nothing was drawn yet.\n"
    return "\n\n".join(f"![{title}](images/{name})" for name, title in TITLES.items()) + "\n"


def _machine(results: Mapping[str, Any], points: Mapping[str, Json | None]) -> str:
    """Each kind of machine, with the points that were measured there where there are several."""
    there: dict[str, list[str]] = {}
    for name, point in points.items():
        if point is not None:
            machine = point.get("machine") or results["machine"]
            of = "{cores} cores, {system}, Python {python}, r3 {version}".format(**machine)
            there.setdefault(f"{of}, Valkey or Redis {point['redis']['version']}", []).append(name)
    if not there:
        return "Nothing was measured yet.\n"
    lines = []
    for machine, names in there.items():
        dates = sorted({point["date"] for name in names if (point := points[name])})
        which = "" if len(there) == 1 else f": {', '.join(names)}"
        lines.append(f"Measured on {', '.join(dates)}: {machine}{which}.\n")
    return "\n".join(lines)


def sources(results: Mapping[str, Any]) -> dict[str, Json]:
    """The points that a larger fleet is computed from: of those that are good for conclusions, and at which the devices
    were the limit, the largest with one job at a time and the largest with several.
    """
    good = {
        name: point
        for name, point in results["points"].items()
        if point["is_usable"] and point["is_whole"] and point["limits"] == [DEVICES] and not point["asked"]["backlog"]
    }
    found: dict[str, Json] = {}
    for is_crowded in (False, True):
        alike = {name: point for name, point in good.items() if (point["asked"]["places"] > 1) is is_crowded}
        if alike:
            name = max(alike, key=lambda name: int(alike[name]["asked"]["workers"]))
            found[name] = alike[name]
    return found


def paper(results: Mapping[str, Any]) -> str:
    """What a fleet would ask of its parts, were each job to cost what it cost at the point it is computed from."""
    found = sources(results)
    if not found:
        return "Nothing good for conclusions was measured yet.\n"
    fleets = [_fleet(point) for point in found.values()]
    names = " | ".join(f"from {name}" for name in found)
    lines = [f"| {FLEET:,} GPUs, computed | {names} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| {what} | {' | '.join(fleet[what] for fleet in fleets)} |" for what in fleets[0]]
    return "\n".join(lines) + "\n"


def _fleet(point: Json) -> dict[str, str]:
    job, kept = point["per_job"], point["redis"]["kept_bytes"]
    jobs_per_s = point["done_per_s"] / point["asked"]["workers"] * FLEET
    all_events = sum(point["events"].values())
    events = job["events"] * (1 - point["events"].get("job.queued", 0) / all_events)
    pictures = job["events"] * point["events"].get("image", 0) / all_events
    redis_cores = jobs_per_s * job["redis_cpu_ms"] / 1000
    picture_bytes_per_s = jobs_per_s * pictures * PICTURE_BYTES
    return {
        "jobs a second": number(jobs_per_s),
        "events a second, told places left out": f"{number(jobs_per_s * events)} ({number(events)} a job)",
        "Redis, cores": f"{redis_cores:.2f}",
        f"Redis, primaries at {REDIS_SHARE:.0%} of a core": f"{-(-redis_cores // REDIS_SHARE):.0f}",
        "Redis, connections of workers": number(
            point["redis"]["worker_connections"] / point["asked"]["workers"] * FLEET
        ),
        "Redis, read and written a second": (
            f"{_mb(jobs_per_s * job['redis_in_bytes'])} and {_mb(jobs_per_s * job['redis_out_bytes'])}"
        ),
        "Redis, `wake` messages a second": number(jobs_per_s * FLEET),
        "Redis, memory for events, an hour's": (
            f"{_gb(jobs_per_s * kept['ev'] * EVENT_TTL_S)} ({number(kept['ev'] / 1000)} kB a job)"
        ),
        "Redis, memory for jobs, a day's": (
            f"{_gb(jobs_per_s * kept['job'] * DAY_S)} ({number(kept['job'] / 1000)} kB each)"
        ),
        "APIs, cores": f"{jobs_per_s * job['api_cpu_ms'] / 1000:.2f}",
        "streams, sent a second": _mb(jobs_per_s * job["stream_bytes"]),
        "pictures, written, at most": (
            f"{_mb(picture_bytes_per_s)} a second, {picture_bytes_per_s * DAY_S / 1e12:.1f} TB a day"
        ),
    }


def _mb(count: float) -> str:
    return f"{number(count / 1e6)} MB"


def _gb(count: float) -> str:
    return f"{number(count / 1e9)} GB"
