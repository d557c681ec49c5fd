"""Two APIs and three workers on one queue and one bucket, as processes, and clients that find whichever API answers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from server.queue_records import TERMINAL_EVENTS
from tests.server.api.events import Sse, parsed
from tests.server.processes import ApiProcess, WorkerProcess
from tests.server.waiting import until

APIS: Final = 2
WORKERS: Final = 3
LEAVE_S: Final = 30.0
STEPS: Final = {"num_timesteps": 9}
ASKED: Final = {"size": "256x256", "generate": STEPS, "refine": STEPS}
ROUNDS: Final = [0, 1, 2]  # of "edits=2"


@dataclass
class Fleet:
    """The processes; each is started again in its own place."""

    url: str
    data_dir: Path
    settings: dict[str, Any]
    apis: list[ApiProcess] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    ended: list[ApiProcess | WorkerProcess] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        """All of them, until each is ready and the workers are known."""
        self.apis = [self._api() for _ in range(APIS)]
        self.workers = [self._worker() for _ in range(WORKERS)]
        for api in self.apis:
            self.wait_for(api)
        for worker in self.workers:
            self.wait_for(worker)

    def restart_api(self, number: int) -> None:
        """SIGTERM, and another one at its address once it has ended."""
        old = self.apis[number]
        self._leave(old)
        self.apis[number] = self._api(port=old.port)
        self.wait_for(self.apis[number])

    def restart_worker(self, number: int) -> None:
        """SIGTERM, and another one once it has ended: there is no device for one more."""
        self._leave(self.workers[number])
        self.workers[number] = self._worker()
        self.wait_for(self.workers[number])

    def wait_for(self, process: ApiProcess | WorkerProcess) -> None:
        """Until it is ready."""
        ask = process.probe if isinstance(process, WorkerProcess) else process.status
        until(lambda: ask("/readyz") == 200 or not process.is_running(), 60)
        assert process.is_running(), process.log.read_text()

    def close(self) -> None:
        """End all of them, however they stand."""
        for process in (*self.ended, *self.apis, *self.workers):
            if process.is_running():
                process.kill()
            if isinstance(process, ApiProcess):
                process.client.close()

    def _api(self, **settings: Any) -> ApiProcess:
        given = {"wait_s": 30, "log_level": "info", **self.settings, **settings}
        return ApiProcess(self.url, self.data_dir, self._log("api"), **given)

    def _worker(self) -> WorkerProcess:
        given = {"fake_step_s": 0.01, "max_trajectories": 2, "lease_s": 15, "renew_s": 1, **self.settings}
        return WorkerProcess(self.url, self.data_dir, self._log("worker"), **given)

    def _log(self, name: str) -> Path:
        self.started += 1
        return self.data_dir / f"{self.started}-{name}.log"

    def _leave(self, process: ApiProcess | WorkerProcess) -> None:
        process.send(signal.SIGTERM)
        self.ended.append(process)
        process.process.wait(LEAVE_S)


@contextmanager
def fleet(url: str, data_dir: Path, **settings: Any) -> Iterator[Fleet]:
    """A fleet that is up for as long as the block lasts."""
    one = Fleet(url, data_dir, settings)
    try:
        one.start()
        yield one
    finally:
        one.close()


@dataclass
class Visit:
    """What a client saw of its job: every event that has a number, over all the streams it took."""

    job: dict[str, Any]
    events: list[Sse] = field(default_factory=list)
    streams: int = 0
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self.events[-1].id or 0 if self.events else 0

    @property
    def is_over(self) -> bool:
        """Whether the terminal event was seen."""
        return bool(self.events) and self.events[-1].name in TERMINAL_EVENTS

    def check(self) -> None:
        """No event lost, none twice, one terminal event and that a success, every picture announced and read."""
        names = [event.name for event in self.events]
        assert [event.id for event in self.events] == list(range(1, len(self.events) + 1)), names
        assert [name for name in names if name in TERMINAL_EVENTS] == ["job.succeeded"]
        assert names[-1] == "job.succeeded"
        assert [event.data["round"] for event in self.events if event.name == "image"] == ROUNDS
        assert len(self.pictures) == len(ROUNDS)


class Visitor:
    """A client that knows all APIs, begins with one of them, and goes to the next where one is not there."""

    def __init__(self, urls: list[str], first: int) -> None:
        self._clients = [httpx.Client(base_url=url, timeout=60, trust_env=False) for url in urls]
        self._turn = first

    def close(self) -> None:
        """Hang up."""
        for client in self._clients:
            client.close()

    def visit(self, name: str, *, waits: bool = False) -> Visit:
        """Submit a job, follow it to its end, and read its pictures; with `waits` the submission waits for the end."""
        visit = Visit(self._submitted(name, waits=waits))
        while not visit.is_over:
            self._turn += 1  # a stream at another API than the last one asked
            self._anywhere(lambda client: self._followed(client, visit))
        for event in visit.events:
            if event.name == "image":
                self._turn += 1
                url = event.data["image"]["url"]
                visit.pictures[url] = self._got(url).content
        return visit

    def _submitted(self, name: str, *, waits: bool) -> dict[str, Any]:
        asked = {"prompt": f"{name} edits=2", **ASKED}
        headers = {"Idempotency-Key": name, **({} if waits else {"Prefer": "respond-async"})}
        answer = self._anywhere(lambda client: client.post("/generate", json=asked, headers=headers))
        assert answer.status_code in ((200, 202) if waits else (202,)), answer.text
        job: dict[str, Any] = answer.json()
        assert job["status"] in ("queued", "running", "succeeded"), job
        return job

    def _got(self, url: str) -> httpx.Response:
        answer = self._anywhere(lambda client: client.get(url))
        assert answer.status_code == 200, answer.text
        return answer

    def _followed(self, client: httpx.Client, visit: Visit) -> httpx.Response:
        """One stream, to its end: the job's, or that of the API, which says so first."""
        headers = {"Last-Event-ID": str(visit.last)} if visit.last else {}
        with client.stream("GET", visit.job["links"]["events"], headers=headers) as answer:
            if answer.status_code == 503:
                answer.read()
                return answer
            assert answer.status_code == 200, answer.read()
            visit.streams += 1
            try:
                seen = list(self._numbered(answer, visit))
            except httpx.TransportError as error:  # not to be tried again: it was open
                raise AssertionError(f"a stream was cut off after event {visit.last}") from error
            assert visit.is_over or seen[-1:] == ["stream.closing"], f"cut off after {seen[-3:]}"
            return answer

    def _numbered(self, answer: httpx.Response, visit: Visit) -> Iterator[str]:
        for event in parsed(answer.iter_lines()):
            if event.id is not None:
                visit.events.append(event)
            yield event.name

    def _anywhere(self, ask: Callable[[httpx.Client], httpx.Response], for_s: float = 30.0) -> httpx.Response:
        """The first answer of an API that is there and not on its way out."""
        deadline = time.monotonic() + for_s
        while True:
            client = self._clients[self._turn % len(self._clients)]
            with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                answer = ask(client)
                if answer.status_code != 503:
                    return answer
            assert time.monotonic() < deadline, "no API is there"
            self._turn += 1
            time.sleep(0.05)
