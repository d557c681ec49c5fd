"""Whole runs: the API, a real queue, and the real worker around the fake model, each in its own process or thread."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from PIL import Image as PILImage

from server.embedded import EmbeddedServer
from tests.server.api.by_hand import png
from tests.server.api.events import Sse, check_whole, events_of, names, parsed
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import problem
from tests.server.promises import promised
from tests.server.waiting import until

STEP_S = 0.002
ORDER = re.compile(
    r"(reason\.delta )*reason\.done (image\.(progress|preview) )*image "
    r"((reflect\.delta )*reflect\.done (image\.(progress|preview) )*image )*"
    r"((reflect\.delta )*reflect\.done )?trajectory\.done "
)


@pytest.fixture(scope="module")
def api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """An API with a worker that draws in milliseconds."""
    data_dir = tmp_path_factory.mktemp("whole")
    with redis.Redis.from_url(valkey.url, protocol=2) as database:
        database.flushall()
    settings = {
        "REDIS_URL": valkey.url,
        "DATA_DIR": str(data_dir),
        "CHECKPOINT": str(data_dir / "none"),
        "RUNNER": "fake",
        "FAKE_STEP_S": str(STEP_S),
        "WORKER_PORT": "0",
        "LOG_LEVEL": "warning",
    }
    environment = {**os.environ, **{f"R3_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-P", "-m", "server.cli", "worker"]
    root = Path(__file__).parents[3]
    worker = subprocess.Popen(command, env={**environment, "PYTHONPATH": str(root)}, cwd=data_dir)
    try:
        with running_api(valkey.url, data_dir) as running:
            until(lambda: running.client.get("/readyz?workers=1").status_code == 200, 20)
            yield running
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def streamed(api: RunningApi, **body: Any) -> list[Sse]:
    events = events_of(api.client.post("/generate", json={"prompt": "a cat", "stream": True, **body}))
    check_whole(events)
    return events


def test_a_run_says_everything_in_order(api: RunningApi) -> None:
    events = streamed(api, n=2, previews=2, seed=3, prompt="a cat edits=2")
    assert names(events)[:2] == ["job.queued", "job.started"]
    for index in range(2):
        own = [event for event in events if event.data["trajectory"] == index]
        assert ORDER.fullmatch("".join(f"{event.name} " for event in own))
        assert [event.data["round"] for event in own if event.name == "image"] == [0, 1, 2]
        for done in [event for event in own if event.name in ("reason.done", "reflect.done")]:
            kind, round_ = done.name.replace("done", "delta"), done.data.get("round")
            pieces = [e.data["text"] for e in own if e.name == kind and e.data.get("round") == round_]
            assert "".join(pieces) == done.data["text"]
    job = events[-1].data["job"]
    assert job == api.job(job["id"])
    assert [t["stop_reason"] for t in job["trajectories"]] == ["satisfied", "satisfied"]
    assert [t["seed"] for t in job["trajectories"]] == [3, 4]


def test_every_picture_that_was_announced_can_be_fetched(api: RunningApi) -> None:
    events = streamed(api, previews=3, output_format="webp", output_compression=80)
    shown = [event.data["image"] for event in events if event.name in ("image", "image.preview")]
    assert any(event.name == "image.preview" for event in events)
    for image in shown:
        answer = api.client.get(image["url"])
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["etag"] == f'"{image["sha256"]}"'
        assert PILImage.open(io.BytesIO(answer.content)).size == (image["width"], image["height"])


def test_a_png_says_what_it_came_from(api: RunningApi) -> None:
    job = api.client.post("/generate", json={"prompt": "a cat", "seed": 11, "max_rounds": 0}).json()
    content = api.client.get(job["trajectories"][0]["image"]["url"]).content
    texts = PILImage.open(io.BytesIO(content)).info
    assert "a cat" in str(texts)
    assert "11" in str(texts)


def test_a_given_picture_is_announced_first_and_edited(api: RunningApi) -> None:
    picture = base64.b64encode(png((1, 2, 3), (512, 304))).decode()
    events = streamed(api, image=picture, instruction="Add a hat.", max_rounds=2)
    images = [event.data for event in events if event.name == "image"]
    assert [(image["round"], image["instruction"]) for image in images][:2] == [(0, None), (1, "Add a hat.")]
    assert (images[0]["image"]["width"], images[0]["image"]["height"]) == (512, 304)
    assert "reason.done" not in names(events)
    first = PILImage.open(io.BytesIO(api.client.get(images[0]["image"]["url"]).content))
    assert first.convert("RGB").getpixel((5, 5)) == (1, 2, 3)
    again = streamed(api, image=images[-1]["image"]["id"], max_rounds=1)
    parent = again[-1].data["job"]["parent"]
    assert parent == {"job": events[0].data["job_id"], "trajectory": 0, "round": images[-1]["round"]}


def test_a_step_that_raises_fails_its_job_and_no_other(api: RunningApi) -> None:
    answer = api.client.post("/generate", json={"prompt": "a cat raise=refine"})
    body = problem(answer, 500, "step_failed")
    assert len(api.job(body["job_id"])["trajectories"][0]["rounds"]) == 1, "what was finished stays"
    assert api.client.post("/generate", json={"prompt": "a cat"}).status_code == 200


def test_a_running_job_is_cancelled_within_a_step(api: RunningApi) -> None:
    job = api.submit(
        prompt="a cat edits=8", max_rounds=8, generate={"num_timesteps": 200}, refine={"num_timesteps": 200}
    )
    with api.client.stream("GET", job["links"]["events"]) as answer:
        events = parsed(answer.iter_lines())
        while next(events).name != "image":
            pass
        with promised(0.5):
            assert api.client.post(job["links"]["cancel"]).status_code == 202
            assert names(events)[-1] == "job.cancelled"


def test_good_enough_ends_a_running_job_with_what_it_has(api: RunningApi) -> None:
    job = api.submit(prompt="a cat edits=8", max_rounds=8, refine={"num_timesteps": 200})
    with api.client.stream("GET", job["links"]["events"]) as answer:
        events = parsed(answer.iter_lines())
        while next(events).name != "image":
            pass
        assert api.client.post(job["links"]["stop"]).status_code == 202
        rest = list(events)
    assert names(rest)[-2:] == ["trajectory.done", "job.succeeded"]
    assert rest[-2].data["stop_reason"] == "stopped"


def test_a_deadline_keeps_what_is_finished(api: RunningApi) -> None:
    slow = {"prompt": "a cat edits=8", "max_rounds": 8, "refine": {"num_timesteps": 200}, "deadline_s": 1.0}
    job = api.client.post("/generate", json=slow).json()
    assert job["status"] == "succeeded", job
    assert job["trajectories"][0]["stop_reason"] == "deadline"
    assert job["trajectories"][0]["image"] is not None


def test_many_at_once_all_come_to_their_end(api: RunningApi) -> None:
    with httpx.Client(base_url=api.url, timeout=60) as client:
        jobs = [
            api.submit(prompt=f"cat number {i}", generate={"num_timesteps": 5}, refine={"num_timesteps": 5})
            for i in range(30)
        ]
        for job in jobs:
            check_whole(events_of(client.get(job["links"]["events"])))


@pytest.mark.row("F1")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_gets_an_answer_that_the_contract_does_not_know(api: RunningApi, tmp_path: Path) -> None:
    """Thousands of generated requests. A deadline that has passed is a 504 by contract; any other 5xx is a fault."""
    (tmp_path / "schemathesis.toml").write_text(
        '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]\n'
    )
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"), "run"]
    options = ["--checks", ",".join(checks), "--max-examples", "150", "--seed", "1", "--request-timeout", "60"]
    done = subprocess.run(
        [*command, f"{api.url}/openapi.json", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=590,
    )
    assert done.returncode == 0, done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None
    assert int(generated[1]) >= 2000
