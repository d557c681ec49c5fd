"""The client, synchronous: the flows' acts done with httpx.Client."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from time import sleep
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from r3client import flows
from r3client.acts import Answer, Call, Ended, Flow, Open, Read, Tell, Wait, resumed
from r3client.connection import Connection
from r3client.events import Event, Waiting
from r3client.following import Following, job_path
from r3client.live import Live
from r3client.models import (
    DescribeResult,
    Image,
    Job,
    JobPage,
    JobStatus,
    ReflectResult,
    RoundtripResult,
    ScoreResult,
    Share,
)
from r3client.settings import Generation
from r3client.task_settings import Describing, Picture, Reflecting, RoundTrip, Scoring, Task, scored_fields, task_body

T = TypeVar("T")
log = logging.getLogger("r3client")


class EventStream(Iterator[Event]):
    """A job's events as they come; `live` is all of them added up. Closing it leaves the job running."""

    def __init__(self, events: Generator[Event, None, Any]) -> None:
        self.live = Live()
        self._events = events

    def __next__(self) -> Event:
        event = next(self._events)
        self.live.take(event)
        return event

    def close(self) -> None:
        """Read no more."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Client:
    """A server. `patience_s` is how long a request is tried again while nothing answers, or the server is busy."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        patience_s: float = 120.0,
        timeout_s: float = 45.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection.of(base_url, api_key, timeout_s)
        self._patience_s = patience_s
        self._http = httpx.Client(**self._connection.options(), transport=transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    def generate(
        self,
        prompt: str,
        *,
        download: flows.Download = "all",
        idempotency_key: str | None = None,
        **settings: Unpack[Generation],
    ) -> Job:
        """Make pictures and wait for them; those of all rounds are fetched unless `download` says else.

        Raises GenerationFailed, GenerationCancelled, Refused, NoAnswer.
        """
        return self._result(flows.generated(prompt, settings, idempotency_key, download, self._patience_s))

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **settings: Unpack[Generation]) -> Job:
        """Ask for pictures and do not wait. Raises Refused, NoAnswer."""
        return self._result(flows.submitted(prompt, settings, idempotency_key, self._patience_s))

    def stream(self, prompt: str, *, idempotency_key: str | None = None, **settings: Unpack[Generation]) -> EventStream:
        """Ask for pictures, and read what happens as it happens. The job is made when the first event is asked for."""
        return EventStream(self._told(flows.streamed(prompt, settings, idempotency_key, self._patience_s)))

    def ask(self, kind: Task, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Ask for a score, reflection, description or round trip by its fields and do not wait; `follow` tells of it.

        Raises Refused, NoAnswer.
        """
        body = task_body(fields)
        return self._result(flows.posted(f"/{kind}", body, idempotency_key, self._patience_s))

    def score(
        self,
        prompt: str,
        images: Picture | Sequence[Picture],
        *,
        idempotency_key: str | None = None,
        **settings: Unpack[Scoring],
    ) -> ScoreResult:
        """How well a picture, or each of several, shows the prompt by what the model makes of it.

        Raises as `generate` does; so do the three below.
        """
        body = task_body(scored_fields(prompt, images, settings))
        return self._result(flows.task("score", body, idempotency_key, ScoreResult, self._patience_s))

    def reflect(
        self, prompt: str, image: Picture, *, idempotency_key: str | None = None, **settings: Unpack[Reflecting]
    ) -> ReflectResult:
        """What the model would change of a picture so that it shows the prompt."""
        body = task_body({"prompt": prompt, "image": image, **settings})
        return self._result(flows.task("reflect", body, idempotency_key, ReflectResult, self._patience_s))

    def describe(
        self, image: Picture, *, idempotency_key: str | None = None, **settings: Unpack[Describing]
    ) -> DescribeResult:
        """What the model sees in a picture, or its answer to a question about it."""
        body = task_body({"image": image, **settings})
        return self._result(flows.task("describe", body, idempotency_key, DescribeResult, self._patience_s))

    def roundtrip(
        self,
        image: Picture | None = None,
        *,
        prompt: str | None = None,
        idempotency_key: str | None = None,
        **settings: Unpack[RoundTrip],
    ) -> RoundtripResult:
        """A picture, given or drawn from the prompt; its description; a picture of that alone; how alike they are.

        The pictures' bytes are fetched.
        """
        body = task_body({"image": image, "prompt": prompt, **settings})
        return self._result(flows.roundtrip(body, idempotency_key, self._patience_s))

    def follow(self, job: str | Job, *, after: int = 0) -> EventStream:
        """What happens, and what has happened after event number `after`, to a job that is there."""
        return EventStream(self._told(Following(id_of(job), after, self._patience_s).told()))

    def job(self, job: str | Job) -> Job:
        """A job as it stands."""
        return self._result(flows.found(id_of(job), self._patience_s))

    def jobs(self, *, status: JobStatus | None = None, limit: int = 20, cursor: str | None = None) -> JobPage:
        """One's own jobs, newest first; `cursor` is the `next_cursor` of the page before."""
        return self._result(flows.listed(status, limit, cursor, self._patience_s))

    def cancel(self, job: str | Job) -> Job:
        """End a job now. Raises AlreadyFinished."""
        return self._result(flows.ended(id_of(job), "cancel", self._patience_s))

    def stop(self, job: str | Job) -> Job:
        """Good enough: end a job with the newest finished pictures. Raises NoImageYet, AlreadyFinished."""
        return self._result(flows.ended(id_of(job), "stop", self._patience_s))

    def delete(self, job: str | Job) -> None:
        """Erase a finished job and its pictures. Raises NotFinished."""
        self._result(flows.deleted(job_path(id_of(job)), self._patience_s))

    def share(self, job: str | Job, *, expires_s: float = 86_400.0) -> Share:
        """A read-only link to a job, which whoever has it can follow."""
        return self._result(flows.shared(id_of(job), expires_s, self._connection.url, self._patience_s))

    def unshare(self, job: str | Job) -> None:
        """Revoke all read-only links to a job."""
        self._result(flows.deleted(job_path(id_of(job), "share"), self._patience_s, is_repeatable=True))

    def image(self, image: str | Image) -> bytes:
        """A picture's bytes; given the picture itself, they are held against its sha256."""
        return self._result(flows.fetched(image, self._patience_s))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _told(self, flow: Flow[T]) -> Generator[Event, None, T]:
        """Do what the flow asks for; what it tells is yielded."""
        wire, came = _Wire(self._http), None
        try:
            while not isinstance(act := resumed(flow, came), Ended):
                came = None
                if isinstance(act, Tell):
                    yield act.event
                else:
                    came = wire.do(act)
            return act.result
        finally:
            flow.close()
            wire.close()

    def _result(self, flow: Flow[T]) -> T:
        told = self._told(flow)
        while True:
            try:
                warn_of(next(told))
            except StopIteration as stop:
                result: T = stop.value
                return result


class _Wire:
    """Requests, one answer open at a time."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._open: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def do(self, act: Call | Read | Wait) -> Any:
        """What comes of it, which may be an error of the connection's."""
        try:
            match act:
                case Wait(seconds):
                    self.close()
                    return sleep(seconds)
                case Read():
                    return next(self._chunks, b"")
                case Call():
                    return self._answered(act)
        except httpx.RequestError as error:
            return error

    def _answered(self, call: Call) -> Answer:
        self.close()
        request = self._http.build_request(
            call.method, call.path, params=call.query or None, json=call.body, headers=call.headers
        )
        response = self._open = self._http.send(request, stream=True)
        if isinstance(call, Open) and response.status_code == 200:
            self._chunks = response.iter_bytes()
            return Answer(200, response.headers)
        try:
            return Answer(response.status_code, response.headers, response.read())
        finally:
            self.close()

    def close(self) -> None:
        """Read no more of what is open."""
        if self._open is not None:
            self._open.close()
            self._open, self._chunks = None, iter(())


def warn_of(event: Event) -> None:
    """Nobody reads the events of a call that only waits; that it waits for a server is said by logging."""
    if isinstance(event, Waiting) and not event.was_answered:
        log.warning("%s; trying again in %.1f s", event.reason, event.seconds)


def id_of(thing: str | Job | Image) -> str:
    """The id of a job or an image."""
    return thing if isinstance(thing, str) else thing.id
