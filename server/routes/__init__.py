"""The paths of the API, a file a subject."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute


def allow_head(router: APIRouter) -> None:
    """HEAD wherever the router takes GET; the server leaves the body out."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            path = route.path.removeprefix(router.prefix)
            # What a route asks of its caller it asks of this one too.
            asked = route.dependencies
            router.add_api_route(path, route.endpoint, methods=["HEAD"], dependencies=asked, include_in_schema=False)
