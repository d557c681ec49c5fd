"""The picture that a job starts from: an upload, or an image that the tenant has already, kept under the new job."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from r3core.checkpoint import Description
from server.faults import ApiError, Fault
from server.images import ImageMissing
from server.pictures import StartPicture, from_base64, start_picture
from server.service import is_id

if TYPE_CHECKING:
    from server.service import Service

# Until the worker announces it as round 0 this record alone knows it, and must not outlive a job that never starts.
RECORD_TTL_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True)
class StartImage:
    """A stored picture of round 0; `parent` says which image of the tenant's it was, if one."""

    id: str
    record: dict[str, Any]
    width: int
    height: int
    parent: dict[str, Any] | None


async def take_start_image(
    parts: Service, tenant: str, job_id: str, given: str | bytes, description: Description
) -> StartImage:
    """Judge, normalise and store what a client gave as `image`: a text as POST /generate takes it, or a file's bytes.

    Raises ApiError invalid_image, or image_not_found for an id that names no image of the tenant's.
    """
    parent: dict[str, Any] | None = None
    async with parts.decoding:  # the file too is in memory no sooner than its turn
        if isinstance(given, bytes):
            content = given
        elif given.startswith("img_"):
            content, parent = await _own_image(parts, tenant, given)
        else:
            content = await asyncio.to_thread(from_base64, given)
        picture = await asyncio.to_thread(start_picture, content, description)
    sha256 = await asyncio.to_thread(parts.images.put, tenant, job_id, picture.png)
    image_id = f"img_{secrets.token_hex(16)}"
    record = _record(tenant, job_id, sha256, picture)
    await parts.queue.register_image(image_id, record, RECORD_TTL_S)
    return StartImage(image_id, record, picture.width, picture.height, parent)


async def _own_image(parts: Service, tenant: str, image_id: str) -> tuple[bytes, dict[str, Any]]:
    """The lossless master of one of the tenant's images, and where it came from."""
    record = await parts.queue.image(image_id) if is_id(image_id, "img_") else None
    if record is None or record["tenant"] != tenant or record.get("preview"):
        raise _not_found(image_id)
    try:
        content = await asyncio.to_thread(parts.images.get, tenant, record["job"], record["master_sha256"])
    except ImageMissing as error:
        raise _not_found(image_id) from error
    return content, {"job": record["job"], "trajectory": record["trajectory"], "round": record["round"]}


def _not_found(image_id: str) -> ApiError:
    detail = f"there is no image {image_id[:100]!r}; it may have been deleted, or have expired, or be a preview"
    return ApiError("image_not_found", detail, [Fault("/image", "is not the id of an image of yours")])


def _record(tenant: str, job_id: str, sha256: str, picture: StartPicture) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "job": job_id,
        "trajectory": None,
        "round": 0,
        "preview": False,
        "width": picture.width,
        "height": picture.height,
        "format": "png",
        "sha256": sha256,
        "master_sha256": sha256,
    }
