"""The clients, in a process of their own: they submit, most follow their job's stream, the others ask now and then.

    python -m benchmarks.scaling.load '{"point": {...}, "urls": [...], "keys": {"gold": "r3_..."}, "out": ...}'

Each tenant but a modest one keeps a number of jobs waiting or running: who is done submits the next. A job is submitted
at one API process and followed at the next. Of a backlog those who do not follow ask once, when it is over.

Prints `begin <Unix seconds>` when the load stands and `end` when the window is over; then cancels what is left, waits
until that has ended too, and writes what it saw to `out`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from array import array
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import uvloop

from benchmarks.scaling.figures import spread
from benchmarks.scaling.plan import TENANTS, Point, Tenant, body, edits_of, is_followed, job_s, owner_of
from benchmarks.scaling.streams import Job, Seen, Stream

SUBMIT_AT_ONCE: Final = 32
ASK_EVERY_S: Final = 10.0
LAG_EVERY_S: Final = 0.1
DRAINED_WITHIN_S: Final = 60.0
AGAIN_S: Final = 1.0
BACKLOG_IS_FAIR: Final = 0.4  # of its jobs: with half the weights the heaviest tenant is through after the first half
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


@dataclass
class Clients:
    """All of them."""

    point: Point
    urls: list[str]
    keys: dict[str, str]
    http: httpx.AsyncClient
    seen: Seen = field(default_factory=Seen)
    jobs: dict[str, Job] = field(default_factory=dict)
    refused: int = 0
    """How often one was told to come again."""
    submitted_at_s: array[float] = field(default_factory=lambda: array("d"))
    lags_s: array[float] = field(default_factory=lambda: array("d"))
    is_stopping: bool = False
    faults: list[str] = field(default_factory=list)
    """What went wrong with clients themselves, or was answered to them against the rules."""
    _full: asyncio.Event = field(default_factory=asyncio.Event)
    _next: int = 0
    _wanted: int = 0
    """So many jobs are there when the load stands."""
    _submitting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SUBMIT_AT_ONCE))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Offer the load, for as long as the point says; then have everything end."""
        point, seen = self.point, self.seen
        asyncio.get_running_loop().set_exception_handler(lambda _, what: self.faults.append(str(what)))
        self._wanted = len(point.first_jobs())
        lag = asyncio.create_task(self._watch_the_lag())
        if point.backlog:
            seen.begin_s = time.time()
            print(f"begin {seen.begin_s}", flush=True)
            for number in range(point.backlog):
                self._start(self._one(owner_of(number)))
            await asyncio.wait(self._tasks, timeout=point.limit_s)
        else:
            for tenant in TENANTS:
                if tenant.share is not None:
                    self._start(self._steadily(tenant))
            for tenant in point.first_jobs():
                self._start(self._again_and_again(tenant))
            await self._full.wait()
            seen.begin_s = time.time() + point.warm_up_s
            print(f"begin {seen.begin_s}", flush=True)
            await asyncio.sleep(point.warm_up_s + point.minutes * 60)
        seen.end_s = time.time()
        print("end", flush=True)
        lag.cancel()
        await self._drain()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(repr(error))
            self._full.set()

    async def _again_and_again(self, tenant: Tenant) -> None:
        while not self.is_stopping:
            await self._one(tenant)

    async def _steadily(self, tenant: Tenant) -> None:
        while not self.is_stopping:
            self._start(self._one(tenant))
            await asyncio.sleep(1 / self.point.rate(tenant))

    async def _one(self, tenant: Tenant) -> None:
        """One job from its submission to its end."""
        number, self._next = self._next, self._next + 1
        job = await self._submitted(tenant, number)
        if job is None:
            return
        if is_followed(number, self.point.follow):
            await self._follow(job)
        elif not self.point.backlog:
            await self._ask_now_and_then(job)

    async def _submitted(self, tenant: Tenant, number: int) -> Job | None:
        """As a client does: again where it is told to come again."""
        url = f"{self.urls[number % len(self.urls)]}/generate"
        key = {"Idempotency-Key": f"scale-{number}", "Prefer": "respond-async"}
        while not self.is_stopping:
            try:
                async with self._submitting:
                    answer = await self.http.post(url, json=body(number), headers=self._headers(tenant.name, **key))
            except httpx.TransportError:
                answer = httpx.Response(503)
            if answer.status_code == 202:
                job = Job(answer.json()["id"], number, tenant.name)
                self.jobs[job.id] = job
                if len(self.jobs) >= self._wanted:
                    self._full.set()
                self.submitted_at_s.append(time.time())
                return job
            if answer.status_code not in (429, 503):
                raise RuntimeError(f"submitting was answered {answer.status_code}: {answer.text[:500]}")
            self.refused += 1
            await asyncio.sleep(AGAIN_S)
        return None

    async def _follow(self, job: Job) -> None:
        """At the API process after the one that took it; again where the stream ends early."""
        address = urlsplit(self.urls[(job.number + 1) % len(self.urls)])
        assert address.hostname is not None
        assert address.port is not None
        loop = asyncio.get_running_loop()
        while job.ended is None:
            head = (
                f"GET /jobs/{job.id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Authorization: Bearer {self.keys[job.tenant]}\r\nLast-Event-ID: {job.last}\r\n\r\n"
            )
            with suppress(OSError):
                _, stream = await loop.create_connection(
                    lambda head=head: Stream(job, self.seen, head.encode()),  # type: ignore[misc]
                    address.hostname,
                    address.port,
                )
                if await stream.over:
                    return
            self.seen.resumed += 1
            await asyncio.sleep(AGAIN_S)

    async def _ask_now_and_then(self, job: Job) -> None:
        while job.ended is None:
            await asyncio.sleep(ASK_EVERY_S / self.point.speedup)
            await self._ask(job)

    async def _ask(self, job: Job) -> None:
        """How the job stands."""
        with suppress(httpx.TransportError):
            answer = await self.http.get(f"{self._url(job)}/jobs/{job.id}", headers=self._headers(job.tenant))
            shown = answer.json() if answer.status_code == 200 else {"status": "unknown"}
            if shown["status"] in _ENDED:
                job.ends, job.ended = 1, shown["status"]
                job.ended_at_s = datetime.fromisoformat(shown["finished_at"]).timestamp()

    async def _cancel(self, job: Job) -> None:
        with suppress(httpx.TransportError):
            await self.http.post(f"{self._url(job)}/jobs/{job.id}/cancel", headers=self._headers(job.tenant))

    async def _drain(self) -> None:
        """Ask for those whom nobody asked for, cancel what is left, and wait until it has ended.

        Of a backlog that was worked off in time nothing is cancelled: its last jobs may be those that nobody followed.
        """
        self.is_stopping = True
        is_in_time = self.point.backlog and self.seen.end_s - self.seen.begin_s < self.point.limit_s
        places = asyncio.Semaphore(SUBMIT_AT_ONCE)

        async def end(job: Job) -> None:
            async with places:
                is_followed_ = is_followed(job.number, self.point.follow)
                if not is_followed_:
                    await self._ask(job)
                if job.ended is not None:
                    return
                if not is_in_time:
                    await self._cancel(job)
                if self.point.backlog and not is_followed_:
                    self._start(self._ask_now_and_then(job))

        await asyncio.gather(*(end(job) for job in list(self.jobs.values()) if job.ended is None))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAINED_WITHIN_S)

    async def _watch_the_lag(self) -> None:
        """How late this process itself is: what it cannot keep up with it must not blame on the server."""
        while True:
            until = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            if self.seen.is_on(time.time()):
                self.lags_s.append(time.monotonic() - until)

    def _url(self, job: Job) -> str:
        return self.urls[job.number % len(self.urls)]

    def _headers(self, tenant: str, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}", **more}

    def to_json(self) -> dict[str, Any]:
        """What they saw."""
        seen = self.seen
        jobs = list(self.jobs.values())
        done = [job for job in jobs if job.ended == "succeeded" and seen.is_on(job.ended_at_s)]
        fair = sorted(done, key=lambda job: job.ended_at_s)
        if self.point.backlog:  # once the first tenant has nothing left, the others have more than their shares
            fair = fair[: int(BACKLOG_IS_FAIR * len(fair))]
        waits = array("d", (wait for of_tenant in seen.waits_s.values() for wait in of_tenant))
        return {
            "window_s": seen.end_s - seen.begin_s,
            "submitted": sum(seen.is_on(at_s) for at_s in self.submitted_at_s),
            "submitting_s": max(self.submitted_at_s, default=0.0) - min(self.submitted_at_s, default=0.0),
            "done": len(done),
            "followed_done": sum(is_followed(job.number, self.point.follow) for job in done),
            "refused": self.refused,
            "faults": self.faults[:10],
            "events": dict(seen.events),
            "received_bytes": seen.received_bytes,
            "wait_s": spread(waits),
            "event_s": spread(seen.said_s),
            "picture_s": spread(seen.pictures_s),
            "lag_s": spread(self.lags_s),
            "tenants": {
                tenant.name: {
                    "weight": tenant.weight,
                    "is_modest": tenant.share is not None and not self.point.backlog,
                    "done": sum(job.tenant == tenant.name for job in done),
                    "device_s": sum(_device_s(job) for job in fair if job.tenant == tenant.name),
                    "wait_s": spread(seen.waits_s[tenant.name]),
                }
                for tenant in TENANTS
            },
            "loss": {
                "acknowledged": len(jobs),
                "followed": sum(is_followed(job.number, self.point.follow) for job in jobs),
                "not_ended": sum(job.ended is None for job in jobs),
                "ended_twice": sum(job.ends > 1 for job in jobs),
                "cancelled": sum(job.ended == "cancelled" for job in jobs),
                "failed": sum(job.ended == "failed" for job in jobs),
                "gaps_or_repeats": seen.gaps,
                "streams_resumed": seen.resumed,
            },
            "jobs": {job.id: [job.ended, job.last] for job in jobs},
        }


def _device_s(job: Job) -> float:
    return job_s(edits_of(job.number))


async def offer(asked: dict[str, Any]) -> dict[str, Any]:
    """Run all clients; what they saw."""
    limits = httpx.Limits(max_connections=2 * SUBMIT_AT_ONCE, max_keepalive_connections=2 * SUBMIT_AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as http:
        clients = Clients(Point(**asked["point"]), asked["urls"], asked["keys"], http)
        await clients.run()
    return clients.to_json()


def main() -> None:
    """See above."""
    asked = json.loads(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    saw = uvloop.run(offer(asked))
    Path(asked["out"]).write_text(json.dumps(saw))


if __name__ == "__main__":
    main()
