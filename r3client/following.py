"""A job's events, told one after another through lost connections, restarts of the API, and streams that it closes.

After each loss the client comes back with Last-Event-ID: at once where nothing says otherwise, else after what the
server asked for (`retry:`, `retry_ms` of `stream.closing`, Retry-After), and later each time while nothing answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import httpx

from r3client import events as ev
from r3client.acts import Answer, Flow, Open, Patience, Read, Tell, Wait, is_passing, no_answer, refused_by, words
from r3client.errors import NoAnswer, UnexpectedAnswer
from r3client.sse import Decoder, Frame


class _Lost(Exception):
    """A connection was lost, or there was none; `asked_s` is when the server, if it said anything, wants us back."""

    def __init__(self, reason: str, asked_s: float | None = None, *, was_answered: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.asked_s, self.was_answered = reason, asked_s, was_answered


class Following:
    """One job's events after number `after`."""

    def __init__(self, job_id: str, after: int, patience_s: float) -> None:
        self._job_id, self._last = job_id, after
        self._patience = Patience(patience_s)

    def told(self) -> Flow[ev.LastEvent | None]:
        """Tell all events; returns the last one, None where none was left. Raises Refused, NoAnswer."""
        while True:
            try:
                return (yield from self._connection())
            except _Lost as lost:
                pause = self._patience.pause(lost.asked_s)
                if pause is None:
                    told = f"{lost.reason}; {self._job_id} goes on, follow it after event {self._last}"
                    raise NoAnswer(told, self._job_id, self._last) from lost.__cause__
                waiting = ev.Waiting(
                    job_id=self._job_id, reason=lost.reason, seconds=pause, was_answered=lost.was_answered
                )
                yield Tell(waiting)
                yield Wait(pause)

    def _connection(self) -> Flow[ev.LastEvent | None]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(self._last)} if self._last else {})}
        try:
            answer: Answer = yield Open("GET", job_path(self._job_id, "events"), headers=headers)
            if answer.status == 204:
                return None
            if answer.status != 200:
                refused = refused_by(answer)
                if not is_passing(answer):
                    raise refused
                raise _Lost(str(refused), refused.retry_after_s, was_answered=True)
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise UnexpectedAnswer(f"what answers there sends {kind or 'nothing named'}, and no events of a job")
            return (yield from self._stream())
        except httpx.RequestError as error:
            raise _Lost(str(no_answer(error))) from error

    def _stream(self) -> Flow[ev.LastEvent]:
        decoder = Decoder()
        while chunk := (yield Read()):
            for event in self._fresh(decoder.feed(chunk)):
                if isinstance(event, ev.StreamClosing):
                    told = f"the server closed the stream ({event.reason})"
                    raise _Lost(told, event.retry_ms / 1000, was_answered=True)
                yield Tell(event)
                if isinstance(event, ev.LastEvent):
                    return event
            self._patience.renew()
        raise _Lost("the connection was lost")

    def _fresh(self, frames: Iterable[Frame]) -> Iterator[ev.Received]:
        """What was not told before."""
        for frame in frames:
            if frame.retry_ms is not None:
                self._patience.first_pause_s = frame.retry_ms / 1000
            if not frame.data:
                continue
            event = self._read(frame)
            if event.id is not None and event.id <= self._last:
                continue
            self._last = self._last if event.id is None else event.id
            yield event

    def _read(self, frame: Frame) -> ev.Received:
        try:
            return ev.read_event(frame.name, json.loads(frame.data), None if frame.id is None else int(frame.id))
        except (ValueError, TypeError) as error:  # pydantic's is a ValueError
            told = f"{frame.name!r} in the stream of {self._job_id} cannot be read: {words(error)}"
            raise UnexpectedAnswer(told) from error


def job_path(job_id: str, more: str = "") -> str:
    """A job's address, or that of something of it."""
    return f"/jobs/{part(job_id)}" + (f"/{more}" if more else "")


def part(text: str) -> str:
    """One part of a path, whatever it holds."""
    return quote(text, safe="") if text.strip(".") else "-"  # dots alone would lead elsewhere, and name nothing
