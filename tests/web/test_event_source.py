"""A browser's own EventSource takes up a job's stream where it broke, without a line of ours in between (S5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue import QueuePolicy
from server.queue_worker import WorkerQueue
from tests.recorded import Record
from tests.server.api.by_hand import HandWorker
from tests.server.processes import api_process, free_port, private_server

WAIT_MS: Final = 120_000
EVENTS: Final = [
    "job.queued",
    "job.started",
    "reason.delta",
    "reason.done",
    "image",
    "trajectory.done",
    "job.succeeded",
]
LISTEN: Final = """
([url, names]) => {
  window.heard = [];
  const source = new EventSource(url);
  source.addEventListener('error', () => heard.push({ name: 'error', id: null }));
  for (const name of names) {
    source.addEventListener(name, ({ lastEventId }) => {
      heard.push({ name, id: Number(lastEventId) });
      if (name === names.at(-1)) source.close();
    });
  }
}
"""


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server of nobody else's."""
    with private_server() as server:
        yield server


@pytest.mark.row("S5")
def test_event_source_resumes_after_the_api_was_killed_in_mid_stream(
    browser: Browser, own_server: EmbeddedServer, tmp_path: Path, record: Record
) -> None:
    port = free_port()
    queue = WorkerQueue(own_server.url, "by-hand", QueuePolicy(lease_s=600))
    worker = HandWorker(queue, ImageStore(tmp_path / "images"))
    context = browser.new_context(bypass_csp=True)  # else what a test waits for may not be evaluated
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    with api_process(own_server.url, tmp_path, port=port) as api:
        page.goto(f"{api.url}/docs")
        answer = api.client.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
        page.evaluate(LISTEN, [answer.json()["links"]["events"], EVENTS])
        hand = worker.takes()
        hand.reasons()
        page.wait_for_function("heard.some(({ name }) => name === 'reason.done')")
        api.kill()
    page.wait_for_function("heard.at(-1).name === 'error'")
    hand.draws()  # while nobody serves
    with api_process(own_server.url, tmp_path, port=port):
        page.wait_for_function("heard.some(({ name }) => name === 'image')")
        hand.ends("max_rounds")
        page.wait_for_function("heard.some(({ name }) => name === 'job.succeeded')")
    heard: list[dict[str, Any]] = page.evaluate("heard")
    context.close()
    queue.close()
    ids = [event["id"] for event in heard if event["name"] != "error"]
    assert ids == list(range(1, len(ids) + 1))
    record("S5", "EventSource in Chromium resumes after the API was killed")
