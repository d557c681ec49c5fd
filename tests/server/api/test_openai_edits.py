"""/v1/images/edits on the wire: forms that become edits, and forms that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.pictures import MAX_BYTES
from tests.server.api.by_hand import Hand, HandWorker, png
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import problem, while_it_waits

EDITS = "/v1/images/edits"
PICTURE = png((10, 200, 30), (320, 256))


def draws_once(hand: Hand) -> None:
    hand.draws()
    hand.ends("max_rounds")


def form(*parts: tuple[str, str | bytes], boundary: str = "b") -> dict[str, Any]:
    """A form of these parts; a name with a slash in it has a file's name behind it."""
    body = b""
    for name, content in parts:
        field, _, file = name.partition("/")
        more = f'; filename="{file}"' if file else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{more}\r\n\r\n'
        body += head.encode() + (content if isinstance(content, bytes) else content.encode()) + b"\r\n"
    return raw(body + f"--{boundary}--\r\n".encode())


def raw(body: bytes, kind: str = "multipart/form-data; boundary=b") -> dict[str, Any]:
    return {"content": body, "headers": {"Content-Type": kind}}


def test_a_form_with_a_file_becomes_an_edit(api: RunningApi, worker: HandWorker) -> None:
    forms: list[list[tuple[str, str | bytes]]] = [
        [("image/a.png", PICTURE), ("prompt", "Add a hat."), ("r3[seed]", "7"), ("r3[metadata][a]", "1")],
        [("r3", '{"seed": 7, "metadata": {"a": "1"}}'), ("prompt", "Add a hat."), ("image[]/b", PICTURE)],
    ]
    for parts in forms:
        thread = while_it_waits(worker, draws_once)
        answer = api.client.post(EDITS, **form(*parts))
        thread.join()
        assert answer.status_code == 200, answer.text
        job = api.job(answer.json()["r3"]["job_id"])
        assert (job["prompt"], job["params"]["instruction"], job["params"]["max_rounds"]) == ("Add a hat.",) * 2 + (1,)
        assert (job["params"]["seed"], job["metadata"]) == (7, {"a": "1"})


@pytest.mark.row("F3")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {"prompt": "a", "image": "x"}}, 415, "unsupported_media_type"),
        (raw(b"x", "multipart/form-data"), 400, "bad_request"),
        (raw(b"", "multipart/form-data; boundary=b"), 400, "bad_request"),
        (raw(b"nonsense"), 400, "bad_request"),
        (raw(b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nbreaks o'), 400, "bad_request"),
        (raw(b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n"), 400, "bad_request"),
        (raw(b"--b\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n--b--\r\n"), 400, "bad_request"),
        (raw(b"--b\r\nA: " + b"b" * 100_000), 400, "bad_request"),
        (raw(b"x", "multipart/form-data; boundary=" + "b" * 5000), 400, "bad_request"),
        (form(("prompt", b"\xff\xfe"), ("image/a", PICTURE)), 400, "invalid_request"),
        (form(("prompt", "x" * 300_000), ("image/a", PICTURE)), 400, "invalid_request"),
        (form(*[("user", "x")] * 300), 400, "invalid_request"),
        (form(("prompt", "a"), ("prompt", "b"), ("image/a", PICTURE)), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("image/b", PICTURE)), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("mask/b", PICTURE)), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("image", "img_0")), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("other/b", b"x")), 400, "invalid_request"),
        (form(("prompt/a.txt", "a"), ("image/a", PICTURE)), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("r3[prompt]/a.txt", "b")), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", PICTURE), ("r3[prompt]", "x" * 5000)), 400, "invalid_request"),
        (form(("prompt", "a")), 400, "invalid_request"),
        (form(("prompt", "a"), ("image/a", b"")), 400, "invalid_image"),
        (form(("prompt", "a"), ("image/a", PICTURE[:-20])), 400, "invalid_image"),
        (form(("prompt", "a"), ("image/a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")), 400, "invalid_image"),
        (form(("prompt", "a"), ("image/a", bytes(MAX_BYTES + 1))), 400, "invalid_image"),
        (form(("prompt", "a"), ("image", f"img_{'0' * 32}")), 404, "image_not_found"),
    ],
)
def test_a_form_that_cannot_be_is_refused_in_the_one_shape(
    api: RunningApi, sent: dict[str, Any], status: int, code: str
) -> None:
    problem(api.client.post(EDITS, **sent), status, code)
    assert api.client.get("/jobs").json()["jobs"] == []


def test_who_sends_a_text_as_a_file_is_told_how_to_send_it(api: RunningApi) -> None:
    """Not drawn as something else."""
    asked = form(("prompt/p.txt", "Make the sky purple."), ("image/a", PICTURE))
    body = problem(api.client.post(EDITS, **asked), 400, "invalid_request")
    [fault] = body["errors"]
    assert fault["pointer"] == "/prompt"
    assert "-F 'NAME=<FILE'" in fault["detail"]


def test_a_body_over_the_limit_is_refused_while_it_is_read(api: RunningApi) -> None:
    whole = form(("image/a", bytes(18_000_000)), ("image/b", bytes(18_000_000)))
    assert len(whole["content"]) > api.settings.max_body_bytes

    def without_length() -> Iterator[bytes]:
        for start in range(0, len(whole["content"]), 1 << 20):
            yield whole["content"][start : start + (1 << 20)]

    answer = api.client.post(EDITS, content=without_length(), headers=whole["headers"])
    problem(answer, 413, "payload_too_large")


def test_the_same_key_with_another_upload_is_another_body(api: RunningApi, worker: HandWorker) -> None:
    def sent(picture: bytes) -> httpx.Response:
        asked = form(("prompt", "a"), ("image/a", picture))
        return api.client.post(EDITS, content=asked["content"], headers={**asked["headers"], "Idempotency-Key": "k"})

    thread = while_it_waits(worker, draws_once)
    first = sent(PICTURE)
    thread.join()
    again = sent(PICTURE)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    problem(sent(png((1, 2, 3), (320, 256))), 400, "idempotency_mismatch")
