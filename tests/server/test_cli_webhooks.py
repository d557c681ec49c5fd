"""`r3 webhooks secret`: shown once, rotated on request, on the queue of a running server or of the data directory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue import Queue
from tests.server.test_cli import Environment, environment, r3, refusal

__all__ = ["environment"]


def shown(*arguments: str, environment: Environment) -> tuple[str, dict[str, Any]]:
    """The secret that was printed, and the line of the audit log."""
    ended = r3("webhooks", "secret", *arguments, environment=environment)
    assert ended.returncode == 0, ended.stderr
    secret = ended.stdout.removesuffix("\n")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert secret not in ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("{")]
    return secret, json.loads(line)


async def test_a_secret_is_shown_once_and_another_made_on_request(
    queue_server: EmbeddedServer, queue: Queue, db: redis.Redis, environment: Environment
) -> None:
    here = {**environment, "R3_REDIS_URL": queue_server.url}
    first, line = shown("--tenant", "acme", environment=here)
    assert (line["event"], line["tenant"], line["who"]) == ("webhook secret shown", "acme", "local")
    assert await queue.hooks.signing_secrets("acme") == [first]
    assert "--rotate" in refusal("webhooks", "secret", "--tenant", "acme", environment=here)
    second, line = shown("--tenant", "acme", "--rotate", environment=here)
    assert line["event"] == "webhook secret rotated"
    assert await queue.hooks.signing_secrets("acme") == [second, first]


def test_without_a_running_server_that_of_the_data_directory_is_started_for_the_moment(
    environment: Environment,
) -> None:
    first, _ = shown(environment=environment)
    assert "shown before" in refusal("webhooks", "secret", environment=environment)
    second, _ = shown("--rotate", environment=environment)
    assert first != second


@pytest.mark.parametrize("tenant", ["", "a b", "ü", "x" * 129, "a\nb"])
def test_what_cannot_name_a_tenant_is_refused(environment: Environment, tenant: str) -> None:
    assert "tenant" in refusal("webhooks", "secret", "--tenant", tenant, environment=environment)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("R3_WEBHOOK_ALLOW", "https://hooks.example.com"),
        ("R3_WEBHOOK_ALLOW", "10.0.0.1/8"),
        ("R3_WEBHOOK_CA_FILE", "/no/such/file.pem"),
        ("R3_WEBHOOK_CA_FILE", __file__),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_starts(
    environment: Environment, variable: str, value: str
) -> None:
    line = refusal("api", "--redis-url", "redis://127.0.0.1:6379/0", environment={**environment, variable: value})
    assert variable in line
    assert value in line
