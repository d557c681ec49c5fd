"""Server-sent events as a browser reads them, and what must hold of every stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from server.event_views import EVENTS
from server.queue_records import TERMINAL_EVENTS


@dataclass(frozen=True)
class Sse:
    """One event that was dispatched; `id` is None where its block had no id line."""

    name: str
    data: dict[str, Any]
    id: int | None
    retry: int | None = None


def parsed(lines: Iterable[str]) -> Iterator[Sse]:
    """The events of a stream. A block without data, which a browser passes over, is a fault of ours here."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            assert name not in fields, f"{name} twice in one block"
            fields[name] = value.removeprefix(" ")
            continue
        event = Sse(
            fields["event"],
            json.loads(fields["data"]),
            int(fields["id"]) if "id" in fields else None,
            int(fields["retry"]) if "retry" in fields else None,
        )
        EVENTS[event.name].model_validate(event.data)
        yield event
        fields = {}
    assert not fields, f"the stream broke off within {fields}"


def events_of(answer: httpx.Response) -> list[Sse]:
    """All events of an answer that is at its end."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(parsed(answer.text.splitlines()))


def names(events: Iterable[Sse]) -> list[str]:
    """Their names."""
    return [event.name for event in events]


def check_whole(events: list[Sse], after: int = 0) -> None:
    """Numbered without gap or repeat, one terminal event and that the last, `retry` in the first alone."""
    numbers = [event.id for event in events if event.id is not None]
    assert numbers == list(range(after + 1, after + 1 + len(numbers)))
    assert [event.name in TERMINAL_EVENTS for event in events].index(True) == len(events) - 1
    assert [event.retry is not None for event in events] == [True] + [False] * (len(events) - 1)
