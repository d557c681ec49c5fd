"""One job as its user sees it: asked for over HTTP, followed as a stream, and when what of it had arrived."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean
from typing import Any, Final

import httpx

from r3client.sse import Decoder

Json = dict[str, Any]
PHASES: Final = ("reason", "generate", "reflect", "refine")
_TERMINAL: Final = frozenset({"job.succeeded", "job.failed", "job.cancelled"})
_WORDS: Final = ("reason.delta", "reason.done", "reflect.delta", "reflect.done")


class NotMeasured(Exception):
    """A job did not come to its end, or the server did not answer: nothing can be said of how fast it is."""


@dataclass(frozen=True)
class Arrived:
    """An event, and when its bytes were there, in seconds after the request was sent."""

    after_s: float
    name: str
    data: Json

    @property
    def made_at_s(self) -> float:
        """When it was made, as it says itself: Unix seconds, to a thousandth."""
        return datetime.fromisoformat(self.data["at"]).timestamp()


@dataclass(frozen=True)
class Watched:
    """A job from its request to its last event. `engine_s` is what the worker counts of its engine's turns for it."""

    sent_at_s: float
    events: Sequence[Arrived]
    usage: Mapping[str, float]
    picture_s: float | None = None
    """When the bytes of its first picture were there, where they were fetched."""

    @property
    def total_s(self) -> float:
        """Until the last event."""
        return self.events[-1].after_s

    @property
    def engine_s(self) -> float:
        """The turns of the engine, its share of each where several jobs shared it."""
        return float(self.usage["compute_s"])

    def first_s(self, *names: str) -> float | None:
        """Until the first event of one of these names; None where none came."""
        found = self.first(*names)
        return None if found is None else found.after_s

    def first(self, *names: str) -> Arrived | None:
        """The first event of one of these names."""
        return next((event for event in self.events if event.name in names), None)

    @property
    def first_word_s(self) -> float | None:
        """Until something of the first text could be read."""
        return self.first_s(*_WORDS)

    @property
    def first_picture_s(self) -> float:
        """Until its first picture was told of; a job that has succeeded has one."""
        first_s = self.first_s("image")
        assert first_s is not None
        return first_s

    def phases(self) -> dict[str, float]:
        """Seconds of each phase, the mean where there were several: from the end of the one before to its own."""
        took: dict[str, list[float]] = {}
        began_s: float | None = None
        for event in self.events:
            if event.name == "job.started":
                began_s = event.after_s
            elif (phase := _phase_ended_by(event)) is not None and began_s is not None:
                took.setdefault(phase, []).append(event.after_s - began_s)
                began_s = event.after_s
        return {phase: mean(took[phase]) for phase in PHASES if phase in took}


def _phase_ended_by(event: Arrived) -> str | None:
    if event.name in ("reason.done", "reflect.done"):
        return event.name.removesuffix(".done")
    if event.name == "image":
        return "refine" if event.data["round"] else "generate"
    return None


async def watch(http: httpx.AsyncClient, body: Mapping[str, Any], *, fetches: bool = False) -> Watched:
    """Ask for a job and follow it to its end; with `fetches` its first picture is fetched as soon as it is told of.

    Raises NotMeasured.
    """
    try:
        return await _watched(http, body, fetches=fetches)
    except httpx.HTTPError as error:
        raise NotMeasured(f"the server did not answer ({str(error) or type(error).__name__})") from error


async def _watched(http: httpx.AsyncClient, body: Mapping[str, Any], *, fetches: bool) -> Watched:
    decoder, events = Decoder(), list[Arrived]()
    fetched: asyncio.Task[float] | None = None
    sent_at_s, sent_s = time.time(), time.perf_counter()
    async with http.stream("POST", "/generate", json={**body, "stream": True}) as answer:
        if answer.status_code != 200:
            told = (await answer.aread()).decode(errors="replace")[:300]
            raise NotMeasured(f"the server answered {answer.status_code}: {told}")
        async for chunk in answer.aiter_bytes():
            after_s = time.perf_counter() - sent_s
            for frame in decoder.feed(chunk):
                events.append(Arrived(after_s, frame.name, json.loads(frame.data)))
                if fetches and frame.name == "image" and fetched is None:
                    fetched = asyncio.create_task(_fetched_s(http, events[-1].data["image"]["url"], sent_s))
    if not events or events[-1].name not in _TERMINAL:
        raise NotMeasured("a job's stream ended before the job did")
    if events[-1].name != "job.succeeded":
        raise NotMeasured(f"a job ended with {events[-1].name}: {events[-1].data.get('error')}")
    job = (await http.get(f"/jobs/{events[-1].data['job_id']}")).raise_for_status().json()
    return Watched(sent_at_s, events, job["usage"], None if fetched is None else await fetched)


async def _fetched_s(http: httpx.AsyncClient, url: str, sent_s: float) -> float:
    (await http.get(url)).raise_for_status()
    return time.perf_counter() - sent_s
