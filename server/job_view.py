"""A job as clients see it, from the job as Redis holds it. Pure; docs of the shape: views.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from r3core.judge import best_of
from r3core.types import SEED_LIMIT
from server.queue import StoredJob
from server.queue_records import JUDGED_USAGE, rfc3339
from server.task_view import shown_image, task_json

Json = dict[str, Any]
_READING: Final = ("self", "events")  # those of a job's links that a token is good for


def job_json(job: StoredJob, position: tuple[int | None, float | None] = (None, None)) -> Json:
    """The answer of GET /jobs/{id}; `position` is the place in the queue and the seconds until started."""
    request: Json = job.request["request"]
    place, eta_s = position if job.status == "queued" else (None, None)
    link = f"/jobs/{job.id}"
    return {
        "id": job.id,
        **task_json(job),
        "status": job.status,
        "created_at": rfc3339(job.created_ms),
        "started_at": _time(job.started_ms),
        "finished_at": _time(job.finished_ms),
        "model": job.model,
        "prompt": request["prompt"],
        "params": job.params,
        "queue_position": place,
        "eta_s": eta_s,
        "trajectories": [trajectory_json(job, index) for index in range(len(job.trajectories))],
        "error": job.error,
        "attempt": job.attempt,
        "usage": _usage(job),
        "metadata": job.metadata,
        **({"parent": job.parent} if job.parent is not None else {}),
        "links": {"self": link, "events": f"{link}/events", "cancel": f"{link}/cancel", "stop": f"{link}/stop"},
    }


def trajectory_json(job: StoredJob, index: int) -> Json:
    """One trajectory; where nothing of it is finished it is empty, and has the job's stop reason."""
    stored = job.trajectories[index] or {}
    rounds = [_round(job, value) for value in stored.get("rounds", ())]
    ended = job.is_finished or stored.get("stop_reason") is not None
    return {
        "index": index,
        "seed": (job.request["request"]["seed"] + index) % SEED_LIMIT,
        "reasoning": stored.get("reasoning"),
        "rounds": rounds,
        "stop_reason": stored.get("stop_reason") or job.stop_reason,
        "image": rounds[_result(stored)]["image"] if rounds and ended else None,
    }


def terminal_event(job: StoredJob) -> tuple[str, Json]:
    """The last event of a finished job, made anew from the job where the log is gone."""
    data: Json = {"job_id": job.id, "trajectory": None, "at": _time(job.finished_ms)}
    if job.status == "failed":
        data["error"] = job.error
    return f"job.{job.status}", data


def image_ids(value: Any) -> set[str]:
    """Every image that a job or an event shows."""
    if isinstance(value, list):
        return {found for child in value for found in image_ids(child)}
    if not isinstance(value, dict):
        return set()
    found = {found for child in _ours(value).values() for found in image_ids(child)}
    return found | {value["id"]} if _is_image(value) else found


def with_bytes(value: Any, texts: Mapping[str, str]) -> Any:
    """The same with `b64_json` in every image whose base64 text is there."""
    if isinstance(value, list):
        return [with_bytes(child, texts) for child in value]
    if not isinstance(value, dict):
        return value
    shown = {**value, **{name: with_bytes(child, texts) for name, child in _ours(value).items()}}
    return {**shown, "b64_json": texts[value["id"]]} if _is_image(value) and value["id"] in texts else shown


def with_token(value: Any, token: str) -> Any:
    """The same with a token in every image's URL, and in those of a job's links that read."""
    if isinstance(value, list):
        return [with_token(child, token) for child in value]
    if not isinstance(value, dict):
        return value
    shown = {**value, **{name: with_token(child, token) for name, child in _ours(value).items()}}
    if _is_image(value) and "url" in value:
        return {**shown, "url": f"{value['url']}?token={token}"}
    if _is_job(value):
        return {**shown, "links": {**value["links"], **{n: f"{value['links'][n]}?token={token}" for n in _READING}}}
    return shown


def _ours(value: Json) -> Json:
    """Without what clients gave, which may look like anything."""
    return {name: child for name, child in value.items() if name not in ("metadata", "params")}


def _is_job(value: Json) -> bool:
    return "links" in value and str(value.get("id", "")).startswith("job_")


def _is_image(value: Json) -> bool:
    return "sha256" in value and str(value.get("id", "")).startswith("img_")


def _round(job: StoredJob, value: Json) -> Json:
    said = _said(job, value)
    return {
        "index": value["index"],
        "image": said["image"],
        "instruction": value["instruction"],
        "reflection": said["reflection"],
        "reflections": value["reflections"],
        **(_judged(job, value) if _scorers(job.request["request"]) else {}),
    }


def _judged(job: StoredJob, value: Json) -> Json:
    """What only a judged job shows of a round."""
    edit = value["instruction"]
    candidates = [{**_said(job, one), "instruction": edit, "scores": one["scores"]} for one in value["candidates"]]
    return {
        "scores": value["scores"],
        "candidates": candidates,
        "chosen": value["chosen"],
        "from_round": value["base"],
    }


def _said(job: StoredJob, picture_: Json) -> Json:
    """A picture of a round, or of one of its candidates, and the last reflection on it."""
    reflections = picture_["reflections"]
    return {"image": shown_image(job, picture_["image"]["id"]), "reflection": reflections[-1] if reflections else None}


def _result(stored: Json) -> int:
    """The round whose picture a stored trajectory comes to, as Trajectory.result says it."""
    scorers = _scorers(stored["request"])
    if not scorers or stored["request"]["choose"] == "last":
        return -1
    said = [{score["scorer"]: score["value"] for score in round_["scores"]} for round_ in stored["rounds"]]
    return best_of([values.get(scorers[0]) for values in said])


def _usage(job: StoredJob) -> Json:
    if _scorers(job.request["request"]):
        return job.usage
    return {name: spent for name, spent in job.usage.items() if name not in JUDGED_USAGE}


def _scorers(asked: Json) -> list[str]:
    """A request's scorers; one that was stored before there were any has none."""
    found: list[str] = asked.get("scorers") or []
    return found


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
