"""Jobs: read, list, cancel, stop, delete."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import redis

from server.images import ImageMissing
from server.queue_records import ROOT
from server.views import JobList, JobView
from tests.server.api.by_hand import Hand, HandWorker
from tests.server.api.events import events_of, names
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import problem

UNKNOWN = f"job_{'0' * 32}"


def post(api: RunningApi, job: dict[str, Any], verb: str) -> httpx.Response:
    return api.client.post(f"/jobs/{job['id']}/{verb}")


def test_a_job_grows_as_it_is_worked_on(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit(n=2)
    assert job["trajectories"][0] | {"seed": 0} == {
        "index": 0,
        "seed": 0,
        "reasoning": None,
        "rounds": [],
        "stop_reason": None,
        "image": None,
    }
    hand = worker.takes()
    hand.reasons("<think>A plan.</think>", index=1)
    hand.draws(index=1)
    running = api.job(job["id"])
    JobView.model_validate(running)
    assert (running["status"], running["attempt"], running["queue_position"]) == ("running", 1, None)
    assert running["trajectories"][1]["reasoning"] == "<think>A plan.</think>"
    assert (len(running["trajectories"][1]["rounds"]), running["trajectories"][1]["image"]) == (1, None)
    hand.draws(index=0)
    hand.ends("max_rounds", index=0, job=False)
    assert api.job(job["id"])["trajectories"][0]["image"] is not None
    hand.ends("max_rounds", index=1)
    done = api.job(job["id"])
    assert done["usage"] == {"text_tokens": 14, "denoise_steps": 98, "forwards": 180, "compute_s": 0.5}
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


def test_every_reflection_of_a_picture_is_kept_and_the_last_one_counts(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    hand = worker.takes()
    hand.draws()
    hand.reflects("<think>a</think> No further edit needed.")
    hand.reflects("no mark at all")
    hand.ends("malformed")
    [round_] = api.job(job["id"])["trajectories"][0]["rounds"]
    assert [reflection["verdict"] for reflection in round_["reflections"]] == ["satisfied", "malformed"]
    assert round_["reflection"] == round_["reflections"][1]
    assert round_["reflection"]["instruction"] is None


def test_jobs_are_listed_newest_first_a_page_at_a_time(api: RunningApi, worker: HandWorker) -> None:
    sent = [api.submit()["id"] for _ in range(7)]
    pages, cursor = [], None
    while True:
        answer = api.client.get("/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        JobList.model_validate(answer.json())
        pages.append([job["id"] for job in answer.json()["jobs"]])
        if (cursor := answer.json()["next_cursor"]) is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [job_id for page in pages for job_id in page] == sent[::-1]
    assert [job["queue_position"] for job in api.client.get("/jobs").json()["jobs"]] == [7, 6, 5, 4, 3, 2, 1]


def test_jobs_are_listed_by_status(api: RunningApi, worker: HandWorker) -> None:
    first, second = api.submit(), api.submit()
    worker.takes().whole_run()
    for status, expected in (("succeeded", [first["id"]]), ("queued", [second["id"]]), ("failed", [])):
        jobs = api.client.get("/jobs", params={"status": status}).json()["jobs"]
        assert [job["id"] for job in jobs] == expected


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "status=done", "cursor=x", "page=2", "cursor=１２"]
)
def test_a_query_that_means_nothing_is_refused(api: RunningApi, query: str) -> None:
    body = problem(api.client.get(f"/jobs?{query}"), 422, "invalid_request")
    assert body["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"
    assert "cursor cursor" not in body["detail"]


@pytest.mark.parametrize("job_id", [UNKNOWN, "job_x", "x", "..%2f..", "%00", "job_" + "0" * 5000, "😀"])
def test_an_unknown_job_is_not_found_by_any_route(api: RunningApi, job_id: str) -> None:
    for method, path in (*(("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/stop"), ("DELETE", "")),):
        answer = api.client.request(method, f"/jobs/{job_id}{path}")
        assert answer.status_code == 404
        assert answer.json()["code"] in ("job_not_found", "not_found")


def test_anothers_job_is_not_found_either(api: RunningApi, worker: HandWorker, database: redis.Redis) -> None:
    job = api.submit()
    image = worker.takes().draws()
    database.hset(f"{ROOT}job:{job['id']}", "tenant", "other")
    record = str(database.get(f"{ROOT}img:{image}"))
    database.set(f"{ROOT}img:{image}", record.replace('"local"', '"other"'))
    problem(api.client.get(f"/jobs/{job['id']}"), 404, "job_not_found")
    for method, path in (("GET", "/events"), ("POST", "/cancel"), ("POST", "/stop"), ("DELETE", "")):
        problem(api.client.request(method, f"/jobs/{job['id']}{path}"), 404, "job_not_found")
    problem(api.client.get(f"/images/{image}"), 404, "image_not_found")
    problem(api.client.post("/generate", json={"prompt": "a", "image": image}), 404, "image_not_found")


def test_a_waiting_job_is_cancelled_at_once(api: RunningApi) -> None:
    job = api.submit()
    answer = post(api, job, "cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert names(events_of(api.client.get(f"/jobs/{job['id']}/events"))) == ["job.queued", "job.cancelled"]
    assert post(api, job, "cancel").status_code == 202, "asking twice is harmless"


def test_a_running_job_is_told_to_cancel(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    hand = worker.takes()
    hand.draws()
    assert post(api, job, "cancel").status_code == 202
    assert hand.queue.renew([(hand.lease.id, hand.lease.token)]) == {job["id"]: "cancel"}
    hand.is_cancelled()
    done = api.job(job["id"])
    assert (done["status"], len(done["trajectories"][0]["rounds"])) == ("cancelled", 1)
    assert post(api, job, "cancel").status_code == 202


@pytest.mark.parametrize("end", [Hand.whole_run, lambda hand: hand.fails("step_failed")])
def test_a_finished_job_can_be_neither_cancelled_nor_stopped(api: RunningApi, worker: HandWorker, end: Any) -> None:
    job = api.submit()
    end(worker.takes())
    problem(post(api, job, "cancel"), 409, "already_finished")
    problem(post(api, job, "stop"), 409, "already_finished")


def test_good_enough_ends_with_the_newest_picture(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    problem(post(api, job, "stop"), 409, "no_image_yet")
    hand = worker.takes()
    problem(post(api, job, "stop"), 409, "no_image_yet")
    hand.draws()
    assert post(api, job, "stop").status_code == 202
    assert hand.queue.renew([(hand.lease.id, hand.lease.token)]) == {job["id"]: "stop"}
    hand.ends("stopped")
    [trajectory] = api.job(job["id"])["trajectories"]
    assert (trajectory["stop_reason"], trajectory["image"]) == ("stopped", trajectory["rounds"][0]["image"])
    assert post(api, job, "stop").status_code == 202, "asking twice is harmless"


def test_deleting_a_finished_job_erases_all_of_it(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    problem(api.client.delete(f"/jobs/{job['id']}"), 409, "not_finished")
    hand = worker.takes()
    problem(api.client.delete(f"/jobs/{job['id']}"), 409, "not_finished")
    hand.whole_run()
    image = api.job(job["id"])["trajectories"][0]["image"]
    answer = api.client.delete(f"/jobs/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(api.client.get(f"/jobs/{job['id']}"), 404, "job_not_found")
    problem(api.client.get(f"/jobs/{job['id']}/events"), 404, "job_not_found")
    problem(api.client.get(image["url"]), 404, "image_not_found")
    with pytest.raises(ImageMissing):
        worker.images.get("local", job["id"], image["sha256"])
    problem(api.client.delete(f"/jobs/{job['id']}"), 404, "job_not_found")
