"""What the client's flows ask to be done, and how one request is asked for until it is answered.

A flow is a generator: it yields acts, is sent what came of them, and returns its result. So the rules stand in one
place, without I/O; `client.py` does the acts, `aio.py` does them asynchronously.

    Call, Open    an HTTP request; sent back is an Answer, or thrown in httpx's TransportError
    Read          the next bytes of the opened answer; b"" at its end
    Wait          a pause
    Tell          an event for whoever reads the stream

A request is tried again while nothing answers, or while the answer says that it will be otherwise (Retry-After, or a
proxy's 502, 503 or 504), until the client's patience is at its end.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import httpx

from r3client import events as ev
from r3client.errors import NoAnswer, Refused, refusal

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_JITTER: Final = 0.25  # so that the clients of an API that was restarted do not all come at once
_PASSING: Final = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Call:
    """A request whose whole answer is read."""

    method: str
    path: str
    body: Any = None
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True


@dataclass(frozen=True)
class Open(Call):
    """A request whose answer is read bit by bit where its status is 200."""


@dataclass(frozen=True)
class Read:
    """The next bytes of the opened answer."""


@dataclass(frozen=True)
class Wait:
    """A pause."""

    seconds: float


@dataclass(frozen=True)
class Tell:
    """An event for the reader."""

    event: ev.Event


@dataclass(frozen=True)
class Answer:
    """A status, headers, and the body unless it is still to be read."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True)
class Ended(Generic[T]):
    """A flow is at its end."""

    result: T


Act = Call | Read | Wait | Tell
Flow = Generator[Act, Any, T]


def resumed(flow: Flow[T], came: Any) -> Act | Ended[T]:
    """The flow's next act, now that this has come of the one before; the first is begun with None."""
    try:
        return flow.throw(came) if isinstance(came, httpx.TransportError) else flow.send(came)
    except StopIteration as stop:
        return Ended(stop.value)


class Patience:
    """How long the client goes on while nothing comes back, and how long it waits between two tries."""

    def __init__(self, patience_s: float) -> None:
        self.first_pause_s = _FIRST_PAUSE_S
        self._patience_s = patience_s
        self._tries = 0
        self._began: float | None = None

    def renew(self) -> None:
        """Something came."""
        self._tries, self._began = 0, None

    def pause(self, asked_s: float | None) -> float | None:
        """Seconds until the next try: what the server asked for, else longer each time. None: no longer."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        grown = min(self.first_pause_s * 2**self._tries, max(self.first_pause_s, _LONGEST_PAUSE_S))
        self._tries += 1
        pause = (grown if asked_s is None else asked_s) * random.uniform(1, 1 + _JITTER)  # noqa: S311 -- no secret
        return pause if now - self._began + pause <= self._patience_s else None


def asked(call: Call, patience_s: float) -> Flow[Answer]:
    """The answer, a good one. Raises Refused, NoAnswer."""
    patience = Patience(patience_s)
    while True:
        told: Exception
        try:
            answer: Answer = yield call
        except httpx.TransportError as error:
            told, asked_s, reason = no_answer(error), None, f"no answer ({words(error)})"
            if not (call.is_repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                raise told from error
            was_answered = False
        else:
            if answer.status < 400:
                return answer
            told = refused = refused_by(answer)
            if not is_passing(answer):
                raise refused
            asked_s, reason, was_answered = refused.retry_after_s, str(refused), True
        pause = patience.pause(asked_s)
        if pause is None:
            raise told
        yield Tell(ev.Waiting(job_id=None, reason=reason, seconds=pause, was_answered=was_answered))
        yield Wait(pause)


def refused_by(answer: Answer) -> Refused:
    """The exception for an answer that is an error."""
    try:
        problem = json.loads(answer.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"status {answer.status}, with no word of why; is that an R3 server?"}
    retry_after = answer.headers.get("retry-after", "")
    return refusal(answer.status, problem, float(retry_after) if retry_after.isdecimal() else None)


def is_passing(answer: Answer) -> bool:
    """Whether it may be otherwise in a while."""
    if "retry-after" in answer.headers:
        return answer.status == 429 or answer.status in _PASSING
    return answer.status in _PASSING and not answer.headers.get("content-type", "").startswith("application/problem")


def no_answer(error: httpx.TransportError) -> NoAnswer:
    """The exception for an answer that did not come."""
    return NoAnswer(f"no answer ({words(error)}); is the server running, and is the address right?")


def words(error: Exception) -> str:
    """What an exception says, or what it is."""
    return str(error) or type(error).__name__
