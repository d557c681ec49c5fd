"""Keys and the API as a process of its own: closed while its Redis is away, and silent about secrets in its log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from server.api import config_of
from server.embedded import EmbeddedServer
from server.queue_worker import WorkerQueue
from server.settings import Settings
from tests.server.api.by_hand import TINY
from tests.server.api.keyed import new_key
from tests.server.api.test_api_generate import problem
from tests.server.api.test_api_process import kill, own_redis  # not the one that others share: it has no keys
from tests.server.processes import api_process
from tests.server.promises import promised
from tests.server.waiting import until

__all__ = ["own_redis"]

OPEN = ("/livez", "/healthz", "/startupz", "/docs", "/openapi.json")
CLOSED = ("/jobs", "/info", "/metrics", "/nope", f"/jobs/job_{'0' * 32}")


def test_while_redis_is_away_nobody_comes_in_and_then_those_with_keys_do(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    _, secret = new_key(own_redis.url, "one", ("admin",))
    bearer = {"Authorization": f"Bearer {secret}"}
    with api_process(own_redis.url, tmp_path, auth="keys") as api:
        client = api.client
        until(lambda: client.get("/jobs", headers=bearer).status_code == 200)
        assert "server" not in client.get("/livez").headers, "what it runs under is nobody's to know"
        kill(own_redis)
        until(lambda: client.get("/jobs").status_code == 503, 15)  # what was read just before is trusted for a moment
        for path in CLOSED:
            for headers in ({}, bearer, {"Authorization": "Bearer wrong"}):
                with promised(2):
                    answer = client.get(path, headers=headers)
                body = problem(answer, 503, "queue_unavailable")
                told = re.match(r"Redis (is not reachable|did not answer in time[^;]*);", body["detail"])
                assert told, "no addresses"
                assert int(answer.headers["retry-after"]) >= 1
        assert [client.get(path).status_code for path in OPEN] == [200] * len(OPEN)
        own_redis.start()
        with promised(3):
            until(lambda: client.get("/jobs", headers=bearer).status_code == 200, 30)
        assert client.get("/jobs").status_code == 401
        assert api.is_running()


def test_started_while_redis_is_away_it_is_closed_though_there_may_be_no_keys(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    kill(own_redis)
    with api_process(own_redis.url, tmp_path) as api:
        client = api.client
        problem(client.get("/jobs"), 503, "queue_unavailable")
        assert client.get("/livez").status_code == 200
        own_redis.start()
        until(lambda: client.get("/jobs").status_code == 200, 30)


@pytest.mark.row("L1", "L2")
def test_no_key_and_no_token_is_in_the_log_and_acts_are_though_the_log_is_quiet(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    queue = WorkerQueue(own_redis.url, "by-hand")
    queue.register(TINY.to_json())
    queue.close()
    key, secret = new_key(own_redis.url, "one")
    admin_key, admin = new_key(own_redis.url, "boss", ("admin",))
    bearer = {"Authorization": f"Bearer {secret}"}
    for level in ("debug", "error"):
        with api_process(own_redis.url, tmp_path, auth="keys", log_level=level) as api:
            client = api.client
            until(lambda client=client: client.get("/info", headers=bearer).status_code == 200)  # type: ignore[misc]
            asked = {"prompt": f"a {secret}", "metadata": {"k": secret}}
            job = client.post("/generate", json=asked, headers={**bearer, "Prefer": "respond-async"}).json()
            token = job["links"]["self"].partition("?token=")[2]
            assert token
            for path in (f"/jobs/{secret}", f"/{secret}", f"/images/img_{secret}", "/jobs"):
                client.get(path, params={"token": secret, "key": secret}, headers={"X-Request-ID": f"a{secret}"})
                client.get(path, headers={**bearer, "Cookie": secret, "Referer": f"http://a/?token={token}"})
            client.get(job["links"]["self"])
            client.get("/jobs", headers={"Authorization": f"Basic {secret}"})
            client.get("/jobs?tenant=one", headers={"Authorization": f"Bearer {admin}"})
            client.get("/livez")  # a request is logged behind its answer: those before this one now are
        text = api.log.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        for planted in (secret, secret.removeprefix(f"{key.id}_"), token, admin, key.sha256):
            assert planted not in text
        [act] = [line for line in lines if line["logger"] == "r3.audit"]
        assert (act["event"], act["who"], act["of"]) == ("another tenant's jobs", admin_key.id, "one")
        assert act["timestamp"]
        if level == "debug":
            assert {line.get("key") for line in lines if line["event"] == "request"} >= {
                key.id,
                admin_key.id,
                "link",
                None,
            }
        else:
            assert not [line for line in lines if line["event"] == "request"]


def test_the_process_listens_beyond_loopback_only_where_keys_are_asked_for(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    _, secret = new_key(own_redis.url, "one")
    with api_process(own_redis.url, tmp_path, auth="keys", host="0.0.0.0") as api:
        client = api.client
        assert client.get("/jobs", headers={"Host": "r3.example"}).status_code == 401
        named = {"Host": "r3.example", "Authorization": f"Bearer {secret}"}
        until(lambda: client.get("/jobs", headers=named).status_code == 200)


@pytest.mark.row("L2")
@pytest.mark.parametrize(
    ("proxies", "told"), [("", "127.0.0.1"), ("10.0.0.0/8", "127.0.0.1"), ("10.0.0.0/8,127.0.0.0/8", "203.0.113.9")]
)
async def test_a_client_cannot_choose_the_address_that_is_written_down_unless_it_is_a_named_proxy(
    proxies: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["client"][0])

    async def nothing(*_: object) -> Any: ...

    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own, which no setting of ours is
    monkeypatch.setenv("R3_TRUSTED_PROXIES", proxies)
    config = config_of(app, Settings())
    config.load()
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    scope: Any = {"type": "http", "client": ("127.0.0.1", 1), "scheme": "http", "headers": headers}
    await config.loaded_app(scope, nothing, nothing)
    assert seen == [told]
