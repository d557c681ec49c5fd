"""What is read from the environment beside the settings of a server (settings.py): where a running one is, for the
commands that talk to it, and OpenTelemetry's standard variables, of which the SDK reads the rest itself.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.misconfigured import shown_url

ADDRESS: Final = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[\w./~-]*)?", re.IGNORECASE)

PROTOCOL: Final = "http/protobuf"
_HEADER: Final = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+[ \t]*=[ !#-+\--:<-\[\]-~]*")  # what the SDK reads


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
        if url is not None and not ADDRESS.fullmatch(url):
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


class Telemetry(BaseSettings):
    """Whether and where traces are sent. All of it text, for a word of others' must not keep a server from starting."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True, extra="ignore", env_ignore_empty=True)

    sdk_disabled: str = "false"
    traces_exporter: str = "otlp"
    exporter_otlp_endpoint: str | None = None
    exporter_otlp_traces_endpoint: str | None = None
    exporter_otlp_protocol: str = PROTOCOL
    exporter_otlp_traces_protocol: str | None = None
    exporter_otlp_headers: SecretStr = SecretStr("")
    exporter_otlp_traces_headers: SecretStr = SecretStr("")

    @property
    def endpoint(self) -> str | None:
        """The collector's address; None is no tracing."""
        return self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint

    @property
    def shown_endpoint(self) -> str:
        """The same without a password."""
        return shown_url(self.endpoint or "")

    @property
    def protocol(self) -> str:
        """What the collector is spoken to in."""
        return self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol

    @property
    def fault(self) -> str | None:
        """Why nothing could be sent there, and what to change; None where it is in form."""
        if self.protocol != PROTOCOL:
            return f"OTEL_EXPORTER_OTLP_PROTOCOL={self.protocol} is not spoken; leave it out, and name port 4318"
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            return f"OTEL_EXPORTER_OTLP_ENDPOINT={self.shown_endpoint} is no address; write it as http://HOST:4318"
        headers = (self.exporter_otlp_traces_headers or self.exporter_otlp_headers).get_secret_value()
        if not all(_HEADER.fullmatch(part.strip()) for part in headers.split(",") if part.strip()):
            return "OTEL_EXPORTER_OTLP_HEADERS is not NAME=VALUE,NAME=VALUE; encode other signs of a value as %XX"
        return None

    @property
    def is_off(self) -> bool:
        """Whether tracing is switched off though a collector is named."""
        return self.sdk_disabled.strip().lower() == "true" or self.traces_exporter.strip().lower() == "none"


def local_url(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens there."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 -- a name for it
    return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{port}"
