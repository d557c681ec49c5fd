"""GET /images/{id}: a picture's bytes. They never change, so a browser may keep them for a day."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from server.answers import IMAGE_RESPONSES
from server.callers import Reader
from server.faults import ApiError
from server.images import ImageMissing
from server.routes import allow_head
from server.schemas import ImageQuery
from server.service import Parts, is_id

router = APIRouter(tags=["images"])


@router.get("/images/{image_id}", operation_id="getImage", summary="Fetch a picture", responses=IMAGE_RESPONSES)
async def get_image(
    parts: Parts,
    caller: Reader,
    image_id: str,
    query: Annotated[ImageQuery, Query()],
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="304 where it names the ETag.")
    ] = None,
) -> Response:
    """The picture as it was asked for (`output_format`); previews are WebP."""
    record = await parts.queue.image(image_id) if is_id(image_id, "img_") else None
    if record is None or not caller.owns(record["tenant"], record["job"]):
        raise _not_found(image_id)
    etag = f'"{record["sha256"]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=86400, immutable"}
    if parts.settings.cors_origins:  # pages of other origins show it
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if _names(if_none_match or "", etag):
        return Response(status_code=304, headers=headers)
    try:
        content = await asyncio.to_thread(parts.images.get, record["tenant"], record["job"], record["sha256"])
    except ImageMissing as error:
        raise _not_found(image_id) from error
    if query.download == "1":
        headers["Content-Disposition"] = f'attachment; filename="{image_id}.{_suffix(record["format"])}"'
    return Response(content, media_type=f"image/{record['format']}", headers=headers)


allow_head(router)


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _suffix(image_format: str) -> str:
    return "jpg" if image_format == "jpeg" else image_format


def _not_found(image_id: str) -> ApiError:
    return ApiError(
        "image_not_found", f"there is no image {image_id[:100]!r}; it may have been deleted, or have expired"
    )
