"""Signing in on the page: a key is shown once, and a cookie that no script can read stands in for it from then on."""

from __future__ import annotations

import time
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.answers import answer, problems
from server.authority import refused
from server.callers import Caller, Reader
from server.errors import json_response
from server.routes import allow_head
from server.service import Parts
from server.sessions import PLAIN_COOKIE, SESSION_S, cookie_name, is_secure
from server.views import SessionView

router = APIRouter(prefix="/session", tags=["service"])

_WHO: Final = {**answer(200, SessionView, "Who calls"), **problems(422)}


@router.get("", operation_id="getSession", summary="Who am I?", responses=_WHO)
async def get_session(caller: Reader) -> Response:
    """The tenant and what the caller may, by a key, by a session, or because nobody is asked for a key."""
    return json_response(_shown(caller))


@router.post("", operation_id="createSession", summary="Sign in", responses=_WHO)
async def create_session(request: Request, parts: Parts, caller: Reader) -> Response:
    """Send a key as `Authorization`; the answer sets a cookie that stands in for it, for a week.

    It is HttpOnly and SameSite=Strict, and counts only in calls by pages of this origin. A session makes no session.
    """
    ring = await parts.authority.ring()
    key = ring.keys.get(caller.key) if caller.key is not None else None
    if ring.sessions is None:
        return json_response(_shown(caller))
    if key is None or "authorization" not in request.headers:
        raise refused("a session is made for a key; send it as Authorization: Bearer <key>")
    response = json_response(_shown(caller))
    _set(response, request, parts.settings.public_url, ring.sessions.value(key, time.time()), SESSION_S)
    return response


@router.delete(
    "",
    operation_id="deleteSession",
    summary="Sign out",
    status_code=204,
    responses={204: {"description": "The cookie is struck"}, **problems(422)},
)
async def delete_session(request: Request, parts: Parts, _caller: Reader) -> Response:
    """Have the browser forget the cookie."""
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    _set(response, request, parts.settings.public_url, "", 0)
    return response


allow_head(router)


def _shown(caller: Caller) -> dict[str, Any]:
    return {"tenant": caller.tenant, "key": caller.key, "scopes": sorted(caller.scopes)}


def _set(response: Response, request: Request, public_url: str | None, value: str, age_s: int) -> None:
    name, secure = cookie_name(request.scope, public_url), is_secure(request.scope, public_url)
    if secure:  # what was set before the server was known to be reached by https
        response.delete_cookie(PLAIN_COOKIE, path="/")
    response.set_cookie(name, value, max_age=age_s, path="/", secure=secure, httponly=True, samesite="strict")
