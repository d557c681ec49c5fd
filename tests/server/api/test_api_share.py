"""Read-only links: whoever has one reads and follows one job and its pictures, and nothing else."""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
import redis

from server.queue_records import ROOT, QueuePolicy
from server.queue_worker import WorkerQueue
from server.views import JobView, ShareView
from tests.server.api.by_hand import HandWorker
from tests.server.api.events import check_whole, events_of
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import problem
from tests.server.waiting import until


def shared(api: RunningApi, job: dict[str, Any], expires_s: float = 60) -> str:
    """The link to a job, relative."""
    answer = api.client.post(f"/jobs/{job['id']}/share", json={"expires_s": expires_s})
    assert answer.status_code == 200, answer.text
    ShareView.model_validate(answer.json())
    url: str = answer.json()["url"]
    return url


def token_of(url: str) -> str:
    return url.partition("?token=")[2]


def test_a_link_reads_the_job_its_events_and_its_pictures_and_carries_on(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    worker.takes().whole_run()
    url = shared(api, job)
    token = token_of(url)
    assert url == f"/jobs/{job['id']}?token={token}"
    assert len(token) >= 22, "at least 128 bits"
    read = api.client.get(url).json()
    JobView.model_validate(read)
    assert read["prompt"] == job["prompt"]
    assert read["links"]["self"] == url
    image = read["trajectories"][0]["rounds"][0]["image"]
    assert image["url"] == f"/images/{image['id']}?token={token}"
    assert api.client.get(image["url"]).content.startswith(b"\x89PNG")
    events = events_of(api.client.get(read["links"]["events"]))
    check_whole(events)
    made = [event.data["image"]["url"] for event in events if event.name in ("image", "trajectory.done")]
    assert len(made) == 3
    assert all(link.endswith(f"?token={token}") for link in made)
    assert events[-1].data["job"]["trajectories"] == read["trajectories"]
    assert "?token=" not in api.client.get(f"/jobs/{job['id']}").text
    assert "?token=" not in api.client.get(f"/jobs/{job['id']}/events").text


def test_so_many_follow_by_links_and_no_more_and_the_owner_does_all_the_same(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.service.MOST_BY_LINKS", 2)
    job = api.submit()
    address = f"/jobs/{job['id']}/events?token={token_of(shared(api, job))}"
    with ExitStack() as streams:
        for _ in range(2):
            assert streams.enter_context(api.client.stream("GET", address)).status_code == 200
        refused = problem(api.client.get(address), 429, "rate_limited")
        assert "2 streams of" in refused["detail"]
        own = streams.enter_context(api.client.stream("GET", f"/jobs/{job['id']}/events"))
        assert own.status_code == 200
    until(lambda: api.app.state.service.hub.by_links(job["id"]) == 0)
    with api.client.stream("GET", address) as again:
        assert again.status_code == 200


def test_live_events_and_a_reset_carry_the_token_too(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    job = api.submit(response_format="b64_json")
    token = token_of(shared(api, job))
    hand = worker.takes()
    hand.whole_run()
    database.delete(f"{ROOT}ev:{job['id']}")
    reset, last = events_of(api.client.get(f"/jobs/{job['id']}/events?token={token}"))
    assert (reset.name, last.name) == ("stream.reset", "job.succeeded")
    for event in (reset, last):
        image = event.data["job"]["trajectories"][0]["image"]
        assert image["url"].endswith(f"?token={token}")
        assert image["b64_json"]


@pytest.mark.parametrize("token", ["", "x", "%00", "ä", "x" * 5000])
def test_a_wrong_token_is_a_job_that_is_not_there_though_no_key_is_needed(
    api: RunningApi, worker: HandWorker, token: str
) -> None:
    job = api.submit()
    image = worker.takes().draws()
    shared(api, job)
    problem(api.client.get(f"/jobs/{job['id']}?token={token}"), 404, "job_not_found")
    problem(api.client.get(f"/jobs/{job['id']}/events?token={token}"), 404, "job_not_found")
    problem(api.client.get(f"/images/{image}?token={token}"), 404, "image_not_found")


def test_a_token_is_good_for_its_own_job_alone(api: RunningApi, worker: HandWorker) -> None:
    first, second = api.submit(), api.submit()
    worker.takes()
    image = worker.takes().draws()
    token = token_of(shared(api, first))
    problem(api.client.get(f"/jobs/{second['id']}?token={token}"), 404, "job_not_found")
    problem(api.client.get(f"/images/{image}?token={token}"), 404, "image_not_found")
    problem(api.client.get(f"/jobs?token={token}"), 422, "invalid_request")


def test_a_link_expires(api: RunningApi, database: redis.Redis) -> None:
    url = shared(api, api.submit(), 0.3)
    assert api.client.get(url).status_code == 200
    until(lambda: api.client.get(url).status_code == 404)
    assert not database.keys(f"{ROOT}share*")


def test_links_are_revoked_together(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    urls = [shared(api, job), shared(api, job)]
    assert urls[0] != urls[1]
    assert [api.client.get(url).status_code for url in urls] == [200, 200]
    for _ in range(2):
        assert api.client.delete(f"/jobs/{job['id']}/share").status_code == 204
    for url in urls:
        problem(api.client.get(url), 404, "job_not_found")


def test_only_the_digest_of_a_token_is_stored_and_it_goes_with_the_job(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    job = api.submit()
    token = token_of(shared(api, job))
    worker.takes().whole_run()
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert 0 < database.pttl(f"{ROOT}share:{digest}") <= 60_000
    stored = [str(database.get(key)) for key in database.keys(f"{ROOT}share:*")]
    assert stored
    assert token not in str([*stored, database.keys("*"), database.hgetall(f"{ROOT}job:{job['id']}")])
    assert api.client.delete(f"/jobs/{job['id']}").status_code == 204
    assert not database.keys(f"{ROOT}share*")


def test_a_link_lives_no_longer_than_its_job(api: RunningApi, worker: HandWorker, database: redis.Redis) -> None:
    before, after = api.submit(), api.submit()
    long_s = 365 * 24 * 3600
    early = token_of(shared(api, before, long_s))
    for _ in range(2):
        worker.takes().whole_run()
    kept_ms = (QueuePolicy().job_ttl_s or 0) * 1000
    answer = api.client.post(f"/jobs/{after['id']}/share", json={"expires_s": long_s}).json()
    for token in (early, token_of(answer["url"])):
        digest = hashlib.sha256(token.encode()).hexdigest()
        assert 0 < database.pttl(f"{ROOT}share:{digest}") <= kept_ms
    assert datetime.fromisoformat(answer["expires_at"]).timestamp() <= time.time() + kept_ms / 1000 + 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/cancel"), ("POST", "/stop"), ("POST", "/share"), ("DELETE", "/share"), ("DELETE", "")],
)
def test_nothing_is_written_by_token(api: RunningApi, worker: HandWorker, method: str, path: str) -> None:
    job = api.submit()
    worker.takes().whole_run()
    token = token_of(shared(api, job))
    answer = api.client.request(method, f"/jobs/{job['id']}{path}?token={token}")
    body = problem(answer, 422, "invalid_request")
    assert body["errors"][0]["pointer"] == "/token"
    assert api.client.get(f"/jobs/{job['id']}?token={token}").status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/expires_s"), ({"expires_s": 0}, "/expires_s"), ({"expires_s": "1"}, "/expires_s"), ([], "")],
)
def test_a_share_that_says_no_time_is_refused(api: RunningApi, body: Any, pointer: str) -> None:
    job = api.submit()
    said = problem(api.client.post(f"/jobs/{job['id']}/share", json=body), 422, "invalid_request")
    assert said["errors"][0]["pointer"] == pointer


def test_an_unknown_job_cannot_be_shared(api: RunningApi) -> None:
    unknown = f"/jobs/job_{'0' * 32}/share"
    problem(api.client.post(unknown, json={"expires_s": 1}), 404, "job_not_found")
    problem(api.client.delete(unknown), 404, "job_not_found")


def test_a_token_is_in_no_log_line_and_no_error(
    api: RunningApi, worker_queue: WorkerQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    job = api.submit()
    token = token_of(shared(api, job))
    assert token not in api.client.get(f"/jobs/{job['id'][:-1]}x?token={token}").text
    assert token not in api.client.post(f"/jobs/{job['id']}/stop?token={token}").text
    for path in ("", "/events", "/cancel"):
        api.client.head(f"/jobs/{job['id']}{path}?token={token}")
    logged = capsys.readouterr().out
    assert "request" in logged
    assert token not in logged
