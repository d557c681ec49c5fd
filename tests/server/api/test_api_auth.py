"""The door: what is open, what is closed to whoever has no key, and what a key's scope lets it do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

import server.routes
from server import doors
from server.embedded import EmbeddedServer
from server.keys import new_secret
from tests.server.api.keyed import Holder, KeyedApi, keyed_api, revoke
from tests.server.api.test_api_generate import problem
from tests.server.api.test_api_service import raw
from tests.server.waiting import until

JOB = f"job_{'0' * 32}"
OPEN = [
    "/livez",
    "/healthz",
    "/readyz",
    "/startupz",
    "/",
    f"/j/{JOB}",
    "/assets/app.js",
    "/docs",
    "/docs/assets/start.js",
    "/openapi.json",
    "/openapi.yaml",
]
CLOSED = ["/jobs", f"/jobs/{JOB}", f"/jobs/{JOB}/events", f"/images/img_{'0' * 32}", "/info", "/metrics", "/generate"]


@pytest.fixture(scope="module")
def maker(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("maker")


@pytest.fixture(scope="module")
def reader(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("maker", "read")


@pytest.fixture(scope="module")
def admin(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("boss", "admin")


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["www-authenticate"].startswith('Bearer realm="r3"')
    return problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", OPEN)
def test_health_docs_and_the_contract_need_no_key(keyed: KeyedApi, path: str) -> None:
    assert keyed.stranger.get(path).status_code == 200
    assert keyed.stranger.head(path).status_code == 200
    assert "ratelimit" not in keyed.stranger.get(path).headers


@pytest.mark.parametrize("path", [*CLOSED, "/nope", "/jobs/", "/v1/models", "/keys", "/j", "/docs/", "/assets/a/b"])
def test_everything_else_is_closed_whatever_the_method_and_whether_it_is_there(keyed: KeyedApi, path: str) -> None:
    assert keyed.stranger.head(path).status_code == 401
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        refused(keyed.stranger.request(method, path))


@pytest.mark.parametrize(
    "target",
    [
        "/livez/", "/LIVEZ", "/livez%00", "/livez%0a", "/livez;/../jobs", "//livez", "/./livez", "/livez/../jobs",
        "/docs/../jobs", "/docs/assets/../../jobs", "/docs/assets/%2e%2e/%2e%2e/jobs", "/docs/assets/..%2f..%2fjobs",
        "/%2e/jobs", "/jobs%2f", "/Jobs", "/%6aobs", "/j/a/b", "/j/", "/openapi.yml", "/jobs?x=/livez", "/jobs#/livez",
        "http://localhost/jobs", "http://localhost/livez/../jobs", "*",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_opens_what_is_closed(keyed: KeyedApi, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    status = raw(keyed.api, request).split(b" ", 2)[1]
    assert status in (b"401", b"400"), status


def test_a_path_that_is_spelt_otherwise_but_is_open_to_the_router_is_open_here_too(keyed: KeyedApi) -> None:
    request = b"GET /%6c%69vez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert raw(keyed.api, request).startswith(b"HTTP/1.1 200 ")


def depended_on(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from depended_on(each)


def test_every_route_is_open_on_purpose_or_asks_for_a_scope() -> None:
    """A route that someone adds and forgets to guard is closed by the door, and found here."""
    modules = [import_module(f"server.routes.{found.name}") for found in iter_modules(server.routes.__path__)]
    routes = [route for module in modules for route in module.router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 20
    for route in routes:
        asked = [d.call.__qualname__ for d in depended_on(route.dependant) if d.call is not None]
        guarded = any(name.startswith(("needs.", "may.")) for name in asked)
        path = re.sub(r"\{[^}]+\}", "x", route.path)
        assert guarded != doors.is_open(path), f"{route.methods} {route.path}: {asked}"


def test_only_what_reads_takes_a_link() -> None:
    assert doors.takes_link("GET", f"/jobs/{JOB}")
    assert doors.takes_link("HEAD", f"/jobs/{JOB}/events")
    assert doors.takes_link("GET", f"/images/img_{'0' * 32}")
    for path in (
        "/jobs",
        "/info",
        f"/jobs/{JOB}/share",
        "/jobs/all",
        f"/jobs/{JOB}/",
        f"/jobs/{JOB}0",
        "/images/img_1",
    ):
        assert not doors.takes_link("GET", path)
    assert not doors.takes_link("POST", f"/jobs/{JOB}")


def test_a_key_opens(keyed: KeyedApi, maker: Holder) -> None:
    assert keyed.stranger.get("/jobs").status_code == 401
    assert maker.client.get("/jobs").json() == {"jobs": [], "next_cursor": None}
    problem(maker.client.get("/nope"), 404, "not_found")
    problem(maker.client.put("/jobs"), 405, "method_not_allowed")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_read_as_http_says(keyed: KeyedApi, maker: Holder, scheme: str) -> None:
    answer = keyed.stranger.get("/jobs", headers={"Authorization": f"{scheme} {maker.secret}"})
    assert answer.status_code == 200


def test_anything_but_the_one_right_header_is_refused(keyed: KeyedApi, maker: Holder) -> None:
    secret, other = maker.secret, new_secret()
    texts = [
        "",
        "Bearer",
        secret,
        f"Basic {secret}",
        f"Token {secret}",
        f"Bearer {secret}x",
        f"Bearer {other}",
    ]
    texts += [
        f"Bearer {secret[:-1]}",
        f"Bearer {secret}, Bearer {secret}",
        f"Bearer {secret} {secret}",
        f"Bearer\t{secret}",
    ]
    texts += [
        f"Bearer {maker.key.id}",
        f"Bearer {maker.key.sha256}",
        f'Bearer "{secret}"',
        f"Bearer {secret};",
        "Bearer é",
    ]
    for text in texts:
        refused(keyed.stranger.get("/jobs", headers=[(b"Authorization", text.encode("latin-1"))]))


def test_two_headers_are_refused_though_both_be_right(keyed: KeyedApi, maker: Holder) -> None:
    right, wrong = ("Authorization", f"Bearer {maker.secret}"), ("authorization", f"Bearer {new_secret()}")
    for pair in ([right, right], [right, wrong], [wrong, right]):
        assert "more than once" in refused(keyed.stranger.get("/jobs", headers=pair))["detail"]
    assert keyed.stranger.get("/jobs", headers=[right]).status_code == 200


def test_a_key_anywhere_but_in_its_header_opens_nothing(keyed: KeyedApi, maker: Holder) -> None:
    secret = maker.secret
    for name in ("key", "api_key", "access_token", "token", "authorization"):
        refused(keyed.stranger.get("/jobs", params={name: secret}))
    for name in ("X-API-Key", "Cookie", "Proxy-Authorization", "X-Forwarded-Authorization", "Authorization_"):
        refused(keyed.stranger.get("/jobs", headers={name: f"Bearer {secret}"}))
    refused(keyed.stranger.post("/generate", json={"prompt": "a", "key": secret}))
    problem(keyed.stranger.get(f"/jobs/{JOB}", params={"token": secret}), 404, "job_not_found")


def test_a_header_that_is_smuggled_in_is_not_read(keyed: KeyedApi, maker: Holder) -> None:
    bearer = f"Bearer {maker.secret}".encode()
    for line in (
        b"X: a\r\n Authorization: " + bearer,
        b"Authorization : " + bearer,
        b"X: a\rAuthorization: " + bearer,
        b"Authorization\x00: " + bearer,
        b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: " + bearer,
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: " + bearer,
    ):
        request = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + line + b"\r\n\r\n"
        with socket.create_connection(("127.0.0.1", keyed.api.port), timeout=10) as connection:
            connection.sendall(request)
            assert connection.recv(65536).split(b" ", 2)[1] in (b"400", b"401"), line


def test_nothing_tells_an_unknown_key_from_a_wrong_or_a_revoked_one(keyed: KeyedApi, maker: Holder) -> None:
    gone = keyed.holder("gone")
    revoke(keyed.url, gone.key)
    until(lambda: gone.client.get("/jobs").status_code == 401)
    told = []
    for secret in (gone.secret, new_secret(), maker.key.id + new_secret()[19:]):
        answer = keyed.stranger.get("/jobs", headers={"Authorization": f"Bearer {secret}"})
        body = refused(answer)
        del body["request_id"]
        told.append((body, answer.headers["www-authenticate"]))
        assert secret not in answer.text
    assert told[0] == told[1] == told[2]
    assert 'error="invalid_token"' in told[0][1]
    assert "error=" not in keyed.stranger.get("/jobs").headers["www-authenticate"]


def test_a_reader_reads_and_does_nothing_else(keyed: KeyedApi, maker: Holder, reader: Holder) -> None:
    job = maker.submit()
    image = keyed.worker.takes().draws()
    for path in ("/jobs", f"/jobs/{job['id']}", f"/images/{image}", "/info"):
        assert reader.client.get(path).status_code == 200
    for method, path in (
        ("POST", "/generate"),
        ("POST", f"/jobs/{job['id']}/cancel"),
        ("POST", f"/jobs/{job['id']}/stop"),
        ("POST", f"/jobs/{job['id']}/share"),
        ("DELETE", f"/jobs/{job['id']}/share"),
        ("DELETE", f"/jobs/{job['id']}"),
        ("POST", f"/jobs/{JOB}/cancel"),
    ):
        answer = reader.client.request(method, path)
        body = problem(answer, 403, "forbidden")
        assert "read" in body["detail"]
        assert 'error="insufficient_scope", scope="generate"' in answer.headers["www-authenticate"]
    assert maker.client.get(f"/jobs/{job['id']}").json()["status"] == "running"


def test_metrics_need_an_admin(keyed: KeyedApi, maker: Holder, reader: Holder, admin: Holder) -> None:
    for holder in (maker, reader):
        problem(holder.client.get("/metrics"), 403, "forbidden")
        assert holder.client.head("/metrics").status_code == 403
    assert "r3_queue_up 1.0" in admin.client.get("/metrics").text
    assert admin.client.head("/metrics").status_code == 200


@pytest.mark.row("H1")
def test_refusals_carry_the_safe_headers(keyed: KeyedApi, maker: Holder) -> None:
    for answer in (keyed.stranger.get("/jobs"), maker.client.get("/metrics"), keyed.stranger.get("/nope")):
        assert answer.status_code in (401, 403)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_body_is_not_read_from_whoever_has_no_key(keyed: KeyedApi) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30000000"
    assert raw(keyed.api, head + b"\r\n\r\n{").startswith(b"HTTP/1.1 401 ")


def test_a_query_without_end_is_refused_before_it_is_looked_at(keyed: KeyedApi) -> None:
    head = f"GET /jobs/{JOB}?{'a&' * 32_000} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {'v' * 2000}"
    assert raw(keyed.api, f"{head}\r\n\r\n".encode()).startswith(b"HTTP/1.1 431 ")


def test_with_keys_any_name_may_call(keyed: KeyedApi, maker: Holder) -> None:
    named = {"Host": "r3.example", "Origin": "https://app.example"}
    assert maker.client.get("/jobs", headers=named).status_code == 200
    refused(keyed.stranger.get("/jobs", headers=named))


def test_with_keys_only_those_hosts_may_be_called_that_the_operator_names(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    with keyed_api(valkey.url, tmp_path, allowed_hosts=("r3.example",), requests_per_min=None) as keyed:
        holder = keyed.holder("a")
        for host, status in (("r3.example", 200), ("localhost", 200), ("evil.example", 403)):
            assert holder.client.get("/jobs", headers={"Host": host}).status_code == status


@pytest.mark.row("H1")
def test_pages_of_named_origins_may_send_a_key_and_read_why_it_was_refused(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    origin = "https://app.example"
    with keyed_api(valkey.url, tmp_path, cors_origins=(origin,)) as keyed:
        holder = keyed.holder("a")
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = keyed.stranger.options("/generate", headers=asked)
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        for client, status in ((keyed.stranger, 401), (holder.client, 200)):
            answer = client.get("/jobs", headers={"Origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
            assert "access-control-allow-credentials" not in answer.headers
            assert "RateLimit" in answer.headers["access-control-expose-headers"]
            stranger = client.get("/jobs", headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in stranger.headers


def test_no_key_is_in_metrics_wherever_it_was_sent(keyed: KeyedApi, maker: Holder, admin: Holder) -> None:
    """Nor in the log: test_api_keys_process.py, where that is written as a server writes it."""
    secret = maker.secret
    maker.submit(metadata={"k": secret})
    for path in (f"/jobs/{secret}", f"/{secret}", "/jobs"):
        keyed.stranger.get(path, params={"token": secret}, headers={"X-Request-ID": "a" + secret})
        maker.client.get(path, params={"key": secret})
    keyed.stranger.get("/jobs", headers={"Authorization": f"Basic {secret}"})
    text = admin.client.get("/metrics").text
    assert 'route="/jobs/{job_id}"' in text
    assert secret not in text
