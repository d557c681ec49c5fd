"""Traces across real processes, to a real collector; and that nobody waits for one that is away, or pays for none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.embedded import EmbeddedServer
from server.traces import OFF, open_traces
from tests.server.collecting import Collector, collecting
from tests.server.processes import (
    ROOT,
    ApiProcess,
    StartWorker,
    WorkerProcess,
    api_process,
    private_server,
    worker_processes,
)
from tests.server.waiting import until

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the processes are told of."""
    with collecting() as one:
        monkeypatch.setenv(ENDPOINT, one.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")  # what comes was sent at the end
        yield one


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedServer]:
    with private_server() as server:
        yield server


@pytest.fixture
def start(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[StartWorker]:
    with worker_processes(valkey.url, tmp_path) as begin:
        yield begin


def submitted(api: ApiProcess, timesteps: int = 5, prompt: str = "a secret cat edits=1") -> str:
    body = {"prompt": prompt, "seed": 3, "generate": {"num_timesteps": timesteps}}
    headers = {"Prefer": "respond-async", "traceparent": CALLER, "Authorization": "Bearer hidden-key"}
    answer = api.client.post("/generate", json={**body, "refine": {"num_timesteps": 5}}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finished(api: ApiProcess, job_id: str, timeout_s: float = 40) -> dict[str, Any]:
    until(lambda: api.client.get(f"/jobs/{job_id}").json()["status"] not in ("queued", "running"), timeout_s)
    job: dict[str, Any] = api.client.get(f"/jobs/{job_id}").json()
    return job


def ends(process: ApiProcess | WorkerProcess) -> float:
    """How long it takes to end once it is asked to, in seconds."""
    process.send(signal.SIGTERM)
    began_s = time.monotonic()
    assert process.process.wait(60) == 0
    return time.monotonic() - began_s


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_is_one_trace_across_the_processes_whichever_way_its_first_worker_ends(
    valkey: EmbeddedServer, tmp_path: Path, collector: Collector, start: StartWorker, way: signal.Signals
) -> None:
    with api_process(valkey.url, tmp_path, log_level="info") as api:
        first = start(drain_s=0)
        until(lambda: api.status("/readyz?workers=1") == 200, 60)
        job_id = submitted(api, timesteps=100)
        until(lambda: bool(first.said("job leased")))
        time.sleep(0.5)  # the first picture takes two seconds
        first.send(way)
        first.process.wait(30)
        second = start()
        assert finished(api, job_id)["status"] == "succeeded"
        ends(second)
        ends(api)
    assert {span.trace for span in collector.spans} == {TRACE}
    assert {span.service for span in collector.spans} == {"r3-api", "r3-worker"}
    [submit] = collector.named("submit")
    assert submit.parent == "b7ad6b7169203331"
    attempts = {span.about["r3.attempt"]: span for span in collector.named("attempt")}
    assert set(attempts) == ({1, 2} if way is signal.SIGTERM else {2})  # a killed process sends nothing more
    assert {span.parent for span in attempts.values()} == {submit.id}
    assert attempts[2].about["r3.outcome"] == "succeeded"
    done = [span.name for span in collector.spans if span.parent == attempts[2].id]
    assert {name: done.count(name) for name in set(done)} == {
        **dict.fromkeys(("reason", "generate", "refine"), 1),
        **dict.fromkeys(("reflect", "encode", "store"), 2),
    }
    for process in (first, second):
        assert {line["trace_id"] for line in process.said("job leased")} == {TRACE}
    assert [line["trace_id"] for line in api.said("job submitted")] == [TRACE]
    assert b"secret" not in collector.raw
    assert b"hidden-key" not in collector.raw
    assert job_id.encode() in collector.raw


def test_a_worker_that_hangs_sends_what_has_ended(
    valkey: EmbeddedServer, tmp_path: Path, collector: Collector, start: StartWorker
) -> None:
    with api_process(valkey.url, tmp_path) as api:
        worker = start(hung_after_s=1)
        until(lambda: api.status("/readyz?workers=1") == 200, 60)
        job_id = submitted(api, prompt="a tar pit edits=1 hang=refine")
        assert worker.process.wait(30) == 1
        assert api.client.post(f"/jobs/{job_id}/cancel").status_code == 202  # or it would hang others' workers
        ends(api)
    [attempt] = collector.named("attempt")
    assert (attempt.about["r3.attempt"], attempt.about["r3.outcome"]) == (1, "given_back")
    assert len(collector.named("generate")) == 1


@pytest.mark.parametrize("how", ["hangs", "away"])
def test_a_collector_that_hangs_or_is_away_slows_no_job_and_no_end(
    valkey: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collector: Collector,
    start: StartWorker,
    how: str,
) -> None:
    collector.hangs = True
    if how == "away":
        monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")  # full at once
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    with api_process(valkey.url, tmp_path) as api:
        worker = start()
        until(lambda: api.status("/readyz?workers=1") == 200, 60)
        began_s = time.monotonic()
        for job_id in [submitted(api) for _ in range(8)]:
            assert finished(api, job_id)["status"] == "succeeded"
        assert time.monotonic() - began_s < 40  # of a hundred spans, for each of which the SDK waits 10 s
        if how == "hangs":
            assert collector.requests >= 1
        assert ends(worker) < 17  # of which two for what is left; the SDK takes 30 s
        assert ends(api) < 17


def test_without_the_extra_a_worker_says_which_and_works(
    valkey: EmbeddedServer, tmp_path: Path, collector: Collector, start: StartWorker
) -> None:
    with api_process(valkey.url, tmp_path) as api:
        worker = start(program="tests.server.without_otel")
        until(lambda: api.status("/readyz?workers=1") == 200, 60)
        assert finished(api, submitted(api))["status"] == "succeeded"
        ends(worker)
    [line] = [line for line in worker.log.read_text().splitlines() if "r3-server[otel]" in line]
    assert '"level": "warning"' in line
    assert {span.service for span in collector.spans} <= {"r3-api"}


OFF_COSTS_NOTHING = """
import sys
from server.app import create_app
from server.settings import Settings
from server.traces import OFF, open_traces
import server.worker
create_app(Settings(redis_url="redis://127.0.0.1:1"))
assert open_traces("r3-api") is OFF
heavy = ("server.traces_", "opentelemetry.exporter", "google.", "requests")
print([name for name in sys.modules if name.startswith(heavy)])
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "TRUE"},
        {ENDPOINT: "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_no_collector_is_named_no_exporter_is_imported(environment: dict[str, str]) -> None:
    """FastAPI and redis-py look for the API's package themselves where it is installed; what we pay for is the SDK."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("R3_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", OFF_COSTS_NOTHING],
        env={**plain, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc is not spoken"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "collector:4318 is no address"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key: word", "is not NAME=VALUE"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", 'tenant=1,api-key=a"word"', "is not NAME=VALUE"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "an OTEL_ variable is refused"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody", "an OTEL_ variable is refused"),
    ],
)
def test_what_cannot_be_is_said_and_traces_are_off(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://user:word@127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with capture_logs() as lines:
        assert open_traces("r3-api") is OFF
    assert said in str(lines[0])
    assert "traces are off" in lines[0]["event"]
    assert "word" not in str(lines)


REPEATS_NOTHING = """
from server.logs import configure_logging
configure_logging("info", "json")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.re import parse_env_headers
from server.traces_otel import OtelTraces
traces = OtelTraces("r3-api", SimpleSpanProcessor(InMemorySpanExporter()))
for state in ("a secret cat", "a=" + "secret" * 1000, ",".join(name + "=" + "x" * 255 for name in "ab"), "a=1"):
    with traces.submitting({"traceparent": "%s", "tracestate": state}) as job:
        print(*sorted(job.trace))
parse_env_headers("api-key: secret", liberal=True)
"""


def test_a_tracestate_that_is_long_or_none_is_neither_taken_along_nor_logged() -> None:
    """With each job it would lie in Redis. Nor does a line repeat what a variable with a collector's key says."""
    program = REPEATS_NOTHING % CALLER
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["traceparent"] * 3 + ["traceparent tracestate"]


def test_who_the_process_is_can_be_said(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    from tests.server.test_worker_parts import LEASE

    for name, value in (("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=dev")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc==, x-tenant = 1")
    with capture_logs() as lines:
        traces = open_traces("r3-worker")
    assert lines[0]["endpoint"] == collector.url
    traces.begun(LEASE)
    traces.close()
    assert [span.service for span in collector.spans] == ["mine"]
