"""The API's connections to Redis: few, without retries of the client, and with ours, which repeat whole scripts.

Who finds all connections in use waits for its turn: a thousand clients that come back at once make this process busy,
not Redis absent. Where Redis is absent, whoever waits is told so with the first that has found it out; where it is only
slow, and has answered others meanwhile, nobody else is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.queue_errors import QueueUnavailable
from server.queue_records import ROOT, QueuePolicy
from server.queue_scripts import backoff_s, is_of_replica, script, translated

ANSWER_WITHIN_S: Final = 1.8  # of trying, so that a 503 leaves within two seconds
# Of one attempt: as long as leaves time for another over a new connection, for one of the pool may be dead. With a
# shorter one a slow Redis would be asked everything twice, and be called absent.
ATTEMPT_S: Final = 1.2
CONNECTIONS: Final = 32
TURN_WITHIN_S: Final = 15.0


class Link:
    """`redis` for commands, `feed` for one subscription that may be silent for long."""

    def __init__(self, url: str, policy: QueuePolicy) -> None:
        plain: dict[str, Any] = {
            "decode_responses": True,
            "protocol": 2,
            "socket_connect_timeout": 0.8,
            "retry": Retry(NoBackoff(), 0),
        }
        self._policy_arg = policy.to_arg()
        pool = aioredis.BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=1, socket_timeout=ATTEMPT_S, **plain
        )
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._away: tuple[float, QueueUnavailable] | None = None
        self._answered_at = float("-inf")
        self.demotions = 0
        """How often a replica answered; where it has risen, a subscription is to be made anew."""
        self.redis = aioredis.Redis.from_pool(pool)
        self.feed = aioredis.Redis.from_url(url, socket_timeout=None, **plain)

    async def close(self) -> None:
        """Closes all connections."""
        await self.redis.aclose()
        await self.feed.aclose()

    async def run(self, name: str, *args: str | float) -> Any:
        """The answer of a script, which must be one that can be repeated. Raises QueueUnavailable."""
        return await self.do(lambda: self._eval(name, args))

    async def _eval(self, name: str, args: tuple[str | float, ...]) -> Any:
        asked = script(name)
        all_args = (ROOT, self._policy_arg, *args)
        try:
            return await self.redis.evalsha(asked.sha, 1, *all_args)
        except NoScriptError:
            return await self.redis.eval(asked.text, 1, *all_args)

    async def do(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Asks when it is its turn, and asks again with back-off while Redis is away. Raises QueueUnavailable."""
        came_at = monotonic()
        try:
            async with asyncio.timeout(TURN_WITHIN_S):
                await self._places.acquire()
        except TimeoutError:
            raise QueueUnavailable(f"more was asked of the queue than it answers in {TURN_WITHIN_S:g} s") from None
        try:
            if self._away is not None and self._away[0] > came_at:
                raise _once_more(self._away[1])
            answer = await self._asked(ask)
        finally:
            self._places.release()
        self._away, self._answered_at = None, monotonic()
        return answer

    async def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        began, cancelled_before = monotonic(), _cancellations()
        until = began + ANSWER_WITHIN_S
        for delay in backoff_s():
            try:
                async with asyncio.timeout(until - monotonic()):
                    answer = await ask()
                    _heed_cancellation(cancelled_before)
                    return answer
            except (RedisError, OSError) as error:  # asyncio's TimeoutError is an OSError
                _heed_cancellation(cancelled_before)
                if (said := translated(error)) is None:
                    raise
                if is_of_replica(error):
                    self.demotions += 1
                    # Those in use find it out for themselves.
                    await self.redis.connection_pool.disconnect(inuse_connections=False)
                if not isinstance(said, QueueUnavailable) or monotonic() + delay >= until:
                    is_silent = isinstance(error, OSError | RedisConnectionError | RedisTimeoutError)
                    if is_silent and isinstance(said, QueueUnavailable) and self._answered_at < began:
                        self._away = (monotonic(), _once_more(said))
                    raise said from error
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")


def _once_more(said: QueueUnavailable) -> QueueUnavailable:
    return QueueUnavailable(said.public, said.retry_after_s, said.reason)


def _cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def _heed_cancellation(before: int) -> None:
    """Raises CancelledError where the task was cancelled since and was not told.

    redis-py writes within `asyncio.wait_for`, and Python 3.11's loses a cancellation that comes as the write ends: a
    loop that asks Redis again and again would go on for ever.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError
