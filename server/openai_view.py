"""Jobs, pictures and models as the `openai` clients read them. Pure; the shapes stand in openai_shapes.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from r3core.types import Usage
from server.queue import StoredJob

Json = dict[str, Any]
Kind = Literal["image_generation", "image_edit"]


def model_object(described: Json) -> Json:
    """A model: what /info says of it, under the names that those clients know."""
    return {"id": described["name"], "object": "model", "created": 0, "owned_by": "r3", **described}


def usage(text_tokens: int) -> Json:
    """What is known of it: the tokens that the model wrote. Those that it read, and pictures', are not counted."""
    return {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": text_tokens,
        "output_tokens_details": {"image_tokens": 0, "text_tokens": text_tokens},
        "total_tokens": text_tokens,
    }


def images_response(job: StoredJob, trajectories: Sequence[Json], base: str) -> Json:
    """The answer for a job that has succeeded; its pictures are those of the trajectories, absolute under `base`."""
    pictures = [(trajectory["image"], trajectory["reasoning"]) for trajectory in trajectories]
    first: Json = pictures[0][0]
    return {
        "created": (job.finished_ms or job.created_ms) // 1000,
        "background": "opaque",
        "output_format": first["format"],
        "size": f"{first['width']}x{first['height']}",
        "data": [_data(image, reasoning, base) for image, reasoning in pictures],
        "usage": usage(int(job.usage["text_tokens"])),
        "r3": {"job_id": job.id},
    }


def partial_event(kind: Kind, image: Json, where: Mapping[str, Any], index: int) -> Json:
    """A picture that is not the last one; `where` says of what."""
    return {**_event(f"{kind}.partial_image", image, where), "partial_image_index": index}


def completed_event(kind: Kind, trajectory: Json, spent: Usage, job_id: str) -> Json:
    """The final picture of a trajectory."""
    image = trajectory["image"]
    made = next(r for r in reversed(trajectory["rounds"]) if r["image"] is not None and r["image"]["id"] == image["id"])
    where = {"job_id": job_id, "trajectory": trajectory["index"], "round": made["index"]}
    return {
        **_event(f"{kind}.completed", image, where),
        "revised_prompt": trajectory["reasoning"],
        "usage": usage(spent.text_tokens),
    }


def _event(name: str, image: Json, where: Mapping[str, Any]) -> Json:
    return {
        "type": name,
        "b64_json": image["b64_json"],
        "created_at": int(time.time()),
        "size": f"{image['width']}x{image['height']}",
        "quality": "auto",
        "background": "opaque",
        "output_format": image["format"],
        "r3": dict(where),
    }


def _data(image: Json, reasoning: str | None, base: str) -> Json:
    if "b64_json" in image:
        return {"b64_json": image["b64_json"], "revised_prompt": reasoning}
    return {"url": f"{base}{image['url']}", "revised_prompt": reasoning}
