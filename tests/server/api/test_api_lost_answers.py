"""A submission that Redis took though its answer was lost: the job is there, whole, when the client asks again."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, cast

import pytest

from server import giving_up
from server.queue import NewJob, Queue, QueueUnavailable, StoredJob, Submitted
from server.service import Service
from tests.server.api.by_hand import Hand, HandWorker, png
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import problem, while_it_waits
from tests.server.waiting import until

PICTURE = base64.b64encode(png((10, 200, 30), (320, 256))).decode()


@contextmanager
def losing_answers(api: RunningApi) -> Iterator[None]:
    """Answers to submissions are lost."""
    queue: Queue = api.app.state.service.queue
    submit = queue.submit

    async def taken_and_not_answered(job: NewJob) -> Submitted:
        await submit(job)
        raise QueueUnavailable("the answer was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "submit", taken_and_not_answered)
        yield


def submit(api: RunningApi, prompt: str = "a cat") -> Any:
    """A client that keeps its key."""
    headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
    return api.client.post("/generate", json={"prompt": prompt, "image": PICTURE}, headers=headers)


def starts_from(hand: Hand) -> bytes:
    """The picture that the worker begins with."""
    record = hand.lease.job.request["start_record"]
    return hand.images.get(record["tenant"], record["job"], record["master_sha256"])


def test_a_job_whose_submission_was_not_answered_has_its_picture(api: RunningApi, worker: HandWorker) -> None:
    with losing_answers(api):
        problem(submit(api), 503, "queue_unavailable")
    again = submit(api)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    hand = worker.takes()
    assert hand.lease.id == again.json()["id"]
    assert starts_from(hand).startswith(b"\x89PNG")


def test_a_repeated_request_gives_its_job_when_the_picture_that_it_named_is_gone(
    api: RunningApi, worker: HandWorker
) -> None:
    source = api.submit()
    hand = worker.takes()
    picture = hand.draws()
    hand.ends("max_rounds")
    asked, headers = {"prompt": "a cat", "image": picture}, {"Idempotency-Key": "k", "Prefer": "respond-async"}
    first = api.client.post("/generate", json=asked, headers=headers)
    assert api.client.delete(f"/jobs/{source['id']}").status_code == 204
    again = api.client.post("/generate", json=asked, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["id"] == first.json()["id"]
    problem(api.client.post("/generate", json={**asked, "seed": 1}, headers=headers), 422, "idempotency_mismatch")
    problem(api.client.post("/generate", json=asked, headers={"Idempotency-Key": "k3"}), 404, "image_not_found")


@contextmanager
def unseen(api: RunningApi, after: int) -> Iterator[None]:
    """Redis is away for whoever looks at a job, from one look on."""
    parts: Service = api.app.state.service
    look, looks = parts.job_of, count()

    async def away(tenant: str, job_id: str) -> StoredJob:
        if next(looks) >= after:
            raise QueueUnavailable("it is away", 2.0)
        return await look(tenant, job_id)

    async def nowhere(_: object) -> None:
        raise QueueUnavailable("it is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "job_of", staticmethod(away))
        patch.setattr(parts.queue, "position", nowhere)
        yield


@pytest.mark.parametrize("after", [1, 2])
def test_a_wait_that_ends_while_redis_is_away_is_answered_with_the_job(api: RunningApi, after: int) -> None:
    with unseen(api, after):
        answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"


def test_a_job_that_is_taken_as_redis_goes_away_is_named(api: RunningApi) -> None:
    for headers in ({"Prefer": "respond-async"}, {"Prefer": "respond-async", "Idempotency-Key": "named"}):
        with unseen(api, 0):
            answer = api.client.post("/generate", json={"prompt": "a cat"}, headers=headers)
        body = problem(answer, 503, "queue_unavailable")
        assert answer.headers["location"] == f"/jobs/{body['job_id']}"
        is_keyed = "Idempotency-Key" in headers
        told = answer.headers.get("retry-after"), answer.headers.get("x-should-retry")
        assert told == (("2", None) if is_keyed else (None, "false")), "clients come again by themselves"
        assert api.job(body["job_id"])["status"] == "queued"


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
def test_who_would_only_be_given_the_same_failure_is_not_told_to_try_again(
    api: RunningApi, worker: HandWorker, path: str
) -> None:
    for headers in ({}, {"Idempotency-Key": f"a key of {path}"}):
        thread = while_it_waits(worker, lambda hand: hand.fails("out_of_memory"))
        answer = api.client.post(path, json={"prompt": "a cat"}, headers=headers)
        thread.join()
        problem(answer, 503, "out_of_memory")
        assert ("retry-after" in answer.headers) is not bool(headers)
        assert ("another Idempotency-Key" in answer.json()["detail"]) is bool(headers)
        assert answer.headers.get("x-should-retry") == ("false" if headers else None)


def test_another_try_that_was_not_answered_has_its_picture(api: RunningApi, worker: HandWorker) -> None:
    old = api.submit(image=PICTURE)
    worker.takes().fails("step_failed")
    with losing_answers(api):
        problem(api.client.post(f"/admin/jobs/{old['id']}/retry"), 503, "queue_unavailable")
    again = api.client.post(f"/admin/jobs/{old['id']}/retry")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    hand = worker.takes()
    assert hand.lease.id == again.json()["id"]
    assert starts_from(hand).startswith(b"\x89PNG")


def test_a_submission_that_made_no_job_leaves_no_picture(api: RunningApi, worker: HandWorker) -> None:
    before = {folder.job for folder in worker.images.jobs()}
    job = submit(api).json()
    problem(submit(api, "a dog"), 422, "idempotency_mismatch")
    assert submit(api).headers["idempotent-replayed"] == "true"
    assert {folder.job for folder in worker.images.jobs()} - before == {job["id"]}


@pytest.mark.parametrize(("key", "status"), [(None, "cancelled"), ("k2", "queued")])
def test_below_v1_nobody_is_told_of_such_a_job_and_it_is_given_up_unless_it_can_be_asked_for_again(
    api: RunningApi, worker: HandWorker, key: str | None, status: str
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    prompt = f"a cat that {status} speaks of"
    with losing_answers(api):
        answer = api.client.post("/v1/images/generations", json={"prompt": prompt}, headers=headers)
    problem(answer, 503, "queue_unavailable")

    def found() -> list[str]:
        return [job["status"] for job in api.client.get("/jobs").json()["jobs"] if job["prompt"] == prompt]

    until(lambda: found() == [status], 20)
    time.sleep(1.5)
    assert found() == [status]


class AwayFor:
    """Cancels once it has been away for some calls, and knows the job only some calls later."""

    def __init__(self, away: int, unknown: int) -> None:
        self.away, self.unknown, self.asked = away, unknown, 0

    async def cancel(self, job_id: str) -> str:
        assert job_id == "job_1"
        self.asked += 1
        if self.asked <= self.away:
            raise QueueUnavailable("away", retry_after_s=0.01)
        return "not_found" if self.asked <= self.away + self.unknown else "accepted"


@pytest.mark.parametrize(("may_come", "asked"), [(True, 5), (False, 4)])
async def test_a_job_is_given_up_once_the_queue_is_back(
    monkeypatch: pytest.MonkeyPatch, may_come: bool, asked: int
) -> None:
    monkeypatch.setattr(giving_up, "_REST_S", 0.01)
    queue = AwayFor(3, 1)
    giving = giving_up.GivingUp(cast(Queue, queue))
    giving.on("job_1", may_come=may_come)
    await giving.close()
    assert queue.asked == asked
