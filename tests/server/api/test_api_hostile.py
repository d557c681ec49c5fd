"""An API process among strangers: rubbish in bodies, heads and pictures is refused, and the log stays clean."""

from __future__ import annotations

import base64
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as PILImage

from server.embedded import EmbeddedServer
from server.queue_worker import WorkerQueue
from server.views import Problem
from tests.server.api.by_hand import TINY
from tests.server.processes import api_process
from tests.server.promises import promised
from tests.server.test_picture_memory import PROMISED_BYTES
from tests.server.test_pictures import WHOLE, animated, png_claiming, saved

pytestmark = pytest.mark.row("F2")

JOB = f"/jobs/job_{'0' * 32}"
JSON = {"Content-Type": "application/json"}


@dataclass
class Attacked:
    """A running `r3 api`, and its log."""

    client: httpx.Client
    pid: int
    log: Path

    @property
    def port(self) -> int:
        return self.client.base_url.port or 0

    def lines(self) -> list[dict[str, Any]]:
        """The log, each line of which must be JSON."""
        return json_lines(self.log)

    def kb(self, name: str) -> int:
        """A size of the process's, by the kernel's name for it."""
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1])


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def attacked(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    data_dir = tmp_path_factory.mktemp("hostile")
    queue = WorkerQueue(valkey.url, "by-hand")
    queue.register(TINY.to_json())
    with api_process(valkey.url, data_dir, log_level="info") as api:
        client = api.client
        client.timeout = httpx.Timeout(60)
        yield Attacked(client, api.process.pid, api.log)
        assert client.get("/livez").status_code == 200  # after all that the tests of this module did to it
    queue.close()
    assert [line for line in json_lines(api.log) if line["level"] in ("error", "critical")] == []
    assert "Traceback" not in api.log.read_text()


def refused(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    Problem.model_validate(body)
    assert 400 <= answer.status_code < 500, body
    assert answer.headers["content-type"] == "application/problem+json"
    return body


# bodies


@pytest.mark.parametrize("path", ["/generate", f"{JOB}/share", "/admin/queue/pause"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nul",
        b"{'prompt': 'a'}",
        b'{"prompt": "a",}',
        b'{"prompt": "a"} {}',
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"prompt": "a", "seed": NaN}',
        b'{"prompt": "a", "seed": -Infinity}',
        b'{"prompt": "a", "seed": 1e400}',
        b'{"prompt": "a", "seed": ' + b"9" * 1_000_000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\n"}',
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"prompt": "' + b"a" * 10_000_000 + b'"}',
        b'{"prompt": "a", "metadata": {' + b",".join(b'"%d":""' % i for i in range(9000)) + b"}}",
        b"[" + b"0," * 5_000_000 + b"0]",
        b" " * 10_000_000,
    ],
    ids=range(22),
)
def test_no_body_gets_more_than_a_refusal(attacked: Attacked, path: str, body: bytes) -> None:
    with promised(0.05):
        answer = attacked.client.post(path, content=body, headers=JSON)
    refused(answer)


def test_a_body_that_never_comes_holds_up_nobody(attacked: Attacked) -> None:
    with socket.create_connection(("127.0.0.1", attacked.port)) as slow:
        slow.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        slow.sendall(b"Content-Length: 1000\r\n\r\n{")
        assert attacked.client.get("/jobs").status_code == 200


# heads


def raw(attacked: Attacked, request: bytes) -> bytes:
    """What the server answers to these very bytes, empty where it hangs up."""
    with socket.create_connection(("127.0.0.1", attacked.port), timeout=10) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def head(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: localhost", *headers, b"", b""))


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00" * 1000,
        b"\r\n" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        head(b"GET /livez\x00 HTTP/1.1"),
        head(b"GET http://evil.example/jobs HTTP/1.1"),
        head(b"GET //evil.example/jobs HTTP/1.1"),
        head(b"GET /jobs/%ff%fe%00 HTTP/1.1"),
        head(b"GET /jobs/..%2f..%2fetc%2fpasswd HTTP/1.1"),
        head(b"GET /images/img_%2e%2e HTTP/1.1"),
        head(b"GET /jobs?cursor=%ff&limit=%00 HTTP/1.1"),
        head(b"GET /" + b"a" * 60_000 + b" HTTP/1.1"),
        head(b"GET /jobs?" + b"a=b&" * 15_000 + b" HTTP/1.1"),
        head(b"GET " + JOB.encode() + b"/events HTTP/1.1", b"Last-Event-ID: " + "²".encode()),
        head(b"POST /generate HTTP/1.1", b"Content-Type: application/json", b"Content-Length: -1"),
        head(b"POST /generate HTTP/1.1", b"Content-Type: application/json", b"Content-Length: 1e3"),
        head(b"POST /generate HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6") + b"hello",
        head(b"POST /generate HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(b"POST /generate HTTP/1.1", b"Transfer-Encoding: chunked") + b"zz\r\nhello\r\n",
        head(b"POST /generate HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        head(b"POST /generate HTTP/1.1", b"Content-Type: " + b"a" * 50_000, b"Content-Length: 2") + b"{}",
        head(b"GET /jobs HTTP/1.1", b"X: a\r\n folded"),
        head(b"GET /jobs HTTP/1.1", b"X: \x00\x01"),
        head(b"GET /jobs HTTP/1.1", b": nameless"),
        head(b"GET /jobs HTTP/1.1", *[b"X: v"] * 10_000),
        head(b"GET /generate HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"),
        head(b"OPTIONS * HTTP/1.1"),
        head(b"CONNECT evil.example:443 HTTP/1.1"),
        head(b"TRACE /jobs HTTP/1.1"),
    ],
    ids=range(30),
)
def test_no_head_gets_more_than_a_refusal_or_a_closed_connection(attacked: Attacked, request_: bytes) -> None:
    with promised(0.05):
        answer = raw(attacked, request_)
    assert re.match(rb"HTTP/1\.1 [234]\d\d |$", answer), answer[:200]
    status = int(answer[9:12] or 400)  # it may hang up before it answers, for the client has
    # These may be answered, if they are in time: Host, which a page elsewhere cannot set, says who is asked.
    harmless = (b"folded", b"OPTIONS", b"GET /jobs?", b"GET http://")
    assert status >= 400 or any(part in request_ for part in harmless), answer[:200]


UPGRADES = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"]
BODY = b'{"prompt": "a", "size": "0x0"}'
CHUNKED = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, BODY[:9], len(BODY) - 9, BODY[9:])


@pytest.mark.parametrize("cut", [0, 1, 40])
@pytest.mark.parametrize(
    ("framing", "body"), [(b"Content-Length: %d" % len(BODY), BODY), (b"Transfer-Encoding: chunked", CHUNKED)]
)
def test_who_offers_an_upgrade_is_answered_without_it(
    attacked: Attacked, framing: bytes, body: bytes, cut: int
) -> None:
    """As Java's client does with every request; `cut` bytes of the body come with the head, and others later."""
    asked = head(b"POST /generate HTTP/1.1", *UPGRADES, b"Content-Type: application/json", framing)
    after = head(b"GET /jobs?limit=0 HTTP/1.1", b"X-Request-ID: after", b"Connection: close")
    with socket.create_connection(("127.0.0.1", attacked.port), timeout=10) as connection:
        connection.sendall(asked + body[:cut])
        time.sleep(0.1)
        connection.sendall(body[cut:] + after)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    first, second = (json.loads(one) for one in re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP/|$)", answer, re.DOTALL))
    assert [fault["pointer"] for fault in first["errors"]] == ["/size"], "its body was read as what it is"
    assert second["request_id"] == "after"


def test_what_comes_behind_an_upgrade_is_read_as_ever(attacked: Attacked) -> None:
    """A request that closes the connection is answered, whatever follows it."""
    offer = head(b"GET /jobs?limit=1 HTTP/1.1", *UPGRADES)
    last = head(b"GET /jobs?limit=1 HTTP/1.1", b"Connection: close")
    with socket.create_connection(("127.0.0.1", attacked.port), timeout=10) as connection:
        connection.sendall(offer)
        time.sleep(0.1)
        connection.sendall(last + last)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200"]


def test_no_body_of_an_upgrade_is_taken_for_a_request(attacked: Attacked) -> None:
    hidden = head(b"GET /jobs?limit=1 HTTP/1.1", b"X-Request-ID: smuggled")
    framing = b"Content-Length: %d" % len(hidden)
    asked = head(b"POST /generate HTTP/1.1", *UPGRADES, b"Content-Type: application/json", framing)
    for first, rest in ((asked + hidden, b""), (asked, hidden), (head(b"CONNECT localhost:443 HTTP/1.1"), hidden)):
        with socket.create_connection(("127.0.0.1", attacked.port), timeout=1) as connection:
            connection.sendall(first)
            time.sleep(0.1)
            answer = b""
            with suppress(OSError):  # it waits for another request, or has closed the tunnel
                connection.sendall(rest)
                while received := connection.recv(65536):
                    answer += received
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"smuggled" not in answer


# pictures

PICTURES = {
    "bomb": png_claiming(12_000, 12_000),
    "line": png_claiming(16_000_000, 1),
    "truncated": WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 2],
    "polyglot": WHOLE["PNG"] + b"PK\x03\x04",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "animated": animated("WEBP"),
    "gif": animated("GIF"),
    "bmp": saved(PILImage.new("RGB", (64, 64)), "BMP"),
    "half a header": WHOLE["WEBP"][:20],
    "packed rubbish": png_claiming(2000, 2000, b"not zlib"),
    "nothing": b"",
}


def send(attacked: Attacked, picture: bytes, kind: str = "png") -> httpx.Response:
    url = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    headers = {"Prefer": "respond-async"}
    return attacked.client.post("/generate", json={"prompt": "a", "image": url, "max_rounds": 1}, headers=headers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pictures_are_refused_or_made_ready_within_their_memory(attacked: Attacked) -> None:
    assert send(attacked, WHOLE["PNG"]).status_code == 202  # what is loaded at the first one is no picture's
    Path(f"/proc/{attacked.pid}/clear_refs").write_text("5")
    before = attacked.kb("VmRSS")
    for name, picture in PICTURES.items():
        body = refused(send(attacked, picture))
        assert (name, body["code"], body["errors"][0]["pointer"]) == (name, "invalid_image", "/image")
    exif = PILImage.Exif()
    exif[0x0112] = 6
    noise = PILImage.effect_noise((2000, 1500), 60)
    for image, kind in ((noise.convert("CMYK"), "JPEG"), (noise.convert("RGB"), "JPEG"), (noise.convert("LA"), "PNG")):
        answer = send(attacked, saved(image, kind, exif=exif), kind.lower())
        assert answer.status_code == 202, answer.text
        # The upright picture of 1500x2000, whatever the sender called it.
        picture = answer.json()["params"]["image"]
        shown = attacked.client.get(f"/images/{picture}").content
        assert shown[16:24] == (384).to_bytes(4, "big") + (512).to_bytes(4, "big")
        assert b"Exif" not in shown
    assert (attacked.kb("VmHWM") - before) * 1024 < 3 * PROMISED_BYTES


# logs

NASTY = '\r\n\x1b[31m\u2028 {"event": "forged", "level": "error"} \x00\'"\\ '


def test_no_text_of_a_clients_breaks_a_line_or_gets_into_the_log_metrics_or_errors(attacked: Attacked) -> None:
    secret = "planted-secret-7531"
    text = f"{NASTY}{secret}"
    headers = {
        "Prefer": "respond-async",
        "Idempotency-Key": secret,
        "Authorization": f"Bearer {secret}",
        "Cookie": f"session={secret}",
        "User-Agent": secret,
        "Referer": f"http://localhost/{secret}",
    }
    body = {"prompt": text, "metadata": {secret: text}}
    job = attacked.client.post("/generate", json=body, headers=headers).json()
    answers = [
        attacked.client.post("/generate", json={"prompt": [text], "instruction": text}),
        attacked.client.post("/generate", json={"prompt": text * 500}),
        attacked.client.post("/generate", json={"prompt": text, "image": base64.b64encode(text.encode()).decode()}),
        attacked.client.post(f"{job['links']['self']}/stop"),
    ]
    for answer in answers:
        assert secret not in json.dumps(refused(answer))
    attacked.client.get(f"{job['links']['self']}?token={secret}")
    attacked.client.get("/jobs", params={"cursor": text})
    attacked.client.post(f"/admin/jobs/{job['id']}/cancel")
    attacked.client.post(f"/admin/jobs/{job['id']}/retry")
    lines = attacked.lines()  # each a JSON line
    assert secret not in attacked.log.read_text()
    assert not any(line["event"] == "forged" for line in lines)
    assert secret not in attacked.client.get("/metrics").text


def test_each_act_of_an_operators_is_one_line_that_says_who_what_when_and_from_where(attacked: Attacked) -> None:
    client = attacked.client
    job_id = client.post("/generate", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).json()["id"]
    before = len(audited(attacked))
    for method, path, body in (
        ("POST", "queue/pause", {"model": "tiny"}),
        ("POST", "queue/resume", {}),
        ("GET", "jobs?tenant=local", None),
        ("GET", f"jobs/{job_id}", None),
        ("POST", f"jobs/{job_id}/cancel", None),
        ("POST", f"jobs/{job_id}/retry", None),
        ("GET", "queue", None),  # nobody's, and read every few seconds
        ("POST", "queue/pause", {"model": NASTY}),
        ("GET", "jobs/unknown", None),
    ):
        client.request(method, f"/admin/{path}", json=body)
    lines = audited(attacked)[before:]
    assert [line["event"] for line in lines] == [
        *("queue paused", "queue resumed", "jobs listed", "job read", "job cancelled", "job retried"),
    ]
    for line in lines:
        assert (line["who"], line["from_"], line["level"]) == ("local", "127.0.0.1", "info")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        assert re.fullmatch(r"[0-9a-f]{32}", line["request_id"])
    assert [line.get("job_id") for line in lines[3:]] == [job_id] * 3
    assert (lines[0]["model"], lines[1]["model"]) == ("tiny", "all")


def audited(attacked: Attacked) -> list[dict[str, Any]]:
    return [line for line in attacked.lines() if line.get("logger") == "r3.audit"]
