"""One trace a job, from the caller's span to the last picture stored, whoever works on it and however it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from r3core.types import StopReason
from server.embedded import EmbeddedServer
from server.engines import FAKE
from server.giving_up import GivingUp
from server.images import ImageStore
from server.queue import Queue
from server.queue_worker import WorkerQueue
from server.traces import trace_id_of
from server.traces_otel import OtelTraces
from tests.server.api.running import RunningApi, running_api
from tests.server.delivering import made, turn
from tests.server.receiving import Receiver
from tests.server.waiting import until
from tests.server.working import ASKED, FOR_EVER, Start, ended, new_job, run, until_event

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = CALLER.split("-")[1:3]

ATTRIBUTES = {
    *("r3.job.id", "r3.model", "r3.n", "r3.priority", "r3.replayed", "r3.attempt", "r3.outcome"),
    *("r3.trajectory", "r3.round", "r3.verdict", "r3.width", "r3.height", "r3.ended_by", "error.type"),
}


class Told:
    """The spans that have ended, of API and workers alike."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self.traces = OtelTraces("r3-test", SimpleSpanProcessor(self._memory))

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of that name, as they ended."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one, which may still be under way."""
        until(lambda: bool(self.named(name)))
        [span] = self.named(name)
        return span

    def all(self) -> tuple[ReadableSpan, ...]:
        """Every one."""
        return self._memory.get_finished_spans()


@pytest.fixture
def told() -> Iterator[Told]:
    one = Told()
    yield one
    one.traces.close()


@pytest.fixture
def api(queue_server: EmbeddedServer, worker: WorkerQueue, tmp_path: Path, told: Told) -> Iterator[RunningApi]:
    """An API over the same queue; the model that the workers serve is known before the first comes."""
    worker.register(FAKE.to_json())
    with running_api(queue_server.url, tmp_path, traces=told.traces) as running:
        yield running


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Trace, span and parent, in hexadecimal."""
    assert span.context is not None
    parent = "" if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def about(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def code(span: ReadableSpan) -> str | None:
    """The code of a span that is an error."""
    if span.status.status_code is not StatusCode.ERROR:
        return None
    assert about(span, "error.type") == span.status.description
    return span.status.description


def submit(api: RunningApi, headers: Mapping[str, str | bytes] | None = None, **body: Any) -> str:
    asked = {"prompt": "a secret cat edits=2", "generate": {"num_timesteps": 5}, "refine": {"num_timesteps": 5}}
    told = httpx.Headers([("Prefer", "respond-async")])
    told.update(
        [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in (headers or {}).items()
        ]
    )
    answer = api.client.post("/generate", json={**asked, **body}, headers=told)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_a_job_is_one_trace_from_the_callers_span_to_the_last_step(
    api: RunningApi, queue: Queue, start: Start, told: Told
) -> None:
    worker = start(traces=told.traces)
    job_id = submit(api, {"traceparent": CALLER, "tracestate": "vendor=1"}, seed=3)
    job = await ended(queue, job_id)
    attempt, submitted = told.one("attempt"), told.one("submit")
    assert {ids(span)[0] for span in told.all()} == {TRACE}
    assert ids(submitted)[2] == SPAN
    assert ids(attempt)[2] == ids(told.one("queue"))[2] == ids(submitted)[1]
    steps = [span for span in told.all() if ids(span)[2] == ids(attempt)[1]]
    in_engine = [span for span in steps if span.name not in ("encode", "store")]
    assert [span.name for span in in_engine] == ["reason", "generate", *("reflect", "refine") * 2, "reflect"]
    assert [about(span, "r3.round") for span in in_engine] == [None, 0, 0, 1, 1, 2, 2]
    assert [about(span, "r3.verdict") for span in in_engine if span.name == "reflect"] == ["edit", "edit", "satisfied"]
    assert len(told.named("encode")) == len(told.named("store")) == 3
    assert (about(attempt, "r3.attempt"), about(attempt, "r3.outcome"), code(attempt)) == (1, "succeeded", None)
    assert [span.end_time for span in in_engine[:-1]] == [span.start_time for span in in_engine[1:]]
    assert trace_id_of(job.request) == {"trace_id": TRACE}
    assert job.request["trace"]["tracestate"] == "vendor=1"
    worker.leave()


async def test_candidates_are_one_step_to_draw_and_one_to_judge(
    api: RunningApi, queue: Queue, start: Start, told: Told
) -> None:
    worker = start(traces=told.traces)
    fan = {
        "judge": {"scorers": ["lift", "verdict"]},
        "candidates": {"first": 3},
        "max_rounds": 1,
        "prompt": "a edits=9",
    }
    await ended(queue, submit(api, {"traceparent": CALLER}, **fan))
    in_engine = [span for span in told.all() if span.name in ("reason", "generate", "judge", "reflect", "refine")]
    # The verdict has each of the first pictures reflected on, and the last.
    assert [span.name for span in in_engine] == [
        *("reason", "generate", "judge", "reflect", "reflect", "reflect"),
        *("refine", "judge", "reflect"),
    ]
    assert [about(span, "r3.candidate") for span in told.named("store")] == [0, 1, 2, None]
    worker.leave()


async def test_no_span_says_what_the_prompt_texts_or_pictures_are(
    api: RunningApi, queue: Queue, start: Start, told: Told
) -> None:
    start(traces=told.traces)
    job = await ended(queue, submit(api, seed=3))
    told.one("attempt")
    for span in told.all():
        assert span.resource.attributes["service.name"] == "r3-test"
        for name, value in (span.attributes or {}).items():
            assert name in ATTRIBUTES
            assert isinstance(value, int) or value in (job.id, FAKE.name, "normal", "edit", "satisfied", "succeeded")
        assert not span.events
        assert "secret" not in json.dumps(json.loads(span.to_json()))


async def test_a_job_that_resumes_elsewhere_goes_on_in_the_same_trace(queue: Queue, start: Start, told: Told) -> None:
    first = start(0.02, traces=told.traces)
    new = new_job(replace(ASKED, generate=replace(ASKED.generate, num_timesteps=50)))
    new.request["trace"] = {"traceparent": CALLER}
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    assert first.leave(times=2) == 0
    start(traces=told.traces)
    await ended(queue, new.id)
    until(lambda: len(told.named("attempt")) == 2)
    one, two = told.named("attempt")
    assert [about(span, "r3.attempt") for span in (one, two)] == [1, 2]
    assert [about(span, "r3.outcome") for span in (one, two)] == ["given_back", "succeeded"]
    assert {ids(span)[0] for span in told.all()} == {TRACE}
    assert len(told.named("queue")) == 1
    [cut] = [span for span in told.all() if ids(span)[2] == ids(one)[1] and about(span, "r3.ended_by")]
    assert (cut.name, about(cut, "r3.ended_by"), code(cut)) == ("generate", "given_back", None)


@pytest.mark.parametrize("step", ["reason", "generate", "reflect", "refine"])
async def test_a_failure_is_the_status_of_the_step_and_of_the_attempt(
    queue: Queue, start: Start, told: Told, step: str
) -> None:
    start(traces=told.traces)
    await run(queue, replace(ASKED, prompt=f"a cat raise={step}"))
    attempt = told.one("attempt")
    assert (about(attempt, "r3.outcome"), code(attempt)) == ("failed", "step_failed")
    assert [(span.name, code(span)) for span in told.all() if code(span) and span is not attempt] == [
        (step, "step_failed")
    ]


async def test_a_picture_that_cannot_be_stored_is_the_status_of_its_span(
    queue: Queue, start: Start, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ImageStore, tenant: str, job: str, content: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageStore, "put", full)
    monkeypatch.setattr("server.images.STORE_TRIES", 1)
    start(traces=told.traces)
    await run(queue)
    assert code(told.one("store")) == "OSError"
    assert code(told.one("attempt")) == "storage_failed"


async def test_a_cancel_is_the_status_of_what_it_ended(api: RunningApi, queue: Queue, start: Start, told: Told) -> None:
    waiting = submit(api, {"traceparent": CALLER})
    api.client.post(f"/jobs/{waiting}/cancel").raise_for_status()
    queued = told.one("queue")
    assert (ids(queued)[0], code(queued)) == (TRACE, "cancelled")
    given_up = GivingUp(queue, told.traces)
    given_up.on(submit(api, {"traceparent": CALLER}))  # its caller hung up
    await given_up.close()
    assert [code(span) for span in told.named("queue")] == ["cancelled"] * 2
    start(0.01, traces=told.traces)
    running = new_job(replace(ASKED, generate=FOR_EVER))
    await queue.submit(running)
    await until_event(queue, running.id, "reason.done")
    api.client.post(f"/jobs/{running.id}/cancel").raise_for_status()
    await ended(queue, running.id)
    attempt = told.one("attempt")
    assert (about(attempt, "r3.outcome"), code(attempt)) == ("cancelled", "cancelled")
    assert code(told.one("generate")) == "cancelled"
    assert len(told.named("queue")) == 3
    assert ids(attempt)[0] != TRACE  # it was submitted without one, and has one of its own


@pytest.mark.parametrize(("word", "reason"), [("stop", "stopped"), ("deadline", "deadline")])
async def test_what_is_good_enough_is_no_fault(
    queue: Queue, start: Start, told: Told, word: str, reason: StopReason
) -> None:
    start(0.01, traces=told.traces)
    at_ms = int((time.time() + 2) * 1000) if word == "deadline" else None
    new = new_job(replace(ASKED, refine=FOR_EVER), deadline_at_ms=at_ms)
    await queue.submit(new)
    await until_event(queue, new.id, "reflect.done")
    if word == "stop":
        await queue.stop(new.id)
    assert (await ended(queue, new.id)).status == "succeeded"
    assert about(told.one("attempt"), "r3.outcome") == "succeeded"
    cut = told.one("refine")
    assert (about(cut, "r3.ended_by"), code(cut)) == (reason, None)


async def test_a_lease_that_is_lost_is_the_attempts_status(queue: Queue, start: Start, told: Told) -> None:
    worker = start(traces=told.traces)
    worker.work.checkpoint = lambda *_: "lost"  # type: ignore[method-assign]
    await queue.submit(new_job(replace(ASKED, max_rounds=0)))
    until(lambda: bool(told.named("attempt")))
    assert code(told.named("attempt")[0]) == "lost"


async def test_a_retry_is_a_trace_of_its_own_that_names_the_first(api: RunningApi, queue: Queue, told: Told) -> None:
    first = submit(api, {"traceparent": CALLER})
    api.client.post(f"/jobs/{first}/cancel").raise_for_status()
    answer = api.client.post(f"/admin/jobs/{first}/retry")
    assert answer.status_code == 202, answer.text
    again = told.named("submit")[1]
    [link] = again.links
    assert f"{link.context.trace_id:032x}" == TRACE
    job = await queue.job(answer.json()["id"])
    assert job is not None
    assert trace_id_of(job.request) == {"trace_id": ids(again)[0]}
    assert ids(again)[0] != TRACE


@pytest.mark.parametrize(
    "given",
    ["", "00-0-0-01", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-zz", "x" * 4000, "é"],
)
async def test_a_traceparent_that_is_none_begins_a_new_trace(
    api: RunningApi, queue: Queue, told: Told, given: str
) -> None:
    job = await queue.job(submit(api, {"traceparent": given.encode("latin-1")}))
    assert job is not None
    span = told.one("submit")
    assert span.parent is None
    assert trace_id_of(job.request) == {"trace_id": ids(span)[0]}
    assert ids(span)[0] != TRACE


async def test_who_is_not_sampled_is_not_traced_and_the_log_names_the_trace_all_the_same(
    api: RunningApi, queue: Queue, start: Start, told: Told
) -> None:
    start(traces=told.traces)
    job = await ended(queue, submit(api, {"traceparent": CALLER[:-1] + "0"}))
    assert trace_id_of(job.request) == {"trace_id": TRACE}
    assert told.all() == ()


def test_what_a_process_leaves_under_way_ends_as_lost(told: Told) -> None:
    from tests.server.test_worker_parts import LEASE

    told.traces.begun(LEASE)
    told.traces.close()
    assert code(told.one("attempt")) == "lost"


def test_a_refused_submission_says_so_in_its_span(api: RunningApi, told: Told) -> None:
    key = {"Idempotency-Key": "k"}
    submit(api, key)
    again = api.client.post("/generate", json={"prompt": "another"}, headers={"Prefer": "respond-async", **key})
    assert again.status_code == 422, again.text
    refused = told.named("submit")[1]
    assert refused.status.description == "IdempotencyMismatch"


async def test_a_webhooks_log_lines_name_the_trace_of_its_job(
    queue: Queue, store: ImageStore, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    new = new_job(webhook={"url": receiver.url, "events": None})
    new.request["trace"] = {"traceparent": CALLER}
    await queue.submit(new)
    await queue.cancel(new.id)
    await turn(made(queue, store))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "webhook delivered" in line]
    assert TRACE in line
