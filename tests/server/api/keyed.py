"""An API that asks for keys, over a database of its own, and those who hold keys to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import redis

from server.images import ImageStore
from server.keys import Key, Scope, TenantLimits, digest_of, id_of, new_secret
from server.queue import Queue
from server.queue_records import ROOT
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import HandWorker
from tests.server.api.running import RunningApi, running_api
from tests.server.waiting import until

_databases = count()
_WHO_MAY_COME_IN = {f"{ROOT}{name}" for name in ("auth", "keys", "tenants", "token_secret", "models")}


@dataclass(frozen=True)
class Holder:
    """Someone with a key; `client` sends it."""

    key: Key
    secret: str
    client: httpx.Client

    def submit(self, **body: Any) -> dict[str, Any]:
        """A job that was taken, as it was answered."""
        answer = self.client.post("/generate", json={"prompt": "a cat", **body}, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job


@dataclass
class KeyedApi:
    """The API, its database, a worker by hand, and a client without a key (`stranger`)."""

    api: RunningApi
    url: str
    db: redis.Redis
    worker: HandWorker
    stranger: httpx.Client
    clients: list[httpx.Client] = field(default_factory=list)

    def holder(self, tenant: str, *scopes: Scope, **fields: Any) -> Holder:
        """Someone with a new key, which the API knows."""
        key, secret = new_key(self.url, tenant, scopes or ("generate",), **fields)
        client = httpx.Client(base_url=self.api.url, timeout=30, headers={"Authorization": f"Bearer {secret}"})
        self.clients.append(client)
        until(lambda: client.get("/nothing").status_code != 401)
        return Holder(key, secret, client)

    def limit(self, tenant: str, limits: TenantLimits) -> None:
        """Set what a tenant may have, and wait until the API knows it."""
        _with_queue(self.url, lambda queue: queue.keys.limit_tenant(tenant, limits))
        time.sleep(2.5)  # two looks at the keys: nothing tells from outside

    def forget_jobs(self) -> None:
        """Empty the database of all but keys."""
        for name in self.db.keys("*"):
            if name not in _WHO_MAY_COME_IN:
                self.db.delete(name)


@contextmanager
def keyed_api(server_url: str, data_dir: Path, **settings: Any) -> Iterator[KeyedApi]:
    """Serve for as long as the block lasts; `auth` is `keys` unless told."""
    url = f"{server_url}?db={1 + next(_databases) % 15}"  # 16 come with a server; the first is everyone's
    with redis.Redis.from_url(url, decode_responses=True, protocol=2) as db:
        db.flushdb()
        work = WorkerQueue(url, "worker-by-hand")
        with (
            running_api(url, data_dir, **{"auth": "keys", **settings}) as api,
            httpx.Client(base_url=api.url) as client,
        ):
            worker = HandWorker(work, ImageStore(api.settings.image_store_url))
            keyed = KeyedApi(api, url, db, worker, client)
            yield keyed
            for one in keyed.clients:
                one.close()
        work.close()


def new_key(url: str, tenant: str, scopes: Sequence[Scope] = ("generate",), **fields: Any) -> tuple[Key, str]:
    """A key that the database knows."""
    secret = new_secret()
    key_id = id_of(secret)
    assert key_id is not None
    key = Key(key_id, tenant, tenant, tuple(scopes), digest_of(secret), **fields)
    _with_queue(url, lambda queue: queue.keys.create(key))
    return key, secret


def revoke(url: str, key: Key) -> None:
    """Make a key no longer good."""
    _with_queue(url, lambda queue: queue.keys.revoke(key, int(time.time() * 1000)))


def _with_queue(url: str, what: Any) -> None:
    async def asked() -> None:
        queue = Queue(url)
        await what(queue)
        await queue.close()

    asyncio.run(asked())
