"""POST /generate: what is taken, how it is answered, and what is refused."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from PIL import Image as PILImage

from server.embedded import EmbeddedServer
from server.queue_worker import WorkerQueue
from server.views import JobView, Problem
from tests.server.api.by_hand import TINY, Hand, HandWorker, png
from tests.server.api.events import check_whole, events_of, names
from tests.server.api.running import RunningApi, running_api
from tests.server.promises import promised
from tests.server.waiting import until

PICTURE = base64.b64encode(png((10, 200, 30), (320, 256))).decode()


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that must have been answered."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    Problem.model_validate(body)
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["error"]["code"] == code
    assert body["error"]["message"] == body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def while_it_waits(worker: HandWorker, act: Callable[[Hand], None]) -> threading.Thread:
    """Do something with the next job as soon as there is one."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + 10
        while not (leases := worker.queue.lease(TINY.name, 4, 0)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        act(Hand(worker.queue, worker.images, leases[0]))

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_a_job_is_taken_and_shown_with_every_setting(api: RunningApi) -> None:
    job = api.submit(seed=5, n=2, metadata={"who": "me"}, previews=2)
    JobView.model_validate(job)
    assert (job["status"], job["queue_position"], job["model"], job["prompt"]) == ("queued", 1, "tiny", "a cat")
    assert (job["params"]["seed"], job["params"]["previews"], job["params"]["size"]) == (5, 2, "256x256")
    assert [trajectory["seed"] for trajectory in job["trajectories"]] == [5, 6]
    assert job["metadata"] == {"who": "me"}
    assert job["links"]["events"] == f"/jobs/{job['id']}/events"


def test_the_params_of_a_job_can_be_posted_again(api: RunningApi) -> None:
    for given in ({"seed": 5, "n": 2}, {"image": PICTURE, "seed": 7, "instruction": "make it red"}):
        job = api.submit(**given)
        again = api.submit(**job["params"])
        left_out = {"image"} if "image" in given else set()  # each job keeps the picture under an id of its own
        assert {k: v for k, v in again["params"].items() if k not in left_out} == {
            k: v for k, v in job["params"].items() if k not in left_out
        }
        assert ("size" in job["params"]) == ("image" not in given)


def test_an_idempotency_key_that_is_sent_twice_is_refused(api: RunningApi) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Prefer", "respond-async")]
    body = problem(api.client.post("/generate", json={"prompt": "a"}, headers=headers), 422, "invalid_request")
    assert body["errors"] == [{"pointer": "/Idempotency-Key", "detail": "is there 2 times; send one"}]


def test_a_worker_knows_the_id_of_the_request_that_it_works_on(api: RunningApi, worker: HandWorker) -> None:
    headers = {"Prefer": "respond-async", "X-Request-ID": "mine-1"}
    job = api.client.post("/generate", json={"prompt": "a cat"}, headers=headers).json()
    assert worker.takes().lease.named == {"job_id": job["id"], "request_id": "mine-1"}


def test_a_seed_is_drawn_where_none_is_given(api: RunningApi) -> None:
    seeds = {api.submit()["params"]["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_respond_async_answers_at_once_with_the_place_to_look(api: RunningApi) -> None:
    answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    assert answer.headers["preference-applied"] == "respond-async"


def test_who_waits_gets_the_finished_job(api: RunningApi, worker: HandWorker) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    answer = api.client.post("/generate", json={"prompt": "a cat"})
    thread.join()
    assert answer.status_code == 200
    job = answer.json()
    JobView.model_validate(job)
    assert job == api.job(job["id"])
    [trajectory] = job["trajectories"]
    assert (job["status"], trajectory["stop_reason"], len(trajectory["rounds"])) == ("succeeded", "satisfied", 2)
    assert (
        trajectory["rounds"][0]["reflection"]["instruction"] == trajectory["rounds"][1]["instruction"] == "Add a cat."
    )
    assert trajectory["image"] == trajectory["rounds"][1]["image"]
    assert "preference-applied" not in answer.headers


def test_a_wait_that_ends_first_gets_the_job_as_it_stands(api: RunningApi) -> None:
    began = time.monotonic()
    answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "wait=1"})
    assert time.monotonic() - began > 0.9
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"


@pytest.mark.parametrize("how", [{"json": {"stream": True}}, {"headers": {"Accept": "text/event-stream"}}])
def test_who_asks_for_a_stream_gets_the_whole_of_it(api: RunningApi, worker: HandWorker, how: dict[str, Any]) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    body = {"prompt": "a cat", **how.get("json", {})}
    answer = api.client.post("/generate", json=body, headers=how.get("headers", {}))
    thread.join()
    events = events_of(answer)
    check_whole(events)
    job_id = events[0].data["job_id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    numbered = names(event for event in events if event.id is not None)
    reflection = ["reflect.delta", "reflect.done"]
    assert numbered == [
        *("job.queued", "job.started", "reason.delta", "reason.done"),
        *("image", *reflection, "image", *reflection, "trajectory.done", "job.succeeded"),
    ]
    assert events[-1].data["job"] == api.job(job_id)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("prompt_too_long", 422),
        ("deadline_exceeded", 504),
        ("out_of_memory", 503),
        ("step_failed", 500),
        ("poison_job", 500),
        ("out_of_capacity", 422),
        ("a_code_of_a_newer_worker", 500),
    ],
)
def test_a_job_that_failed_answers_with_its_own_status(
    api: RunningApi, worker: HandWorker, code: str, status: int
) -> None:
    thread = while_it_waits(worker, lambda hand: hand.fails(code, "for this reason"))
    answer = api.client.post("/generate", json={"prompt": "a cat"})
    thread.join()
    body = problem(answer, status, code)
    assert body["detail"] == "for this reason"
    assert answer.headers["location"] == f"/jobs/{body['job_id']}"
    assert api.job(body["job_id"])["error"] == {"code": code, "message": "for this reason"}


def test_a_job_cancelled_while_it_is_waited_for_is_a_conflict(api: RunningApi, worker: HandWorker) -> None:
    thread = while_it_waits(worker, Hand.is_cancelled)
    problem(api.client.post("/generate", json={"prompt": "a cat"}), 409, "cancelled")
    thread.join()


def test_the_pictures_come_as_bytes_where_they_are_asked_for(api: RunningApi, worker: HandWorker) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    asked = {"prompt": "a cat", "response_format": "b64_json", "stream": True}
    events = events_of(api.client.post("/generate", json=asked))
    thread.join()
    images = [event.data["image"] for event in events if event.name == "image"]
    for image in images:
        content = api.client.get(image["url"]).content
        assert base64.b64decode(image["b64_json"]) == content
    assert events[-1].data["job"]["trajectories"][0]["image"] == images[-1]
    assert "b64_json" not in str(api.client.get("/jobs").json()["jobs"][0]["trajectories"])


def test_the_same_key_and_body_give_the_same_job(api: RunningApi) -> None:
    headers = {"Idempotency-Key": "k 1", "Prefer": "respond-async"}
    first = api.client.post("/generate", json={"prompt": "a cat", "n": 2}, headers=headers)
    again = api.client.post(
        "/generate", content=b'{"n":2,   "prompt":"a cat"}', headers={**headers, "Content-Type": "application/json"}
    )
    assert first.json()["id"] == again.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = api.client.post("/generate", json={"prompt": "a dog"}, headers=headers)
    problem(other, 422, "idempotency_mismatch")


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(api: RunningApi, key: str) -> None:
    answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Idempotency-Key": key})
    problem(answer, 422, "invalid_request")


def test_a_hundred_at_once_with_one_key_are_one_job(api: RunningApi) -> None:
    def send(_: int) -> str:
        headers = {"Idempotency-Key": "one", "Prefer": "respond-async"}
        answer = api.client.post("/generate", json={"prompt": "a cat"}, headers=headers)
        return str(answer.json()["id"])

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(send, range(100)))) == 1


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'{"prompt": "a"', "application/json", 400, "malformed_json"),
        (b"", "application/json", 400, "malformed_json"),
        (b'{"prompt": NaN}', "application/json", 400, "malformed_json"),
        (b'{"prompt": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', "application/json; charset=latin-1", 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', "", 415, "unsupported_media_type"),
        (b"prompt=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b'"a"', "application/json; charset=utf-8", 422, "invalid_request"),
        (b'"a"', 'application/json; profile=x; charset="UTF-8";', 422, "invalid_request"),
        (b'"a"', "application/json; profile=x; charset=latin-1", 415, "unsupported_media_type"),
        (b"[" * 1_000_000, "application/json", 422, "invalid_request"),
        (b'{"prompt": "\\ud800"}', "application/json", 422, "invalid_request"),
        (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', "application/json", 422, "invalid_request"),
        (b'{"\\ud800": 1, "prompt": "a"}', "application/json", 422, "invalid_request"),
    ],
)
def test_what_is_no_request_is_refused_fast(
    api: RunningApi, content: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    with promised(0.05):
        answer = api.client.post("/generate", content=content, headers=headers)
    problem(answer, status, code)


def test_a_packed_body_is_refused_by_name(api: RunningApi) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    problem(api.client.post("/generate", content=b"{}", headers=headers), 415, "unsupported_media_type")


def test_a_body_is_counted_while_it_is_read(valkey: EmbeddedServer, database: redis.Redis, tmp_path: Any) -> None:
    with running_api(valkey.url, tmp_path, max_body_bytes=4096) as api:

        def drip() -> Any:
            for _ in range(100):
                yield b" " * 100

        headers = {"Content-Type": "application/json"}
        problem(api.client.post("/generate", content=drip(), headers=headers), 413, "payload_too_large")
        problem(api.client.post("/generate", content=b" " * 5000, headers=headers), 413, "payload_too_large")


def test_every_fault_is_listed_with_its_pointer(api: RunningApi) -> None:
    body = problem(api.client.post("/generate", json={"prompt": "", "size": "500x300", "x": 1}), 422, "invalid_request")
    assert {fault["pointer"] for fault in body["errors"]} == {"/prompt", "/size", "/x"}
    assert body["error"]["param"] in ("prompt", "x")


def test_a_model_is_found_by_name_or_by_being_the_only_one(api: RunningApi, worker: HandWorker) -> None:
    assert api.submit(model="tiny")["model"] == "tiny"
    problem(api.client.post("/generate", json={"prompt": "a", "model": "other"}), 404, "model_not_found")
    worker.queue.register({**TINY.to_json(), "name": "second"})
    assert api.submit(model="second")["model"] == "second"
    body = problem(api.client.post("/generate", json={"prompt": "a"}), 422, "invalid_request")
    assert "second, tiny" in body["errors"][0]["detail"]
    assert body["errors"][0]["pointer"] == "/model"


def test_the_operators_default_model_is_meant_where_none_is_named(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any
) -> None:
    with running_api(valkey.url, tmp_path, default_model="tiny") as api:
        problem(api.client.post("/generate", json={"prompt": "a"}), 503, "model_unknown")
        for name in ("tiny", "second"):
            worker_queue.register({**TINY.to_json(), "name": name})
        assert api.submit()["model"] == "tiny"


def test_before_any_worker_came_no_model_is_known(shared_api: RunningApi, database: redis.Redis) -> None:
    answer = shared_api.client.post("/generate", json={"prompt": "a"})
    problem(answer, 503, "model_unknown")
    assert int(answer.headers["retry-after"]) > 0


def test_a_full_queue_says_when_to_come_again(valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any) -> None:
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path, queue_limit=2) as api:
        api.submit()
        api.submit()
        answer = api.client.post("/generate", json={"prompt": "a"})
        assert problem(answer, 429, "queue_full")["scope"] == "server"
        assert answer.headers["retry-after"] == "10", "nothing was measured yet"


def test_a_given_picture_is_round_zero_upright_and_of_the_transforms_size(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit(image=f"data:image/png;base64,{PICTURE}", instruction="Add a hat.")
    assert (job["params"]["think"], job["params"]["instruction"]) == (False, "Add a hat.")
    lease = worker.takes().lease
    request = lease.job.request
    assert request["request"]["given_image"]
    record = request["start_record"]
    assert request["start_image"] == job["params"]["image"]
    stored = worker.images.get("local", lease.id, record["master_sha256"])
    assert PILImage.open(io.BytesIO(stored)).size == (record["width"], record["height"]) == (320, 256)
    shown = api.client.get(f"/images/{request['start_image']}")
    assert (shown.status_code, shown.content) == (200, stored)


def test_one_of_the_tenants_images_goes_on_and_the_job_knows_its_parent(api: RunningApi, worker: HandWorker) -> None:
    api.submit()
    hand = worker.takes()
    image_id = hand.draws()
    job = api.submit(image=image_id)
    assert job["parent"] == {"job": hand.lease.id, "trajectory": 0, "round": 0}
    hand.ends("max_rounds")
    assert api.client.delete(f"/jobs/{hand.lease.id}").status_code == 204
    record = worker.takes().lease.job.request["start_record"]
    assert worker.images.get("local", job["id"], record["sha256"]), "the new job keeps a picture of its own"


@pytest.mark.parametrize("image_id", [f"img_{'0' * 32}", "img_nonsense"])
def test_an_image_that_is_not_the_tenants_is_not_found(api: RunningApi, image_id: str) -> None:
    answer = api.client.post("/generate", json={"prompt": "a", "image": image_id})
    problem(answer, 404, "image_not_found")


def test_what_is_no_picture_is_refused(api: RunningApi) -> None:
    for image in ("not base64!", base64.b64encode(b"<svg/>").decode(), PICTURE[: len(PICTURE) // 2 // 4 * 4]):
        body = problem(api.client.post("/generate", json={"prompt": "a", "image": image}), 422, "invalid_image")
        assert body["errors"][0]["pointer"] == "/image"


def test_a_replay_leaves_no_second_picture_behind(api: RunningApi, worker: HandWorker) -> None:
    headers = {"Idempotency-Key": "picture", "Prefer": "respond-async"}
    before = {folder.job for folder in worker.images.jobs()}
    for _ in range(2):
        api.client.post("/generate", json={"prompt": "a", "image": PICTURE}, headers=headers)
    assert len({folder.job for folder in worker.images.jobs()} - before) == 1


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("flag", [True, False])
def test_a_client_that_hangs_up_cancels_its_job_only_if_it_said_so(api: RunningApi, streams: bool, flag: bool) -> None:
    asked = {"prompt": "a cat", "stream": streams, "cancel_on_disconnect": flag}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=api.url, timeout=0.5) as impatient:
        impatient.post("/generate", json=asked)
    [job] = api.client.get("/jobs").json()["jobs"]
    if flag:
        until(lambda: api.job(job["id"])["status"] == "cancelled")
    else:
        time.sleep(0.3)
        assert api.job(job["id"])["status"] == "queued"


def test_a_deadline_that_passes_before_any_picture_fails_the_job(api: RunningApi) -> None:
    problem(api.client.post("/generate", json={"prompt": "a", "deadline_s": 0.3}), 504, "deadline_exceeded")


def test_a_huge_deadline_is_none(api: RunningApi) -> None:
    assert api.submit(deadline_s=1e300)["status"] == "queued"


@pytest.mark.parametrize("prompt", ["\r\n\x1b[31m", '{"a": "b"}', "\0", "😀" * 4000, "<|im_end|>", "\u202e"])
def test_any_text_is_a_prompt(api: RunningApi, prompt: str) -> None:
    assert api.submit(prompt=prompt)["prompt"] == prompt
