"""The `openai` package for Node, unmodified, against `r3 api` and a worker with the fake model."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server.embedded import EmbeddedServer
from tests.node_packages import FOLDER, node
from tests.programs import without_proxies
from tests.recorded import Record
from tests.server.api.by_hand import png
from tests.server.api.keyed import keyed_api
from tests.server.api.serving import served, size_of, status_of
from tests.server.waiting import until

PICTURE = png((10, 200, 30), (320, 256))

pytestmark = pytest.mark.timeout(600)  # the first run fetches the packages


@pytest.fixture(scope="module")
def seen(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client saw in one run of tests/node/cases.mjs, and how the job that it left then stood."""
    program = node()
    with served(valkey.url, tmp_path_factory.mktemp("node")) as api:
        command = [str(program), "cases.mjs", api.url, base64.b64encode(PICTURE).decode()]
        done = subprocess.run(
            command, check=False, cwd=FOLDER, capture_output=True, text=True, timeout=200, env=without_proxies()
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert not [case for case in found.values() if isinstance(case, dict) and "unforeseen" in case], found
        until(lambda: status_of(api, found["cancelled"]) == "cancelled", 20)
        found["fetched"] = [size_of(api.client.get(image["url"]).content) for image in found["links"]["data"]]
        found["edit_job"] = api.client.get(f"/jobs/{found['edited']['r3']['job_id']}").json()
    return found


def opened(b64_json: str) -> tuple[str | None, tuple[int, int]]:
    return size_of(base64.b64decode(b64_json))


def test_models_are_listed(seen: dict[str, Any]) -> None:
    assert seen["models"] == [{"id": "fake", "object": "model"}]


def test_pictures_come_as_bytes_or_as_links(seen: dict[str, Any]) -> None:
    [image] = seen["generated"]["data"]
    assert opened(image["b64_json"]) == ("PNG", (512, 512))
    assert "A plan" in image["revised_prompt"]
    assert seen["fetched"] == [("PNG", (512, 512))] * 2


def test_an_upload_is_edited_with_settings_of_ours(seen: dict[str, Any]) -> None:
    assert opened(seen["edited"]["data"][0]["b64_json"]) == ("PNG", (320, 256))
    params = seen["edit_job"]["params"]
    assert (params["seed"], params["max_rounds"], params["instruction"]) == (5, 1, "Add a hat.")
    assert params["early_stop"]["on_satisfied"] is False
    assert params["generate"]["cfg_interval"] == [0.4, 1]


@pytest.mark.row("S5")
def test_streams_give_rejected_pictures_and_then_the_final_one(seen: dict[str, Any], record: Record) -> None:
    types = [event["type"] for event in seen["streamed"]]
    assert types == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.get("partial_image_index") for event in seen["streamed"]] == [0, 1, None]
    assert {opened(event["b64_json"])[0] for event in seen["streamed"]} == {"PNG"}
    assert seen["edit_streamed"][-1]["type"] == "image_edit.completed"
    assert {event["type"] for event in seen["edit_streamed"][:-1]} == {"image_edit.partial_image"}
    record("S5", "`openai` for Node streams pictures")


def test_faults_are_the_librarys_exceptions_with_our_codes(seen: dict[str, Any]) -> None:
    told = {
        name: (seen[name]["name"], seen[name]["code"]) for name in ("invalid", "malformed", "unknown_model", "failed")
    }
    assert told == {
        "invalid": ("BadRequestError", "invalid_request"),
        "malformed": ("BadRequestError", "malformed_json"),
        "unknown_model": ("NotFoundError", "model_not_found"),
        "failed": ("InternalServerError", "step_failed"),
    }
    assert seen["invalid"]["param"] == "size"
    assert seen["several_pictures"]["name"] == "BadRequestError"
    assert seen["failed_in_stream"]["is_api_error"]
    assert seen["failed_in_stream"]["code"] == "step_failed"


def test_keys_and_limits_are_the_librarys_exceptions_too(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with keyed_api(valkey.url, tmp_path) as keyed:
        secret = keyed.holder("alice", requests_per_min=15).secret
        command = [str(node()), "keys.mjs", keyed.api.url, secret]
        done = subprocess.run(command, check=True, cwd=FOLDER, capture_output=True, timeout=100, env=without_proxies())
    told = json.loads(done.stdout)
    assert told["stranger"] == {"name": "AuthenticationError", "code": "unauthorized", "retry_after": None}
    assert (told["limited"]["name"], told["limited"]["code"]) == ("RateLimitError", "rate_limited")
    assert 0 < int(told["limited"]["retry_after"]) <= 120
