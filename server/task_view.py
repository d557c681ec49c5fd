"""What a job beside /generate came to, from the job as Redis holds it. Pure; the shapes stand in views.py."""

from __future__ import annotations

from typing import Any

from server.given_pictures import given_pictures
from server.queue import StoredJob
from server.queue_records import picture

Json = dict[str, Any]


def task_json(job: StoredJob) -> Json:
    """`kind` and `result` of a job of another kind than generate, as far as it has come; nothing for one of that."""
    kind = job.request["request"].get("kind", "generate")
    if kind == "generate":
        return {}
    stored = job.trajectories[0] or {}
    rounds = stored.get("rounds") or []
    match kind:
        case "score":
            result: Json = {"images": [_scored(job, seen) for seen in _pictures(rounds)]}
        case "reflect":
            said = rounds[0]["reflections"] if rounds else []
            result = {"reflection": said[-1] if said else None}
        case "describe":
            result = {"text": stored.get("description")}
        case _:
            alike = stored.get("similarities")
            result = {
                "source": shown_image(job, rounds[0]["image"]["id"]) if rounds else None,
                "description": stored.get("description"),
                "reconstruction": shown_image(job, rounds[1]["image"]["id"]) if len(rounds) > 1 else None,
                "similarities": None if alike is None else dict(alike),
            }
    return {"kind": kind, "result": result}


def _pictures(rounds: list[Json]) -> list[Json]:
    """All that the caller gave: one picture is a round's own."""
    return [seen for first in rounds[:1] for seen in first.get("candidates") or [first]]


def _scored(job: StoredJob, seen: Json) -> Json:
    return {"image": shown_image(job, seen["image"]["id"]), "scores": seen["scores"]}


def shown_image(job: StoredJob, image_id: str) -> Json | None:
    """A picture of a job, one of those that it was given among them: where a worker was lost, not each of these may
    have been announced.
    """
    record = job.images.get(image_id) or given_pictures(job.request).get(image_id)
    return None if record is None else picture(image_id, record)
