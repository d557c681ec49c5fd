"""GET /images/{id}."""

from __future__ import annotations

import pytest

from server.image_errors import StoreAway, StoreFailed
from server.images import ImageStore
from tests.server.api.by_hand import HandWorker
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import problem
from tests.server.test_worker_troubles import raising


@pytest.fixture
def image(api: RunningApi, worker: HandWorker) -> dict[str, str]:
    """A finished picture, as a job shows it."""
    job = api.submit()
    worker.takes().draws()
    shown: dict[str, str] = api.job(job["id"])["trajectories"][0]["rounds"][0]["image"]
    return shown


def test_a_picture_is_sent_with_what_a_browser_needs_to_keep_it(api: RunningApi, image: dict[str, str]) -> None:
    answer = api.client.get(image["url"])
    assert answer.status_code == 200
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{image["sha256"]}"'
    assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-disposition" not in answer.headers


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
def test_who_has_it_already_is_told_so(api: RunningApi, image: dict[str, str], form: str) -> None:
    answer = api.client.get(image["url"], headers={"If-None-Match": form.format(image["sha256"])})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{image["sha256"]}"'
    assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
    assert api.client.get(image["url"], headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_download_has_a_name(api: RunningApi, image: dict[str, str]) -> None:
    answer = api.client.get(f"{image['url']}?download=1")
    assert answer.headers["content-disposition"] == f'attachment; filename="{image["id"]}.png"'


def test_its_headers_alone_can_be_asked_for(api: RunningApi, image: dict[str, str]) -> None:
    answer = api.client.head(image["url"])
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(api.client.get(image["url"]).content)


def test_a_picture_whose_bytes_are_gone_is_not_found(
    api: RunningApi, worker: HandWorker, image: dict[str, str]
) -> None:
    [job] = api.client.get("/jobs").json()["jobs"]
    worker.images.delete_job("local", job["id"])
    problem(api.client.get(image["url"]), 404, "image_not_found")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [(StoreFailed, 500, "storage_failed", None), (StoreAway, 503, "storage_unavailable", "5")],
)
def test_a_store_that_refuses_is_no_store_that_is_away_and_what_it_says_is_the_operators(
    api: RunningApi,
    image: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[StoreFailed],
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    monkeypatch.setattr(ImageStore, "get", raising(error("AccessDenied: bucket ours")))
    answer = api.client.get(image["url"])
    assert "ours" not in problem(answer, status, code)["detail"]
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.parametrize("image_id", [f"img_{'0' * 32}", "img_x", "..%2f..%2fetc%2fpasswd", "%00"])
def test_what_was_never_made_is_not_found(api: RunningApi, image_id: str) -> None:
    answer = api.client.get(f"/images/{image_id}")
    assert answer.status_code == 404
