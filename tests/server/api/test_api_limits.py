"""How much a key may ask and a tenant may have; what is too much is 429, and says when to come again."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.keys import TenantLimits
from tests.server.api.by_hand import Hand
from tests.server.api.keyed import Holder, KeyedApi, keyed_api
from tests.server.api.test_api_generate import PICTURE, problem

pytestmark = pytest.mark.row("T2")

ASYNC = {"Prefer": "respond-async"}


def told(answer: httpx.Response) -> dict[str, dict[str, int]]:
    """What an answer says of limits, both fields together, by policy."""
    found: dict[str, dict[str, int]] = {}
    for name in ("ratelimit-policy", "ratelimit"):
        for item in answer.headers[name].split(", "):
            policy = re.match(r'"([a-z]+)"(;|$)', item)
            assert policy, item
            numbers = {key: int(value) for key, value in re.findall(r";([a-z]+)=(\d+)", item)}
            found.setdefault(policy[1], {}).update(numbers)
    return found


def too_many(answer: httpx.Response, policy: str, code: str = "rate_limited") -> dict[str, Any]:
    body = problem(answer, 429, code)
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    limit = told(answer)[policy]
    assert limit["r"] == 0
    assert int(answer.headers["retry-after"]) >= limit.get("t", 0), "as the draft says"
    assert body["error"]["type"] == "rate_limit_error"
    return body


def post(holder: Holder, **body: Any) -> httpx.Response:
    return holder.client.post("/generate", json={"prompt": "a", **body}, headers=ASYNC)


def test_a_key_that_asks_too_often_is_refused_and_told_when_to_come_again(keyed: KeyedApi) -> None:
    holder, other = keyed.holder("fast", requests_per_min=20), keyed.holder("fast")
    answers = [holder.client.get("/jobs") for _ in range(25)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == sorted(statuses)
    assert {200, 429} == set(statuses)
    left = [told(answer)["requests"] for answer in answers if answer.status_code == 200]
    assert all(one["q"] == 20 and one["w"] == 60 and one["t"] >= 1 for one in left)
    assert [one["r"] for one in left] == sorted((one["r"] for one in left), reverse=True)
    too_many(answers[-1], "requests")
    for path in ("/nope", f"/jobs/job_{'0' * 32}", "/metrics", "/generate"):
        too_many(holder.client.get(path), "requests")
    too_many(post(holder), "requests")
    assert other.client.get("/jobs").status_code == 200, "the limit is the key's, not its tenant's"
    assert keyed.stranger.get("/livez").status_code == 200
    assert holder.client.get("/livez").status_code == 200
    assert keyed.stranger.get("/jobs").status_code == 401


def test_no_spelling_of_the_header_is_another_key_or_another_bucket(keyed: KeyedApi) -> None:
    secret = keyed.holder("spelt", requests_per_min=60).secret
    left = []
    for line in (
        "Authorization: Bearer {}",
        "AUTHORIZATION:bearer  {}",
        "authorization:\t BEARER {} ",
        "Authorization: Bearer {}\t ",
    ):
        request = f"GET /jobs HTTP/1.1\r\nHost: a\r\n{line.format(secret)}\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", keyed.api.port), timeout=10) as connection:
            connection.sendall(request.encode())
            head = connection.recv(65536).decode()
        assert head.startswith("HTTP/1.1 200 "), line
        found = re.search(r'"requests";r=(\d+)', head)
        assert found
        left.append(int(found[1]))
    assert left == sorted(left, reverse=True)
    assert len([name for name in keyed.db.keys("*bucket:*") if "key:" in name]) == 1


def test_a_refusal_counts_for_a_key_too_and_a_stranger_costs_no_one(keyed: KeyedApi) -> None:
    holder = keyed.holder("counted", "read", requests_per_min=60)
    before, began_s = told(holder.client.get("/jobs"))["requests"]["r"], time.monotonic()
    for _ in range(5):
        assert post(holder).status_code == 403
        keyed.stranger.get("/jobs", headers={"Authorization": f"Bearer {holder.secret[:-1]}x"})
    left = told(holder.client.get("/jobs"))["requests"]["r"]
    come_back = time.monotonic() - began_s  # one a second
    assert left <= before - 6 + come_back + 1
    assert not [name for name in keyed.db.keys("*bucket:*") if holder.key.id not in name and "counted" in name]


def test_a_key_without_a_limit_of_its_own_has_the_servers(valkey: EmbeddedServer, tmp_path: Path) -> None:
    for per_min in (7, None):
        with keyed_api(valkey.url, tmp_path, requests_per_min=per_min) as keyed:
            usual, own = keyed.holder("a"), keyed.holder("b", requests_per_min=9)
            assert told(own.client.get("/jobs"))["requests"]["q"] == 9
            answer = usual.client.get("/jobs")
            if per_min is None:
                assert not [name for name in answer.headers if name.startswith("ratelimit")]
            else:
                assert told(answer)["requests"]["q"] == per_min


def test_a_tenants_quotas_hold_for_all_its_keys_and_for_no_other_tenant(keyed: KeyedApi) -> None:
    first, second, other = keyed.holder("quota"), keyed.holder("quota"), keyed.holder("free")
    keyed.limit("quota", TenantLimits(jobs_per_min=4, queued=3))
    answers = [post(holder) for holder in (first, second, first)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert [told(answer)["queued"]["r"] for answer in answers] == [2, 1, 0]
    assert [told(answer)["jobs"]["r"] for answer in answers] == [3, 2, 1]
    assert told(answers[0])["jobs"] | {"t": 0} == {"q": 4, "w": 60, "r": 3, "t": 0}
    body = too_many(post(second), "queued", "queue_full")
    assert body["scope"] == "tenant"
    too_many(post(second, image=PICTURE), "queued", "queue_full")
    keyed.worker.takes()
    assert post(first).status_code == 202
    keyed.worker.takes()
    too_many(post(second), "jobs")
    assert post(other).status_code == 202
    assert "jobs" not in told(post(other))
    folder = Path(keyed.api.settings.image_store_url) / "quota"
    assert not folder.exists() or not list(folder.iterdir()), "of what was refused no picture is left"


def test_an_admin_who_submits_for_a_tenant_submits_within_its_quotas(keyed: KeyedApi) -> None:
    admin = keyed.holder("boss", "admin")
    keyed.limit("small", TenantLimits(queued=1))
    url = "/generate?tenant=small"
    assert admin.client.post(url, json={"prompt": "a"}, headers=ASYNC).status_code == 202
    too_many(admin.client.post(url, json={"prompt": "a"}, headers=ASYNC), "queued", "queue_full")
    assert post(admin).status_code == 202


def test_of_a_tenant_no_more_jobs_run_than_may(keyed: KeyedApi) -> None:
    holder, other = keyed.holder("two"), keyed.holder("others")
    keyed.limit("two", TenantLimits(running=1))
    mine = [post(holder).json()["id"] for _ in range(3)]
    theirs = post(other).json()["id"]
    leases = keyed.worker.queue.lease("tiny", 4, 0)
    assert {lease.id for lease in leases} == {mine[0], theirs}
    hand = next(Hand(keyed.worker.queue, keyed.worker.images, lease) for lease in leases if lease.id == mine[0])
    hand.whole_run()
    assert keyed.worker.takes().lease.id == mine[1]
    assert holder.client.get(f"/jobs/{mine[2]}").json()["status"] == "queued"


def test_quotas_in_the_keys_file_hold_over_those_in_the_queue(valkey: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("tenants: {a: {queued: 1}}")
    with keyed_api(valkey.url, tmp_path, keys_file=file) as keyed:
        holder = keyed.holder("a")
        keyed.limit("a", TenantLimits(queued=50))
        assert post(holder).status_code == 202
        too_many(post(holder), "queued", "queue_full")


def test_without_keys_nothing_is_counted(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with keyed_api(valkey.url, tmp_path, auth="auto", requests_per_min=1) as keyed:
        answers = [keyed.api.client.get("/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert not any(name.startswith("ratelimit") for answer in answers for name in answer.headers)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 422])
def test_every_answer_to_a_key_says_how_it_stands_and_none_to_a_stranger(keyed: KeyedApi, status: int) -> None:
    holder = keyed.holder(f"stands-{status}", "read")
    how = {401: ("GET", "/jobs"), 403: ("POST", "/generate"), 404: ("GET", "/x"), 405: ("PUT", "/jobs")}
    method, path = how.get(status, ("GET", "/jobs?limit=x"))
    answer = (keyed.stranger if status == 401 else holder.client).request(method, path)
    assert answer.status_code == status
    assert ("ratelimit" in answer.headers) == (status != 401)
