"""While it cannot be known who may come in nobody may, and nobody stays: not by a stream, nor by a wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.keys_file import entry
from server.queue_records import ROOT
from tests.server.api.keyed import KeyedApi, keyed_api
from tests.server.api.test_api_generate import problem
from tests.server.api.test_api_revoked import file_key, following, in_file
from tests.server.waiting import until


def break_file(keyed: KeyedApi) -> None:
    assert keyed.api.settings.keys_file is not None
    keyed.api.settings.keys_file.write_text("keys: [")


def break_redis(keyed: KeyedApi) -> None:
    """It answers, and all but the keys is there."""
    keyed.db.rename(f"{ROOT}keys", f"{ROOT}kept")
    keyed.db.set(f"{ROOT}keys", "x")
    keyed.db.hset(f"{ROOT}auth", "changed", "1")


def mend_redis(keyed: KeyedApi) -> None:
    keyed.db.rename(f"{ROOT}kept", f"{ROOT}keys")
    keyed.db.hset(f"{ROOT}auth", "changed", "2")


def mend_file(keyed: KeyedApi) -> None:
    assert keyed.api.settings.keys_file is not None
    in_file(keyed.api.settings.keys_file)


def hang_file(keyed: KeyedApi) -> None:
    """Who opens it waits, as on a network drive whose server is gone."""
    file = keyed.api.settings.keys_file
    assert file is not None
    os.mkfifo(file.with_suffix(".pipe"))
    file.with_suffix(".pipe").rename(file)


def free_file(keyed: KeyedApi) -> None:
    file = keyed.api.settings.keys_file
    assert file is not None
    pipe = os.open(file, os.O_WRONLY)  # waits until it is being read
    os.write(pipe, b"keys: [")
    file.unlink()
    os.close(pipe)
    mend_file(keyed)


BROKEN = [(break_file, mend_file), (hang_file, free_file), (break_redis, mend_redis)]
Act = Callable[[KeyedApi], None]


@pytest.fixture
def keyed(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[KeyedApi]:
    file = tmp_path / "keys.yaml"
    in_file(file, entry(file_key("a")[0]))
    with keyed_api(valkey.url, tmp_path, keys_file=file) as keyed:
        yield keyed


@pytest.mark.parametrize(("breaks", "mends"), BROKEN)
def test_whoever_needs_a_key_is_answered_503_and_comes_in_again_when_keys_can_be_read(
    keyed: KeyedApi, breaks: Act, mends: Act
) -> None:
    holder = keyed.holder("one")
    job = holder.submit()
    breaks(keyed)
    until(lambda: holder.client.get("/jobs").status_code == 503, 15)
    link = job["links"]["self"]
    for answer in (holder.client.get("/jobs"), keyed.stranger.get("/nope"), keyed.stranger.get(link)):
        detail = problem(answer, 503, "keys_unavailable")["detail"]
        assert "Redis" not in detail
        assert answer.headers["retry-after"]
    assert keyed.stranger.get("/livez").status_code == 200
    mends(keyed)
    until(lambda: holder.client.get("/jobs").status_code == 200)


@pytest.mark.parametrize(("breaks", "mends"), BROKEN)
def test_streams_end_while_nobody_can_say_whose_key_is_good_and_go_on_when_that_is_known(
    keyed: KeyedApi, breaks: Act, mends: Act
) -> None:
    holder = keyed.holder("one")
    job = holder.submit()
    hand = keyed.worker.takes()
    by_key, by_link = f"/jobs/{job['id']}/events", job["links"]["events"]
    with following(holder.client, by_key) as mine, following(keyed.stranger, by_link) as linked:
        breaks(keyed)
        until(lambda: holder.client.get("/livez").is_success and keyed.stranger.get("/jobs").status_code == 503, 15)
        for events in (mine, linked):
            [*_, last] = events
            assert (last.name, last.data["reason"]) == ("stream.closing", "keys_unavailable")
    hand.whole_run()
    mends(keyed)
    until(lambda: holder.client.get("/jobs").status_code == 200)
    with following(holder.client, by_key) as again:
        assert [event.name for event in again][-1] == "job.succeeded"


def test_who_waits_for_a_job_is_answered_503_and_their_job_goes_on(keyed: KeyedApi) -> None:
    holder = keyed.holder("one")
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(holder.client.post("/generate", json={"prompt": "a"})))
    waiting.start()
    until(lambda: keyed.db.exists(f"{ROOT}jobs:one") == 1)
    break_file(keyed)
    waiting.join(20)
    problem(answers[0], 503, "keys_unavailable")
    mend_file(keyed)
    until(lambda: holder.client.get("/jobs").status_code == 200)
    assert [job["status"] for job in holder.client.get("/jobs").json()["jobs"]] == ["queued"]
