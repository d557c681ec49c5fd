"""GET /jobs/{id}/events: replay, follow, resume, and how a stream ends. What holds of every stream is in events.py."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from server.embedded import EmbeddedServer
from server.hub import Follower, Message
from server.queue import Event
from server.queue_records import ROOT
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import TINY, Hand, HandWorker
from tests.server.api.events import Sse, check_whole, events_of, names, parsed
from tests.server.api.running import RunningApi, running_api
from tests.server.promises import promised
from tests.server.waiting import until


@contextmanager
def following(api: RunningApi, job_id: str, **headers: str) -> Iterator[Iterator[Sse]]:
    """The events of a job as they come."""
    with api.client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        yield parsed(answer.iter_lines())


def followed(api: RunningApi, job_id: str, after: int | None = None) -> list[Sse]:
    """All events of a job whose end is near."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with httpx.Client(base_url=api.url, timeout=30) as client:
        return events_of(client.get(f"/jobs/{job_id}/events", headers=headers))


def test_a_finished_job_is_replayed_from_the_start(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    worker.takes().whole_run()
    events = followed(api, job["id"])
    check_whole(events)
    assert events[-1].data["job"] == api.job(job["id"])


def test_followers_see_what_comes_as_it_comes(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    with following(api, job["id"]) as events:
        first = next(events)
        assert (first.name, first.data["position"], first.id) == ("job.queued", 1, 1)
        hand = worker.takes()
        assert next(events).name == "job.started"
        hand.reasons()
        assert [next(events).name, next(events).name] == ["reason.delta", "reason.done"]
        hand.shows("image.progress", round=0, step=1, steps=49)
        live = next(events)
        assert (live.name, live.id, live.data["step"]) == ("image.progress", None, 1)
        hand.draws()
        assert next(events).name == "image"
        hand.ends("max_rounds")
        assert [event.name for event in events] == ["trajectory.done", "job.succeeded"]


def test_many_followers_at_any_moment_see_the_same(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    with ThreadPoolExecutor(24) as pool:
        hand = worker.takes()
        acts: list[Callable[[], object]] = [
            hand.reasons,
            hand.draws,
            lambda: hand.reflects("<think>x</think> Add."),
            hand.draws,
            lambda: hand.ends("max_rounds"),
        ]
        asked = []
        for act in acts:
            asked += [pool.submit(followed, api, job["id"]) for _ in range(4)]
            act()
        streams = [one.result(20) for one in asked]
    for events in streams:
        check_whole(events)
    assert len({tuple((e.id, e.name, json.dumps(e.data)) for e in events if e.id) for events in streams}) == 1


@pytest.mark.parametrize("by", ["header", "query", "both"])
def test_a_resume_begins_just_after_the_last_event_seen(api: RunningApi, worker: HandWorker, by: str) -> None:
    job = api.submit()
    worker.takes().whole_run()
    whole = followed(api, job["id"])
    for event in whole[:-1]:
        headers = {} if by == "query" else {"Last-Event-ID": str(event.id)}
        query = "" if by == "header" else f"?after={event.id if by == 'query' else 0}"
        rest = events_of(api.client.get(f"/jobs/{job['id']}/events{query}", headers=headers))
        assert event.id is not None
        check_whole(rest, after=event.id)
        assert [e.id for e in rest] == [e.id for e in whole if e.id is not None and e.id > event.id]


def test_a_reconnect_that_finds_nothing_left_is_told_so(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    worker.takes().whole_run()
    last = followed(api, job["id"])[-1].id
    answer = api.client.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": str(last)})
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.client.get(f"/jobs/{job['id']}/events?after=99999").status_code == 204


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 30])
def test_a_number_that_is_none_is_refused(api: RunningApi, number: str) -> None:
    job = api.submit()
    assert api.client.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": number}).status_code == 422
    assert api.client.get(f"/jobs/{job['id']}/events", params={"after": number}).status_code == 422


def test_a_log_that_is_gone_is_the_job_as_it_stands_and_its_end(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    for act, last in (
        (Hand.whole_run, "job.succeeded"),
        (lambda hand: hand.fails("step_failed"), "job.failed"),
        (Hand.is_cancelled, "job.cancelled"),
    ):
        job = api.submit()
        act(worker.takes())
        end = followed(api, job["id"])[-1]
        database.delete(f"{ROOT}ev:{job['id']}")
        for after in (None, 1):
            reset, terminal = followed(api, job["id"], after)
            assert (reset.name, terminal.name) == ("stream.reset", last)
            assert (terminal.id, reset.id) == (end.id, (end.id or 0) - 1)
            assert {k: v for k, v in terminal.data.items() if k != "at"} == {
                k: v for k, v in end.data.items() if k != "at"
            }
            assert reset.data["job"] == api.job(job["id"])


def test_where_the_log_was_trimmed_a_resume_begins_with_the_job_as_it_stands(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    job = api.submit()
    hand = worker.takes()
    hand.reasons()
    hand.draws()
    database.xtrim(f"{ROOT}ev:{job['id']}", maxlen=1, approximate=False)
    with following(api, job["id"], **{"Last-Event-ID": "1"}) as events:
        reset = next(events)
        assert (reset.name, reset.id) == ("stream.reset", 5)
        assert len(reset.data["job"]["trajectories"][0]["rounds"]) == 1
        hand.ends("max_rounds")
        rest = list(events)
    assert [(event.id, event.name) for event in rest] == [(6, "trajectory.done"), (7, "job.succeeded")]


def test_a_number_of_another_life_of_the_queue_begins_with_the_job_as_it_stands(
    api: RunningApi, worker: HandWorker
) -> None:
    job = api.submit()
    with following(api, job["id"], **{"Last-Event-ID": "40"}) as events:
        assert (reset := next(events)).name == "stream.reset"
        assert reset.id == 1
        worker.takes().whole_run()
        numbers = [event.id for event in events if event.id is not None]  # its place in the queue may be told between
        assert numbers[:2] == [2, 3]


def test_a_follower_whose_job_was_deleted_while_the_feed_was_away_is_told_so(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    job = api.submit()
    with following(api, job["id"]) as events:
        assert next(events).name == "job.queued"
        database.delete(f"{ROOT}ev:{job['id']}", f"{ROOT}job:{job['id']}")
        database.client_kill_filter(_type="pubsub")
        [end] = list(events)
    assert (end.name, end.data["reason"]) == ("stream.closing", "job_deleted")


def test_a_follower_whose_log_went_while_the_feed_was_away_gets_the_job_as_it_stands(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    job = api.submit()
    with following(api, job["id"]) as events:
        assert next(events).name == "job.queued"
        database.hincrby(f"{ROOT}job:{job['id']}", "last_event", 2)  # which the log does not have
        database.client_kill_filter(_type="pubsub")
        reset = next(events)
        assert (reset.name, reset.id) == ("stream.reset", 3)
        worker.takes()
        assert next(events).id == 4


def test_a_waiting_job_tells_its_place_while_it_changes(api: RunningApi, worker: HandWorker) -> None:
    jobs = [api.submit() for _ in range(3)]
    with following(api, jobs[2]["id"]) as events:
        assert next(events).data["position"] == 3
        assert api.client.post(f"/jobs/{jobs[0]['id']}/cancel").status_code == 202
        moved = next(events)
        assert (moved.name, moved.id, moved.data["position"]) == ("job.queued", None, 2)
        api.client.post(f"/jobs/{jobs[1]['id']}/cancel")
        assert next(events).data["position"] == 1
        api.client.post(f"/jobs/{jobs[2]['id']}/cancel")
        assert [event.name for event in events] == ["job.cancelled"]


def test_who_resumes_while_the_job_waits_is_told_its_place(api: RunningApi) -> None:
    api.submit()
    job = api.submit()
    with following(api, job["id"], **{"Last-Event-ID": "1"}) as events:
        told = next(events)
    assert (told.name, told.id, told.data["position"]) == ("job.queued", None, 2)


def test_a_silent_stream_has_heartbeats_of_one_newline(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    worker.takes()
    raw = b""
    with api.client.stream("GET", f"/jobs/{job['id']}/events?after=2") as answer:
        for chunk in answer.iter_raw():
            raw += chunk
            if raw.count(b": hb\n") >= 3:
                break
    assert raw.replace(b": hb\n", b"") == b""


def test_the_first_byte_leaves_at_once(valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any) -> None:
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path, heartbeat_s=60) as api:  # so that it is none of those
        worker = HandWorker(worker_queue, api.app.state.service.images)
        job = api.submit()
        worker.takes()  # nobody is told of its place in the queue any more, either
        for path in (f"/jobs/{job['id']}/events", f"/jobs/{job['id']}/events?after=2"):
            with promised(0.2), api.client.stream("GET", path, timeout=10) as answer:
                next(answer.iter_raw())


def test_no_text_breaks_a_stream_apart(api: RunningApi, worker: HandWorker) -> None:
    text = "a\r\nb\nc\rd\x85e\u2028f\u2029g\x0b\x0c\x1c\x1d\x1e\0h\ud800: {}"
    job = api.submit()
    hand = worker.takes()
    hand.reasons(text)
    hand.draws()
    hand.ends("max_rounds")
    events = followed(api, job["id"])
    check_whole(events)
    assert next(event for event in events if event.name == "reason.done").data["text"] == text


def test_progress_that_comes_after_its_picture_is_left_out(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    hand = worker.takes()
    with following(api, job["id"]) as events:
        hand.draws()
        hand.shows("image.progress", round=0, step=48, steps=49)
        hand.shows("image.progress", round=1, step=1, steps=49)
        hand.ends("max_rounds")
        assert names(events) == [
            "job.queued",
            "job.started",
            "image",
            "image.progress",
            "trajectory.done",
            "job.succeeded",
        ]


def test_after_a_lost_worker_the_stream_goes_on(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    hand = worker.takes()
    hand.reasons()
    hand.draws()
    assert hand.queue.release(hand.lease.id, hand.lease.token) == "ok"
    with following(api, job["id"]) as events:
        again = worker.takes()
        again.ends("max_rounds")
        seen = list(events)
    check_whole(seen)
    started = [event.data for event in seen if event.name == "job.started"]
    assert [(event["attempt"], event["resumed_from_round"]) for event in started] == [(1, None), (2, [0])]


def test_the_end_of_the_process_closes_streams_and_answers_who_waits(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any
) -> None:
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path) as api, ThreadPoolExecutor() as pool:
        job = api.submit()
        stream = pool.submit(httpx.get, f"{api.url}/jobs/{job['id']}/events", timeout=20)
        waiting = pool.submit(httpx.post, f"{api.url}/generate", json={"prompt": "a cat"}, timeout=20)
        until(lambda: "r3_sse_streams 1.0" in api.client.get("/metrics").text)
        until(lambda: len(api.client.get("/jobs").json()["jobs"]) == 2)
        api.stop()
        events = list(parsed(stream.result(10).text.splitlines()))
        assert names(events) == ["job.queued", "stream.closing"]
        assert (events[-1].id, events[-1].data["reason"]) == (None, "shutdown")
        assert events[-1].data["retry_ms"] > 0
        answer = waiting.result(10)
        assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{answer.json()['id']}")


def test_a_client_that_does_not_read_is_cut_off_and_can_resume(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.hub.STUCK_S", 1.0)
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path, stream_buffer_events=16) as api:
        worker = HandWorker(worker_queue, api.app.state.service.images)
        job = api.submit()
        hand = worker.takes()
        with socket.create_connection(("127.0.0.1", api.port)) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.sendall(f"GET /jobs/{job['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: "r3_sse_streams 1.0" in api.client.get("/metrics").text)
            deadline = time.monotonic() + 30
            while 'r3_sse_streams_closed_total{reason="stuck_client"}' not in (text := api.client.get("/metrics").text):
                hand.says("reason.delta", text="word " * 20_000)
                assert time.monotonic() < deadline
            until(lambda: "r3_sse_streams 0.0" in api.client.get("/metrics").text)
            assert text
        hand.draws()
        hand.ends("max_rounds")
        check_whole(followed(api, job["id"]))


number = st.integers(1, 1000)


@given(st.lists(st.booleans(), max_size=60))
@example([True] * 16 + [False])
@example([False] + [True] * 16)
@example([True] * 17)
def test_a_full_buffer_loses_live_events_first_and_then_the_client(kinds: list[bool]) -> None:
    """True is a numbered event; nobody reads."""
    follower = Follower("job", "model", limit=16)
    dropped = 0
    for i, numbered in enumerate(kinds):
        dropped += follower.put(Message(i if numbered else None, Event("x", {}), b""))
    assert len(follower.buffer) <= 16
    assert follower.closing == ("slow_client" if sum(kinds) > 16 else None)
    if follower.closing is None:
        kept = [message.number for message in follower.buffer]
        assert [n for n in kept if n is not None] == [i for i, numbered in enumerate(kinds) if numbered]
        assert dropped + len(kept) == len(kinds)


def test_a_slow_client_is_told_why_its_stream_ends(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Any
) -> None:
    """The client reads nothing until its buffer has overflowed, then everything."""
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path, stream_buffer_events=16) as api:
        worker = HandWorker(worker_queue, api.app.state.service.images)
        job = api.submit()
        hand = worker.takes()
        with following(api, job["id"]) as events:
            assert [next(events).id, next(events).id] == [1, 2]
            writer = threading.Thread(target=_flood, args=(hand, lambda: _has_overflowed(api)))
            writer.start()
            writer.join()
            rest = list(events)
        assert rest[-1].name == "stream.closing"
        assert rest[-1].data["reason"] == "slow_client"
        numbers = [event.id for event in rest if event.id is not None]
        assert numbers == list(range(3, 3 + len(numbers)))
        hand.ends("max_rounds")
        check_whole(followed(api, job["id"], after=numbers[-1]), after=numbers[-1])


def _has_overflowed(api: RunningApi) -> bool:
    followers = api.app.state.service.hub._all()
    return any(follower.closing == "slow_client" for follower in followers)


def _flood(hand: Hand, enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not enough():
        hand.says("reason.delta", text="word " * 20_000)
        assert time.monotonic() < deadline
