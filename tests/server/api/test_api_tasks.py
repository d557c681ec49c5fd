"""POST /score, /reflect, /describe and /roundtrip: taken, answered and refused as /generate is."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import redis

from server.views import JobView
from tests.server.api.by_hand import HandWorker, png
from tests.server.api.keyed import KeyedApi
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import PICTURE, problem

ASYNC = {"Prefer": "respond-async"}
OTHER = base64.b64encode(png((200, 10, 30), (512, 256))).decode()
BODIES: dict[str, dict[str, Any]] = {
    "score": {"prompt": "a cat", "image": PICTURE},
    "reflect": {"prompt": "a cat", "image": PICTURE},
    "describe": {"image": PICTURE},
    "roundtrip": {"image": PICTURE},
}
EMPTY: dict[str, Any] = {
    "score": {"images": []},
    "reflect": {"reflection": None},
    "describe": {"text": None},
    "roundtrip": {"source": None, "description": None, "reconstruction": None, "similarities": None},
}


def submit(api: RunningApi, kind: str, **body: Any) -> dict[str, Any]:
    answer = api.client.post(f"/{kind}", json={**BODIES[kind], **body}, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    JobView.model_validate(job)
    return job


@pytest.mark.parametrize("kind", list(BODIES))
def test_a_job_is_taken_and_says_what_it_is(api: RunningApi, kind: str) -> None:
    job = submit(api, kind, seed=5, metadata={"who": "me"}, priority="high", deadline_s=60)
    assert (job["kind"], job["status"], job["result"]) == (kind, "queued", EMPTY[kind])
    assert (job["params"]["seed"], job["params"]["priority"], job["metadata"]) == (5, "high", {"who": "me"})
    assert job["prompt"] == BODIES[kind].get("prompt", "")
    assert job == api.job(job["id"])
    [listed] = api.client.get("/jobs").json()["jobs"]
    assert listed["kind"] == kind


def test_a_generation_has_neither_kind_nor_result(api: RunningApi) -> None:
    assert not {"kind", "result"} & set(api.submit())


@pytest.mark.parametrize("kind", list(BODIES))
def test_the_params_of_a_job_can_be_posted_again(api: RunningApi, kind: str) -> None:
    first = submit(api, kind, seed=3)
    prompt = {"prompt": first["prompt"]} if first["prompt"] else {}
    again = api.client.post(f"/{kind}", json={**first["params"], **prompt}, headers=ASYNC).json()
    assert {**again["params"], "image": ""} == {**first["params"], "image": ""}


def test_several_pictures_keep_their_own_sizes(api: RunningApi, worker: HandWorker) -> None:
    own = submit(api, "describe")["params"]["image"]
    worker.takes().is_cancelled()
    job = submit(api, "score", image=None, images=[OTHER, PICTURE, own], scorers=["gvu", "vqa"])
    ids = job["params"]["images"]
    assert len(set(ids)) == 3
    assert own not in ids
    hand = worker.takes()
    assert hand.lease.job.request["start_images"] == ids
    sizes = [(r["width"], r["height"]) for r in hand.lease.job.request["start_records"]]
    assert sizes == [(512, 256), (320, 256), (320, 256)]
    asked = hand.trajectories[0].request
    assert (asked.width, asked.height, asked.scorers) == (512, 256, ("gvu", "vqa"))


@pytest.mark.parametrize(
    ("kind", "body", "pointers"),
    [
        ("score", {"image": None}, ["/image"]),
        ("score", {"images": [OTHER]}, ["/images"]),
        ("score", {"image": None, "images": [OTHER] * 17}, ["/images"]),
        ("score", {"scorers": ["lift", "beauty"]}, ["/scorers/1"]),
        ("reflect", {"image": None, "prompt": ""}, ["/prompt", "/image"]),
        ("describe", {"prompt": "a cat"}, ["/prompt"]),
        ("roundtrip", {"image": None}, ["/image"]),
        ("roundtrip", {"prompt": "a cat"}, ["/prompt"]),
    ],
)
def test_a_wrong_body_is_refused_by_name(api: RunningApi, kind: str, body: dict[str, Any], pointers: list[str]) -> None:
    value = {name: v for name, v in {**BODIES[kind], **body}.items() if v is not None}
    answer = problem(api.client.post(f"/{kind}", json=value), 422, "invalid_request")
    assert [fault["pointer"] for fault in answer["errors"]] == pointers


def test_a_broken_picture_is_named_by_its_place_and_nothing_is_kept(api: RunningApi, database: redis.Redis) -> None:
    def kept() -> set[Path]:
        return {path for path in api.settings.data_dir.rglob("*") if path.is_file()}

    broken, before = base64.b64encode(png()[:200]).decode(), kept()
    images = [PICTURE, broken, OTHER, "img_" + "0" * 32, "no base64!"]
    answer = problem(api.client.post("/score", json={"prompt": "a cat", "images": images}), 422, "invalid_image")
    assert [fault["pointer"] for fault in answer["errors"]] == ["/images/1", "/images/3", "/images/4"]
    assert "images/1: the image" in answer["detail"]
    assert api.client.get("/jobs").json()["jobs"] == []
    assert kept() == before
    assert database.keys("*img:*") == []
    one = problem(api.client.post("/describe", json={"image": broken}), 422, "invalid_image")
    assert [fault["pointer"] for fault in one["errors"]] == ["/image"]


def test_a_key_gives_the_same_job_and_another_route_is_another_body(api: RunningApi, database: redis.Redis) -> None:
    headers = {**ASYNC, "Idempotency-Key": "mine"}
    first, second = (api.client.post("/score", json=BODIES["score"], headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    [kept] = database.keys("*img:*")
    assert kept.endswith(first.json()["params"]["image"])
    assert second.headers["idempotent-replayed"] == "true"
    for path in ("/reflect", "/generate"):
        problem(api.client.post(path, json=BODIES["score"], headers=headers), 422, "idempotency_mismatch")


def test_a_tenant_sees_neither_anothers_job_nor_its_pictures(keyed: KeyedApi) -> None:
    mine, theirs = keyed.holder("one", "generate"), keyed.holder("two", "generate")
    job = mine.client.post("/score", json=BODIES["score"], headers=ASYNC).json()
    problem(theirs.client.get(f"/jobs/{job['id']}"), 404, "job_not_found")
    image = job["params"]["image"]
    answer = theirs.client.post("/describe", json={"image": image}, headers=ASYNC)
    problem(answer, 404, "image_not_found")
    assert mine.client.post("/describe", json={"image": image}, headers=ASYNC).status_code == 202
    reader = keyed.holder("one", "read")
    problem(reader.client.post("/score", json=BODIES["score"]), 403, "forbidden")


def test_another_try_has_copies_of_all_pictures(api: RunningApi, worker: HandWorker) -> None:
    job = submit(api, "score", image=None, images=[OTHER, PICTURE])
    worker.takes().fails("step_failed")
    again = api.client.post(f"/admin/jobs/{job['id']}/retry").json()
    assert again["kind"] == "score"
    assert not set(again["params"]["images"]) & set(job["params"]["images"])
    hand = worker.takes()
    assert hand.lease.job.request["start_images"] == again["params"]["images"]
    assert {record["job"] for record in hand.lease.job.request["start_records"]} == {again["id"]}
