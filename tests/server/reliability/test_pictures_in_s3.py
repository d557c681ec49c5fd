"""API and workers as processes, their pictures in S3: the whole way of a picture, and a store that goes away."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from server.api import GRACE_S
from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue import Queue
from server.retention import Retention
from server.settings import Settings
from tests.server.api.events import check_whole, events_of
from tests.server.api.test_api_generate import problem
from tests.server.buckets import SECRET, Bucket, a_bucket
from tests.server.processes import ApiProcess, StartWorker, WorkerProcess, api_process
from tests.server.waiting import until

FOLDER: Final = "r3"
FEW: Final = {"num_timesteps": 5}
ASKED: Final = {"prompt": "a cat edits=2", "size": "256x256", "generate": FEW, "refine": FEW, "seed": 1}
LATER: Final = {"Prefer": "respond-async"}


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket() as one:
        yield one


@pytest.fixture
def stored(bucket: Bucket) -> dict[str, str]:
    """The settings that name it."""
    return bucket.settings(FOLDER)


@pytest.fixture
def api(own_server: EmbeddedServer, stored: dict[str, str], tmp_path: Path) -> Iterator[ApiProcess]:
    with api_process(own_server.url, tmp_path, log_level="debug", **stored) as running:
        yield running


@pytest.fixture
def begin(api: ApiProcess, start_worker: StartWorker, stored: dict[str, str]) -> Callable[..., WorkerProcess]:
    """Starts a worker that the API knows of when it returns."""

    def ready(**settings: Any) -> WorkerProcess:
        worker = start_worker(**{"fake_step_s": 0.002, "log_level": "debug", **stored, **settings})
        until(lambda: worker.probe("/readyz") == 200 and api.status("/readyz?workers=1") == 200, 60)
        return worker

    return ready


def submitted(api: ApiProcess, **fields: Any) -> dict[str, Any]:
    answer = api.client.post("/generate", json={**ASKED, **fields}, headers=LATER)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def seen(api: ApiProcess, job: dict[str, Any]) -> dict[str, Any]:
    return dict(api.client.get(job["links"]["self"]).json())


def status(api: ApiProcess, job: dict[str, Any]) -> str:
    return str(seen(api, job)["status"])


def pictures(job: dict[str, Any]) -> list[str]:
    """Where the pictures of all its rounds are read."""
    return [made["image"]["url"] for trajectory in job["trajectories"] for made in trajectory["rounds"]]


def is_whole(api: ApiProcess, job: dict[str, Any]) -> None:
    """It succeeded, its events lack nothing, and each of its three pictures is read."""
    events = events_of(api.client.get(job["links"]["events"]))
    check_whole(events)
    assert events[-1].name == "job.succeeded"
    assert [event.data["round"] for event in events if event.name == "image"] == [0, 1, 2]
    for url in pictures(seen(api, job)):
        answer = api.client.get(url)
        assert answer.status_code == 200, answer.text
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


def nothing_leaked(*processes: ApiProcess | WorkerProcess) -> None:
    for process in processes:
        assert SECRET not in process.log.read_text()


def test_a_picture_is_written_by_a_worker_read_by_the_api_and_gone_with_its_job(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess]
) -> None:
    worker = begin()
    kept, job = (submitted(api) for _ in range(2))
    for one in (kept, job):
        is_whole(api, one)
    objects = bucket.keys(FOLDER)
    assert {key.rsplit("/", 1)[0] for key in objects} == {f"local/{kept['id']}", f"local/{job['id']}"}
    urls = pictures(seen(api, job))
    edit = {"prompt": "a cat", "image": urls[-1].rpartition("/")[2], "instruction": "Make it red.", "max_rounds": 1}
    edited = api.client.post("/generate", json=edit)
    assert edited.json()["status"] == "succeeded", edited.text
    assert api.client.delete(job["links"]["self"]).status_code == 204
    assert not [key for key in bucket.keys(FOLDER) if job["id"] in key]
    for url in urls:
        problem(api.client.get(url), 404, "image_not_found")
    is_whole(api, kept)
    nothing_leaked(api, worker)


async def test_pictures_without_a_job_are_swept_out_of_the_bucket(
    bucket: Bucket,
    api: ApiProcess,
    begin: Callable[..., WorkerProcess],
    queue: Queue,
    own_server: EmbeddedServer,
    stored: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin()
    kept, gone = (submitted(api) for _ in range(2))
    for job in (kept, gone):
        is_whole(api, job)
    with bucket.away():
        assert api.client.delete(gone["links"]["self"]).status_code == 204, "nobody can read them any more"
    assert [key for key in bucket.keys(FOLDER) if gone["id"] in key]
    settings = Settings.model_validate({"redis_url": own_server.url, **stored})
    keeper = Retention(queue, ImageStore.from_settings(settings), settings)
    assert await keeper.sweep_orphans() == 0, "too young"
    monkeypatch.setattr("server.retention.GRACE_S", 0.0)
    assert await keeper.sweep_orphans() == 1
    assert {key.split("/")[1] for key in bucket.keys(FOLDER) if key != "@queue"} == {kept["id"]}
    is_whole(api, kept)


def test_a_store_that_is_away_for_a_while_costs_no_job_and_no_picture(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess]
) -> None:
    """Longer than a lease, and longer than what else fails is tried again."""
    worker = begin(lease_s=2.0)
    before = submitted(api)
    is_whole(api, before)
    with bucket.away():
        jobs = [submitted(api, seed=seed) for seed in range(6)]
        until(lambda: bool(worker.said("the image store failed; once more")))
        over = time.monotonic() + 8
        while time.monotonic() < over:
            answer = api.client.get(pictures(seen(api, before))[0])
            problem(answer, 503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert {status(api, job) for job in jobs} <= {"queued", "running"}
            assert (api.status("/livez"), api.status("/readyz"), worker.probe("/livez")) == (200, 200, 200)
            time.sleep(0.5)
    for job in (before, *jobs):
        is_whole(api, job)
        assert seen(api, job)["attempt"] == 1
    nothing_leaked(api, worker)


@pytest.mark.parametrize("how", ["away", "hanging"])
def test_a_worker_that_must_leave_while_the_store_is_away_gives_its_jobs_back(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess], how: str
) -> None:
    """Without a strike, of which one would be the last: it is no fault of the job's."""
    worker = begin(lease_s=600, renew_s=1, drain_s=1, max_strikes=1)
    with bucket.away() if how == "away" else bucket.hanging():
        job = submitted(api)
        until(lambda: bool(worker.said("the image store failed; once more")) or how == "hanging")
        until(lambda: status(api, job) == "running")
        time.sleep(1)
        worker.send(signal.SIGTERM)
        assert worker.process.wait(20) == 0
        assert status(api, job) == "queued"
    begin()
    until(lambda: status(api, job) == "succeeded")
    is_whole(api, job)


def test_a_store_that_is_away_at_the_start_ends_no_process(
    bucket: Bucket, own_server: EmbeddedServer, start_worker: StartWorker, stored: dict[str, str], tmp_path: Path
) -> None:
    with bucket.away():
        with in_time(30):
            api = ApiProcess(own_server.url, tmp_path, tmp_path / "api.log", **stored)
            worker = start_worker(fake_step_s=0.002, **stored)
            until(lambda: api.is_up() and worker.probe("/readyz") == 200, 30)
            job = submitted(api)
    try:
        is_whole(api, job)
        assert "it is asked again" in api.log.read_text()
    finally:
        api.close()


def test_a_stream_whose_events_hold_pictures_ends_with_the_reason_and_is_taken_up_again(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess]
) -> None:
    begin()
    job = submitted(api, response_format="b64_json")
    until(lambda: status(api, job) == "succeeded")
    with bucket.away():
        first = events_of(api.client.get(job["links"]["events"]))
        problem(api.client.get(job["links"]["self"]), 503, "storage_unavailable")
    assert (first[-1].name, first[-1].data["reason"]) == ("stream.closing", "storage_unavailable")
    assert "image" not in [event.name for event in first]
    last = max(event.id or 0 for event in first)
    rest = events_of(api.client.get(job["links"]["events"], headers={"Last-Event-ID": str(last)}))
    check_whole(rest, after=last)
    shown = [event.data["image"] for event in rest if event.name == "image"]
    assert [bool(image["b64_json"]) for image in shown] == [True, True, True]


def test_reads_of_a_store_that_hangs_keep_nobody_else_waiting(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess]
) -> None:
    begin()
    job = submitted(api)
    is_whole(api, job)
    url = pictures(seen(api, job))[0]

    def read() -> int:
        with httpx.Client(base_url=api.url, timeout=60, trust_env=False) as client:
            return client.get(url).status_code

    with ThreadPoolExecutor(20) as clients:
        with bucket.hanging():
            reads = [clients.submit(read) for _ in range(20)]
            time.sleep(1)
            assert not any(one.done() for one in reads)
            with in_time(2):
                assert api.status("/livez") == 200
                refused = api.client.post("/generate", json={"prompt": "a cat", "image": "data:image/png;base64,AAAA"})
                problem(refused, 422, "invalid_image")  # judged in a thread
        assert {one.result() for one in reads} <= {200, 503}, "they were answered once it was back, or told"


def test_an_api_that_must_end_does_not_wait_for_a_store_that_hangs(
    bucket: Bucket, api: ApiProcess, begin: Callable[..., WorkerProcess]
) -> None:
    begin()
    job = submitted(api)
    is_whole(api, job)
    url = pictures(seen(api, job))[0]
    with ThreadPoolExecutor(4) as clients, bucket.hanging():
        reads = [clients.submit(httpx.get, f"{api.url}{url}", timeout=60, trust_env=False) for _ in range(4)]
        time.sleep(1)
        began = time.monotonic()
        api.send(signal.SIGTERM)
        assert api.process.wait(60) == 0
        took_s = time.monotonic() - began
        for one in reads:
            one.exception(60)
    assert took_s < GRACE_S + 2, took_s


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """What the block does takes at most so long."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
