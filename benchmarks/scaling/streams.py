"""One client's event stream, read with as little work as will do, and what all streams saw.

An event counts once, by its number; what is measured is measured within the window alone.
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

EVENT: Final = re.compile(rb"(?:id: (\d+)\n)?event: ([^\n]+)\ndata: ([^\n]*)\n\n")
TERMINAL: Final = frozenset({b"job.succeeded", b"job.failed", b"job.cancelled"})
SAID: Final = frozenset({b"reason.delta", b"reason.done", b"reflect.delta", b"reflect.done", b"image.progress"})
_AT: Final = b'"at":"'
_AT_LENGTH: Final = len("2026-01-01T00:00:00.000Z")


@dataclass
class Job:
    """A job that was acknowledged, as its client knows it. Times in Unix seconds."""

    id: str
    number: int
    tenant: str
    last: int = 0
    """The number of the last event that was seen; 0 where nobody follows."""
    ended: str | None = None
    ended_at_s: float = 0.0
    ends: int = 0
    """How many terminal events came."""
    queued_at_s: float | None = None


@dataclass
class Seen:
    """What all clients saw."""

    begin_s: float = float("inf")
    end_s: float = float("inf")
    events: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    said_s: array[float] = field(default_factory=lambda: array("d"))
    """From the worker's event to the client, of texts and progress."""
    pictures_s: array[float] = field(default_factory=lambda: array("d"))
    """The same of pictures, which are encoded and stored on the way."""
    waits_s: defaultdict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """From submission to lease, by tenant."""
    gaps: int = 0
    """How often a number was not the one after the last."""
    resumed: int = 0
    """How often a stream ended early, or was not begun, and was asked for again."""

    def is_on(self, at_s: float) -> bool:
        """Whether that time counts."""
        return self.begin_s <= at_s <= self.end_s


class Stream(asyncio.Protocol):
    """One connection that follows a job. `over` ends with it: True where the job has ended."""

    def __init__(self, job: Job, seen: Seen, request: bytes) -> None:
        self._job, self._seen, self._request = job, seen, request
        self._text = b""
        self._begun_at_s = float("inf")
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Whole events; the server never splits one over two HTTP chunks."""
        now_s = time.time()
        is_on = self._seen.is_on(now_s)
        if is_on:
            self._seen.received_bytes += len(data)
        text, end = self._text + data, 0
        for event in EVENT.finditer(text):
            end = event.end()
            if is_on:
                self._seen.events[event[2].decode()] += 1
            if event[1] is not None and not self._is_next(int(event[1])):
                continue
            self._look(event[2], event[3], now_s)
        self._text = text[end:]
        self._begun_at_s = min(self._begun_at_s, now_s)
        if self._job.ended is not None or _is_refusal(self._text):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The server closed it, or we did."""
        if not self.over.done():
            self.over.set_result(self._job.ended is not None)

    def _is_next(self, number: int) -> bool:
        """Count a gap or a repeat; False for the latter, which is not to be counted again."""
        self._seen.gaps += number != self._job.last + 1
        is_new = number > self._job.last
        self._job.last = max(self._job.last, number)
        return is_new

    def _look(self, name: bytes, data: bytes, now_s: float) -> None:
        if name in SAID or name == b"image":
            at_s = time_of(data)
            # What was said before the stream had begun waited for the client.
            if at_s > self._begun_at_s and self._seen.is_on(at_s):
                (self._seen.pictures_s if name == b"image" else self._seen.said_s).append(now_s - at_s)
        elif name == b"job.queued" and self._job.queued_at_s is None:
            self._job.queued_at_s = time_of(data)
        elif name == b"job.started" and self._job.queued_at_s is not None:
            at_s = time_of(data)
            if self._seen.is_on(at_s) and b'"attempt":1,' in data:
                self._seen.waits_s[self._job.tenant].append(at_s - self._job.queued_at_s)
        elif name in TERMINAL:
            self._job.ends += 1
            self._job.ended, self._job.ended_at_s = name.decode().removeprefix("job."), now_s


def _is_refusal(text: bytes) -> bool:
    """Whether an answer's head says that no stream follows: 204 where all has been seen, or an error."""
    return text.startswith(b"HTTP/1.1 ") and not text.startswith(b"HTTP/1.1 200")


def time_of(data: bytes) -> float:
    """When the event was made, as it says itself."""
    start = data.index(_AT) + len(_AT)
    return datetime.fromisoformat(data[start : start + _AT_LENGTH].decode()).timestamp()
