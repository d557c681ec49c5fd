"""Signed links: the `?token=` by which a browser's <img> and EventSource, which cannot send a key, read one job.

    <base64url of "tenant job expiry">.<base64url of its HMAC-SHA256>

A token names its tenant, its job and the second in which it ends, a full hour, so that all links handed out within an
hour are equal and a browser's cache finds its pictures again. Nothing is stored: whoever has the secret can check one,
and another secret makes all of them worthless at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from typing import Final, NamedTuple

_FORM: Final = re.compile(r"([A-Za-z0-9_-]{1,400})\.([A-Za-z0-9_-]{43})")
_CONTENT: Final = re.compile(r"(\S+) (\S+) (\d{1,12})")
_PURPOSE: Final = b"r3 link 1\n"  # the secret signs nothing else that could be taken for one
_HOUR_S: Final = 3600


class Linked(NamedTuple):
    """What a token is good for."""

    tenant: str
    job: str


class Links:
    """Makes and reads tokens. They are good for `ttl_s`, and on to the next full hour."""

    def __init__(self, secret: str, ttl_s: float) -> None:
        self._secret = secret.encode()
        self._ttl_s = ttl_s

    def token(self, tenant: str, job: str, now_s: float) -> str:
        """The token of a job's links."""
        expires_s = math.ceil((now_s + self._ttl_s) / _HOUR_S) * _HOUR_S
        content = _encoded(f"{tenant} {job} {expires_s}".encode())
        return f"{content}.{signature(self._secret, _PURPOSE, content)}"

    def read(self, token: str, now_s: float) -> Linked | None:
        """What the token is good for; None where it is not one of ours, or its time is over."""
        form = _FORM.fullmatch(token)
        if form is None or not hmac.compare_digest(signature(self._secret, _PURPOSE, form[1]), form[2]):
            return None
        content = _CONTENT.fullmatch(base64.urlsafe_b64decode(form[1] + "=" * (-len(form[1]) % 4)).decode())
        if content is None or now_s >= int(content[3]):
            return None
        return Linked(content[1], content[2])


def signature(secret: bytes, purpose: bytes, content: str) -> str:
    """The base64url of an HMAC-SHA256, 43 characters; `purpose` keeps one kind of token from passing for another."""
    return _encoded(hmac.digest(secret, purpose + content.encode(), hashlib.sha256))


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
