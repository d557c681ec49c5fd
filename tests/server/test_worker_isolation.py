"""A fault in one job's step ends that job; one of the device ends the worker, and its jobs go back."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue import Queue, StoredJob
from server.worker_health import HealthPort, Vitals
from tests.server.processes import WorkerProcess
from tests.server.working import (
    ASKED,
    LONG,
    RunningWorker,
    Start,
    between_two,
    ended,
    given_up,
    new_job,
    read,
    run,
    until,
    until_event,
    whole,
)

pytestmark = pytest.mark.row("R9")

GOOD = [replace(ASKED, prompt=f"a good cat number {number} edits=2", seed=number) for number in range(2)]


def shown(job: StoredJob) -> dict[int, str]:
    """The bytes of a job's pictures, by round."""
    assert job.status == "succeeded"
    return {record["round"]: record["sha256"] for record in job.images.values()}


@pytest.mark.parametrize(
    ("word", "code"),
    [("oom=refine", "out_of_memory"), ("raise=refine", "step_failed"), ("oom=reason", "out_of_memory")],
)
async def test_the_jobs_beside_a_failing_one_come_to_the_same_pictures(
    queue: Queue, start: Start, word: str, code: str
) -> None:
    start(step_s=0.001)
    expected = [shown((await run(queue, asked))[0]) for asked in GOOD]
    bad = new_job(replace(ASKED, prompt=f"a bad cat {word}"))
    beside = [new_job(asked) for asked in GOOD]
    for new in (beside[0], bad, beside[1]):
        await queue.submit(new)
    assert [shown(await ended(queue, new.id)) for new in beside] == expected
    failed = await ended(queue, bad.id)
    assert failed.error is not None
    assert (failed.status, failed.error["code"], failed.attempt) == ("failed", code, 1)
    for new in beside:
        await whole(queue, await read(queue, new.id), attempts=1)


async def gone(worker: RunningWorker) -> int | None:
    async def over() -> bool:
        return worker.code is not None

    await until(over)
    return worker.code


def strikes(db: redis.Redis, job_id: str) -> int:
    return int(db.hget(f"{{r3}}:job:{job_id}", "strikes") or 0)


async def test_a_lost_device_ends_the_worker_and_its_jobs_go_back_with_their_strikes(
    queue: Queue, start: Start, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(step_s=0.005)
    before = (await queue.depth())["reclaimed"]
    jobs = [new_job(replace(asked, generate=LONG)) for asked in GOOD]
    for new in jobs:
        await queue.submit(new)
        await until_event(queue, new.id, "reason.done")

    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(worker.runner, "fault", lost)
    assert await gone(worker) == 1
    assert worker.vitals.broken == "the device stopped answering: CUDA error: device-side assert triggered"
    assert await queue.workers() == []
    for new in jobs:
        assert (await read(queue, new.id)).status == "queued"
        assert strikes(db, new.id) == 1
    assert (await queue.depth())["reclaimed"] == before + 2
    start()
    for new in jobs:
        await whole(queue, await ended(queue, new.id), attempts=2)


async def test_a_job_that_loses_the_device_each_time_is_given_up_and_those_beside_it_succeed(
    queue: Queue, start: Start
) -> None:
    killer, beside = await between_two(queue, "a bomb lose=generate", GOOD)
    for _ in range(3):
        assert await gone(start(step_s=0.002)) == 1
    start()
    await given_up(queue, killer, beside)


async def test_what_arrives_while_the_worker_breaks_goes_back_without_a_strike(
    queue: Queue, start: Start, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(step_s=0.002)
    inbox = worker.inbox
    monkeypatch.setattr(inbox, "read", lambda: iter(()))  # until it breaks, what arrives is not looked at
    new = new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "job.started")

    def broken() -> None:
        monkeypatch.undo()
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(worker.worker._loop, "_watch_the_clock", broken)
    assert await gone(worker) == 1
    assert (await read(queue, new.id)).status == "queued"
    assert strikes(db, new.id) == 0


async def test_the_process_of_a_worker_whose_device_is_lost_ends_with_one_and_says_why_in_its_log(
    queue: Queue, queue_server: EmbeddedServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = WorkerProcess(queue_server.url, tmp_path, log)
    try:
        await queue.submit(new_job(replace(ASKED, prompt="a secret bomb lose=generate")))
        assert await asyncio.to_thread(worker.process.wait, 30) == 1
    finally:
        worker.kill()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [broken] = [line for line in lines if line["event"].startswith("the worker cannot go on")]
    assert "device-side assert" in broken["exception"]
    assert (lines[-1]["event"], lines[-1]["code"]) == ("worker ends", 1)
    assert "secret" not in log.read_text()


def probed(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_a_broken_worker_is_neither_alive_nor_ready_and_says_why() -> None:
    vitals = Vitals(is_loaded=True)
    vitals.redis_answered(True)
    with HealthPort("127.0.0.1", 0, vitals) as port:
        assert [probed(port.port, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
        vitals.broken = "the device stopped answering: CUDA error"
        for path in ("/livez", "/readyz"):
            assert probed(port.port, path) == (503, {"status": "unavailable", "reason": vitals.broken})
