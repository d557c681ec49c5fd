"""Where the server is, and the key that is shown to it: as given, else from R3_URL and R3_API_KEY."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_NEAR: Final = ("127.0.0.1", "localhost", "::1")
_CONNECT_S: Final = 10.0
_HOST: Final = re.compile(r"[^\s/?#@%]+")
MAX_PORT: Final = 65_535


@dataclass(frozen=True)
class Connection:
    """A server's address, and how it is talked to."""

    url: str
    api_key: str | None = field(repr=False)
    timeout_s: float

    @classmethod
    def of(cls, base_url: str | None, api_key: str | None, timeout_s: float) -> Connection:
        """From what was given and the environment. Raises ValueError."""
        url = base_url or os.environ.get("R3_URL") or DEFAULT_URL
        key = api_key or os.environ.get("R3_API_KEY") or None
        try:
            parsed = httpx.URL(url)
            is_address = parsed.scheme in ("http", "https") and bool(_HOST.fullmatch(parsed.host))
        except httpx.InvalidURL:
            is_address = False
        if not is_address or (parsed.port is not None and parsed.port > MAX_PORT):
            raise ValueError(f"base_url is {url!r}; it must be http://HOST:PORT or https://HOST (or set R3_URL)")
        if parsed.userinfo:
            raise ValueError("base_url holds a name or a password; take it out, and give a key as api_key (R3_API_KEY)")
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise ValueError("api_key is not one word of ASCII characters; copy it again as it was printed")
        return cls(url.rstrip("/"), key, timeout_s)

    def options(self) -> dict[str, Any]:
        """For httpx's clients."""
        headers = {"Accept": "application/json", "User-Agent": f"r3client/{_version()}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.url,
            "headers": headers,
            # Every job that is followed holds a connection, and there may be many.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
            "timeout": httpx.Timeout(self.timeout_s, connect=min(_CONNECT_S, self.timeout_s)),
            "trust_env": httpx.URL(self.url).host not in _NEAR,  # no proxy stands between a machine and itself
        }


def _version() -> str:
    try:
        return version("r3-server")
    except PackageNotFoundError:
        return "0"
