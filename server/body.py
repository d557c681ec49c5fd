"""From the bytes of a request to a JSON value that is safe to look at, in time that no body can stretch.

JSON here is strictly RFC 8259's: UTF-8, no NaN or Infinity, no name twice in one object. Before anything is parsed,
brackets and commas are counted: no request has ten thousand of them outside its texts, and a million nested lists
would cost seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect, Request

from server.callers import CALLER, Caller
from server.errors import invalid_request
from server.faults import MAX_FAULTS, ApiError, Fault, pointer_to

MAX_MARKS: Final = 20_000
MAX_DEPTH: Final = 64
IN_THREAD_BYTES: Final = 256 * 1024
_MAX_INT_DIGITS: Final = 20
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json(request: Request) -> Any:
    """The body of a request as a JSON value.

    Raises ApiError: unsupported_media_type, malformed_json, invalid_request (a lone surrogate, too many marks or
    levels), and what `receive` raises when the body grows over its limit (guard.py).
    """
    _check_content_type(request)
    body = bytearray()
    async for chunk in chunks_of(request):
        body += chunk
    if len(body) > IN_THREAD_BYTES:
        caller: Caller | None = request.scope.get(CALLER)
        # A text with one letter of many bytes takes four for each of its letters, twice.
        async with request.app.state.service.parsing.of("" if caller is None else caller.tenant):
            return await asyncio.to_thread(parse, body)
    return parse(body)


async def chunks_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ApiError bad_request where the client is gone before its end."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise ApiError("bad_request", "the client hung up before the body was complete") from error


def parse(body: bytes | bytearray) -> Any:
    """Strict JSON. Raises ApiError as `read_json` does."""
    if not body or body.isspace():
        raise _malformed("the body is empty; send a JSON object")
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_MARKS:
        raise invalid_request(
            [Fault("", f"holds more than {MAX_MARKS:,} brackets and commas; no request needs so many")]
        )
    try:
        value = _DECODER(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _malformed(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _too_deep() from error
    _check_depth(value)
    if _SURROGATE_ESCAPE.search(body):
        _refuse_lone_surrogates(value)
    return value


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    name, _, parameters = given.partition(";")
    said = (one.strip().lower().replace('"', "") for one in parameters.split(";"))
    others = {one for one in said if one.startswith("charset=")} - {"charset=utf-8", "charset=utf8"}
    if name.strip().lower() != "application/json" or others:
        was = f"it is {given[:100]!r}" if given else "it is missing"
        raise ApiError("unsupported_media_type", f"Content-Type must be application/json in UTF-8; {was}")
    refuse_encoding(request)


def refuse_encoding(request: Request) -> None:
    """Refuse a body that is compressed. Raises ApiError unsupported_media_type."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            "unsupported_media_type", f"Content-Encoding {encoding[:50]!r} is not supported; send the body as it is"
        )


def _malformed(detail: str) -> ApiError:
    return ApiError("malformed_json", detail)


def _too_deep() -> ApiError:
    return invalid_request([Fault("", f"is nested deeper than {MAX_DEPTH} levels; no request needs more than 3")])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _malformed(f"the name {twice[:100]!r} stands twice in one object; which one is meant cannot be known")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is not JSON; numbers must be finite")


def _int(digits: str) -> int | float:
    """Python refuses to read very long integers; as floats they fail the range checks like any other number."""
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)


_DECODER: Final[Callable[[str], Any]] = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_int
).decode


def _check_depth(value: Any) -> None:
    """Refuse deep values by one fixed number, long before whatever the interpreter's stack would allow."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        level = [child for parent in level for child in _children(parent)]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse_lone_surrogates(value: Any) -> None:
    places: list[list[str | int]] = []
    _find_lone_surrogates(value, [], places)
    if places:
        detail = "holds a lone surrogate, which is no character; send valid Unicode"
        raise invalid_request([Fault(pointer_to(place), detail) for place in places[:MAX_FAULTS]])


def _find_lone_surrogates(value: Any, place: list[str | int], found: list[list[str | int]]) -> None:
    if isinstance(value, str):
        if not _is_text(value):
            found.append(place)
    elif isinstance(value, dict):
        for name, child in value.items():
            if _is_text(name):
                _find_lone_surrogates(child, [*place, name], found)
            else:
                found.append([*place, name.encode("utf-8", "replace").decode()])
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _find_lone_surrogates(child, [*place, index], found)


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
