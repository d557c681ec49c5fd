"""The client before servers, proxies and pictures that are not as they should be."""

from __future__ import annotations

import base64
import hashlib
import io

import httpx
import PIL.Image
import pytest

from r3client import Client, Image, NoAnswer, errors
from r3client.settings import body_of
from tests.server.processes import free_port


def answering(*answers: httpx.Response) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that gives these answers, the last one for ever."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    return httpx.MockTransport(answer), asked


def test_an_answer_that_leads_elsewhere_is_none() -> None:
    transport, _ = answering(httpx.Response(308, headers={"Location": "https://r3.example/"}, text="<html>moved"))
    with Client("http://r3.example", transport=transport) as client:
        for act in (lambda: client.delete("job_1"), lambda: client.image("img_1"), client.jobs):
            with pytest.raises(errors.UnexpectedAnswer, match=r"308 leads to https://r3\.example/; .* as base_url"):
                act()


def test_what_a_proxy_leaves_open_is_asked_again_only_where_that_does_no_harm() -> None:
    transport, asked = answering(httpx.Response(504), httpx.Response(204))
    with Client("http://127.0.0.1:1", transport=transport) as client, pytest.raises(errors.Refused):
        client.delete("job_1")
    assert len(asked) == 1
    transport, asked = answering(httpx.Response(504), httpx.Response(204))
    with Client("http://127.0.0.1:1", transport=transport) as client:
        client.unshare("job_1")
    assert len(asked) == 2


def test_a_server_that_wants_to_be_asked_again_at_once_is_not_flooded() -> None:
    transport, asked = answering(httpx.Response(503, headers={"Retry-After": "0"}))
    with Client("http://127.0.0.1:1", transport=transport, patience_s=0.5) as client, pytest.raises(errors.Refused):
        client.jobs()
    assert 2 <= len(asked) <= 6


def test_whoever_only_waits_is_told_that_nothing_answers(caplog: pytest.LogCaptureFixture) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", patience_s=4) as client, pytest.raises(NoAnswer):
        client.jobs()
    assert caplog.records[0].name == "r3client"
    assert "is the server running" in caplog.messages[0] or "no answer" in caplog.messages[0]


def test_a_broken_answer_is_an_error_of_ours() -> None:
    broken = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    transport, _ = answering(broken)
    with Client("http://127.0.0.1:1", transport=transport, patience_s=0) as client, pytest.raises(NoAnswer):
        client.jobs()


@pytest.mark.parametrize("key", ["", "two\nlines", "naïve", " before", "after ", "x" * 256])
def test_a_key_that_no_header_holds_is_refused_at_once(key: str) -> None:
    transport, asked = answering(httpx.Response(503, headers={"Retry-After": "1"}))
    with Client("http://127.0.0.1:1", transport=transport) as client:
        with pytest.raises(ValueError, match="1 to 255 ASCII characters, spaces only within"):
            client.submit("a cat", idempotency_key=key)
    assert asked == []


def test_other_bytes_than_those_of_its_hash_are_no_picture() -> None:
    half, whole = httpx.Response(200, content=b"half"), httpx.Response(200, content=b"the whole picture")
    transport, _ = answering(half, half, half, whole)
    picture = Image(
        id="img_1",
        url="/images/img_1",
        width=1,
        height=1,
        format="png",
        sha256=hashlib.sha256(b"the whole picture").hexdigest(),
    )
    with Client("http://127.0.0.1:1", transport=transport) as client:
        with pytest.raises(errors.ImageDamaged, match=r"img_1 came twice as other bytes than .* \(4 of them\)"):
            client.image(picture)
        assert client.image(picture) == b"the whole picture"


def test_nothing_secret_and_no_picture_is_in_what_is_shown_of_a_value() -> None:
    content = base64.b64encode(b"the whole picture").decode()
    told = {"id": "a", "url": "/a", "width": 1, "height": 1, "format": "png", "sha256": "0", "b64_json": content}
    picture = Image.model_validate(told)
    assert picture.content == b"the whole picture"
    assert content not in repr(picture)
    with Client("http://127.0.0.1:1", "r3_secret") as client:
        assert "r3_secret" not in repr(client._connection)


def test_a_picture_is_sent_as_it_is_to_be_looked_at() -> None:
    lying = PIL.Image.new("RGB", (200, 100))
    lying.getexif()[0x0112] = 6
    stored = io.BytesIO()
    lying.save(stored, "JPEG", exif=lying.getexif())
    for given, size in ((PIL.Image.open(stored), (100, 200)), (PIL.Image.new("CMYK", (30, 20)), (30, 20))):
        sent = body_of("a cat", {"image": given})["image"]
        assert PIL.Image.open(io.BytesIO(base64.b64decode(sent))).size == size


def test_a_page_in_place_of_a_stream_is_told_and_not_followed() -> None:
    transport, asked = answering(httpx.Response(200, headers={"Content-Type": "text/html"}, text="<p>sign in"))
    with Client("http://127.0.0.1:1", transport=transport) as client:
        with pytest.raises(errors.UnexpectedAnswer, match="sends text/html, and no events"):
            list(client.follow("job_1"))
    assert len(asked) == 1


def test_an_id_of_dots_leads_nowhere_else() -> None:
    transport, asked = answering(httpx.Response(404, json={"code": "job_not_found", "title": "t", "status": 404}))
    with Client("http://127.0.0.1:1", transport=transport) as client:
        for name in (".", "..", ""):
            with pytest.raises(errors.R3Error):
                client.job(name)
    assert [request.url.path for request in asked] == ["/jobs/-"] * 3


def test_there_are_as_many_connections_as_jobs_are_followed() -> None:
    with Client("http://127.0.0.1:1") as client:
        assert client._connection.options()["limits"].max_connections is None
