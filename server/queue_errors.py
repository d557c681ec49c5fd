"""What can go wrong between the service and its queue, and who can do something about it.

QueueError
├── QueueUnavailable      Redis is away, loading, read-only or full: try again after `retry_after_s`
├── QueueFull             a bound of the queue is reached: try again after `retry_after_s`
├── RateLimited           a tenant submits faster than its quota: try again after `retry_after_s`
├── IdempotencyMismatch   the caller's: the key was used with another body
├── ServerTooOld          the operator's: names the version found and the remedy
└── OutOfOrder            ours: a checkpoint that is not the next one of its job
"""

from __future__ import annotations

from typing import Final, Literal

from server.rate_limits import WINDOW_S, Limit

Scope = Literal["server", "tenant"]


class QueueError(Exception):
    """Base of all errors that the queue raises on purpose."""


class QueueUnavailable(QueueError):
    """Redis did not answer, or refused to write; nothing is known to be lost, and what was asked may have been done.

    `retry_after_s` in seconds. `reason` is Redis's or the network's own word, which may name hosts: for logs and the
    operator's terminal. `public` is without it, for whoever asks from elsewhere.
    """

    def __init__(self, message: str, retry_after_s: float = 2.0, reason: str = "") -> None:
        super().__init__(f"{message}: {reason}" if reason else message)
        self.public, self.retry_after_s, self.reason = message, retry_after_s, reason


class QueueFull(QueueError):
    """The queue holds as much as it may, for the whole server or for one tenant. `retry_after_s` in seconds.

    `limit` is the tenant's own quota, where that is what is used up.
    """

    def __init__(self, scope: Scope, retry_after_s: float, limit: Limit | None = None) -> None:
        whose = "the queue is full" if scope == "server" else "this tenant's share of the queue is full"
        super().__init__(f"{whose}; try again in {retry_after_s:.0f} s")
        self.scope: Scope = scope
        self.retry_after_s = retry_after_s
        self.limit = limit


class RateLimited(QueueError):
    """There were as many as there may be in a minute. `retry_after_s` in seconds."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.retry_after_s = max(1, limit.reset_s or 1)
        super().__init__(
            f"{limit.quota} {limit.policy} in {WINDOW_S} s are allowed, and were made; "
            f"try again in {self.retry_after_s} s"
        )


class IdempotencyMismatch(QueueError):
    """The idempotency key belongs to a job that was submitted with another body."""

    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} was used with another body; use a new key for a new request")


class ServerTooOld(QueueError):
    """The server lacks what the scripts need."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"Redis {version} is too old: 7.0 or newer, or any Valkey, is needed "
            "(scripts with flags came with 7.0); upgrade the server or point R3_REDIS_URL at another"
        )


class OutOfOrder(QueueError):
    """A checkpoint whose number is not the next one of its job."""


REFUSALS: Final = (QueueFull, RateLimited, IdempotencyMismatch)
"""A submission that ends with one of these made no job, for certain; after QueueUnavailable there may be one."""
