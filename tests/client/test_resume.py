"""Streams and requests that outlive what happens to the server, and are never answered twice."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from r3client import AsyncClient, Client, EventStream, Live, NoAnswer, errors, events
from server.embedded import EmbeddedServer
from server.queue_worker import WorkerQueue
from tests.client.service import LONG, SOON, Service, running_service
from tests.server.api.by_hand import TINY
from tests.server.processes import free_port
from tests.server.waiting import until

PROMPT = "a cat edits=2 words=20"


def check_whole(told: Sequence[events.Event], live: Live) -> None:
    """Every numbered event once, one last, every picture once, and texts as the job has them."""
    numbers = [event.id for event in told if event.id is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event.is_last for event in told].index(True) == len(told) - 1
    last = told[-1]
    assert isinstance(last, events.JobSucceeded)
    assert [event.round for event in told if isinstance(event, events.ImageDone)] == [0, 1, 2]
    begun = max(at for at, event in enumerate(told) if isinstance(event, events.JobStarted))
    if not any(isinstance(event, events.ImageDone) for event in told[:begun]):  # else the plan was not made again
        deltas = "".join(event.text for event in told[begun:] if isinstance(event, events.ReasonDelta))
        assert deltas == last.job.trajectories[0].reasoning
    assert live.trajectories[0].reasoning.text == last.job.trajectories[0].reasoning


def is_drawing(event: events.Event) -> bool:
    return isinstance(event, events.ImageProgress) and event.round == 0


def restarted_with(own: Service, number: signal.Signals) -> threading.Thread:
    """End the API with a signal, and start it again where it was once it has ended."""
    victim = own.api
    victim.send(number)

    def again() -> None:
        until(lambda: not victim.is_running(), 30)
        own.start_api()

    thread = threading.Thread(target=again)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stream_goes_on_after_the_api_was_restarted(own: Service, number: signal.Signals) -> None:
    told: list[events.Event] = []
    restart: threading.Thread | None = None
    with Client(own.url, patience_s=600) as client, client.stream(PROMPT, **LONG) as stream:
        for event in stream:
            told.append(event)
            if restart is None and is_drawing(event):
                restart = restarted_with(own, number)
    check_whole(told, stream.live)
    waits = [event for event in told if isinstance(event, events.Waiting)]
    assert waits
    assert waits[0].seconds >= 2.0  # what `retry:` and `retry_ms` ask for
    assert (waits[0].reason == "the server closed the stream (shutdown)") == (number is signal.SIGTERM)
    assert restart is not None
    restart.join()


async def test_so_does_an_asynchronous_one(own: Service) -> None:
    told: list[events.Event] = []
    restart: threading.Thread | None = None
    async with AsyncClient(own.url, patience_s=600) as client, client.stream(PROMPT, **LONG) as stream:
        async for event in stream:
            told.append(event)
            if restart is None and is_drawing(event):
                restart = restarted_with(own, signal.SIGKILL)
    check_whole(told, stream.live)
    assert any(isinstance(event, events.Waiting) for event in told)
    assert restart is not None
    restart.join()


def test_generate_outlives_a_restart_too(own: Service) -> None:
    restart = threading.Timer(1.0, lambda: restarted_with(own, signal.SIGKILL).join())
    restart.start()
    with Client(own.url, patience_s=600) as client:
        job = client.generate(PROMPT, **LONG)
    assert len([image for image in job.every_image() if image.content]) == 3
    restart.join()


def test_the_partial_text_of_a_lost_worker_is_dropped(valkey: EmbeddedServer, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    soon_lost = {"lease_s": 2.0}
    with (
        running_service(f"{valkey.url}?db=4", tmp_path, worker={"fake_step_s": 0.03, **soon_lost}) as own,
        Client(own.url, patience_s=600) as client,
        client.stream("a cat edits=1 words=60", **SOON) as stream,
    ):
        victim = own.workers[0]
        for event in stream:
            if isinstance(event, events.ReflectDelta) and victim.is_running():
                victim.kill()
                own.start_worker(fake_step_s=0.001, **soon_lost)
            if isinstance(event, events.ReflectDelta | events.JobStarted) and stream.live.trajectories:
                seen.append((event.name, stream.live.trajectories[0].round(0).reflection.text))
    starts = [at for at, (name, _) in enumerate(seen) if name == "job.started"]
    assert starts, seen
    assert seen[starts[0] - 1][1] != ""
    assert seen[starts[0]][1] == ""
    last = stream.live.trajectories[0].rounds[0]
    assert last.reflected is not None
    assert last.reflection.text == last.reflected.text


# requests


@pytest.fixture
def alone(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[Service]:
    """An API without a worker, whose queue has room for one job."""
    with running_service(f"{valkey.url}?db=3", tmp_path, worker=None, queue_limit=1) as running:
        yield running


def instead_of_sleeping(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[float]:
    """Do something where the client would wait; how long it would have."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        act()

    monkeypatch.setattr("r3client.client.sleep", sleep)
    return waits


def test_a_busy_server_is_asked_again_when_it_says(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = WorkerQueue(alone.redis_url, "by-hand")
    with Client(alone.url, patience_s=40) as client:
        unknown = instead_of_sleeping(monkeypatch, lambda: queue.register(TINY.to_json()))
        first = client.submit("a cat")  # 503 model_unknown until then
        assert [wait >= 10 for wait in unknown] == [True]
        full = instead_of_sleeping(monkeypatch, lambda: client.cancel(first))
        second = client.submit("a cat")  # 429 queue_full until then
        assert [wait >= 1 for wait in full] == [True]
        assert second.id != first.id
    with Client(alone.url, patience_s=0) as hasty, pytest.raises(errors.QueueFull) as caught:
        hasty.submit("a cat")
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None
    queue.close()


class LosesAnswers(httpx.HTTPTransport):
    """The request arrives, its answer does not, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.lost: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if self.times > 0:
            self.times -= 1
            self.lost.append(request.url.path)
            answer.read()
            answer.close()
            raise httpx.ReadError("the connection was reset")
        return answer


def test_a_submission_whose_answer_is_lost_makes_one_job(service: Service) -> None:
    transport = LosesAnswers(2)
    with Client(service.url, transport=transport) as client:
        job = client.submit("a cat of which there is one", **SOON)
        assert transport.lost == ["/generate", "/generate"]
        same = [one.id for one in client.jobs(limit=100).jobs if one.prompt == job.prompt]
        assert same == [job.id]


def test_each_submission_is_a_job_of_its_own_unless_the_key_is_the_same(service: Service) -> None:
    with Client(service.url) as client:
        assert client.submit("a cat", **SOON).id != client.submit("a cat", **SOON).id
        keyed = client.submit("a cat", idempotency_key="one", **SOON)
        assert client.submit("a cat", idempotency_key="one", **SOON).id == keyed.id
        with pytest.raises(errors.IdempotencyMismatch):
            client.submit("a dog", idempotency_key="one", **SOON)


def test_what_may_have_been_done_and_cannot_be_repeated_is_not(service: Service) -> None:
    with Client(service.url) as client:
        job = client.generate("a cat", download="none", **SOON)
    transport = LosesAnswers(1)
    with Client(service.url, transport=transport) as client, pytest.raises(NoAnswer):
        client.share(job)
    assert len(transport.lost) == 1


def test_without_an_answer_the_client_gives_up_when_its_patience_ends() -> None:
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{free_port()}", patience_s=1) as client:
        with pytest.raises(NoAnswer, match="is the server running"):
            client.jobs()
        with pytest.raises(NoAnswer) as caught:
            list(client.follow("job_1", after=7))
    assert (caught.value.job_id, caught.value.last_event_id) == ("job_1", 7)
    assert time.monotonic() - began > 0.5


def test_a_stream_that_is_closed_leaves_its_job(service: Service) -> None:
    with Client(service.url) as client:
        stream: EventStream = client.stream("a cat", **SOON)
        next(stream)
        stream.close()
        assert list(stream) == []
        assert stream.live.job_id is not None
        list(client.follow(stream.live.job_id))
        assert client.job(stream.live.job_id).status == "succeeded"
