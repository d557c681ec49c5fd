"""One tenant never sees that another tenant's job exists, and an admin does only by saying whose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from server.queue_records import ROOT
from tests.server.api.events import check_whole, events_of
from tests.server.api.keyed import Holder, KeyedApi
from tests.server.api.running import running_api
from tests.server.api.test_api_generate import PICTURE, problem
from tests.server.waiting import until

pytestmark = pytest.mark.row("T1")

UNKNOWN_JOB, UNKNOWN_IMAGE = f"job_{'0' * 32}", f"img_{'0' * 32}"
EVERY_WAY = [
    ("GET", "/jobs/{job}"),
    ("HEAD", "/jobs/{job}"),
    ("GET", "/jobs/{job}/events"),
    ("HEAD", "/jobs/{job}/events"),
    ("GET", "/jobs/{job}/events?after=1"),
    ("POST", "/jobs/{job}/cancel"),
    ("POST", "/jobs/{job}/stop"),
    ("POST", "/jobs/{job}/share"),
    ("DELETE", "/jobs/{job}/share"),
    ("DELETE", "/jobs/{job}"),
    ("GET", "/images/{image}"),
    ("HEAD", "/images/{image}"),
    ("GET", "/images/{image}?download=1"),
]


@pytest.fixture(scope="module")
def one(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("one")


@pytest.fixture(scope="module")
def other(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("other")


@pytest.fixture(scope="module")
def admin(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("boss", "admin")


def asked(holder: Holder, method: str, path: str) -> httpx.Response:
    body = {"expires_s": 60} if "/share" in path and method == "POST" else None
    return holder.client.request(method, path, json=body)


def finished(keyed: KeyedApi, holder: Holder, **body: Any) -> tuple[str, str]:
    """A finished job of the holder's, and a picture of it."""
    job = holder.submit(**body)
    keyed.worker.takes().whole_run()
    done = holder.client.get(f"/jobs/{job['id']}").json()
    return job["id"], done["trajectories"][0]["image"]["id"]


@pytest.mark.parametrize(("method", "path"), EVERY_WAY)
def test_anothers_job_is_as_unknown_as_one_that_never_was(
    keyed: KeyedApi, one: Holder, other: Holder, method: str, path: str
) -> None:
    job, image = finished(keyed, one)
    etag = one.client.get(f"/images/{image}").headers["etag"]
    theirs = asked(other, method, path.format(job=job, image=image))
    never = asked(other, method, path.format(job=UNKNOWN_JOB, image=UNKNOWN_IMAGE))
    assert (theirs.status_code, never.status_code) == (404, 404)
    told = [re.sub(r"(job|img)_[0-9a-f]{32}", "", answer.text) for answer in (theirs, never)]
    told = [re.sub(r'"request_id":"[0-9a-f]+"', "", text) for text in told]
    assert told[0] == told[1]
    assert theirs.headers.keys() == never.headers.keys()
    assert other.client.get(f"/images/{image}", headers={"If-None-Match": etag}).status_code == 404
    assert asked(one, "GET", f"/jobs/{job}").json()["status"] == "succeeded", "nothing was done to it"


def test_a_running_job_of_anothers_cannot_be_ended_nor_followed(keyed: KeyedApi, one: Holder, other: Holder) -> None:
    job = one.submit()
    keyed.worker.takes().draws()
    for method, verb in (("POST", "cancel"), ("POST", "stop"), ("GET", "events")):
        problem(other.client.request(method, f"/jobs/{job['id']}/{verb}"), 404, "job_not_found")
    problem(other.client.delete(f"/jobs/{job['id']}"), 404, "job_not_found")
    stored = keyed.db.hgetall(f"{ROOT}job:{job['id']}")
    assert (stored["status"], "cancel" in stored, "stop" in stored) == ("running", False, False)


def test_lists_hold_ones_own_jobs_alone(keyed: KeyedApi, one: Holder, other: Holder, admin: Holder) -> None:
    mine = [one.submit()["id"] for _ in range(3)]
    theirs = other.submit()["id"]
    assert [job["id"] for job in one.client.get("/jobs").json()["jobs"]] == mine[::-1]
    assert [job["id"] for job in other.client.get("/jobs").json()["jobs"]] == [theirs]
    assert admin.client.get("/jobs").json()["jobs"] == []
    cursor = one.client.get("/jobs?limit=1").json()["next_cursor"]
    assert mine[1] not in other.client.get("/jobs", params={"cursor": cursor}).text


def test_anothers_picture_cannot_be_started_from(keyed: KeyedApi, one: Holder, other: Holder) -> None:
    _, image = finished(keyed, one)
    assert one.submit(image=image)["parent"]["round"] == 1
    for wanted in (image, UNKNOWN_IMAGE):
        said = problem(other.client.post("/generate", json={"prompt": "a", "image": wanted}), 404, "image_not_found")
        assert said["errors"][0]["pointer"] == "/image"


def test_anothers_picture_does_not_come_by_looking_like_part_of_ones_own_job(
    keyed: KeyedApi, one: Holder, other: Holder
) -> None:
    _, image = finished(keyed, one)
    looks_like = {"id": image, "sha256": "x", "url": "/images/x", "links": "y"}
    job, _ = finished(keyed, other, metadata=looks_like, response_format="b64_json")
    for answer in (other.client.get(f"/jobs/{job}"), other.client.get("/jobs")):
        shown = answer.json().get("jobs", [answer.json()])[0]
        assert shown["metadata"] == looks_like
    [*_, last] = events_of(other.client.get(f"/jobs/{job}/events"))
    assert last.data["job"]["metadata"] == looks_like


def test_the_same_idempotency_key_is_two_tenants_two_jobs(keyed: KeyedApi, one: Holder, other: Holder) -> None:
    headers = {"Idempotency-Key": "the-same", "Prefer": "respond-async"}
    jobs = [h.client.post("/generate", json={"prompt": "a"}, headers=headers) for h in (one, other, one)]
    assert [answer.headers.get("idempotent-replayed") for answer in jobs] == [None, None, "true"]
    ids = [answer.json()["id"] for answer in jobs]
    assert ids[0] == ids[2] != ids[1]
    other_body = other.client.post("/generate", json={"prompt": "b"}, headers=headers)
    problem(other_body, 422, "idempotency_mismatch")


def test_two_keys_of_one_tenant_see_the_same_so_that_keys_can_be_changed(keyed: KeyedApi, one: Holder) -> None:
    newer = keyed.holder("one")
    headers = {"Idempotency-Key": "shared", "Prefer": "respond-async"}
    job = one.client.post("/generate", json={"prompt": "a"}, headers=headers).json()["id"]
    assert newer.client.get(f"/jobs/{job}").status_code == 200
    assert newer.client.post("/generate", json={"prompt": "a"}, headers=headers).json()["id"] == job
    assert newer.client.post(f"/jobs/{job}/cancel").status_code == 202


def test_pictures_lie_in_their_tenants_folder(keyed: KeyedApi, one: Holder) -> None:
    job = one.submit(image=PICTURE)
    folder = Path(keyed.api.settings.image_store_url) / "one" / job["id"]
    assert len(list(folder.iterdir())) == 1
    keyed.worker.takes().whole_run()
    assert one.client.delete(f"/jobs/{job['id']}").status_code == 204
    assert not folder.exists()


@pytest.mark.parametrize(("method", "path"), EVERY_WAY)
def test_an_admin_reaches_any_tenants_jobs_by_saying_whose(
    keyed: KeyedApi, one: Holder, admin: Holder, method: str, path: str
) -> None:
    job, image = finished(keyed, one)
    where = path.format(job=job, image=image)
    assert asked(admin, method, where).status_code == 404
    with_tenant = where + ("&" if "?" in where else "?") + "tenant=one"
    answer = asked(admin, method, with_tenant)
    assert answer.status_code in (200, 202, 204, 409), answer.text


def test_an_admin_lists_and_submits_for_a_tenant(keyed: KeyedApi, one: Holder, admin: Holder) -> None:
    job = one.submit()["id"]
    assert [found["id"] for found in admin.client.get("/jobs?tenant=one").json()["jobs"]] == [job]
    made = admin.client.post("/generate?tenant=one", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).json()
    assert one.client.get(f"/jobs/{made['id']}").status_code == 200
    assert admin.client.get("/jobs?tenant=nobody").json()["jobs"] == []
    check = admin.client.get("/jobs?tenant=boss")
    assert check.json()["jobs"] == []


def test_who_is_no_admin_may_not_name_a_tenant_whether_it_is_there_or_not(
    keyed: KeyedApi, one: Holder, other: Holder
) -> None:
    job = one.submit()["id"]
    for path in (f"/jobs/{job}", f"/jobs/{UNKNOWN_JOB}", "/jobs"):
        for tenant in ("one", "nobody"):
            problem(other.client.get(f"{path}?tenant={tenant}"), 403, "forbidden")
    assert other.client.get("/jobs?tenant=other").status_code == 200
    problem(other.client.post(f"/jobs/{job}/cancel?tenant=one"), 403, "forbidden")


@pytest.mark.parametrize("tenant", ["", "..", "a/b", "a:b", "x" * 129, "a%00", "*"])
def test_a_tenant_that_cannot_be_is_refused(keyed: KeyedApi, admin: Holder, tenant: str) -> None:
    for path in ("/jobs", f"/jobs/{UNKNOWN_JOB}"):
        said = problem(admin.client.get(path, params={"tenant": tenant}), 422, "invalid_request")
        assert said["errors"][0]["pointer"] == "/tenant"


@pytest.mark.row("L2")
def test_an_act_on_another_tenants_jobs_is_one_audit_line(keyed: KeyedApi, one: Holder, admin: Holder) -> None:
    job = one.submit()["id"]
    with capture_logs() as lines:
        admin.client.get("/jobs")
        one.client.get("/jobs?tenant=one")
        admin.client.post(f"/jobs/{job}/cancel?tenant=one")
    [line] = [line for line in lines if line["event"] == "another tenant's jobs"]
    assert (line["who"], line["tenant"], line["of"]) == (admin.key.id, "boss", "one")
    assert (line["method"], line["path"], line["from_"]) == ("POST", f"/jobs/{job}/cancel", "127.0.0.1")
    assert admin.secret not in str(lines)


def test_lines_of_a_request_say_whose_it_was_by_the_keys_id(keyed: KeyedApi, one: Holder) -> None:
    with capture_logs() as lines:
        one.client.get("/jobs")
        keyed.stranger.get("/jobs")
        until(lambda: sum(line["event"] == "request" for line in lines) == 2)  # they come behind the answers
    requests = [line for line in lines if line["event"] == "request"]
    assert [line.get("key") for line in requests] == [one.key.id, None]
    assert [line.get("tenant") for line in requests] == ["one", None]


def test_jobs_made_before_there_were_keys_belong_to_the_tenant_local(
    keyed: KeyedApi, one: Holder, tmp_path: Path
) -> None:
    with running_api(keyed.url, tmp_path, auth="none") as before:
        job = before.submit()["id"]
        assert before.client.get(f"/jobs/{job}").status_code == 200
    assert one.client.get(f"/jobs/{job}").status_code == 404
    assert keyed.holder("local").client.get(f"/jobs/{job}").status_code == 200


def test_a_followed_job_is_whole_for_its_tenant_and_its_records_name_it(keyed: KeyedApi, one: Holder) -> None:
    job, image = finished(keyed, one)
    check_whole(events_of(one.client.get(f"/jobs/{job}/events")))
    assert '"tenant":"one"' in str(keyed.db.get(f"{ROOT}img:{image}"))
