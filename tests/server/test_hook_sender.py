"""One attempt to deliver: addresses are judged, what was judged is connected to, and nothing is followed."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import h11
import pytest
import trustme

from server import hook_sender
from server.hook_rules import Allowed
from server.hook_sender import NotAllowed, NotSent, Resolve, Sender, resolved, tls_context
from tests.server.receiving import Receiver, receiving
from tests.server.waiting import until

pytestmark = pytest.mark.row("W1")

NAME = "hooks.example.com"
LOOPBACK = Allowed.parse([NAME, "127.0.0.1"])
HEADERS = {"webhook-id": "msg_1", "Content-Type": "application/json"}


class Names:
    """A resolver that answers what it is told, one answer a question, and counts how often it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def sender(resolve: Resolve | None = None, allowed: Allowed = LOOPBACK, tls: ssl.SSLContext | None = None) -> Sender:
    return Sender(allowed, tls or tls_context(), resolve)


async def test_what_is_sent_arrives_as_it_is_and_the_status_comes_back(receiver: Receiver) -> None:
    assert await sender().post(receiver.url, HEADERS, b'{"a": 1}') == 204
    [got] = receiver.received
    assert (got.path, got.body) == ("/path-secret?token=query-secret", b'{"a": 1}')
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["webhook-id"] == "msg_1"


async def test_a_name_is_resolved_once_and_that_address_is_connected_to(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    assert await sender(names).post(f"http://{NAME}:{receiver.port}/x", HEADERS, b"{}") == 204
    assert names.asked == [(NAME, receiver.port)]
    assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"


async def test_a_name_that_leads_elsewhere_at_the_next_attempt_is_judged_again(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    one = sender(names)
    assert await one.post(f"http://{NAME}:{receiver.port}/x", HEADERS, b"{}") == 204
    with pytest.raises(NotAllowed, match=r"10\.0\.0\.1"):
        await one.post(f"http://{NAME}:{receiver.port}/x", HEADERS, b"{}")


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.2"],
        ["::1"],
        ["::ffff:127.0.0.2"],
        ["64:ff9b::7f00:2"],
        ["2002:7f00:2::"],
        ["169.254.169.254"],
        ["fe80::1%lo"],
        ["fd00::1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["127.0.0.1", "10.0.0.1"],
        ["1.1.1.1", "192.168.0.1"],
    ],
)
async def test_a_listed_name_that_leads_to_any_other_private_address_is_not_sent_to(addresses: list[str]) -> None:
    with pytest.raises(NotAllowed, match="not public"):
        await sender(Names(addresses)).post(f"http://{NAME}/x", HEADERS, b"{}")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://localhost/",
        "http://evil.example/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        f"http://user:secret@{NAME}/",
    ],
)
async def test_what_is_not_listed_is_refused_before_any_name_is_asked_for(url: str) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(NotAllowed) as refused:
        await sender(names).post(url, HEADERS, b"{}")
    assert names.asked == []
    assert "secret" not in str(refused.value)


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.answers = [307]
    assert await sender().post(receiver.url, HEADERS, b"{}") == 307
    assert len(receiver.received) == 1


async def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await sender().post(receiver.url, HEADERS, b"{}") == 204


async def test_the_next_address_is_tried_where_one_cannot_be_connected_to(receiver: Receiver) -> None:
    allowed = Allowed.parse([NAME, "127.0.0.0/8"])
    names = Names(["127.0.0.9", "127.0.0.1"])  # the receiver listens on the second alone
    assert await sender(names, allowed).post(f"http://{NAME}:{receiver.port}/x", HEADERS, b"{}") == 204


async def test_where_nobody_listens_that_is_said_without_the_url(receiver: Receiver) -> None:
    with pytest.raises(NotSent) as failed:
        await sender().post("http://127.0.0.1:1/path-secret?token=query-secret", HEADERS, b"{}")
    assert "127.0.0.1" in str(failed.value)
    assert "secret" not in str(failed.value)


async def test_a_name_that_does_not_resolve_is_no_crash() -> None:
    allowed = Allowed.parse(["*.invalid"])
    with pytest.raises(NotSent, match=r"nowhere\.invalid"):
        await sender(allowed=allowed).post("http://nowhere.invalid/", HEADERS, b"{}")
    with pytest.raises(NotSent, match="no address"):
        await sender(Names([])).post(f"http://{NAME}/", HEADERS, b"{}")


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in await resolved("127.0.0.1", 80)


async def test_an_answer_that_never_comes_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_sender, "ATTEMPT_S", 0.3)
    receiver.answers = [lambda _: time.sleep(2)]
    with pytest.raises(NotSent, match="in time"):
        await sender().post(receiver.url, HEADERS, b"{}")


async def test_an_answer_without_end_is_not_read_to_its_end(receiver: Receiver) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x" * 65536)
            sent += 65536

    receiver.answers = [endless]
    assert await sender().post(receiver.url, HEADERS, b"{}") == 200
    assert sent < 100_000_000


async def test_a_status_that_was_seen_counts_whatever_comes_behind_it(receiver: Receiver) -> None:
    def cut_off(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x")

    def silent(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(202)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(2)

    receiver.answers = [cut_off, silent]
    assert await sender().post(receiver.url, HEADERS, b"{}") == 200
    assert await sender().post(receiver.url, HEADERS, b"{}") == 202


@pytest.mark.parametrize(
    ("head", "part", "comes_to"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 200),
    ],
)
async def test_of_an_answer_in_thousands_of_parts_few_are_taken_apart(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, head: bytes, part: bytes, comes_to: int | None
) -> None:
    """Each costs the event loop a tenth of a millisecond, and a receiver could send them for as long as it is heard."""
    parts = 0
    next_event = h11.Connection.next_event

    def counted(self: h11.Connection) -> Any:
        nonlocal parts
        parts += 1
        return next_event(self)

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        for _ in range(200):
            handler.wfile.write(part * 1000)

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    receiver.answers = [flood]
    attempt = sender().post(receiver.url, HEADERS, b"{}")
    if comes_to is None:
        with pytest.raises(NotSent, match="longer than"):
            await attempt
    else:
        assert await attempt == comes_to
    assert parts < 5000


async def test_headers_without_end_are_not_read(receiver: Receiver) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for number in range(100_000):
            handler.send_header(f"x-{number}", "x" * 100)
        handler.end_headers()

    receiver.answers = [endless]
    with pytest.raises(NotSent):
        await sender().post(receiver.url, HEADERS, b"{}")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_receiver(authority: trustme.CA) -> Iterator[Receiver]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(tls)
    with receiving(tls) as one:
        yield one


async def test_tls_is_verified_against_the_name_though_the_address_is_pinned(
    secure_receiver: Receiver, authority: trustme.CA, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    listed = Allowed.parse([NAME, "other.example.com", "127.0.0.1"])
    one = sender(Names(["127.0.0.1"]), listed, tls_context(str(ca_file)))
    port = secure_receiver.port
    assert await one.post(f"https://{NAME}:{port}/x", HEADERS, b"{}") == 204
    for wrong in (f"https://other.example.com:{port}/x", f"https://127.0.0.1:{port}/x"):
        with pytest.raises(NotSent, match=r"(?i)certificate"):
            await one.post(wrong, HEADERS, b"{}")
    with pytest.raises(NotSent, match=r"(?i)certificate"):
        await sender(Names(["127.0.0.1"]), listed).post(f"https://{NAME}:{port}/x", HEADERS, b"{}")
    assert len(secure_receiver.received) == 1


async def test_a_cancelled_attempt_leaves_nothing_open(receiver: Receiver) -> None:
    receiver.answers = [lambda _: time.sleep(1)]
    attempt = asyncio.create_task(sender().post(receiver.url, HEADERS, b"{}"))
    await asyncio.to_thread(until, lambda: bool(receiver.received))
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
