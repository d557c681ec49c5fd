"""How the pictures that a job starts from stand in what the queue keeps of its request: ids and records. Pure.

One stands as it did before there could be several, so that a build of before can go on with the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def stored_as(pictures: Mapping[str, Json]) -> Json:
    """The fields of a job's request, of ids and their records in the order in which they were given."""
    if len(pictures) > 1:
        return {"start_images": list(pictures), "start_records": list(pictures.values())}
    image_id, record = next(iter(pictures.items()), (None, None))
    return {"start_image": image_id, "start_record": record}


def given_pictures(request: Json) -> dict[str, Json | None]:
    """The pictures of a stored request, in their order: id to record, None where that must be looked up."""
    if "start_images" in request:
        return dict(zip(request["start_images"], request["start_records"], strict=True))
    image_id = request.get("start_image")
    return {} if image_id is None else {str(image_id): request.get("start_record")}
