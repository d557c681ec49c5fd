"""Keys and rate limits in Redis: kept hashed, on for ever from the first, counted where all processes see it."""

from __future__ import annotations

import asyncio

import pytest
import redis

from server.keys import NO_LIMITS, TenantLimits, digest_of
from server.queue import Queue, QueueUnavailable
from server.queue_keys import StoredKeys
from server.queue_records import ROOT
from server.rate_limits import REQUESTS
from tests.server.test_keys import made


def in_redis(db: redis.Redis) -> str:
    """All that is there, as text."""
    read = {"hash": db.hgetall, "string": db.get}
    return str([(name, read[str(db.type(name))](name)) for name in db.keys("*")])


async def test_before_the_first_key_nobody_is_asked_and_from_it_on_everyone_is(queue: Queue, db: redis.Redis) -> None:
    assert await queue.keys.read() == StoredKeys()
    first, second = made()[0], made()[0]
    assert [await queue.keys.create(key) for key in (first, first, second)] == ["first", "again", "created"]
    for key in (first, second):
        assert await queue.keys.revoke(key, 5) == "revoked"
    stored = await queue.keys.read()
    assert stored.is_on
    assert {key.revoked_ms for key in stored.keys.values()} == {5}
    assert not [name for name in db.keys("*") if db.ttl(name) != -1]


async def test_a_key_is_nowhere_in_redis_but_its_digest_is(queue: Queue, db: redis.Redis) -> None:
    key, secret = made()
    await queue.keys.create(key)
    assert secret.removeprefix(f"{key.id}_") not in in_redis(db)
    assert digest_of(secret) in in_redis(db)


async def test_what_has_not_changed_is_not_read_again(queue: Queue, db: redis.Redis) -> None:
    key, _ = made()
    await queue.keys.create(key)
    known = await queue.keys.read()
    assert await queue.keys.read(known) is known
    await queue.keys.revoke(key, 5)
    after = await queue.keys.read(known)
    assert after.keys[key.id].revoked_ms == 5
    await queue.keys.limit_tenant("t", TenantLimits(queued=3))
    assert (await queue.keys.read(after)).tenants == {"t": TenantLimits(queued=3)}
    await queue.keys.limit_tenant("t", None)
    last = await queue.keys.read(after)
    assert last.tenants.get("t", NO_LIMITS) == NO_LIMITS
    db.flushall()
    assert await queue.keys.read(last) == StoredKeys()


async def test_only_a_key_that_is_there_can_be_revoked(queue: Queue) -> None:
    key, _ = made()
    assert await queue.keys.revoke(key, 5) == "not_found"
    assert not (await queue.keys.read()).keys


async def test_a_record_that_cannot_be_read_lets_nobody_in(queue: Queue, db: redis.Redis) -> None:
    key, _ = made()
    await queue.keys.create(key)
    db.hset(f"{ROOT}keys", "r3_newer", '{"what": 1}')
    db.hset(f"{ROOT}tenants", "t", '{"what": 1}')
    stored = await queue.keys.read()
    assert (stored.is_on, list(stored.keys), stored.tenants) == (True, [key.id], {})


async def test_the_secret_of_links_is_made_once_whoever_asks_first(queue: Queue) -> None:
    secrets = set(await asyncio.gather(*(queue.keys.token_secret() for _ in range(20))))
    assert len(secrets) == 1
    assert len(secrets.pop()) == 64
    await queue.keys.create(made()[0])
    assert (await queue.keys.read()).secret == await queue.keys.token_secret()


async def test_at_the_memory_limit_a_key_can_still_be_revoked_and_requests_are_still_counted(
    queue: Queue, db: redis.Redis
) -> None:
    key, _ = made()
    await queue.keys.create(key)
    db.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable, match="memory limit"):
        await queue.keys.create(made()[0])
    assert await queue.keys.revoke(key, 5) == "revoked"
    assert (await queue.keys.admit(REQUESTS, "key:a", 1))[0]
    assert (await queue.keys.read()).keys[key.id].revoked_ms == 5


async def test_a_bucket_gives_a_minutes_worth_at_once_and_then_fills_evenly(queue: Queue, db: redis.Redis) -> None:
    answers = [await queue.keys.admit(REQUESTS, "key:a", 6) for _ in range(7)]
    assert [admitted for admitted, _ in answers] == [True] * 6 + [False]
    assert [limit.remaining for _, limit in answers] == [5, 4, 3, 2, 1, 0, 0]
    assert all(1 <= (limit.reset_s or 0) <= 10 for _, limit in answers)
    assert (await queue.keys.admit(REQUESTS, "key:b", 6))[0], "another's bucket is another"
    passed(db, "key:a", 21)  # a token in ten seconds
    assert [(await queue.keys.admit(REQUESTS, "key:a", 6))[0] for _ in range(3)] == [True, True, False]


async def test_a_bucket_never_holds_more_than_a_minutes_worth_and_is_forgotten_when_full(
    queue: Queue, db: redis.Redis
) -> None:
    await queue.keys.admit(REQUESTS, "key:a", 2)
    assert 0 < db.pttl(f"{ROOT}bucket:key:a") <= 60_000
    passed(db, "key:a", 3600)
    assert [(await queue.keys.admit(REQUESTS, "key:a", 2))[0] for _ in range(3)] == [True, True, False]
    passed(db, "key:a", -3600)  # a clock that was set back gives nothing and takes nothing
    assert not (await queue.keys.admit(REQUESTS, "key:a", 2))[0]


async def test_the_slowest_bucket_has_another_within_a_minute(queue: Queue) -> None:
    await queue.keys.admit(REQUESTS, "key:a", 1)
    admitted, limit = await queue.keys.admit(REQUESTS, "key:a", 1)
    assert not admitted
    assert 55 <= (limit.reset_s or 0) <= 60


def passed(db: redis.Redis, bucket: str, seconds: float) -> None:
    """So much time has gone by since the bucket was last looked at."""
    db.hincrby(f"{ROOT}bucket:{bucket}", "at", -int(seconds * 1_000_000))
