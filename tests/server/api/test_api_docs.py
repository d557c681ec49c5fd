"""/docs and the contract: nothing from another host, valid, complete, and what is really answered."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from server.app import create_app
from server.contract import openapi_yaml
from server.errors import CODES
from server.event_views import EVENTS
from server.settings import Settings
from tests.server.api.by_hand import HandWorker
from tests.server.api.events import events_of
from tests.server.api.running import RunningApi

SWAGGER = Path(__file__).parents[3] / "server" / "web" / "swagger"


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    """The contract of this source."""
    return create_app(Settings.model_construct()).openapi()


def test_the_contract_is_valid_openapi(contract: dict[str, Any]) -> None:
    assert contract["openapi"].startswith("3.1")
    validate(contract)


def test_the_contract_states_the_headers_that_say_where_and_when(contract: dict[str, Any]) -> None:
    answers = contract["paths"]["/generate"]["post"]["responses"]
    assert {status for status, answer in answers.items() if "Retry-After" in answer.get("headers", {})} == {
        "429",
        "503",
    }
    where = {status for status, answer in answers.items() if "Location" in answer.get("headers", {})}
    assert where == {"200", "202", "409", "422", "500", "503", "504"}
    assert "Retry-After" in contract["paths"]["/jobs"]["get"]["responses"]["503"]["headers"]


def test_the_contract_gives_no_size_as_an_example_for_it_may_not_be_legal(contract: dict[str, Any]) -> None:
    assert "example" not in str(contract["components"]["schemas"]["GenerationCreate"]["properties"]["size"])


def test_the_contract_is_the_same_each_time_and_as_yaml_json_or_served(
    api: RunningApi, contract: dict[str, Any]
) -> None:
    texts = {openapi_yaml(create_app(Settings.model_construct())) for _ in range(2)}
    assert texts == {api.client.get("/openapi.yaml").text}
    assert yaml.safe_load(texts.pop()) == contract == api.client.get("/openapi.json").json()


def test_the_contract_is_written_once_for_anybody_may_ask_for_it(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.client.get("/openapi.yaml").text
    monkeypatch.setattr("server.contract.yaml.safe_dump", None)
    assert api.client.get("/openapi.yaml").text == first


def test_no_machine_is_in_the_contract(contract: dict[str, Any]) -> None:
    assert not re.search(r"/(home|root|work|tmp)/|localhost", str(contract))


def test_every_reference_leads_somewhere_and_every_event_and_code_is_told(contract: dict[str, Any]) -> None:
    schemas = contract["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", str(contract))) == set(schemas)
    told_events = [event["properties"]["event"]["const"] for event in schemas["EventStream"]["oneOf"]]
    assert told_events == list(EVENTS)
    told = " ".join(
        response["description"]
        for operations in contract["paths"].values()
        for operation in operations.values()
        for response in operation["responses"].values()
    )
    left_to_starlette = {"not_found", "method_not_allowed"}
    assert not [code for code in CODES if code not in told and code not in left_to_starlette]


def test_every_error_of_the_contract_is_a_problem(contract: dict[str, Any]) -> None:
    for operations in contract["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]


def test_answers_are_as_the_contract_says(api: RunningApi, worker: HandWorker, contract: dict[str, Any]) -> None:
    job = api.submit(n=2, metadata={"a": "b"})
    hand = worker.takes()
    hand.draws(0)
    hand.draws(1)
    hand.ends("max_rounds", 0, job=False)
    hand.ends("max_rounds", 1)
    seen = {
        "JobView": [job, api.job(job["id"])],
        "JobList": [api.client.get("/jobs").json()],
        "Info": [api.client.get("/info").json()],
        "Ready": [api.client.get("/readyz").json()],
        "Problem": [api.client.get("/nope").json(), api.client.post("/generate", json={}).json()],
    }
    for event in events_of(api.client.get(job["links"]["events"])):
        seen.setdefault(EVENTS[event.name].__name__, []).append(event.data)
    for name, values in seen.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": contract["components"]}
        for value in values:
            OAS31Validator(schema).validate(value)


def test_the_vendored_files_are_those_of_the_readme() -> None:
    named = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", (SWAGGER / "README.md").read_text()))
    files = {path.name for path in SWAGGER.iterdir()} - {"README.md", "start.js"}
    assert set(named) == files
    for name, digest in named.items():
        assert hashlib.sha256((SWAGGER / name).read_bytes()).hexdigest() == digest


def test_the_page_names_no_other_host(api: RunningApi) -> None:
    page = api.client.get("/docs")
    assert "http" not in page.text.replace("http-equiv", "")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "http" not in policy
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        asset = api.client.get(name)
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
    assert api.client.get("/docs/assets/README.md").status_code == 404
    assert api.client.get("/docs/assets/..%2f..%2fqueue.py").status_code == 404


def test_a_browser_shows_the_contract_and_breaks_no_policy(api: RunningApi, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None and os.environ.get("R3_TEST_ALL") == "1":
        pytest.fail("chromium is not on PATH (R3_TEST_ALL=1 skips nothing)")
    if browser is None:
        pytest.skip("chromium is not on PATH; apt install chromium to look at /docs")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=20000", "--dump-dom", f"{api.url}/docs"],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert 'id="operations-generate-generate"' in done.stdout
    assert "Content Security Policy" not in done.stderr
