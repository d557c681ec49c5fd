"""Webhooks while the API runs: the loop goes on, tenants do not hold each other up, Redis dies, the process ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import redis

from server import hook_delivery, hook_sender
from server.embedded import EmbeddedServer
from server.hook_delivery import AT_ONCE, AT_ONCE_OF_ONE_TENANT, Deliveries
from server.images import ImageStore
from server.queue import Queue
from tests.server.delivering import cancelled, due, end, made, waiting
from tests.server.receiving import Receiver, receiving
from tests.server.waiting import until as waited_for

pytestmark = pytest.mark.row("W2")


@pytest.fixture
async def own_queue(own_server: EmbeddedServer) -> AsyncIterator[Queue]:
    """The API's queue over a server that the test may harm."""
    one = Queue(own_server.url)
    yield one
    await one.close()


async def test_one_tenants_slow_receivers_leave_room_for_others(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    quick_came = threading.Event()
    with receiving() as stuck:
        stuck.answers = [lambda _: quick_came.wait(20)] * AT_ONCE_OF_ONE_TENANT  # type: ignore[list-item]
        slow = [await cancelled(queue, stuck.url, "slow") for _ in range(AT_ONCE + 4)]
        quick = await cancelled(queue, receiver.url, "quick")
        db.zadd("{r3}:hooks", {**dict.fromkeys(slow, 1.0), quick: 2.0})
        task = asyncio.create_task(deliveries.run())
        await until(lambda: quick not in waiting(db))
        await until(lambda: len(stuck.received) == AT_ONCE_OF_ONE_TENANT)
        assert set(waiting(db)) == set(slow)
        quick_came.set()
        await end(task)
    assert all(db.hget(f"{{r3}}:job:{name}", "hook_tries") in (None, "0", "1") for name in slow)


@pytest.fixture
async def running(deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Task[None]]:
    """Deliveries as the API runs them."""
    monkeypatch.setattr(hook_delivery, "POLL_S", 0.02)
    monkeypatch.setattr(hook_delivery, "REST_S", 0.1)
    task = asyncio.create_task(deliveries.run())
    yield task
    await end(task)


async def until(condition: Callable[[], Any], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is another thread's
            await asyncio.sleep(0.01)


async def test_left_running_it_delivers_what_becomes_due(
    queue: Queue, running: asyncio.Task[None], receiver: Receiver, db: redis.Redis
) -> None:
    await cancelled(queue, receiver.url)
    await until(lambda: len(receiver.received) == 1 and not waiting(db))
    await cancelled(queue, receiver.url)
    await until(lambda: len(receiver.received) == 2 and not waiting(db))
    assert not running.done()


async def test_at_the_end_of_the_process_what_is_under_way_is_given_back(
    queue: Queue,
    running: asyncio.Task[None],
    deliveries: Deliveries,
    receiver: Receiver,
    db: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hook_delivery, "LEAVE_S", 0.05)
    receiver.answers = [lambda _: time.sleep(1)]
    sent = await cancelled(queue, receiver.url)
    await until(lambda: receiver.received)
    await end(running)
    [hook] = await queue.hooks.lease(1)
    assert (hook.job_id, hook.tries) == (sent, 0)
    assert not deliveries._under_way


async def test_what_was_taken_while_the_process_ends_is_never_sent_again_though_the_answer_goes_on(
    queue: Queue,
    running: asyncio.Task[None],
    receiver: Receiver,
    db: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hook_delivery, "LEAVE_S", 1.0)
    monkeypatch.setattr(hook_sender, "LAST_WORDS_S", 60.0)
    said, ended = threading.Event(), threading.Event()

    def never_done(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x")
        said.set()
        ended.wait(20)

    receiver.answers = [never_done]
    await cancelled(queue, receiver.url)
    await until(said.is_set)
    await end(running)
    ended.set()
    assert waiting(db) == []


async def test_a_fault_of_ours_ends_neither_the_loop_nor_the_webhook(
    queue: Queue, running: asyncio.Task[None], receiver: Receiver, db: redis.Redis
) -> None:
    broken = await cancelled(queue, receiver.url)
    db.hset(f"{{r3}}:job:{broken}", "webhook", '{"no": "url"}')
    await until(lambda: db.hget(f"{{r3}}:job:{broken}", "hook_tries") == "1")
    await cancelled(queue, receiver.url)
    await until(lambda: len(receiver.received) == 1 and waiting(db) == [broken])


async def test_what_was_taken_while_redis_died_is_never_sent_again(
    own_server: EmbeddedServer,
    own_queue: Queue,
    store: ImageStore,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hook_delivery, "POLL_S", 0.05)
    monkeypatch.setattr(hook_delivery, "REST_S", 0.2)
    deliveries = made(own_queue, store)

    def answer_and_lose_redis(handler: BaseHTTPRequestHandler) -> None:
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGKILL)
        waited_for(lambda: not own_server.is_running())
        handler.send_response(204)
        handler.end_headers()

    receiver.answers = [answer_and_lose_redis]
    sent = await cancelled(own_queue, receiver.url)
    task = asyncio.create_task(deliveries.run())
    await until(lambda: sent in deliveries._taken)
    await asyncio.to_thread(own_server.start)
    with redis.Redis.from_url(own_server.url, decode_responses=True) as db:
        due(db, sent)  # as if the lease had ended while Redis was away
        await until(lambda: waiting(db) == [])
    await cancelled(own_queue, receiver.url)
    await until(lambda: len(receiver.received) == 2)
    assert len({got.id for got in receiver.received}) == 2
    await end(task)
