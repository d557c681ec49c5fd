"""From the bytes of a multipart form (RFC 7578) to a JSON value and the files beside it.

Forms know texts alone, so a text becomes a number or a boolean where the schema of its field takes no text; `a[b]` is
the field b of the object a, `a[]` one more of the list a; an object may also be one text of JSON. What is not needed of
a form is not kept, and nothing is written to a disk.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.body import chunks_of, parse, refuse_encoding
from server.errors import invalid_request
from server.faults import ApiError, Fault
from server.pictures import MAX_BYTES, invalid_image

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Json = dict[str, Any]

MAX_PARTS: Final = 200
MAX_TEXT_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 8
_AT_ONCE_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_LITERAL: Final = re.compile(r"true|false|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass
class Form:
    """The texts and files of a form, by name, in the order they came."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)


async def read_form(request: Request) -> Form:
    """The body of a request as a form.

    Raises ApiError: unsupported_media_type, bad_request (it is no form, or breaks off), invalid_request (too many
    parts, a text that is too long or no UTF-8), invalid_image (a file that is too long), and what `receive` raises when
    the body grows over its limit (guard.py).
    """
    parts = _Parts(_boundary(request))
    waiting = bytearray()
    async for chunk in chunks_of(request):
        waiting += chunk
        if len(waiting) >= _AT_ONCE_BYTES:  # a file's bytes must not keep the other requests waiting
            await asyncio.to_thread(parts.write, bytes(waiting))
            waiting.clear()
    parts.write(bytes(waiting))
    return parts.whole()


def form_value(texts: Iterable[tuple[str, str]], schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Json:
    """The JSON value that a form's texts stand for; `defs` are the schemas that `schema` refers to, by name.

    Raises ApiError invalid_request for names that contradict each other, and malformed_json.
    """
    value: Json = {}
    for name, text in texts:
        found = _NAME.fullmatch(name)
        if found is None:
            raise _refused(name, "is no name of a field; write NAME, NAME[FIELD] or NAME[]")
        path = [found[1], *found[2][1:-1].split("][")] if found[2] else [found[1]]
        if len(path) > MAX_DEPTH or "" in path[:-1]:
            raise _refused(name, "is no name of a field; write NAME, NAME[FIELD] or NAME[]")
        _put(value, path, text, name)
    return {name: _typed(v, _child(schema, name, defs), defs) for name, v in value.items()}


class _Parts:
    """Takes a form's bytes piece by piece."""

    def __init__(self, boundary: bytes) -> None:
        self._form = Form()
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._is_file = self._is_over = False
        self._content = bytearray()
        self._count = 0
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._more,
            "on_part_end": self._end,
            "on_end": self._over,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _unreadable(str(error)) from error

    def write(self, data: bytes) -> None:
        """The next piece. Raises ApiError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _unreadable(str(error)) from error

    def whole(self) -> Form:
        """The form, all of which is there. Raises ApiError bad_request."""
        if not self._is_over:
            raise _unreadable("it breaks off before its last boundary")
        return self._form

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise invalid_request([Fault("", f"has more than {MAX_PARTS} parts; no request needs so many")])
        self._disposition = b""

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _unreadable("one of its parts has no Content-Disposition: form-data with a name")
        self._name = _text(options[b"name"], "one of its names")
        self._is_file = b"filename" in options
        self._content = bytearray()

    def _more(self, data: bytes, start: int, end: int) -> None:
        size = len(self._content) + end - start
        if self._is_file and size > MAX_BYTES:
            raise invalid_image(f"has more than {MAX_BYTES:,} bytes, which is the most that is taken")
        if not self._is_file and size > MAX_TEXT_BYTES:
            raise _refused(self._name, f"has more than {MAX_TEXT_BYTES:,} bytes, which is the most that is taken")
        self._content += data[start:end]

    def _end(self) -> None:
        if self._is_file:
            self._form.files.append((self._name, bytes(self._content)))
        else:
            self._form.texts.append((self._name, _text(self._content, self._name)))
        self._content = bytearray()

    def _over(self) -> None:
        self._is_over = True


def _boundary(request: Request) -> bytes:
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given)
    if kind != b"multipart/form-data":
        was = f"it is {given[:100]!r}" if given else "it is missing"
        raise ApiError("unsupported_media_type", f"Content-Type must be multipart/form-data; {was}")
    refuse_encoding(request)
    if not options.get(b"boundary"):
        raise _unreadable("its Content-Type names no boundary")
    return options[b"boundary"]


def _text(content: bytes | bytearray, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(name, f"is not UTF-8 at byte {error.start}") from error


def _put(value: Json, path: list[str], text: str, name: str) -> None:
    """Set the text at its place in the value. Raises ApiError where something else is there."""
    for key, after in pairwise(path):
        held = value.setdefault(key, [] if after == "" else {})
        if after == "" and isinstance(held, list):
            held.append(text)
            return
        if not isinstance(held, dict):
            raise _refused(name, f"contradicts another part of the form, which is called {key}, too; give one of them")
        value = held
    if path[-1] in value or path[-1] == "":
        raise _refused(name, "is there more than once; give it once")
    value[path[-1]] = text


def _typed(value: Any, schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Any:
    """The value with every text that is to be none as what it spells; one that spells nothing is left to be refused."""
    if isinstance(value, dict):
        return {name: _typed(v, _child(schema, name, defs), defs) for name, v in value.items()}
    if isinstance(value, list):
        return [_typed(v, _child(schema, "", defs), defs) for v in value]
    kinds = {str(kind) for one in _alternatives(schema, defs) for kind in _kinds(one)}
    if "string" in kinds or not kinds:
        return value
    if ("object" in kinds and value.lstrip()[:1] == "{") or _LITERAL.fullmatch(value):
        return parse(value.encode())
    return value


def _child(schema: Mapping[str, Any], name: str, defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a field of an object; with an empty name that of a list's items. Nothing where there is none."""
    for one in _alternatives(schema, defs):
        found = one.get("items") if name == "" else one.get("properties", {}).get(name, one.get("additionalProperties"))
        if isinstance(found, dict):
            return found
    return {}


def _alternatives(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in schema:
        return _alternatives(defs[schema["$ref"].rpartition("/")[2]], defs)
    return [one for part in schema.get("anyOf", ()) for one in _alternatives(part, defs)] or [schema]


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type", ())
    return [kind] if isinstance(kind, str) else list(kind)


def _refused(name: str, detail: str) -> ApiError:
    pointer = "/" + name[:100].replace("~", "~0").replace("/", "~1")
    return invalid_request([Fault(pointer, detail)])


def _unreadable(why: str) -> ApiError:
    return ApiError("bad_request", f"the form cannot be read: {why}; send multipart/form-data")
