"""Every setting, read from the environment (prefix `R3_`) in this one place and frozen.

Command-line options win over the environment, the environment over the defaults below. Nothing else reads `os.environ`
but other_variables.py, for what is no setting of a server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from r3core.config import AttentionWanted
from server.hook_rules import allowed
from server.named_models import named_models
from server.other_variables import ADDRESS

NONE = "none"  # says in the environment that a setting has no value
_OTHER_VARIABLES = frozenset(
    {"R3_API_KEY", "R3_KEY", "R3_RECORD", "R3_SCREENS", "R3_TEST_ALL", "R3_TEST_TIMES", "R3_URL"}
)
_HOST = re.compile(r"[\w.-]+|\[?(?=.*:.*:)[0-9a-fA-F:.]+\]?")
_ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?/?", re.IGNORECASE)
MIN_SECRET_CHARS = 32
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/r3`, else `~/.local/share/r3`."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "r3"


def default_checkpoint() -> Path:
    """`checkpoints/small` of the source tree."""
    return Path(__file__).resolve().parent.parent / "checkpoints" / "small"


Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: a list with commas


class Settings(BaseSettings):
    """The service's settings; times in seconds, sizes in bytes, as the names say."""

    model_config = SettingsConfigDict(
        env_prefix="R3_", frozen=True, extra="forbid", env_parse_none_str=NONE, env_ignore_empty=True
    )

    # where to listen
    host: str = "127.0.0.1"
    """Address of the API; any but this machine's own needs R3_AUTH=keys or R3_INSECURE."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port of the API; 0 takes a free one (`r3 serve`)."""
    worker_host: str = "127.0.0.1"
    """Address of the worker's port for probes and metrics."""
    worker_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """That port; 0 takes a free one."""
    insecure: bool = False
    """Asks nobody for a key, on any address: for a proxy in front that does the asking."""
    allowed_hosts: Names = ()
    """Names that may stand in `Host` beside `R3_PUBLIC_URL`'s, with commas; with keys any may unless some are named."""
    cors_origins: Names = ()
    """Origins, with commas, whose pages may call the API."""
    public_url: str | None = None
    """The address that others use, for absolute links and secure cookies."""
    trusted_proxies: Names = ()
    """Addresses and networks, with commas, whose `X-Forwarded-For` and `-Proto` are believed."""

    # what to serve
    checkpoint: Path = Field(default_factory=default_checkpoint)
    """Folder or file of the weights."""
    base_checkpoint: Path | None = None
    """BAGEL's folder with configs, tokenizer and VAE, where the weights have none."""
    allow_unexpected: bool = False
    """Loads weights with tensors of unknown names."""
    default_model: str | None = None
    """Which model is meant where a request names none and several are known."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N`; unset: CUDA where there is one."""
    dtype: Literal["bf16", "fp32"] | None = None
    """Of weights and activations; unset: bf16 on CUDA, fp32 on a CPU."""
    attention: AttentionWanted = "auto"
    """Which attention runs; with `auto` the first whose probe passes."""
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads; unset: `OMP_NUM_THREADS`, or each core. Fewer run where others want them, but of large models."""
    warm_up_s: Annotated[float, Field(ge=0)] = 20.0
    """How long a worker may run the checkpoint's example prompts before it takes jobs; 0: not at all."""
    max_trajectories: Annotated[int, Field(ge=1, le=256)] = 8
    """How many trajectories a worker runs at a time."""
    kv_cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Size of the K/V cache; unset: planned from the memory that is left."""
    similarity_models: Names = ()
    """Other models that compare pictures after a round trip: `clip=/models/clip-l,dinov2=/models/dinov2-l`."""
    runner: Literal["model", "fake"] = "model"
    """`fake` computes no model: texts and pictures made from the prompt, to try the service."""
    fake_step_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a step of the fake model takes."""

    # where things are kept
    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder of the private queue and, unless R3_IMAGE_STORE is set, of pictures."""
    redis_url: str | None = None
    """The queue: `redis://`, `rediss://` or `unix://`; unset: `r3 serve` starts one of its own."""
    image_store: str | None = None
    """Folder or fsspec URL (`s3://bucket/prefix`) of pictures; unset: in the data directory."""
    image_store_endpoint: str | None = None
    """Where S3 answers if it is not AWS: `https://minio.example:9000`."""
    image_store_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """The region of the S3 bucket; unset: as AWS's own variables say."""
    keep_gb: Annotated[float, Field(gt=0)] = 10.0
    """Pictures that are kept where jobs have no lifetime (and 50,000 jobs); the oldest finished ones go first."""
    event_ttl_s: Annotated[int, Field(ge=1)] = 3600
    """How long a finished job's events can be read."""
    job_ttl_s: Annotated[int, Field(ge=1)] | None = 24 * 3600
    """How long a finished job and its pictures are kept; `none`, and `r3 serve` unless it is set: see R3_KEEP_GB."""
    poisoned_ttl_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600
    """How long a job is kept that was given up as poison; R3_JOB_TTL_S is the least."""
    idempotency_ttl_s: Annotated[int, Field(ge=1)] = 24 * 3600
    """How long an `Idempotency-Key` stands for its job."""

    # limits
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """The longest body that is read."""
    queue_limit: Annotated[int, Field(ge=1)] = 1000
    """How many jobs may wait in all."""
    tenant_queue_limit: Annotated[int, Field(ge=1)] = 1000
    """How many jobs of one tenant may wait, unless a quota of its own says otherwise."""
    queue_cost_limit: Annotated[float, Field(gt=0)] = 20_000.0
    """How much work may wait in all, in pictures of 512 x 512 pixels and 49 steps."""
    tenant_queue_cost_limit: Annotated[float, Field(gt=0)] = 20_000.0
    """The same for one tenant."""
    wait_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a request without a stream waits for its job before it is answered 202."""

    # the lease protocol
    lease_s: Annotated[float, Field(gt=0)] = 15.0
    """How long a worker that was not heard from keeps its jobs; at least three renewals."""
    renew_s: Annotated[float, Field(gt=0, le=5)] = 3.0
    """How often a worker renews its leases."""
    max_strikes: Annotated[int, Field(ge=1)] = 3
    """How many workers a job may cost before it is given up as poison."""
    drain_s: Annotated[float, Field(ge=0)] = 90.0
    """How long a worker that was asked to end goes on with the rounds in hand."""

    hung_after_s: Annotated[float, Field(ge=1)] | None = None
    """How long a turn of the engine may take before its worker ends and others go on; unset: 60, on a CPU 3600."""

    # streams
    heartbeat_s: Annotated[float, Field(gt=0)] = 10.0
    """The longest silence of a stream."""
    stream_buffer_events: Annotated[int, Field(ge=16)] = 512
    """How many events wait for a slow client before it loses live ones."""

    # who may come in
    auth: Literal["auto", "keys", "none"] = "auto"
    """Who is asked for a key: with `auto` everyone once there is one ([keys.md](keys.md))."""
    keys_file: Path | None = None
    """YAML or JSON file of keys and tenants, beside those in Redis."""
    token_secret: SecretStr | None = None
    """What links are signed with, 32 characters or more; unset: made once, kept in Redis."""
    link_ttl_s: Annotated[int, Field(ge=60)] = 3600
    """How long a signed link is good, and on to the next full hour."""
    requests_per_min: Annotated[int, Field(ge=1, le=1_000_000)] | None = 600
    """Requests a minute of a key that says nothing else; `none`: no limit."""
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """A port for `/metrics` alone, without a key; unset: none."""
    metrics_host: str | None = None
    """Its address; unset: R3_HOST."""

    # webhooks
    webhook_allow: Names = ()
    """Hosts and networks, with commas, that webhooks may go to; unset: no webhooks ([webhooks.md](webhooks.md))."""
    webhook_ca_file: Path | None = None
    """PEM file of further authorities for receivers' certificates."""

    # logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON line an event, or coloured text for people."""

    @field_validator(
        "allowed_hosts", "cors_origins", "trusted_proxies", "webhook_allow", "similarity_models", mode="before"
    )
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
        try:
            is_one = url is None or (ADDRESS.fullmatch(url) is not None and urlsplit(url).hostname is not None)
        except ValueError:  # such as [1:2], which is no address
            is_one = False
        if not is_one:
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

    @field_validator("similarity_models")
    @classmethod
    def _names_with_folders(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        named_models(entries)
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
