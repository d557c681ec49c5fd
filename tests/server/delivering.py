"""Webhooks for tests: put down, made due, and delivered by the API's own loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import redis

from server.authority import Authority
from server.hook_delivery import Deliveries
from server.hook_rules import Allowed
from server.hook_sender import Sender, tls_context
from server.images import ImageStore
from server.metrics import Metrics
from server.present import Presenter
from server.queue import Queue
from server.settings import Settings
from tests.server.jobs import submitted

TLS = tls_context()


def made(
    queue: Queue, store: ImageStore, sender: Sender | None = None, authority: Authority | None = None
) -> Deliveries:
    """The deliveries of a process that may send to this machine; no key is asked for unless `authority` does."""
    one = sender or Sender(Allowed.parse(["127.0.0.1", "hooks.example.com"]), TLS)
    return Deliveries(
        queue, Presenter(queue, store, authority or Authority(Settings(auth="none"))), one, Metrics("test")
    )


async def turn(deliveries: Deliveries) -> None:
    """Everything that is due is tried once."""
    while await deliveries.begin():
        pass
    await deliveries.finish()


async def end(running: asyncio.Task[None]) -> None:
    """The process's end: its background work is cancelled."""
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def cancelled(queue: Queue, url: str = "https://example.org/hook", tenant: str = "local") -> str:
    """A job that has ended, with a webhook to that URL."""
    sent = await submitted(queue, tenant, webhook={"url": url, "events": None})
    await queue.cancel(sent)
    return sent


def due(db: redis.Redis, *job_ids: str) -> None:
    """These webhooks are due, as of now: what a test need not wait for."""
    db.zadd("{r3}:hooks", dict.fromkeys(job_ids, 1.0), xx=True)


def waiting(db: redis.Redis) -> list[str]:
    """The jobs whose webhook is not delivered."""
    return [str(name) for name in db.zrange("{r3}:hooks", 0, -1)]
