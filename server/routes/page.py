"""The browser client at / and /j/{id}: files of the package, sent as they are. There is no build step.

The page is the same for every job, and asks for the job itself with its reader's own key. A browser keeps the files but
asks each time whether they have changed, so that after an upgrade no old file runs beside a new one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Annotated, Final, NamedTuple

from fastapi import APIRouter, Header
from starlette.responses import Response

from server.faults import ApiError
from server.routes import allow_head

router = APIRouter(include_in_schema=False)

_CLIENT: Final = "client"
_VENDORED: Final = {"htm-preact.js": ("htm", "standalone.module.js")}
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Pictures of a person's own (blob:) are shown before they are sent. Nothing inline, nothing from another host, and no
# text becomes HTML.
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class _File(NamedTuple):
    content: bytes
    etag: str


IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match")]


@router.get("/")
@router.get("/j/{job_id}")
async def page(if_none_match: IfNoneMatch = None) -> Response:
    """The page."""
    return _sent(_read(_CLIENT, "index.html"), "text/html", if_none_match, {"Content-Security-Policy": _CSP})


@router.get("/assets/{name}")
async def asset(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """A file of the page's."""
    if name not in asset_names():
        raise ApiError("not_found", f"the page has no file {name[:100]!r}")
    folder, file = _VENDORED.get(name, (_CLIENT, name))
    return _sent(_read(folder, file), _TYPES[name[name.rindex(".") :]], if_none_match, {})


allow_head(router)


@cache
def asset_names() -> frozenset[str]:
    """The files that the page consists of."""
    own = (file.name for file in (resources.files("server") / "web" / _CLIENT).iterdir())
    return frozenset(_VENDORED) | {name for name in own if name.endswith(tuple(_TYPES))}


def _sent(file: _File, media_type: str, if_none_match: str | None, headers: dict[str, str]) -> Response:
    headers = {**headers, "ETag": file.etag, "Cache-Control": "no-cache"}
    if file.etag in (if_none_match or ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=media_type, headers=headers)


@cache
def _read(folder: str, name: str) -> _File:
    content = (resources.files("server") / "web" / folder / name).read_bytes()
    return _File(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
