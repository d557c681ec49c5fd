"""What an API key is, and what a tenant may have. Pure: no Redis, no file, no clock.

    r3_<16 hex digits>_<43 characters>
    └── the key's id ─┘ └── 256 random bits, base64url

The id names the key in lists, limits and audit lines, and is no secret. Of the whole only its SHA-256 is kept: a slow
hash protects secrets that can be guessed, which 256 random bits cannot be, and would let strangers keep the server
busy with wrong keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, Self, get_args

Scope = Literal["read", "generate", "admin"]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
KEY: Final = re.compile(r"(r3_[0-9a-f]{16})_[A-Za-z0-9_-]{43}")
KEY_ID: Final = re.compile(r"r3_[0-9a-f]{16}")
# A tenant's name stands in names of Redis and is a folder of the image store: no colon, no slash, no leading dot.
TENANT_PATTERN: Final = r"^[A-Za-z0-9_@][A-Za-z0-9._@-]{0,127}$"
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
MAX_LIMIT: Final = 1_000_000
MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 100.0
_SECRET_BYTES: Final = 32
_TENANT: Final = re.compile(TENANT_PATTERN.strip("^$"))
_NOBODYS: Final = "0" * 64  # compared with where there is no such key, so that the answer takes as long


class KeysUnreadable(Exception):
    """Who may come in cannot be known; the message says why, and is for the operator alone."""


@dataclass(frozen=True)
class Key:
    """A key as it is kept. Times in ms since 1970; without `requests_per_min` the server's default holds."""

    id: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_ms: int | None = None
    requests_per_min: int | None = None
    revoked_ms: int | None = None

    def revoked(self, at_ms: int) -> Self:
        """The same key, no longer good."""
        return replace(self, revoked_ms=at_ms)

    def to_json(self) -> str:
        """What Redis holds under its id."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "id" and value is not None})

    @classmethod
    def from_json(cls, key_id: str, text: str) -> Self:
        """What `to_json` wrote. Raises ValueError for what it cannot have written."""
        stored = json.loads(text)
        try:
            return cls(key_id, **{**stored, "scopes": tuple(stored["scopes"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the record of key {key_id} cannot be read: {error}") from error


@dataclass(frozen=True)
class TenantLimits:
    """What a tenant may have: None is as much as the server's own bounds allow.

    `jobs_per_min` jobs submitted a minute, `queued` waiting, `running` computed at the same time; of the workers' time
    it has `weight` shares where another has one.
    """

    jobs_per_min: int | None = None
    queued: int | None = None
    running: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("jobs_per_min", "queued", "running"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_LIMIT:
                raise ValueError(f"{name} {value} must be from 1 to {MAX_LIMIT:,}")
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight {self.weight} must be from {MIN_WEIGHT} to {MAX_WEIGHT}")

    def to_json(self) -> str:
        """What Redis holds under the tenant's name."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises ValueError for what it cannot have written."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"a tenant's limits cannot be read: {error}") from error


NO_LIMITS: Final = TenantLimits()


def new_secret() -> str:
    """A new key, which is shown once and nowhere kept."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=")
    return f"r3_{secrets.token_hex(8)}_{secret}"


def id_of(secret: str) -> str | None:
    """The id that a key begins with, None for what is no key."""
    found = KEY.fullmatch(secret)
    return found[1] if found else None


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_shown(secret: str, keys: Mapping[str, Key]) -> Key | None:
    """The key that a caller shows, None where it is none of these.

    Whatever is wrong with it, one digest is made and one compared, each in constant time.
    """
    key_id = id_of(secret)
    known = keys.get(key_id) if key_id is not None else None
    is_right = hmac.compare_digest(digest_of(secret), _NOBODYS if known is None else known.sha256)
    return known if is_right and known is not None and known.revoked_ms is None else None


def tenant_name(text: str) -> str:
    """The text, which must be able to name a tenant. Raises ValueError."""
    if not _TENANT.fullmatch(text):
        raise ValueError(
            f"{text[:200]!r} cannot name a tenant; use 1 to 128 characters of A-Z a-z 0-9 . _ @ -, no dot or dash first"
        )
    return text


def scopes_named(names: Sequence[str]) -> tuple[Scope, ...]:
    """Those scopes, each once, in our order. Raises ValueError for none, and for one that is unknown."""
    if unknown := [name for name in names if name not in SCOPES]:
        raise ValueError(f"scope {unknown[0][:50]!r} is not known; use {', '.join(SCOPES)}")
    if not names:
        raise ValueError(f"a key without a scope can do nothing; use {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in names)
