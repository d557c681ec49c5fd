"""/docs: Swagger UI over /openapi.json, with assets of our own so that nothing comes from another host."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from server.faults import ApiError
from server.routes import allow_head

router = APIRouter(include_in_schema=False)

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}
# Swagger UI needs no inline style or script; its icons are data URLs.
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>R3 API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return Response(
        _PAGE, media_type="text/html", headers={"Content-Security-Policy": _CSP, "Cache-Control": "no-cache"}
    )


@router.get("/docs/assets/{name}")
async def asset(name: str) -> Response:
    """A file of the page's."""
    if name not in _ASSETS:
        raise ApiError("not_found", f"/docs has no file {name[:100]!r}")
    return Response(_read(name), media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=3600"})


allow_head(router)


@cache
def _read(name: str) -> bytes:
    return (resources.files("server") / "web" / "swagger" / name).read_bytes()
