"""Server-sent events from bytes (WHATWG HTML, section 9.2): what came whole, however the network cut it up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Frame:
    """One block as it was sent. A block without data dispatches nothing, and has no name."""

    name: str
    data: str
    id: str | None
    retry_ms: int | None


class Decoder:
    """Frames from the chunks of one connection; what is unfinished at its end is dropped, as the standard says."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._fields: dict[str, list[str]] = {}

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The blocks that are whole now."""
        self._rest.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            return  # a picture as base64 is one line of megabytes: it is looked through once
        text = b"".join(self._rest)
        # A \r at the very end may be the first half of \r\n.
        end = 1 + max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1))
        self._rest = [text[end:]]
        for line in _LINE_END.split(text[:end])[:-1]:
            if (frame := self._line(line.decode("utf-8", "replace"))) is not None:
                yield frame

    def _line(self, line: str) -> Frame | None:
        if line:
            name, _, value = line.partition(":")
            if name:  # else it is a comment
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
            return None
        fields, self._fields = self._fields, {}
        if not fields:
            return None
        number, retry = fields.get("id", [None])[-1], fields.get("retry", [""])[-1]
        return Frame(
            fields.get("event", ["message"])[-1],
            "\n".join(fields.get("data", [])),
            number,
            int(retry) if retry.isdecimal() else None,
        )
