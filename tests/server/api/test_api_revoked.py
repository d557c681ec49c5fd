"""What ends with a key: its requests, its streams, and what waits; and what holds while keys cannot be read."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.keys import Key, digest_of, id_of, new_secret
from server.keys_file import entry
from tests.server.api.events import Sse, parsed
from tests.server.api.keyed import KeyedApi, keyed_api, new_key, revoke
from tests.server.api.running import running_api
from tests.server.api.test_api_generate import problem
from tests.server.processes import free_port
from tests.server.promises import promised
from tests.server.waiting import until


@contextmanager
def following(client: httpx.Client, url: str) -> Iterator[Iterator[Sse]]:
    """A stream of which the first event has come."""
    with client.stream("GET", url) as answer:
        assert answer.status_code == 200
        events = parsed(answer.iter_lines())
        assert next(events).name == "job.queued"
        yield events


def ends_as_unauthorized(events: Iterator[Sse]) -> None:
    with promised(5):
        [*_, last] = events
    assert (last.name, last.data["reason"]) == ("stream.closing", "unauthorized")


def test_the_streams_of_a_revoked_key_end_and_no_others(keyed: KeyedApi) -> None:
    holder, mate = keyed.holder("one"), keyed.holder("one")
    job = holder.submit()
    url = job["links"]["self"].partition("?")[0] + "/events"
    with following(holder.client, url) as mine, following(mate.client, url) as theirs:
        revoke(keyed.url, holder.key)
        ends_as_unauthorized(mine)
        assert mate.client.get("/jobs").status_code == 200
        problem(holder.client.get("/jobs"), 401, "unauthorized")
        keyed.worker.takes().whole_run()
        assert [event.name for event in theirs][-1] == "job.succeeded"


def test_every_process_refuses_a_revoked_key_and_ends_its_streams(keyed: KeyedApi, tmp_path: Path) -> None:
    holder = keyed.holder("one")
    job = holder.submit()
    with running_api(keyed.url, tmp_path, auth="keys") as second:
        bearer = {"Authorization": f"Bearer {holder.secret}"}
        with httpx.Client(base_url=second.url, headers=bearer, timeout=30) as there:
            url = f"/jobs/{job['id']}/events"
            with following(holder.client, url) as here_events, following(there, url) as there_events:
                revoke(keyed.url, holder.key)
                ends_as_unauthorized(here_events)
                ends_as_unauthorized(there_events)
            problem(there.get("/jobs"), 401, "unauthorized")


def test_a_request_that_waits_when_its_key_is_revoked_is_refused_and_its_job_goes_on(keyed: KeyedApi) -> None:
    holder, mate = keyed.holder("one"), keyed.holder("one")
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(holder.client.post("/generate", json={"prompt": "a"})))
    waiting.start()
    until(lambda: bool(mate.client.get("/jobs").json()["jobs"]))
    revoke(keyed.url, holder.key)
    waiting.join(20)
    problem(answers[0], 401, "unauthorized")
    assert mate.client.get("/jobs").json()["jobs"][0]["status"] == "queued"


def test_a_client_that_does_not_read_is_cut_off_with_its_key(keyed: KeyedApi) -> None:
    holder = keyed.holder("one")
    job = holder.submit(metadata={"k": "v" * 500})
    hand = keyed.worker.takes()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", keyed.api.port))
        head = f"GET /jobs/{job['id']}/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {holder.secret}\r\n\r\n"
        deaf.sendall(head.encode())
        for _ in range(400):
            hand.says("reason.delta", text="a" * 20_000)
        time.sleep(0.5)
        revoke(keyed.url, holder.key)
        until(lambda: "r3_sse_streams 0.0" in keyed.holder("boss", "admin").client.get("/metrics").text, 20)


def test_a_stream_by_a_link_ends_when_the_link_is_revoked_or_over(keyed: KeyedApi) -> None:
    holder = keyed.holder("one")
    job = holder.submit()
    for expires_s in (3600, 1):
        url = holder.client.post(f"/jobs/{job['id']}/share", json={"expires_s": expires_s}).json()["url"]
        with following(keyed.stranger, url.replace("?", "/events?")) as events:
            if expires_s > 1:
                holder.client.delete(f"/jobs/{job['id']}/share")
            ends_as_unauthorized(events)


@pytest.mark.parametrize("path", ["/generate", "/jobs/{job}/share"])
def test_what_a_revoked_key_began_to_send_does_nothing_when_its_end_comes(keyed: KeyedApi, path: str) -> None:
    holder, mate = keyed.holder("late"), keyed.holder("late")
    job = mate.submit()["id"]
    body = b'{"prompt": "a cat"}' if path == "/generate" else b'{"expires_s": 3600}'
    head = f"POST {path.format(job=job)} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {holder.secret}\r\n"
    head += f"Content-Type: application/json\r\nPrefer: respond-async\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.api.port), timeout=20) as slow:
        slow.sendall(head.encode() + body[:5])
        until(lambda: "bucket:key:" + holder.key.id in str(keyed.db.keys("*")))  # it was let in
        revoke(keyed.url, holder.key)
        until(lambda: holder.client.get("/jobs").status_code == 401)
        time.sleep(1.1)
        slow.sendall(body[5:])
        assert slow.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert [one["id"] for one in mate.client.get("/jobs").json()["jobs"]] == [job]
    assert not keyed.db.keys("*share*")


def test_a_body_that_takes_its_time_is_read_to_its_end_while_its_key_is_good(keyed: KeyedApi) -> None:
    holder = keyed.holder("patient")
    body = b'{"prompt": "a cat"}'
    head = f"POST /generate HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {holder.secret}\r\nPrefer: respond-async\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.api.port), timeout=20) as slow:
        slow.sendall(head.encode() + body[:5])
        time.sleep(1.2)
        slow.sendall(body[5:])
        assert slow.recv(65536).startswith(b"HTTP/1.1 202 ")


# from no keys to the first


def test_from_the_first_key_on_requests_without_one_are_refused_for_ever(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    with keyed_api(valkey.url, tmp_path, auth="auto") as keyed:
        nobody = keyed.stranger
        job = keyed.api.submit()
        assert nobody.get("/jobs", headers={"Authorization": "Bearer anything"}).status_code == 200
        with following(nobody, job["links"]["events"]) as events:
            key, _ = new_key(keyed.url, "local")
            ends_as_unauthorized(events)
        problem(nobody.get("/jobs"), 401, "unauthorized")
        revoke(keyed.url, key)
        time.sleep(1.5)
        problem(nobody.get("/jobs"), 401, "unauthorized")
        with running_api(keyed.url, tmp_path, auth="auto") as again:
            problem(again.client.get("/jobs"), 401, "unauthorized")
        keyed.db.flushdb()
        time.sleep(2.5)
        problem(nobody.get("/jobs"), 401, "unauthorized")


def test_where_keys_are_asked_for_and_there_is_none_nobody_comes_in(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with keyed_api(valkey.url, tmp_path, auth="keys") as keyed:
        problem(keyed.stranger.get("/jobs"), 401, "unauthorized")
        assert keyed.stranger.get("/readyz").status_code == 200


def test_where_nobody_is_asked_keys_change_nothing(valkey: EmbeddedServer, tmp_path: Path) -> None:
    for given in ({"auth": "none"}, {"insecure": True}):
        with keyed_api(valkey.url, tmp_path, **given) as keyed:
            new_key(keyed.url, "one")
            time.sleep(1.5)
            assert keyed.stranger.get("/jobs").status_code == 200
            assert keyed.stranger.get("/metrics").status_code == 200
            assert keyed.stranger.get("/jobs", headers={"Host": "evil.example"}).status_code == 403


# the keys file


def in_file(file: Path, *entries: str) -> None:
    """Write the file as Kubernetes does: another one takes its name."""
    fresh = file.with_suffix(".new")
    fresh.write_text("keys:\n" + "".join(entries) if entries else "keys: []\n")
    fresh.rename(file)


def file_key(tenant: str) -> tuple[Key, str]:
    secret = new_secret()
    return Key(id_of(secret) or "", tenant, tenant, ("generate",), digest_of(secret)), secret


def status(keyed: KeyedApi, secret: str) -> int:
    return keyed.stranger.get("/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_keys_of_the_file_come_and_go_with_it_beside_those_of_the_queue(valkey: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    (first, first_secret), (second, second_secret) = file_key("a"), file_key("b")
    in_file(file, entry(first))
    with keyed_api(valkey.url, tmp_path, auth="auto", keys_file=file) as keyed:
        assert keyed.stranger.get("/jobs").status_code == 401, "a file that is named is a wish to be asked"
        assert status(keyed, first_secret) == 200
        in_queue = keyed.holder("c")
        in_file(file, entry(first), entry(second))
        until(lambda: status(keyed, second_secret) == 200)
        in_file(file, entry(second))
        with promised(5):
            until(lambda: status(keyed, first_secret) == 401)
        in_file(file)
        until(lambda: status(keyed, second_secret) == 401)
        assert in_queue.client.get("/jobs").status_code == 200


def test_a_key_that_is_exchanged_in_place_is_seen_though_size_and_time_of_the_file_stay(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    (first, first_secret), (second, second_secret) = file_key("a"), file_key("a")
    in_file(file, entry(first))
    with keyed_api(valkey.url, tmp_path, keys_file=file) as keyed:
        until(lambda: status(keyed, first_secret) == 200)
        seen = file.stat()
        file.write_text("keys:\n" + entry(second))
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_ino) == (seen.st_size, seen.st_ino)
        until(lambda: (status(keyed, first_secret), status(keyed, second_secret)) == (401, 200))


def test_while_the_file_cannot_be_read_nobody_comes_in_and_then_all_do(valkey: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key, secret = file_key("a")
    in_file(file, entry(key))
    with keyed_api(valkey.url, tmp_path, keys_file=file) as keyed:
        in_queue = keyed.holder("c")
        for broken in ("keys: [", None):
            if broken is None:
                file.unlink()
            else:
                file.write_text(broken)
            until(lambda: status(keyed, secret) == 503, 15)
            answer = in_queue.client.get("/jobs")
            assert answer.headers["retry-after"]
            assert str(file) not in problem(answer, 503, "keys_unavailable")["detail"]
            problem(keyed.stranger.get("/nope"), 503, "keys_unavailable")
            assert keyed.stranger.get("/livez").status_code == 200
            in_file(file, entry(key))
            until(lambda: status(keyed, secret) == 200)


def test_a_key_of_the_file_that_was_revoked_in_the_queue_is_revoked(valkey: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    in_file(file)
    with keyed_api(valkey.url, tmp_path, keys_file=file) as keyed:
        holder = keyed.holder("a")
        in_file(file, entry(holder.key))
        revoke(keyed.url, holder.key)
        until(lambda: status(keyed, holder.secret) == 401)
        time.sleep(1.5)
        assert status(keyed, holder.secret) == 401


# the port for metrics


def test_the_metrics_port_answers_metrics_to_everyone_and_nothing_else(valkey: EmbeddedServer, tmp_path: Path) -> None:
    port = free_port()
    with keyed_api(valkey.url, tmp_path, metrics_port=port) as keyed, httpx.Client(timeout=20) as collector:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(collector, url))
        for host in ("localhost", "10.0.0.1:9090", "evil.example"):
            text = collector.get(f"{url}/metrics", headers={"Host": host, "Origin": "null"}).text
            assert "r3_queue_up 1.0" in text
        assert collector.head(f"{url}/metrics").content == b""
        for path in ("/", "/jobs", "/livez", "/metrics/", "/docs"):
            problem_here = collector.get(f"{url}{path}")
            assert (problem_here.status_code, problem_here.json()["code"]) == (404, "not_found")
        assert collector.post(f"{url}/metrics").status_code == 405
        assert keyed.stranger.get("/metrics").status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/metrics")


def answers(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{url}/metrics").status_code == 200
    return False
