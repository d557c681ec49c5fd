"""The queue as a worker sees it: leases, fenced writes, heartbeats and the control feed. Blocking calls, for threads.

Keys and fields are described in `server/queue.py`; the scripts are the same. What a worker writes for a job carries the
lease's token and a call number that rises by one: a call repeated after a lost answer changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Event as Flag
from time import monotonic
from typing import Any, Final, Literal, NamedTuple, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from r3core.versions import STORED_VERSION
from server.queue_errors import QueueUnavailable
from server.queue_records import ROOT, Checkpoint, Json, Lease, QueuePolicy, dumps, json_or_none
from server.queue_scripts import backoff_s, is_of_replica, refuse_old_server, script, translated
from server.queue_wire import checkpoint_args, event_args, lease_from_answer, live_payload

SOCKET_TIMEOUT_S: Final = 5.0
BLOCK_S: Final = 2.0
FOR_EVER: Final = float("inf")

Written = Literal["ok", "lost"]
Renewed = Literal["ok", "cancel", "stop", "lost"]


class Control(NamedTuple):
    """A word of the control feed: `wake` with a model's name, `cancel` or `stop` with a job's id."""

    word: Literal["wake", "cancel", "stop"]
    name: str


class WorkerQueue:
    """The queue for one worker. Safe to use from several threads, but one job's writes must come from one of them.

    Fenced writes are repeated for as long as Redis is away, until `close`; the rest is tried once. What cannot be done
    raises QueueUnavailable.
    """

    def __init__(self, url: str, worker_id: str, policy: QueuePolicy | None = None) -> None:
        self.worker_id = worker_id
        self._policy_arg = (policy or QueuePolicy()).to_arg()
        plain: dict[str, Any] = {
            "decode_responses": True,
            "protocol": 2,
            "socket_connect_timeout": 2.0,
            "retry": Retry(NoBackoff(), 0),  # ours repeats, and repeats idempotent scripts only
        }
        self._redis = redis.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S, **plain)
        self._feed = redis.Redis.from_url(url, socket_timeout=None, **plain)
        self._closing = Flag()
        self._demotions = 0  # how often a replica answered; the feed is then made anew
        self._lease_call = 1
        self.left_to_newer: tuple[str, ...] = ()
        """The waiting jobs that the last `lease` passed over, because only a newer build can read what is stored."""
        self._calls: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Ends all waiting for Redis, and all connections."""
        self._closing.set()
        self._redis.close()
        self._feed.close()

    def ping(self) -> None:
        """Asks whether Redis answers; raises ServerTooOld before 7.0."""
        refuse_old_server(self._do(lambda: self._redis.info("server"), 0))

    def image(self, image_id: str, patience_s: float = 5.0) -> Json | None:
        """The record of an image, None where there is none; tried for `patience_s`."""
        record = self._do(lambda: self._redis.get(f"{ROOT}img:{image_id}"), patience_s)
        return cast(Json | None, json_or_none(record))

    # the worker itself

    def register(self, description: Json) -> None:
        """Keeps the description of the model that was loaded, by its `name`, without expiry."""
        self._run("register", description["name"], dumps(description))

    def heartbeat(self, info: Json) -> None:
        """Says that this worker lives, and what it is."""
        self._run("heartbeat", self.worker_id, dumps(info))

    def farewell(self) -> None:
        """Says that this worker leaves."""
        self._run("farewell", self.worker_id)

    # leases

    def lease(self, model: str, room: int, holding: int) -> list[Lease]:
        """Jobs of the model for as many trajectories as there is `room`; `holding` is how many jobs are held already.

        The queue's head is given whatever its size to a worker that holds nothing. After QueueUnavailable the next call
        repeats this one, so that jobs leased in an answer that was lost are not lost.
        """
        rows, newer = self._run("lease", model, self.worker_id, self._lease_call, room, holding, STORED_VERSION)
        self._lease_call += 1
        self.left_to_newer = tuple(newer)
        return [lease_from_answer(row) for row in rows]

    def renew(self, leases: Sequence[tuple[str, int]]) -> dict[str, Renewed]:
        """Renews leases, given as (id, token), and says how each stands: a job that is `lost` is dropped at once."""
        if not leases:
            return {}
        answers = self._run("renew", *(part for lease in leases for part in lease))
        return {job_id: answer for (job_id, _), answer in zip(leases, answers, strict=True)}

    def release(self, job_id: str, token: int, *, forgive: bool = True, patience_s: float = 5.0) -> Written:
        """Gives a job back at its old place, to be started again by another worker; tried for `patience_s`.

        With `forgive` the strike that this lease cost is taken back; a worker that is failing does not forgive.
        """
        return cast(Written, self._run("release", job_id, token, int(forgive), patience_s=patience_s))

    def forget(self, job_id: str, token: int) -> None:
        """Drops what is remembered of a lease under which nothing more will be written."""
        self._calls.pop((job_id, token), None)

    # what comes of a job

    def publish(self, job_id: str, token: int, events: Sequence[tuple[str, Json]]) -> Written:
        """Appends events between checkpoints."""
        return self._write("publish", job_id, token, event_args(events))

    def checkpoint(self, job_id: str, token: int, checkpoint: Checkpoint) -> Written:
        """Stores what was finished, announces it and, with an ending, ends the job. Raises OutOfOrder."""
        return self._write("checkpoint", job_id, token, checkpoint_args(checkpoint))

    def live(self, job_id: str, token: int, event: tuple[str, Json]) -> None:
        """Announces an event that is not logged, if Redis is there and the lease is still held."""
        with suppress(QueueUnavailable):
            self._run("live", job_id, token, live_payload(job_id, event))

    def preview(self, job_id: str, token: int, image: tuple[str, Mapping[str, Any]], event: tuple[str, Json]) -> None:
        """Keeps a preview's record for as long as the job's events and announces it, if Redis is there."""
        image_id, record = image
        with suppress(QueueUnavailable):
            self._run("preview", job_id, token, image_id, dumps(dict(record)), live_payload(job_id, event))

    def control(self) -> Iterator[Control]:
        """What is said to workers, until `close`.

        Each connect gives one `wake`, for what came while Redis was away; of cancels and stops `renew` tells.
        """
        delays = backoff_s()
        while not self._closing.is_set():
            demotions = self._demotions
            feed: Any = self._feed.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            try:
                feed.subscribe(f"{ROOT}ctl", f"{ROOT}wake")
                yield Control("wake", "")
                for channel, text in self._messages(feed, demotions):
                    delays = backoff_s()
                    yield _control(channel, text)
            except (RedisError, OSError, ValueError) as error:  # a closed pool raises ValueError
                if not self._closing.is_set() and translated(error) is None:
                    raise
            finally:
                with suppress(RedisError, OSError):
                    feed.close()
            self._closing.wait(next(delays))

    # the wire

    def _messages(self, feed: Any, demotions: int) -> Iterable[tuple[str, str]]:
        while not self._closing.is_set() and self._demotions == demotions:
            message = feed.get_message(timeout=BLOCK_S)
            if message is not None:
                yield message["channel"], message["data"]

    def _write(self, name: str, job_id: str, token: int, args: Sequence[str | float]) -> Written:
        number = self._calls.get((job_id, token), 0) + 1
        self._calls[job_id, token] = number
        answer = self._run(name, job_id, token, number, *args, patience_s=FOR_EVER)
        return cast(Written, answer)

    def _run(self, name: str, *args: str | float, patience_s: float = 0) -> Any:
        return self._do(lambda: self._eval(name, args), patience_s)

    def _eval(self, name: str, args: tuple[str | float, ...]) -> Any:
        asked = script(name)
        all_args = (ROOT, self._policy_arg, *args)
        try:
            return self._redis.evalsha(asked.sha, 1, *all_args)
        except NoScriptError:
            return self._redis.eval(asked.text, 1, *all_args)

    def _do(self, ask: Callable[[], Any], patience_s: float) -> Any:
        """Asks, and asks again with back-off while Redis is away and patience lasts."""
        until = monotonic() + patience_s
        for delay in backoff_s():
            try:
                return ask()
            except (RedisError, OSError) as error:
                said = translated(error)
                if said is None:
                    raise
                if is_of_replica(error):
                    self._demotions += 1
                    self._redis.connection_pool.disconnect(inuse_connections=False)
                if not isinstance(said, QueueUnavailable) or monotonic() + delay > until or self._closing.wait(delay):
                    raise said from error
        raise AssertionError("unreachable")


def _control(channel: str, text: str) -> Control:
    if channel == f"{ROOT}wake":
        return Control("wake", text)
    word, _, job_id = text.partition(" ")
    return Control("cancel" if word == "cancel" else "stop", job_id)
