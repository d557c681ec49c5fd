"""Every setting, read from the environment (prefix `R3_`) in this one place and frozen.

Command-line options win over the environment, the environment over the defaults below. Nothing else reads `os.environ`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.hook_rules import allowed

NONE = "none"  # says in the environment that a setting has no value
_OTHER_VARIABLES = frozenset(
    {"R3_API_KEY", "R3_KEY", "R3_RECORD", "R3_SCREENS", "R3_TEST_ALL", "R3_TEST_TIMES", "R3_URL"}
)
_HOST = re.compile(r"[\w.-]+|\[?(?=.*:.*:)[0-9a-fA-F:.]+\]?")
_ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?/?", re.IGNORECASE)
MIN_SECRET_CHARS = 32
_ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[\w./~-]*)?", re.IGNORECASE)
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/r3`, else `~/.local/share/r3`."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "r3"


def default_checkpoint() -> Path:
    """The small checkpoint that comes with the source tree."""
    return Path(__file__).resolve().parent.parent / "checkpoints" / "small"


Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: a list with commas


class Settings(BaseSettings):
    """The service's settings; times in seconds, sizes in bytes, as the names say."""

    model_config = SettingsConfigDict(
        env_prefix="R3_", frozen=True, extra="forbid", env_parse_none_str=NONE, env_ignore_empty=True
    )

    # where to listen
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    worker_host: str = "127.0.0.1"
    worker_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    insecure: bool = False
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    public_url: str | None = None
    trusted_proxies: Names = ()

    # what to serve
    checkpoint: Path = Field(default_factory=default_checkpoint)
    base_checkpoint: Path | None = None
    allow_unexpected: bool = False
    default_model: str | None = None
    device: str | None = None
    dtype: Literal["bf16", "fp32"] | None = None
    attention: Literal["auto", "xformers", "varlen", "sdpa"] = "auto"
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    max_trajectories: Annotated[int, Field(ge=1, le=256)] = 8
    kv_cache_gb: Annotated[float, Field(gt=0)] | None = None
    runner: Literal["model", "fake"] = "model"
    fake_step_s: Annotated[float, Field(ge=0)] = 0.0

    # where things are kept
    data_dir: Path = Field(default_factory=default_data_dir)
    redis_url: str | None = None
    image_store: str | None = None
    image_store_endpoint: str | None = None
    image_store_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    keep_gb: Annotated[float, Field(gt=0)] = 10.0
    event_ttl_s: Annotated[int, Field(ge=1)] = 3600
    job_ttl_s: Annotated[int, Field(ge=1)] | None = 24 * 3600
    poisoned_ttl_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600
    idempotency_ttl_s: Annotated[int, Field(ge=1)] = 24 * 3600

    # limits
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    queue_limit: Annotated[int, Field(ge=1)] = 1000
    tenant_queue_limit: Annotated[int, Field(ge=1)] = 1000
    queue_cost_limit: Annotated[float, Field(gt=0)] = 20_000.0
    tenant_queue_cost_limit: Annotated[float, Field(gt=0)] = 20_000.0
    wait_s: Annotated[float, Field(gt=0)] = 60.0

    # the lease protocol
    lease_s: Annotated[float, Field(gt=0)] = 15.0
    renew_s: Annotated[float, Field(gt=0)] = 3.0
    max_strikes: Annotated[int, Field(ge=1)] = 3
    drain_s: Annotated[float, Field(ge=0)] = 90.0

    # streams
    heartbeat_s: Annotated[float, Field(gt=0)] = 10.0
    stream_buffer_events: Annotated[int, Field(ge=16)] = 512

    # who may come in
    auth: Literal["auto", "keys", "none"] = "auto"
    keys_file: Path | None = None
    token_secret: SecretStr | None = None
    link_ttl_s: Annotated[int, Field(ge=60)] = 3600
    requests_per_min: Annotated[int, Field(ge=1, le=1_000_000)] | None = 600
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    metrics_host: str | None = None

    # webhooks: off while no host or network is allowed
    webhook_allow: Names = ()
    webhook_ca_file: Path | None = None

    # logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("allowed_hosts", "cors_origins", "trusted_proxies", "webhook_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _bare(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no bare host name; write each as it stands in Host, such as r3.example, "
                    "without scheme, port or path"
                )
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin of a page; name each one that may call, such as https://app.example: "
                    "no caller is asked for a key, so that not every page may"
                )
        return tuple(origin.rstrip("/").lower() for origin in origins)

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ValueError(
                    f"{proxy!r} is no address and no network ({error}); name each proxy that sets X-Forwarded-For, "
                    "such as 127.0.0.1 or 10.0.0.0/8"
                ) from error
        return proxies

    @field_validator("public_url", "image_store_endpoint")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None and not _ADDRESS.fullmatch(url):
            raise ValueError(f"{url!r} is no address of a server; write it as https://HOST or http://HOST:PORT")
        return url

    @field_validator("auth", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        return NONE if value is None else value  # the environment's "none" says None everywhere else

    @field_validator("token_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < MIN_SECRET_CHARS:
            raise ValueError(
                f"it has {len(secret.get_secret_value())} characters, and whoever guesses it reads every picture; "
                f"give at least {MIN_SECRET_CHARS}, such as `openssl rand -hex 32` writes"
            )
        return secret

    @field_validator("webhook_allow")
    @classmethod
    def _hosts_or_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        allowed(entries)
        return entries

    @field_validator("data_dir", "checkpoint", "base_checkpoint", "keys_file", "webhook_ca_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("renew_s")
    @classmethod
    def _often_enough(cls, renew_s: float, info: ValidationInfo) -> float:
        lease_s = info.data.get("lease_s")
        if lease_s is not None and lease_s < 3 * renew_s:
            raise ValueError(
                f"a lease of {lease_s:g} s (R3_LEASE_S) must last at least three times as long as the {renew_s:g} s "
                f"between two renewals (R3_RENEW_S), or one late renewal loses it; raise the one or lower the other"
            )
        return renew_s

    @classmethod
    def unknown_variables(cls, environment: Mapping[str, str]) -> list[str]:
        """What stands in the environment under our prefix and is no setting, each with the name it may have meant."""
        known = {f"R3_{name.upper()}" for name in cls.model_fields}
        strange = sorted(n for n in environment if n.startswith("R3_") and n not in known | _OTHER_VARIABLES)
        near = {name: get_close_matches(name, known, 1) for name in strange}
        return [
            f"{name} is no setting" + (f"; did you mean {near[name][0]}?" if near[name] else "") for name in strange
        ]

    @property
    def is_loopback(self) -> bool:
        """Whether the API listens on this machine only."""
        return self.host in LOOPBACK_HOSTS

    @property
    def auth_mode(self) -> Literal["auto", "keys", "none"]:
        """Whether callers are asked for a key: `--insecure` means that they are not."""
        return "none" if self.insecure else self.auth

    @property
    def image_store_url(self) -> str:
        """Where pictures are kept: a folder of the data directory unless a URL is given."""
        return self.image_store or str(self.data_dir / "images")


# where a running server is, for the commands that talk to one


class Connection(BaseSettings):
    """Where a running server answers, and the key that is shown to it. Without `url` it is the one on this machine."""

    model_config = SettingsConfigDict(env_prefix="R3_", frozen=True, extra="forbid", env_ignore_empty=True)

    url: str | None = None
    key: SecretStr | None = None
    api_key: SecretStr | None = None  # of one's own jobs, as r3client reads it; `key` may be an operator's
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None and not _ADDRESS.fullmatch(url):
            raise ValueError("it is no address of a server; write it as http://HOST:PORT or https://HOST")
        return url

    @field_validator("key", "api_key")
    @classmethod
    def _is_one_word(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise ValueError("a key is one word of ASCII characters; copy it again as it was printed when it was made")
        return key

    @property
    def address(self) -> str:
        """The server's URL."""
        return self.url or local_url(self.host, self.port)


def local_url(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens there."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 -- a name for it
    return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{port}"
