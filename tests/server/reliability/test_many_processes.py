"""Several APIs and workers on one queue and one bucket, all of them processes; then each started anew under load."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.settings import Settings
from tests.server.buckets import Bucket, a_bucket
from tests.server.reliability.fleet import APIS, WORKERS, Fleet, Visit, Visitor, fleet

VISITORS: Final = 8
JOBS: Final = 12
LAPS: Final = 2


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket() as one:
        yield one


@pytest.fixture
def running(own_server: EmbeddedServer, bucket: Bucket, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(own_server.url, tmp_path, **bucket.settings("r3")) as one:
        yield one


def jobs_at(running: Fleet, api: int) -> dict[str, str]:
    """The status of every job, as that API lists them."""
    found: dict[str, str] = {}
    cursor: str | None = None
    while True:
        where = f"&cursor={cursor}" if cursor else ""
        page = running.apis[api].client.get(f"/jobs?limit=100{where}").json()
        found |= {job["id"]: job["status"] for job in page["jobs"]}
        if (cursor := page["next_cursor"]) is None:
            return found


def visited(running: Fleet, number: int) -> Visit:
    visitor = Visitor([api.url for api in running.apis], number)
    try:
        return visitor.visit(f"job-{number}")
    finally:
        visitor.close()


def test_a_job_of_one_api_is_followed_at_another_and_its_pictures_are_read_by_a_third_process(
    running: Fleet, bucket: Bucket
) -> None:
    """Each visitor submits at one API and opens its stream at the next, before the job is over."""
    with ThreadPoolExecutor(JOBS) as visitors:
        visits = list(visitors.map(lambda number: visited(running, number), range(JOBS)))
    own = ImageStore.from_settings(Settings.model_validate(bucket.settings("r3")))
    for visit in visits:
        visit.check()
        assert visit.streams == 1
        for content in visit.pictures.values():
            assert own.get("local", visit.job["id"], hashlib.sha256(content).hexdigest()) == content
    for api in range(APIS):
        assert jobs_at(running, api) == {visit.job["id"]: "succeeded" for visit in visits}
    assert all(worker.said("job leased") for worker in running.workers), "each had its part"
    asked = [{line["path"] for line in api.said("request")} for api in running.apis]
    for number, visit in enumerate(visits):
        assert visit.job["links"]["events"] in asked[(number + 1) % APIS]
        assert visit.job["links"]["events"] not in asked[number % APIS]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_are_started_anew_one_by_one_under_load_and_no_job_notices(running: Fleet) -> None:
    """SIGTERM to each; a third of the clients wait for their job in the submission itself."""
    enough, visits, lock = threading.Event(), list[Visit](), threading.Lock()

    def go_on_visiting(first: int) -> None:
        visitor, count = Visitor([api.url for api in running.apis], first), 0
        while not enough.is_set():
            visit = visitor.visit(f"{first}-{count}", waits=first % 3 == 0)
            visit.check()
            count += 1
            with lock:
                visits.append(visit)
        visitor.close()

    with ThreadPoolExecutor(VISITORS) as visitors:
        load = [visitors.submit(go_on_visiting, number) for number in range(VISITORS)]
        try:
            for _ in range(LAPS):
                for number in range(max(APIS, WORKERS)):
                    if number < APIS:
                        running.restart_api(number)
                    running.restart_worker(number)
        finally:
            enough.set()
    for one in load:
        one.result()
    assert [process.process.returncode for process in running.ended] == [0] * LAPS * (APIS + WORKERS)
    assert jobs_at(running, 0) == {visit.job["id"]: "succeeded" for visit in visits}, "no job twice, none left"
    told = running.apis[0].client.get("/metrics").text
    assert "\nr3_queue_reclaimed_total 0.0\n" in told, "who left gave its jobs back; none had to be taken"
    moved = sum(visit.streams > 1 for visit in visits)
    again = sum(event.name == "job.started" for visit in visits for event in visit.events) - len(visits)
    assert moved, "some stream was taken up at the other API"
    assert again, "some job went on at another worker"
