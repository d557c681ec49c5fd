"""Limits as a client is told them: the RateLimit and RateLimit-Policy fields of draft-ietf-httpapi-ratelimit-headers.

Both are lists of strings with parameters (RFC 9651): the policy says how much there is (`q`, in the window `w`, or of
`qu` at the same time), the limit what is left (`r`) and in how many seconds there is more (`t`). Without a unit it is
requests that are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

LIMITS: Final = "r3.limits"  # where the request's ASGI scope holds what its answer is to say
WINDOW_S: Final = 60
FIELDS: Final = {
    "RateLimit-Policy": "What is allowed: a list of policies with q (how many) and w (in seconds).",
    "RateLimit": "What is left: the same policies with r (how many) and t (seconds until more).",
}
REQUESTS: Final = "requests"  # of one key
JOBS: Final = "jobs"  # submitted by one tenant
QUEUED: Final = "queued"  # one tenant's jobs that wait


@dataclass(frozen=True)
class Limit:
    """One policy and how a caller stands with it. Without `reset_s` it is something held, not something that comes."""

    policy: str
    quota: int
    remaining: int
    reset_s: int | None = None

    @property
    def as_policy(self) -> str:
        """Its item of RateLimit-Policy."""
        how = 'qu="concurrent-requests"' if self.policy == QUEUED else f"w={WINDOW_S}"
        return f'"{self.policy}";q={self.quota};{how}'

    @property
    def as_limit(self) -> str:
        """Its item of RateLimit."""
        return f'"{self.policy}";r={self.remaining}' + ("" if self.reset_s is None else f";t={self.reset_s}")


def note(scope: Mapping[str, Any], limits: Iterable[Limit]) -> None:
    """Have the answer to this request tell of these limits too; one of the same name takes the older one's place."""
    told: dict[str, Limit] | None = scope.get(LIMITS)
    if told is not None:
        told.update({limit.policy: limit for limit in limits})


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the answer; none where nothing is limited."""
    told: dict[str, Limit] = scope.get(LIMITS) or {}
    if not told:
        return {}
    return {
        "RateLimit-Policy": ", ".join(limit.as_policy for limit in told.values()),
        "RateLimit": ", ".join(limit.as_limit for limit in told.values()),
    }
