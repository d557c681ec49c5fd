"""Who does not ask for `judge` is answered and told what the build before it said (unjudged.json), to the letter.

An error's own object has its job's id since.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from server.embedded import EmbeddedServer
from tests.server.api.unjudged import CASES, serving, told

BEFORE: dict[str, list[str]] = json.loads(Path(__file__).with_name("unjudged.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this build says."""
    with redis.Redis.from_url(valkey.url, protocol=2) as database:
        database.flushall()
    with serving(valkey.url, tmp_path_factory.mktemp("unjudged")) as client:
        return told(client)


@pytest.mark.parametrize("name", [*CASES, "openai"])
def test_a_job_without_judge_says_what_it_said_before_there_was_any(now: dict[str, Any], name: str) -> None:
    assert now[name] == BEFORE[name]
