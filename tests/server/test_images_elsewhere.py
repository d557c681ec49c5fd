"""Stores that speak S3's protocol otherwise than AWS: answers that break off, refusals without a code, other sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler

import pytest

from server.images import ImageStore, StoreAway, StoreFailed
from tests.server.answering import answering
from tests.server.buckets import ENVIRONMENT, REGION

JOB = f"job_{'0' * 32}"
KEYS = [f"local/{JOB}/{letter * 64}" for letter in "ab"]
LISTED = "".join(
    f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    for key in KEYS
)
LIST = f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{LISTED}</ListBucketResult>'
NO_MD5 = "<Error><Code>MissingContentMD5</Code><Message>Missing required header: Content-Md5.</Message></Error>"


@dataclass
class Elsewhere:
    """How it answers to each method, and what it was asked."""

    answers: dict[str, tuple[int, str]]
    length: int | None = None
    """What the answers say of their length, where it is not true."""
    asked: list[tuple[str, str, Message]] = field(default_factory=list)
    store: ImageStore = field(init=False)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    """A store that allows everything, and its other end."""
    one = Elsewhere({"GET": (200, LIST), "PUT": (200, ""), "POST": (400, NO_MD5), "DELETE": (204, "")})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            one.asked.append((self.command, self.path, self.headers))
            status, body = one.answers[self.command]
            self.send_response(status)
            self.send_header("Content-Length", str(one.length or len(body)))
            self.end_headers()
            self.wfile.write(body.encode())
            self.close_connection = one.length is not None

        def log_message(self, *_: object) -> None: ...

    for method in one.answers:
        setattr(Handler, f"do_{method}", Handler.answer)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with answering(Handler) as port:
        one.store = ImageStore("s3://pictures", f"http://127.0.0.1:{port}", REGION)
        yield one


def test_a_picture_that_breaks_off_is_asked_for_again_later(elsewhere: Elsewhere) -> None:
    """It is no refusal, of which a job would fail."""
    elsewhere.answers["GET"], elsewhere.length = (200, "half of it"), 1000
    with pytest.raises(StoreAway, match="does not answer"):
        elsewhere.store.get("local", JOB, "0" * 64)


@pytest.mark.parametrize(("status", "told"), [(403, r"\(403\); allow GetObject"), (400, r"\(400\)"), (404, r"\(404\)")])
def test_a_refusal_without_a_code_says_its_status(elsewhere: Elsewhere, status: int, told: str) -> None:
    elsewhere.answers["PUT"] = elsewhere.answers["GET"] = (status, "<html>No.</html>")
    with pytest.raises(StoreFailed, match=told):
        elsewhere.store.put("local", JOB, b"bytes")
    with pytest.raises(StoreFailed, match=told):
        elsewhere.store.get("local", JOB, "0" * 64)


def test_no_sum_goes_with_a_picture(elsewhere: Elsewhere) -> None:
    """Over TLS it would stand behind it, in a form that older servers of the protocol refuse."""
    elsewhere.store.put("local", JOB, b"bytes")
    [(_, _, headers)] = elsewhere.asked
    assert not [name for name in headers if "checksum" in name.lower() or "trailer" in name.lower()]


def test_a_store_that_wants_an_md5_has_its_objects_deleted_one_by_one(elsewhere: Elsewhere) -> None:
    elsewhere.store.delete_job("local", JOB)
    assert [(method, path) for method, path, _ in elsewhere.asked if method == "DELETE"] == [
        ("DELETE", f"/pictures/{key}") for key in KEYS
    ]
