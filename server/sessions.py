"""A browser's session: the cookie that stands in for a key once its holder has signed in on the page.

    <id of the key>.<second in which it ends>.<base64url of the HMAC-SHA256>

Nothing is stored. The signature covers the SHA-256 of the key too, so a session ends when its key is revoked, and when
another key takes the place of the same id. The key itself never lies in the browser.

A browser sends the cookie by itself, whatever page has it call us. So it counts only where the browser says that the
call comes from a page of this very origin (Sec-Fetch-Site), or, where it says nothing of that, if Origin is our own
address; a safe call may come without either, and may be typed into the address bar.

Another name of the same site, or another port of the same host, can plant a cookie of our name. So by https it has a
prefix that only we can set, and otherwise, of several, one that alone is good.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from server.keys import Key
from server.links import signature

PLAIN_COOKIE: Final = "r3_session"
SESSION_S: Final = 7 * 24 * 3600
_MOST: Final = 32  # values that are looked at: whoever can plant one may plant many
_FORM: Final = re.compile(r"((r3_[0-9a-f]{16})\.([0-9]{1,12}))\.([A-Za-z0-9_-]{43})")
_PURPOSE: Final = b"r3 session 1\n"  # the secret signs nothing else that could be taken for one
_SAFE: Final = frozenset({"GET", "HEAD"})


class Sessions:
    """Makes and reads cookies' values, signed with a secret that all API processes share."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def value(self, key: Key, now_s: float) -> str:
        """The cookie of somebody who has shown the key."""
        content = f"{key.id}.{int(now_s) + SESSION_S}"
        return f"{content}.{self._signature(content, key)}"

    def read(self, value: str, keys: Mapping[str, Key], now_s: float) -> Key | None:
        """The key that the cookie speaks for; None where it is not one of ours, or no longer good."""
        form = _FORM.fullmatch(value)
        key = None if form is None else keys.get(form[2])
        if form is None or key is None or key.revoked_ms is not None:
            return None
        is_ours = hmac.compare_digest(self._signature(form[1], key), form[4])
        return key if is_ours and now_s < int(form[3]) else None

    def read_any(self, values: Iterable[str], keys: Mapping[str, Key], now_s: float) -> Key | None:
        """The key that these speak for; None where they speak for none, or for several."""
        found = {key.id: key for value in values if (key := self.read(value, keys, now_s)) is not None}
        return next(iter(found.values())) if len(found) == 1 else None

    def _signature(self, content: str, key: Key) -> str:
        return signature(self._secret, _PURPOSE, f"{content} {key.sha256}")


def cookie_name(scope: Scope, public_url: str | None) -> str:
    """What the cookie is called: browsers take `__Host-` from the host itself alone, by https, for all its paths."""
    return f"__Host-{PLAIN_COOKIE}" if is_secure(scope, public_url) else PLAIN_COOKIE


def sessions_shown(scope: Scope, public_url: str | None) -> list[str]:
    """What the session's cookies hold; nothing where they were sent on behalf of a page that is not ours."""
    headers, wanted = Headers(scope=scope), cookie_name(scope, public_url)
    values = [
        value.strip()
        for line in headers.getlist("cookie")
        for name, _, value in (part.partition("=") for part in line.split(";"))
        if name.strip() == wanted
    ]
    return values[:_MOST] if _is_from_our_page(scope["method"], headers) else []


def is_secure(scope: Scope, public_url: str | None) -> bool:
    """Whether the browser came by https, as far as we or the operator know."""
    return scope.get("scheme") == "https" or (public_url or "").startswith("https:")


def _is_from_our_page(method: str, headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin" or (site == "none" and method in _SAFE)
    origin = headers.get("origin")
    if origin is None:
        return method in _SAFE
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
