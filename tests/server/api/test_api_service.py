"""Probes, metrics, /info, the guard at the door, and the headers that every answer carries."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import redis

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue_worker import WorkerQueue
from server.ranges import ranges
from server.service_views import Info, Ready
from server.views import Problem
from tests.server.api.by_hand import TINY, HandWorker
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import problem
from tests.server.older_redis import older
from tests.server.promises import promised
from tests.server.waiting import until


def raw(api: RunningApi, request: bytes) -> bytes:
    """What the server answers to these very bytes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_probes_answer(api: RunningApi, worker: HandWorker) -> None:
    for path in ("/livez", "/healthz", "/startupz"):
        assert (api.client.get(path).status_code, api.client.head(path).status_code) == (200, 200)
    until(lambda: api.client.get("/readyz").json() == {"status": "ready", "workers": 0, "models": ["tiny"]})
    ready = api.client.get("/readyz")
    Ready.model_validate(ready.json())
    assert ready.status_code == 200
    problem(api.client.get("/readyz?workers=1"), 503, "no_worker")
    worker.lives()
    until(lambda: api.client.get("/readyz?workers=1").json().get("workers") == 1)


def test_whoever_asks_whether_it_is_ready_redis_is_asked_once_a_second(api: RunningApi, database: redis.Redis) -> None:
    """Nobody shows a key for it."""

    def asked() -> int:
        return int(database.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"])

    before, began_s = asked(), time.monotonic()
    with ThreadPoolExecutor(8) as strangers:
        answers = set(strangers.map(lambda _: api.client.get("/readyz").status_code, range(100)))
    assert answers == {200}
    assert asked() - before <= time.monotonic() - began_s + 3  # the first, the one under way, and our own


def test_a_redis_that_is_too_old_is_told_as_a_queue_that_cannot_be_reached_with_the_remedy(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    with older(valkey.url) as url, running_api(url, tmp_path) as api:
        answer = api.client.get("/readyz")
        detail = problem(answer, 503, "queue_unavailable")["detail"]
        assert re.match(r"Redis 6\.\S+ is too old: .*upgrade the server or point R3_REDIS_URL at another", detail)
        assert answer.headers["retry-after"] == "60"


def test_info_says_what_is_served(api: RunningApi) -> None:
    info = api.client.get("/info").json()
    Info.model_validate(info)
    assert info["default_model"] == "tiny"
    [model] = info["models"]
    assert model["sizes"] == {"default": "256x256", "multiple_of": 16, "longest_edge": 512, "shortest_edge": 256}
    assert model["defaults"]["refine"]["cfg_img_scale"] == 1.5
    assert info["ranges"] == ranges()
    assert info["versions"]["server"]


def test_what_info_says_of_defaults_can_be_posted(api: RunningApi) -> None:
    defaults = api.client.get("/info").json()["models"][0]["defaults"]
    assert "cfg_img_scale" not in defaults["generate"]
    assert api.submit(**defaults)["params"]["generate"] == defaults["generate"]


def test_head_works_wherever_get_does(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    image = worker.takes().draws()
    fixed = ["/livez", "/readyz", "/metrics", "/info", "/jobs", "/openapi.json", "/openapi.yaml", "/docs", "/"]
    for path in (*fixed, f"/jobs/{job['id']}", f"/jobs/{job['id']}/events", f"/images/{image}"):
        answer = api.client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert api.client.head(f"/jobs/{job['id']}/events").headers["content-type"].startswith("text/event-stream")
    assert "r3_sse_streams 0.0" in api.client.get("/metrics").text


def test_metrics_count_requests_by_route_and_say_how_deep_the_queue_is(api: RunningApi) -> None:
    job = api.submit()
    api.client.get(f"/jobs/{job['id']}")
    text = api.client.get("/metrics").text
    assert 'r3_http_requests_total{code="200",method="GET",route="/jobs/{job_id}"}' in text
    assert 'r3_queue_waiting{model="tiny"} 1.0' in text
    assert "r3_queue_up 1.0" in text
    assert "r3_sse_streams 0.0" in text
    assert job["id"] not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost@evil.example", ""]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(api: RunningApi, host: str) -> None:
    problem(api.client.get("/jobs", headers={"Host": host}), 403, "host_not_allowed")
    assert api.client.get("/livez", headers={"Host": host}).status_code == 200


def test_two_hosts_or_none_are_refused(api: RunningApi) -> None:
    assert (
        b" 403 " in raw(api, b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").split(b"\r\n")[0]
    )
    assert b" 403 " in raw(api, b"GET /jobs HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_loopback_names_are_served(api: RunningApi, host: str) -> None:
    assert api.client.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.row("H1")
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_pages_of_other_origins_are_refused(api: RunningApi, origin: str) -> None:
    answer = api.client.post("/generate", json={"prompt": "a"}, headers={"Origin": origin})
    problem(answer, 403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    assert api.client.get("/readyz", headers={"Origin": origin}).status_code == 200


def test_a_page_of_our_own_may_call(api: RunningApi) -> None:
    assert api.client.get("/jobs", headers={"Origin": api.url}).status_code == 200


def test_origins_and_hosts_that_the_operator_names_are_let_in(valkey: EmbeddedServer, tmp_path: Path) -> None:
    origin = "https://app.example"
    named = {"cors_origins": (origin,), "allowed_hosts": ("r3.example",), "insecure": True}
    with running_api(valkey.url, tmp_path, **named) as api:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        preflight = api.client.options("/generate", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, origin)
        answer = api.client.get("/jobs", headers={"Origin": origin, "Host": "r3.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert "Location" in answer.headers["access-control-expose-headers"]
        of_openai = "authorization,x-stainless-lang,x-stainless-retry-count,x-stainless-runtime-version,openai-project"
        preflight = api.client.options(
            "/v1/images/generations", headers={**asked, "Access-Control-Request-Headers": of_openai}
        )
        assert preflight.status_code == 200, preflight.text
        assert api.client.get("/jobs", headers={"Origin": "https://other.example"}).status_code == 403


def test_pages_of_named_origins_may_show_pictures(valkey: EmbeddedServer, worker: HandWorker, tmp_path: Path) -> None:
    policy = "cross-origin-resource-policy"
    for origins, expected in (((), "same-origin"), (("https://app.example",), "cross-origin")):
        with running_api(valkey.url, tmp_path, cors_origins=origins) as api:
            api.submit()
            hand = HandWorker(worker.queue, ImageStore(api.settings.image_store_url)).takes()
            picture = api.client.get(f"/images/{hand.draws()}")
            unchanged = api.client.get(picture.request.url, headers={"If-None-Match": picture.headers["etag"]})
            assert (picture.headers[policy], unchanged.headers[policy]) == (expected, expected)
            assert api.client.get("/jobs").headers[policy] == "same-origin"


@pytest.mark.row("H1")
def test_preflights_are_not_answered_unless_origins_are_named(api: RunningApi) -> None:
    asked = {"Origin": api.url, "Access-Control-Request-Method": "POST"}
    assert api.client.options("/generate", headers=asked).status_code == 405


@pytest.mark.parametrize("headers", [{f"X-{i}": "v" for i in range(200)}, {"X-Long": "v" * 70_000}])
def test_too_many_headers_are_refused(api: RunningApi, headers: dict[str, str]) -> None:
    problem(api.client.get("/livez", headers=headers), 431, "headers_too_large")


@pytest.mark.parametrize("head", [b"X: v\r\n" * 10_000 + b"\r\n", b"X: " + b"v" * 3_000_000, b"X: v\r\n" * 1_000_000])
def test_heads_without_end_are_refused_fast_and_not_kept(api: RunningApi, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        with promised(0.05):
            with suppress(ConnectionError):  # of the long ones the end never comes: who waited for it would not answer
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + head)
            with suppress(ConnectionError):
                assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.row("H1")
@pytest.mark.parametrize("path", ["/jobs", "/livez", "/nope", "/openapi.json", "/docs", "/metrics", "/generate"])
def test_every_answer_carries_the_safe_headers(api: RunningApi, path: str) -> None:
    answer = api.client.get(path)
    expected = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_X", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("", False),
        ("ä", False),
        (None, False),
    ],
)
def test_a_request_id_is_echoed_where_it_is_valid_and_made_where_not(
    api: RunningApi, given: str | None, *, kept: bool
) -> None:
    headers = {} if given is None else {b"X-Request-ID": given.encode()}
    answer = httpx.get(f"{api.url}/nope", headers=headers)
    echoed = answer.headers["x-request-id"]
    assert (echoed == given) == kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", echoed)
    assert answer.json()["request_id"] == echoed


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/jobs/", 404, "not_found"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("PATCH", f"/jobs/job_{'0' * 32}", 405, "method_not_allowed"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("TRACE", "/jobs", 405, "method_not_allowed"),
    ],
)
def test_starlettes_own_refusals_have_the_one_shape(
    api: RunningApi, method: str, path: str, status: int, code: str
) -> None:
    problem(api.client.request(method, path), status, code)


def test_a_wrong_method_is_told_all_the_right_ones(api: RunningApi) -> None:
    answer = api.client.put(f"/jobs/job_{'0' * 32}")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}


def test_an_unforeseen_error_is_a_500_in_the_one_shape_without_its_reason(
    api: RunningApi, database: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    job = api.submit(prompt="a private prompt")
    database.hset(f"{{r3}}:job:{job['id']}", "created", "not a number")
    body = problem(api.client.get(f"/jobs/{job['id']}"), 500, "internal_error")
    assert "not a number" not in str(body)
    assert "ValueError" not in str(body)
    assert body["request_id"] in body["detail"]


def test_nonsense_on_the_wire_is_refused(api: RunningApi) -> None:
    for request in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET /x y HTTP/1.1\r\n\r\n"):
        head, _, body = raw(api, request).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"Content-Type: application/problem+json" in head
        said = json.loads(body)
        Problem.model_validate(said)
        assert (said["status"], said["code"]) == (400, "bad_request")


def test_jobs_are_described_from_files_where_no_worker_came_yet(
    valkey: EmbeddedServer, database: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.catalogue.describe", lambda checkpoint, base: TINY)
    with running_api(valkey.url, tmp_path) as api:
        assert api.submit()["model"] == "tiny"
        assert api.submit(model="tiny")["model"] == "tiny"


def test_nothing_of_a_person_is_in_the_log(
    api: RunningApi, worker: HandWorker, capsys: pytest.CaptureFixture[str], worker_queue: WorkerQueue
) -> None:
    secret = "the-secret-words"
    api.submit(prompt=secret, metadata={"k": secret})
    api.client.post("/generate", json={"prompt": [secret], secret: 1, "instruction": secret})
    api.client.get(f"/jobs?cursor={secret}")
    logged = capsys.readouterr().out
    assert "request" in logged
    assert secret not in logged
