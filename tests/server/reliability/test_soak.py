"""Half an hour of ordinary days (P1): 10,000 jobs of every kind with short lives; memory and Redis stay as they were.

`make soak`, or `make soak ARGS='--minutes 2'`: a short one shows that keys go, but says nothing of memory, and is not
written down.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

import httpx
import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue_records import ROOT
from tests.conftest import SOAK_MINUTES
from tests.recorded import Record
from tests.server.api.events import check_whole, events_of
from tests.server.processes import ApiProcess, R3Process, WorkerProcess, api_process
from tests.server.promises import held_to
from tests.server.waiting import until

JOBS_A_MINUTE: Final = 10_000 / SOAK_MINUTES
WARM_JOBS: Final = 40
CLIENTS: Final = 8
TRIES: Final = 10
SAMPLE_S: Final = 5.0
MB: Final = 10**6
FEW_STEPS: Final = {"num_timesteps": 5}
ASKED: Final = {"size": "256x256", "max_rounds": 1, "generate": FEW_STEPS, "refine": FEW_STEPS}


@dataclass
class Day:
    """Clients of every kind, and what they met that they should not."""

    client: httpx.Client
    chance: random.Random
    faults: list[str] = field(default_factory=list)
    done: int = 0
    refused: int = 0
    """How often one was told to come again."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def one(self, number: int) -> None:
        """One job, from a client of some kind."""
        kind = self.chance.choice(["waits", "waits", "streams", "streams", "polls", "polls", "cancels", "deletes"])
        try:
            getattr(self, f"_{kind}")(number)
        except (httpx.HTTPError, AssertionError, KeyError) as error:
            with self._lock:
                self.faults.append(f"{kind}: {error!r}"[:500])
        with self._lock:
            self.done += 1

    def _ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """As a client does: again where it is told to come again."""
        return self._asked(method, path, **how)[0]

    def _asked(self, method: str, path: str, **how: Any) -> tuple[httpx.Response, bool]:
        """The same, and whether it was asked again."""
        for tried in range(TRIES - 1):
            answer = self.client.request(method, path, **how)
            if answer.status_code != 503:
                return answer, tried > 0
            with self._lock:
                self.refused += 1
            time.sleep(1)
        return self.client.request(method, path, **how), True

    def _submit(self, number: int, prefer: str = "respond-async", **body: Any) -> httpx.Response:
        headers = {"Prefer": prefer, "Idempotency-Key": f"soak-{number}"}
        answer = self._ask("POST", "/generate", json={"prompt": f"cat {number}", **ASKED, **body}, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return answer

    def _waits(self, number: int) -> dict[str, Any]:
        job = dict(self._submit(number, "wait=60").json())
        assert job["status"] == "succeeded", job
        return job

    def _streams(self, number: int) -> None:
        check_whole(events_of(self._submit(number, stream=True, previews=2)))

    def _polls(self, number: int) -> None:
        job = self._submit(number).json()
        until(lambda: self._ask("GET", job["links"]["self"]).json()["status"] == "succeeded", 60)
        image = self._ask("GET", job["links"]["self"]).json()["trajectories"][0]["image"]
        assert self._ask("GET", image["url"]).status_code == 200
        assert self._ask("GET", "/jobs").status_code == 200

    def _cancels(self, number: int) -> None:
        job = self._submit(number).json()
        assert self._ask("POST", job["links"]["cancel"]).status_code in (202, 409)

    def _deletes(self, number: int) -> None:
        path = self._waits(number)["links"]["self"]
        answer, is_again = self._asked("DELETE", path)
        # Done or not: who is told that the queue was away has to ask again.
        assert answer.status_code in ((204, 404) if is_again else (204,))


class Watch(threading.Thread):
    """Looks at the memory of processes, again and again."""

    def __init__(self, processes: dict[str, R3Process]) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self._processes = processes
        self._at_s: list[float] = []
        self._bytes_of: dict[str, list[int]] = {name: [] for name in processes}

    def run(self) -> None:
        """Until it is over."""
        while not self.over.wait(SAMPLE_S):
            self._at_s.append(time.monotonic())
            for name, process in self._processes.items():
                self._bytes_of[name].append(process.rss_bytes())

    def slopes_mb(self) -> dict[str, float]:
        """By how many MB each grows in ten minutes, after a first third in which all is still new."""
        first = len(self._at_s) // 3
        return {
            name: linear_regression(self._at_s[first:], took[first:]).slope * 600 / MB
            for name, took in self._bytes_of.items()
        }


def lasting(database: redis.Redis) -> set[str]:
    """The keys, but for those of a worker's last lease call, which come and go."""
    return {str(key) for key in database.scan_iter() if not str(key).startswith(f"{ROOT}leased:")}


def run_day(day: Day, numbers: Sequence[int], a_second: float) -> None:
    """So many jobs, evenly spread; no more at once than there are clients."""
    began = time.monotonic()
    places = threading.Semaphore(CLIENTS)

    def one(number: int) -> None:
        try:
            day.one(number)
        finally:
            places.release()

    with ThreadPoolExecutor(CLIENTS) as clients:
        for count, number in enumerate(numbers):
            time.sleep(max(0.0, began + count / a_second - time.monotonic()))
            places.acquire()
            clients.submit(one, number)


@pytest.mark.soak
@pytest.mark.row("P1")
@pytest.mark.timeout(2 * 3600)
def test_after_half_an_hour_of_jobs_all_is_as_it_was(
    own_server: EmbeddedServer, tmp_path: Path, record: Record, request: pytest.FixtureRequest
) -> None:
    minutes = float(request.config.getoption("--minutes"))
    life_s = max(5, round(minutes * 60 / 15))
    lives: dict[str, Any] = {"job_ttl_s": life_s, "event_ttl_s": max(1, life_s // 2), "idempotency_ttl_s": life_s}
    with redis.Redis.from_url(own_server.url, decode_responses=True, protocol=2) as database:
        with api_process(own_server.url, tmp_path, **lives) as api:
            workers = [
                WorkerProcess(
                    own_server.url, tmp_path, tmp_path / f"worker-{i}.log", fake_step_s=0.005, lease_s=15, **lives
                )
                for i in range(2)
            ]
            try:
                figure = soaked(api, workers, database, minutes, life_s)
            finally:
                for worker in workers:
                    worker.kill()
    if minutes >= SOAK_MINUTES:
        slopes = figure.slopes_mb
        text = ", ".join(f"{name} {slope:+.2f} MB" for name, slope in slopes.items())
        said = (
            f"{minutes:.0f} minutes, {figure.jobs:,} jobs, lives of {life_s} s, {figure.refused} answers of 503; in ten"
            f" minutes {text}; {figure.most_keys:,} keys at most, {figure.keys} before and after"
        )
        record("P1", said, kept=max(slopes.values()) < 1)
        held_to(max(slopes.values()), 1)


@dataclass(frozen=True)
class Figure:
    """What was measured."""

    jobs: int
    refused: int
    slopes_mb: dict[str, float]
    keys: int
    most_keys: int


def soaked(
    api: ApiProcess, workers: Sequence[WorkerProcess], database: redis.Redis, minutes: float, life_s: int
) -> Figure:
    """The day itself."""
    until(lambda: api.status("/readyz?workers=1") == 200, 60)
    day = Day(api.client, random.Random(1))
    run_day(day, range(WARM_JOBS), JOBS_A_MINUTE / 60)
    time.sleep(life_s + 2)
    before = lasting(database)
    watch = Watch({"api": api, **{f"worker {i}": worker for i, worker in enumerate(workers)}})
    watch.start()
    jobs = round(minutes * JOBS_A_MINUTE)
    run_day(day, range(WARM_JOBS, WARM_JOBS + jobs), JOBS_A_MINUTE / 60)
    most_keys = database.dbsize()
    watch.over.set()
    watch.join()
    assert day.faults == []
    assert day.done == WARM_JOBS + jobs
    until(lambda: lasting(database) == before, life_s + 60)
    return Figure(jobs, day.refused, watch.slopes_mb(), len(before), most_keys)
