"""The pictures that a job starts from: uploads, or images that the tenant has already, kept under the new job."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from r3core.checkpoint import Description
from server.faults import ApiError, Fault
from server.images import ImageMissing
from server.pictures import StartPicture, from_base64, start_picture
from server.queue_errors import QueueUnavailable
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


async def take_start_images(
    parts: Service, tenant: str, job_id: str, given: Sequence[tuple[str, str | bytes]], description: Description
) -> list[StartImage]:
    """Judge, normalise and store what a client gave as pictures, each with the pointer of its field: texts as POST
    /generate takes them, or a file's bytes.

    Raises ApiError invalid_image, or image_not_found for an id that names no image of the tenant's; of several
    pictures every one that is wrong is named.
    """
    taken: list[StartImage] = []
    refused: list[ApiError] = []
    for pointer, picture in given:
        try:
            taken.append(await _taken(parts, tenant, job_id, picture, description))
        except ApiError as error:
            refused.append(_at(pointer, error))
    if refused:
        await forget_start_images(parts, tenant, job_id, taken)
        raise _together(refused)
    for start in taken:
        await parts.queue.register_image(start.id, start.record, RECORD_TTL_S)
    return taken


async def forget_start_images(parts: Service, tenant: str, job_id: str, starts: Sequence[StartImage]) -> None:
    """Remove the pictures of a job that did not come about; what is left behind all the same is swept later."""
    if not starts:
        return
    await asyncio.to_thread(parts.images.delete_job, tenant, job_id)
    with suppress(QueueUnavailable):  # a record goes by itself, if late
        await parts.queue.forget_images([start.id for start in starts])


async def _taken(parts: Service, tenant: str, job_id: str, given: str | bytes, description: Description) -> StartImage:
    parent: dict[str, Any] | None = None
    if isinstance(given, str) and not given.isascii():  # four bytes a letter: refused at once, not in its turn
        await asyncio.to_thread(from_base64, given)
    async with parts.decoding.of(tenant):  # the file too is in memory no sooner than its turn
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
    return StartImage(image_id, record, picture.width, picture.height, parent)


def _at(pointer: str, error: ApiError) -> ApiError:
    """The same fault, of the picture that stands there."""
    if pointer == "/image":
        return error
    return replace(
        error, detail=f"{pointer[1:]}: {error.detail}", faults=[Fault(pointer, f.detail) for f in error.faults]
    )


def _together(refused: Sequence[ApiError]) -> ApiError:
    first, *others = refused
    if not others:
        return first
    detail = "; ".join(error.detail for error in refused)
    return replace(first, detail=detail, faults=[fault for error in refused for fault in error.faults])


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
