"""Streams that are cut, that fall silent behind a proxy, and that other programs read (S3, S4, S5)."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue import Queue, QueuePolicy
from server.queue_records import TERMINAL_EVENTS
from server.queue_worker import WorkerQueue
from tests.programs import needed, without_proxies
from tests.recorded import Record
from tests.server.api.by_hand import Hand, HandWorker
from tests.server.api.events import Sse, check_whole, parsed
from tests.server.processes import ApiProcess, api_process, free_port
from tests.server.waiting import until

CUTS = 100


def submitted(api: ApiProcess) -> dict[str, Any]:
    answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
    return dict(answer.json())


class Talk(threading.Thread):
    """A worker that says one thing after another, until it is told that it is enough, and ends its job."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(daemon=True)
        self.enough = threading.Event()
        self._hand = hand

    def run(self) -> None:
        """Numbered events of many lengths, live ones between, and at last a picture."""
        count = 0
        while not self.enough.wait(0.002):
            count += 1
            self._hand.says("reason.delta", text=f"{count} " + "wörd " * (count % 7))
            self._hand.shows("image.progress", round=0, step=count, steps=10_000)
        self._hand.draws()
        self._hand.ends("max_rounds")


def read_and_cut(api: ApiProcess, job_id: str, after: int | None, size: int | None) -> list[Sse]:
    """The events in the first `size` bytes of a stream, None for all; then the connection is dropped."""
    text = b""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with api.client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        for chunk in answer.iter_raw():
            text += chunk
            if size is not None and len(text) >= size:
                break
    seen = text[:size]
    complete = seen[: seen.rfind(b"\n\n") + 2] if b"\n\n" in seen else b""
    return list(parsed(complete.decode().split("\n")[:-1]))


@pytest.mark.row("S3")
async def test_a_stream_cut_at_a_hundred_random_bytes_and_resumed_is_the_log(
    api: ApiProcess, by_hand: HandWorker, queue: Queue, record: Record
) -> None:
    """While the job goes on."""
    job_id, chance, seen, empty = submitted(api)["id"], random.Random(1), list[Sse](), 0
    talk = Talk(by_hand.takes())
    talk.start()
    for _ in range(CUTS):
        came = read_and_cut(api, job_id, seen[-1].id if seen else None, chance.randrange(1, 3000))
        seen += [event for event in came if event.id is not None]
        empty += not came
    talk.enough.set()
    seen += [e for e in read_and_cut(api, job_id, seen[-1].id, None) if e.id is not None]
    talk.join(20)
    log = await queue.events(job_id, limit=10_000)
    assert [(event.id, event.name) for event in seen] == [(event.number, event.name) for event in log]
    assert [event.id for event in seen] == list(range(1, len(log) + 1))
    assert seen[-1].name in TERMINAL_EVENTS
    record(
        "S3", f"{CUTS} cuts of a live stream, {empty} of them before a whole event: {len(log)} events, the log itself"
    )


NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{api};
            proxy_read_timeout {timeout_s}s;
        }}
    }}
}}
"""


@contextmanager
def behind_nginx(api: ApiProcess, folder: Path, timeout_s: int) -> Iterator[str]:
    """The API through nginx as it comes, but for how long it bears silence; yields its address."""
    nginx, port = needed("nginx", package="nginx-light"), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, api=api.port, timeout_s=timeout_s))
    with (folder / "nginx.out").open("wb") as out:
        process = subprocess.Popen([nginx, "-p", folder, "-c", config], stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or is_up(url))
        assert process.poll() is None, (folder / "nginx.out").read_text()
        yield url
    finally:
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.row("S4")
@pytest.mark.parametrize(
    ("silence_s", "timeout_s", "heartbeat_s"), [(6, 4, 1), pytest.param(20, 15, 10, marks=pytest.mark.slow)]
)
def test_silence_behind_nginx_cuts_no_stream(
    own_server: EmbeddedServer, tmp_path: Path, record: Record, silence_s: int, timeout_s: int, heartbeat_s: float
) -> None:
    """nginx gives up before the silence is over: only heartbeats hold the stream, and they must not be kept back."""
    queue = WorkerQueue(own_server.url, "by-hand", QueuePolicy(lease_s=600))
    with (
        api_process(own_server.url, tmp_path, heartbeat_s=heartbeat_s) as api,
        behind_nginx(api, tmp_path, timeout_s) as url,
    ):
        worker = HandWorker(queue, ImageStore(tmp_path / "images"))
        job = submitted(api)
        hand = worker.takes()
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            with client.stream("GET", job["links"]["events"]) as answer:
                events = parsed(answer.iter_lines())
                seen = [next(events), next(events)]
                time.sleep(silence_s)
                began = time.monotonic()
                hand.reasons()
                seen.append(next(events))
                took_s = time.monotonic() - began
                hand.draws()
                hand.ends("max_rounds")
                seen += list(events)
    check_whole(seen)
    queue.close()
    figure = f"{silence_s} s of silence where nginx gives up after {timeout_s} s, a heartbeat every {heartbeat_s:g} s: "
    record("S4", figure + f"not cut; the next event came after {took_s * 1000:.0f} ms")


@pytest.mark.row("S5")
def test_curl_streams_and_resumes(api: ApiProcess, by_hand: HandWorker, record: Record) -> None:
    job = submitted(api)
    url = f"{api.url}{job['links']['events']}"
    plain = without_proxies()
    command = [str(needed("curl", package="curl")), "-sN", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain) as curl:
        assert curl.stdout is not None
        events = parsed(line.rstrip("\n") for line in curl.stdout)
        assert next(events).name == "job.queued"
        hand = by_hand.takes()
        assert next(events).name == "job.started"
        hand.reasons()
        hand.draws()
        hand.ends("max_rounds")
        rest = list(events)
    assert curl.returncode == 0
    assert rest[-1].name == "job.succeeded"
    resumed = subprocess.run(
        [*command, "-H", "Last-Event-ID: 3"], check=True, capture_output=True, text=True, env=plain
    )
    check_whole(list(parsed(resumed.stdout.splitlines())), after=3)
    record("S5", "`curl -N` streams and resumes")
