"""/v1 on the wire: what streams hold byte by byte, what is refused, who waits, and where links lead."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from server.embedded import EmbeddedServer
from server.images import ImageMissing, ImageStore, StoreAway, StoreFailed
from server.openai_shapes import EDIT_EVENTS, GENERATION_EVENTS, ImagesResponse, ModelList
from server.queue_records import ROOT
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import Hand, HandWorker
from tests.server.api.keyed import KeyedApi
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import problem, while_it_waits
from tests.server.api.test_openai_edits import form
from tests.server.test_worker_troubles import raising
from tests.server.waiting import until

EVENTS = {**GENERATION_EVENTS, **EDIT_EVENTS}
REJECTED = "<think>Something is missing.</think> Add a cat."
SATISFIED = "<think>It is right.</think> No further edit needed."
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
OF_OPENAI = {"id", "object", "created", "owned_by"}


def told(text: str) -> Iterator[dict[str, Any]]:
    """The events of a stream: with `event:` and `data:` alone, and each as the contract says."""
    assert text.endswith("\n\n")
    for block in text.removesuffix("\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line != ": hb"]
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"], lines
        data = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {data['type']}"
        assert bool(data.get("error")) == (data["type"] == "error")
        EVENTS[data["type"]].model_validate(data)
        yield data


def streamed(api: RunningApi, path: str = GENERATIONS, **body: Any) -> list[dict[str, Any]]:
    answer = api.client.post(path, json={"prompt": "a cat", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(told(answer.text))


def test_models_say_what_info_says(api: RunningApi) -> None:
    listed = api.client.get("/v1/models").json()
    ModelList.model_validate(listed)
    [model] = listed["data"]
    assert model["created"] == 0
    assert api.client.get("/info").json()["models"] == [{k: v for k, v in model.items() if k not in OF_OPENAI}]
    assert api.client.get("/v1/models/tiny").json() == model
    problem(api.client.get("/v1/models/a/b"), 404, "model_not_found")


def test_who_waits_gets_the_final_pictures(api: RunningApi, worker: HandWorker) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    answer = api.client.post(GENERATIONS, json={"prompt": "a cat", "response_format": "url"})
    thread.join()
    body = answer.json()
    ImagesResponse.model_validate(body)
    assert answer.headers["location"] == f"{api.url}/jobs/{body['r3']['job_id']}"
    job = api.job(body["r3"]["job_id"])
    [trajectory] = job["trajectories"]
    [image] = body["data"]
    assert image == {"url": api.url + trajectory["image"]["url"], "revised_prompt": "<think>A plan.</think>"}
    assert body["usage"]["output_tokens"] == job["usage"]["text_tokens"]


def test_a_stream_has_neither_ids_nor_other_errors_and_rejected_pictures_come_first(
    api: RunningApi, worker: HandWorker
) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    events = streamed(api, partial_images=3)
    thread.join()
    assert [event["type"].partition(".")[2] for event in events] == ["partial_image", "completed"]
    assert [event["r3"]["round"] for event in events] == [0, 1]
    assert events[0]["partial_image_index"] == 0
    assert events[1]["revised_prompt"] == "<think>A plan.</think>"
    job = api.job(events[0]["r3"]["job_id"])
    assert job["params"]["response_format"] == "b64_json"
    assert job["params"]["previews"] == 0


def test_no_trajectory_sends_more_partial_images_than_were_asked_for(api: RunningApi, worker: HandWorker) -> None:
    def act(hand: Hand) -> None:
        for index in range(2):
            hand.reasons(index=index)
            for _ in range(3):
                hand.draws(index)
                hand.reflects(REJECTED, index)
                hand.reflects(REJECTED, index)  # as after a worker was lost: the same text once more
            hand.draws(index)
            hand.ends("max_rounds", index, job=index == 1)

    thread = while_it_waits(worker, act)
    events = streamed(api, partial_images=2, n=2)
    thread.join()
    for index in range(2):
        own = [event for event in events if event["r3"]["trajectory"] == index]
        assert [event.get("partial_image_index") for event in own] == [0, 1, None]
        assert [event["r3"]["round"] for event in own] == [0, 1, 3]


def test_a_satisfied_model_rejects_nothing(api: RunningApi, worker: HandWorker) -> None:
    def act(hand: Hand) -> None:
        hand.draws()
        hand.reflects(SATISFIED)
        hand.ends("satisfied")

    thread = while_it_waits(worker, act)
    events = streamed(api, partial_images=3)
    thread.join()
    assert [event["type"] for event in events] == ["image_generation.completed"]


def test_previews_are_asked_for_only_where_rounds_leave_partial_images(api: RunningApi, worker: HandWorker) -> None:
    thread = while_it_waits(worker, Hand.whole_run)
    events = streamed(api, partial_images=3, r3={"max_rounds": 1})
    thread.join()
    assert api.job(events[-1]["r3"]["job_id"])["params"]["previews"] == 2


def test_the_first_byte_leaves_before_there_is_any_picture(api: RunningApi, worker: HandWorker) -> None:
    with api.client.stream("POST", GENERATIONS, json={"prompt": "a cat", "stream": True}) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b": hb\n"
        hand = worker.takes()
        hand.whole_run()
        assert [event["type"] for event in told(b"".join(chunks).decode())] == ["image_generation.completed"]


def test_a_stream_whose_log_was_trimmed_still_gives_the_final_pictures(
    api: RunningApi, worker: HandWorker, database: Redis
) -> None:
    again: dict[str, Any] = {
        "json": {"prompt": "a cat", "stream": True, "partial_images": 1},
        "headers": {"Idempotency-Key": "mine"},
    }
    thread = while_it_waits(worker, Hand.whole_run)
    first = list(told(api.client.post(GENERATIONS, **again).text))
    thread.join()
    assert [event["type"].partition(".")[2] for event in first] == ["partial_image", "completed"]
    database.xtrim(f"{ROOT}ev:{first[0]['r3']['job_id']}", maxlen=1, approximate=False)
    [event] = told(api.client.post(GENERATIONS, **again).text)
    assert event["b64_json"] == first[1]["b64_json"]


@pytest.mark.parametrize(
    ("act", "code", "status"),
    [
        (lambda hand: hand.fails("step_failed"), "step_failed", 500),
        (lambda hand: hand.fails("out_of_memory"), "out_of_memory", 503),
        (Hand.is_cancelled, "cancelled", 409),
    ],
)
def test_a_job_that_comes_to_nothing_is_an_error_in_a_stream_and_out_of_one(
    api: RunningApi, worker: HandWorker, act: Any, code: str, status: int
) -> None:
    thread = while_it_waits(worker, act)
    [event] = streamed(api)
    thread.join()
    assert event["error"]["code"] == code
    thread = while_it_waits(worker, act)
    answer = api.client.post(GENERATIONS, json={"prompt": "a cat"})
    thread.join()
    problem(answer, status, code)
    assert answer.headers["location"].startswith(f"{api.url}/jobs/job_")
    assert answer.headers.get("x-should-retry") == (None if status == 503 else "false")
    assert answer.headers.get("retry-after-ms") == ("10000" if status == 503 else None)


def test_who_closes_the_connection_cancels_the_job_unless_told_otherwise(api: RunningApi) -> None:
    for stream, more, headers in (
        (False, {}, {}),
        (True, {}, {}),
        (True, {"r3": {"cancel_on_disconnect": False}}, {}),
        (True, {}, {"Idempotency-Key": "mine"}),
    ):
        body = {"prompt": "a cat", "stream": stream, **more}
        with pytest.raises(httpx.ReadTimeout):
            api.client.post(GENERATIONS, json=body, headers=headers, timeout=1.0)
        job_id = api.client.get("/jobs?limit=1").json()["jobs"][0]["id"]
        if more or headers:
            time.sleep(0.3)
            assert api.job(job_id)["status"] == "queued"
        else:
            until(partial(_is_cancelled, api, job_id))


def test_links_lead_where_the_operator_says(valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Path) -> None:
    with running_api(valkey.url, tmp_path, public_url="https://pictures.example/r3/") as api:
        worker = HandWorker(worker_queue, ImageStore(api.settings.image_store_url))
        thread = while_it_waits(worker, Hand.whole_run)
        answer = api.client.post(GENERATIONS, json={"prompt": "a cat", "response_format": "url"})
        thread.join()
    assert answer.json()["data"][0]["url"].startswith("https://pictures.example/r3/images/img_")
    assert answer.headers["location"].startswith("https://pictures.example/r3/jobs/job_")


@pytest.mark.parametrize("error", [StoreAway("away"), OSError(errno.EIO, "a disk")])
def test_pictures_that_cannot_be_read_for_a_moment_are_waited_for(
    api: RunningApi, worker: HandWorker, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.setattr(ImageStore, "get", raising(error, 1, ImageStore.get))
    thread = while_it_waits(worker, Hand.whole_run)
    answer = api.client.post(GENERATIONS, json={"prompt": "a cat"})
    thread.join()
    assert answer.status_code == 200, answer.text


def test_who_waits_for_pictures_when_the_server_ends_is_told_where_they_are(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def away(*_: Any) -> bytes:
        tried.set()
        raise StoreAway("away")

    monkeypatch.setattr(ImageStore, "get", away)
    answers: list[httpx.Response] = []
    with running_api(valkey.url, tmp_path) as api:
        worker = HandWorker(worker_queue, ImageStore(api.settings.image_store_url))
        made = while_it_waits(worker, Hand.whole_run)
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(api.url + GENERATIONS, json={"prompt": "a"}, timeout=30))
        )
        asking.start()
        made.join()
        assert tried.wait(10)
        api.stop()
        asking.join(20)
    assert problem(answers[0], 503, "storage_unavailable")["job_id"]
    assert answers[0].headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", [GENERATIONS, "/generate"])
@pytest.mark.parametrize("key", [None, "mine"])
def test_pictures_that_cannot_be_reached_for_long_cost_no_second_job(
    api: RunningApi, worker: HandWorker, monkeypatch: pytest.MonkeyPatch, path: str, key: str | None
) -> None:
    monkeypatch.setattr("server.job_end.PICTURES_WITHIN_S", 0.0)
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"prompt": "a cat", "response_format": "b64_json"}
    with monkeypatch.context() as away:
        away.setattr(ImageStore, "get", raising(StoreAway("away")))
        thread = while_it_waits(worker, Hand.whole_run)
        answer = api.client.post(path, json=body, headers=headers)
        thread.join()
    told_of = problem(answer, 503, "storage_unavailable")
    assert answer.headers["location"].endswith(f"/jobs/{told_of['job_id']}")
    again = answer.headers.get("x-should-retry"), "retry-after" in answer.headers
    assert again == (("false", False) if key is None else (None, True))
    assert api.job(told_of["job_id"])["status"] == "succeeded"
    if key is not None:
        answer = api.client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "true")


@pytest.mark.parametrize("path", [GENERATIONS, "/generate"])
def test_a_store_that_refuses_a_picture_is_told_of_at_once_and_costs_no_second_job(
    api: RunningApi, worker: HandWorker, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(ImageStore, "get", raising(StoreFailed("AccessDenied: bucket ours"), 1, ImageStore.get))
    thread = while_it_waits(worker, Hand.whole_run)
    answer = api.client.post(path, json={"prompt": "a cat", "response_format": "b64_json"})
    thread.join()
    told_of = problem(answer, 500, "storage_failed")  # whoever asks again would be given it
    assert answer.headers["location"].endswith(f"/jobs/{told_of['job_id']}")
    assert f"GET /jobs/{told_of['job_id']} " in told_of["detail"]
    assert "ours" not in told_of["detail"]
    assert (answer.headers.get("x-should-retry"), "retry-after" in answer.headers) == ("false", False)
    job = api.job(told_of["job_id"])
    assert job["status"] == "succeeded"
    assert job["trajectories"][0]["image"]["b64_json"]


def test_a_picture_that_the_store_has_no_more_is_told_of_with_its_job(
    api: RunningApi, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageStore, "get", raising(ImageMissing("it was deleted")))
    thread = while_it_waits(worker, Hand.whole_run)
    answer = api.client.post(GENERATIONS, json={"prompt": "a cat"})
    thread.join()
    told_of = problem(answer, 500, "storage_failed")
    assert answer.headers["location"] == f"{api.url}/jobs/{told_of['job_id']}"
    assert told_of["error"]["job_id"] == told_of["job_id"]
    assert answer.headers["x-should-retry"] == "false"
    assert api.job(told_of["job_id"])["status"] == "succeeded"
    thread = while_it_waits(worker, Hand.whole_run)
    *_, last = streamed(api)
    thread.join()
    assert last["error"]["code"] == "storage_failed"


def test_a_base_url_that_lacks_v1_is_told_so(api: RunningApi) -> None:
    for path in ("/images/generations", "/images/edits"):
        told_of = problem(api.client.post(path), 405, "method_not_allowed")
        assert told_of["detail"].endswith(f"did you mean '/v1{path}'? the base_url of the openai clients ends in /v1")
    assert "'/v1/models'" in problem(api.client.get("/models"), 404, "not_found")["detail"]
    for path in ("/jobs/generations", "/v1/images/generations", "/images"):
        assert "/v1" not in api.client.put(path).json()["detail"].partition(";")[2]


def test_who_waits_when_the_server_ends_is_told_to_try_again_and_leaves_no_job(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Path
) -> None:
    answers: dict[bool, httpx.Response] = {}
    with running_api(valkey.url, tmp_path) as api:
        HandWorker(worker_queue, ImageStore(api.settings.image_store_url))

        def ask(stream: bool) -> None:
            answers[stream] = httpx.post(api.url + GENERATIONS, json={"prompt": "a", "stream": stream}, timeout=30)

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        until(lambda: len(api.client.get("/jobs?status=queued").json()["jobs"]) == 2)
        api.stop()
        for thread in threads:
            thread.join(20)
    body = problem(answers[False], 503, "shutting_down")
    assert answers[False].headers["retry-after-ms"] == "10000"
    assert body["error"]["job_id"] == body["job_id"], "those clients show nothing else"
    [event] = told(answers[True].text)
    assert event["error"]["code"] == "shutting_down"
    assert event["error"]["job_id"].startswith("job_")
    with running_api(valkey.url, tmp_path) as api:
        assert api.job(body["job_id"])["status"] == "cancelled"


def test_keys_are_asked_for_and_links_can_be_followed_without(keyed: KeyedApi) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", GENERATIONS), ("POST", EDITS)):
        problem(keyed.stranger.request(method, path), 401, "unauthorized")
    alice, bob = keyed.holder("alice"), keyed.holder("bob")
    thread = while_it_waits(keyed.worker, Hand.whole_run)
    answer = alice.client.post(GENERATIONS, json={"prompt": "a cat", "response_format": "url"})
    thread.join()
    [image] = answer.json()["data"]
    assert keyed.stranger.get(image["url"]).status_code == 200
    assert keyed.stranger.get(image["url"].partition("?")[0]).status_code == 401
    assert bob.client.get(image["url"].partition("?")[0]).status_code == 404
    assert bob.client.get(answer.headers["location"]).status_code == 404
    assert alice.client.get(answer.headers["location"]).status_code == 200
    own = image["url"].partition("?")[0].rpartition("/")[2]
    problem(bob.client.post(EDITS, **form(("prompt", "a"), ("image", own))), 404, "image_not_found")
    reader = keyed.holder("alice", "read")
    assert reader.client.get("/v1/models").status_code == 200
    problem(reader.client.post(GENERATIONS, json={"prompt": "a"}), 403, "forbidden")


def _is_cancelled(api: RunningApi, job_id: str) -> bool:
    return bool(api.job(job_id)["status"] == "cancelled")
