"""Jobs and events in Redis, as the API sees them. Every key, once:

    {r3}:wait:<model>     sorted set of waiting jobs by virtual finish time: weighted fair queueing, lowest first
    {r3}:lease:<model>    sorted set of leased jobs by deadline, ms: a dead worker's are taken when theirs has passed
    {r3}:job:<id>         hash: see below
    {r3}:ev:<id>          stream of the job's events; an event's number is its entry id (`<number>-0`) and its SSE id
    {r3}:pv:<id>          set of the job's previews, which live as long as its events
    {r3}:img:<id>         JSON, the record of one image: tenant, job, round, hashes, size
    {r3}:jobs:<tenant>    sorted set of the tenant's jobs by the time they were made, µs
    {r3}:seen             sorted set of tenants by when each last submitted, ms
    {r3}:idem:<tenant>:<key>   the job and the body hash that an idempotency key stands for
    {r3}:share:<SHA-256 of a token>   JSON, what a read-only link reads: tenant, job; its expiry (ms) is the key's too
    {r3}:shares:<id>      set of the digests of the job's links
    {r3}:due              sorted set of waiting jobs that have a deadline, ms
    {r3}:fair:<model>     sorted set of flows (`<priority>:<tenant>`) by the virtual finish time of their last job
    {r3}:flow:<priority>:<tenant>:<model>   set of a flow's waiting jobs
    {r3}:clock:<model>    the model's virtual time; it and `fair` go when nothing waits or runs
    {r3}:rate:<model>     hash: cost, time (s), mark (µs): the measured rate, old work fading out
    {r3}:load             hash: jobs and cost waiting, in all, by tenant (`:t:`) and by model (`:m:`); `active:<tenant>`
                          unfinished, and `running:<tenant>`, how many of them may be leased at a time
    {r3}:auth             hash: since when keys are asked for (ms), and when who may come in last changed (µs)
    {r3}:keys             hash: the record of each API key by its id: name, tenant, scopes, SHA-256; never the key
    {r3}:tenants          hash: the limits of tenants that have any
    {r3}:token_secret     what signed links are signed with, unless R3_TOKEN_SECRET says it
    {r3}:bucket:<what>    hash: tokens and when they were counted (µs): requests of `key:<id>` or by the links of
                          `link:<job>`, submissions of `jobs:<tenant>`
    {r3}:hooks            sorted set of ended jobs whose webhook is not delivered, by when it is due, ms: in somebody's
                          hands, when its lease is over
    {r3}:hooked:<claim>   list: what a call to lease webhooks was given, so that a lost answer can be repeated
    {r3}:hook_secret:<tenant>   hash: current, and until `previous_until` (ms) previous; `shown` to which call
    {r3}:lock:<chore>     which API process does a chore of upkeep; it expires before the chore is due again
    {r3}:paused           hash: models of which nothing is leased, '' for all, and since when, ms
    {r3}:dead             sorted set of poisoned jobs by time, kept as long as they are: 7 days
    {r3}:mark             what this database is called in the image store whose pictures are its jobs'
    {r3}:stats            hash: jobs reclaimed and poisoned since the database was made
    {r3}:visits           hash: when somebody was last here who comes every few seconds, and from when on leases may be
                          taken back again after a silence, ms; it expires after a day
    {r3}:workers          sorted set of workers by last heartbeat, ms; {r3}:worker_info what each said of itself
    {r3}:models           hash: the description of each model that was ever loaded
    {r3}:leased:<worker>  hash: a worker's last lease call and what it was given, so that a lost answer can be repeated
    {r3}:wake, {r3}:live, {r3}:ctl   pub/sub: new work for a model; events; cancel and stop for leased jobs

A job's hash: what was submitted (tenant, model, priority, weight, cost, n, request, params, metadata, parent, webhook,
deadline, idem, body_hash), its state (status, created, started, finished, error, stop_reason, cancel, stop), the lease
(token: the fence; call: the last call number seen under it; attempt; strikes; place: its virtual finish time;
checkpoint: how many were written; pictures), `last_event`, `t:<i>`, `i:<id>` image records, `u:<name>` usage; of its
webhook `hook`, the fence, and `hook_tries`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, cast

from redis.exceptions import RedisError

from server.queue_admin import QueueAdmin
from server.queue_errors import (
    IdempotencyMismatch,
    OutOfOrder,
    QueueError,
    QueueFull,
    QueueUnavailable,
    RateLimited,
    ServerTooOld,
)
from server.queue_hooks import Outbox
from server.queue_keys import QueueKeys
from server.queue_link import Link
from server.queue_listing import Listing
from server.queue_records import (
    ALIVE_FOR_S,
    ROOT,
    Event,
    Json,
    Live,
    LoggedEvent,
    NewJob,
    QueuePolicy,
    StoredJob,
    Submitted,
    dumps,
    json_or_none,
)
from server.queue_scripts import backoff_s, refuse_old_server, translated
from server.queue_wire import enqueue_args, live_message, logged_event, submitted
from server.settings import Settings

__all__ = [
    "Event",
    "IdempotencyMismatch",
    "Live",
    "LoggedEvent",
    "NewJob",
    "OutOfOrder",
    "Queue",
    "QueueError",
    "QueueFull",
    "QueuePolicy",
    "QueueUnavailable",
    "RateLimited",
    "ServerTooOld",
    "StoredJob",
    "Submitted",
]


CancelAnswer = Literal["accepted", "already_finished", "not_found"]
StopAnswer = Literal["accepted", "no_image_yet", "already_finished", "not_found"]
DeleteAnswer = Literal["deleted", "not_finished", "not_found"]


class Queue:
    """The queue for the API process. One instance serves all requests; `close` it at the end.

    Every method may raise QueueUnavailable. Writes are scripts that can be repeated, and are, for almost two seconds.
    """

    def __init__(self, url: str, policy: QueuePolicy | None = None) -> None:
        self._link = Link(url, policy or QueuePolicy())
        self._redis, self._do, self._run = self._link.redis, self._link.do, self._link.run
        self.keys = QueueKeys(self._link)
        self.hooks = Outbox(self._link)
        self._listing = Listing(self._link)
        self.admin = QueueAdmin(self._link)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The queue that the settings name. Raises ValueError where they name none."""
        if settings.redis_url is None:
            raise ValueError("no Redis is named; set R3_REDIS_URL, or use `r3 serve`, which starts its own")
        return cls(settings.redis_url, QueuePolicy.from_settings(settings))

    async def close(self) -> None:
        """Closes all connections."""
        await self._link.close()

    async def ping(self) -> None:
        """Asks whether Redis answers; raises ServerTooOld before 7.0."""
        refuse_old_server(await self._do(lambda: self._redis.info("server")))

    # jobs

    async def submit(self, job: NewJob) -> Submitted:
        """Puts a job into its queue. Raises QueueFull, RateLimited, IdempotencyMismatch."""
        return submitted(job, await self._run("enqueue", *enqueue_args(job)))

    async def replayed(self, tenant: str, key: str, body_hash: str) -> Submitted | None:
        """The job that the key made before, None where there is none any more. Raises IdempotencyMismatch."""
        match await self._run("replay", tenant, key, body_hash):
            case ["mismatch"]:
                raise IdempotencyMismatch(key)
            case [_, job_id]:
                return Submitted(job_id, replayed=True)
        return None

    async def job(self, job_id: str) -> StoredJob | None:
        """The job as it stands, None where it is unknown or its time is over."""
        stored = await self._do(lambda: self._redis.hgetall(f"{ROOT}job:{job_id}"))
        return StoredJob.from_hash(job_id, stored) if stored else None

    async def finished(self, job_ids: Sequence[str]) -> dict[str, int | None]:
        """Of those that are known, when each ended, in ms since 1970, None of one that has not."""

        async def ask() -> list[list[str | None]]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hmget(f"{ROOT}job:{job_id}", ["status", "finished"])
                return await pipe.execute()

        answers = await self._do(ask) if job_ids else []
        return {
            job_id: None if finished is None else int(finished)
            for job_id, (status, finished) in zip(job_ids, answers, strict=True)
            if status is not None
        }

    async def jobs(
        self, tenant: str, status: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[StoredJob], str | None]:
        """A tenant's jobs, newest first, and where the next page begins. Raises ValueError for a cursor not of ours."""
        return await self._listing.page([tenant], status, limit, cursor)

    async def position(self, job: StoredJob) -> tuple[int | None, float | None]:
        """A waiting job's place in its queue, 1 is the next, and the seconds until its start; None where unknown."""
        return (await self.positions([(job.model, job.id)]))[job.id]

    async def positions(self, jobs: Sequence[tuple[str, str]]) -> dict[str, tuple[int | None, float | None]]:
        """The same for many (model, job id) in one call: what live `job.queued` events are made of, once a second."""
        if not jobs:
            return {}
        answer = await self._run("positions", *(part for pair in jobs for part in pair))
        return {
            job_id: (int(place) if place else None, float(eta) if eta else None)
            for (_, job_id), place, eta in zip(jobs, answer[::2], answer[1::2], strict=True)
        }

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Ends a waiting job, asks the worker of a running one to; asking again is harmless."""
        return cast(CancelAnswer, await self._run("cancel", job_id))

    async def stop(self, job_id: str) -> StopAnswer:
        """Good enough: ends a job with the newest finished picture of every trajectory."""
        return cast(StopAnswer, await self._run("stop", job_id))

    async def delete(self, job_id: str) -> DeleteAnswer:
        """Erases a finished job: hash, events, image records, idempotency key. The files are the caller's to erase."""
        return cast(DeleteAnswer, await self._run("delete", job_id))

    # read-only links

    async def share(self, job: StoredJob, token: str, ttl_s: float) -> int | None:
        """Lets `token` read the job for `ttl_s`, at most as long as it is kept; only its digest is stored.

        Returns when that ends, in ms since 1970; None where the job is gone.
        """
        ttl_ms = max(1, int(ttl_s * 1000))
        answer = await self._run("share", job.id, job.tenant, _digest(token), ttl_ms)
        return None if answer == "not_found" else int(answer)

    async def shared(self, token: str) -> tuple[str, str] | None:
        """The tenant and the job whose link has this token; None where it is unknown, expired or revoked."""
        key = f"{ROOT}share:{_digest(token)}"
        record = json_or_none(await self._do(lambda: self._redis.get(key)))
        return None if record is None else (record["tenant"], record["job"])

    async def unshare(self, job_id: str) -> None:
        """Revokes every link to the job."""
        await self._run("unshare", job_id)

    # upkeep

    async def sweep(self) -> int:
        """Ends waiting jobs whose deadline has passed and takes back expired leases, as a living worker's `lease` does.

        Returns how many jobs it touched. Any API process may call it, about once a second.
        """
        return int(await self._run("sweep"))

    async def mark(self) -> str | None:
        """What this queue calls itself, None before it marked an image store."""
        return cast(str | None, await self._do(lambda: self._redis.get(f"{ROOT}mark")))

    async def keep_mark(self, mark: str) -> str:
        """Calls this queue so, where it has no mark; returns the one that it has then."""
        return cast(str, await self._run("keep_mark", mark))

    async def take_turn(self, chore: str, for_s: float) -> bool:
        """Whether this process is the one to do a chore: nobody else is let for `for_s`."""
        return bool(await self._run("take_turn", chore, secrets.token_hex(8), int(for_s * 1000)))

    async def shorten(self, job_ids: Sequence[str]) -> None:
        """Has finished jobs, and their pictures' records, go when the present lifetime of jobs has it: those that ended
        while they were to be kept for longer.
        """
        await self._run("shorten", *job_ids)

    # events

    async def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[LoggedEvent]:
        """The events of the log whose numbers are above `after`."""
        key, start = f"{ROOT}ev:{job_id}", f"({after}-0"
        entries = await self._do(lambda: self._redis.xrange(key, start, "+", count=limit))
        return [logged_event(entry_id, fields) for entry_id, fields in entries]

    async def follow(self) -> AsyncGenerator[Live, None]:
        """The live feed of all jobs: ONE subscription for the process, for ever.

        The first message, and the first after each reconnect, is `resync`: from there on nothing is missed, so that who
        reads a log after it and then follows sees every event (some twice: numbers tell).
        """
        delays = backoff_s()
        while True:
            feed, demotions = self._link.feed.pubsub(ignore_subscribe_messages=True), self._link.demotions
            try:
                await feed.subscribe(f"{ROOT}live")
                delays = backoff_s()
                yield Live(resync=True)
                async for message in _messages(feed):
                    if message is not None:
                        yield live_message(message)
                    if self._link.demotions != demotions:
                        break
            except (RedisError, OSError) as error:
                if translated(error) is None:
                    raise
            finally:
                with suppress(RedisError, OSError):
                    await feed.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(next(delays))

    # images, models, workers

    async def image(self, image_id: str) -> Json | None:
        """An image's record: tenant, job, trajectory, round, width, height, format, sha256, master_sha256, preview."""
        return cast(Json | None, json_or_none(await self._do(lambda: self._redis.get(f"{ROOT}img:{image_id}"))))

    async def register_image(self, image_id: str, record: Json, ttl_s: float | None) -> None:
        """Records a picture that the API stored itself, for `ttl_s` (None: until its job's time is over)."""
        px = None if ttl_s is None else int(ttl_s * 1000)
        await self._do(lambda: self._redis.set(f"{ROOT}img:{image_id}", dumps(record), px=px))

    async def forget_images(self, image_ids: Sequence[str]) -> None:
        """Drops what is known of pictures whose job did not come about."""
        await self._do(lambda: self._redis.delete(*(f"{ROOT}img:{image_id}" for image_id in image_ids)))

    async def models(self) -> dict[str, Json]:
        """The description of every model that was ever loaded, by name."""
        stored = await self._do(lambda: self._redis.hgetall(f"{ROOT}models"))
        return {name: json_or_none(text) for name, text in stored.items()}

    async def workers(self) -> list[Json]:
        """What the workers heard from of late say of themselves, `id` and `age_s` beside it."""
        rows = await self._run("workers", int(ALIVE_FOR_S * 1000))
        return [
            {**json_or_none(info), "id": name, "age_s": int(age_ms) / 1000}
            for name, age_ms, info in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        ]

    async def depth(self) -> Json:
        """For metrics: `waiting`, `running`, `cost`, `oldest_s`, `reclaimed`, `poisoned`, `all_paused`; by model, with
        `paused` and `seconds_left` (of work, where the rate is known), in `models`.
        """
        return cast(Json, json_or_none(await self._run("depth")))


async def _messages(feed: Any) -> AsyncIterator[str | None]:
    """What a subscription brings; None every two seconds without, so that a dead connection is noticed."""
    while True:
        message = await feed.get_message(timeout=2.0)
        yield None if message is None else message["data"]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "backslashreplace")).hexdigest()
