"""A real Prometheus scrapes a real API and a real worker: the dashboards' queries have answers, and no alert fires."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from k8s.monitoring import dashboards
from tests.monitoring import promql
from tests.monitoring.exported import exported
from tests.programs import needed
from tests.server.processes import ApiProcess, api_process, free_port, private_server, worker_processes
from tests.server.waiting import until

ALERTS: Final = dashboards.FOLDER.parent / "alerts.yaml"
SCRAPED_EVERY_S: Final = 3  # also how long a scrape may take, on a machine that is busy with other things
JOBS: Final = 6
LONG_LEASES: Final = {"lease_s": 30, "renew_s": 1}  # a busy machine loses none
# What a healthy fleet without a GPU has none of, by the panel's title.
SILENT: Final = {"Webhooks", "Failures", "GPU memory in use", "Streams cut short, events dropped", "K/V cache in use"}


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return found


@contextmanager
def prometheus(targets: dict[str, int], folder: Path) -> Iterator[Prometheus]:
    """Scrape these ports of this machine, with our alert rules, for as long as the block lasts."""
    program, port = needed("prometheus", package="prometheus"), free_port()
    jobs = [{"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{at}"]}]} for name, at in targets.items()]
    every = f"{SCRAPED_EVERY_S}s"
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(ALERTS)],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        one = Prometheus(port)
        try:
            until(lambda: one.is_ready() or process.poll() is not None, 60)
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            yield one
        finally:
            one.close()
            process.kill()


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of everything that the dashboards show."""
    for path in dashboards.FOLDER.glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], promql.as_sent(target["expr"], shown="60s", rate_over="30s")


def submit(api: ApiProcess) -> None:
    few = {"num_timesteps": 5}
    asked = {"prompt": "a cat edits=1", "size": "256x256", "generate": few, "refine": few}
    answer = api.client.post("/generate", json=asked, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_panel_has_an_answer_and_no_alert_begins_before_something_is_wrong(tmp_path: Path) -> None:
    worker_port = free_port()
    with (
        private_server() as server,
        api_process(server.url, tmp_path, **LONG_LEASES) as api,
        worker_processes(server.url, tmp_path) as start,
    ):
        worker = start(worker_port=worker_port, fake_step_s=0.01, **LONG_LEASES)
        with prometheus({"r3-api": api.port, "r3-worker": worker_port}, tmp_path) as prom:
            until(lambda: worker.probe("/readyz") == 200, 60)
            until(lambda: len(prom.query("r3_queue_up == 1")) == 2, 60)
            for _ in range(JOBS):
                submit(api)
            until(lambda: bool(prom.query(f'r3_jobs_total{{outcome="succeeded"}} == {JOBS}')), 120)
            time.sleep(2 * SCRAPED_EVERY_S)
            empty = {title for title, expr in panels() if not prom.query(expr)}
            assert empty <= SILENT, empty - SILENT
            assert empty >= {"Failures", "GPU memory in use"}  # what tells nothing is told apart
            told = set(prom.ask("label/__name__/values"))
            expected = {name for one in exported() for name in one.series}
            # What has labels and has not happened, and a pace that nobody knows yet, have no series.
            assert {name for name in told if name.startswith("r3_")} <= expected
            missing = {"r3_failures_total", "r3_webhooks_total", "r3_sse_streams_closed_total", "r3_queue_work_seconds"}
            assert expected - told <= missing, expected - told
            assert {one["health"] for one in prom.ask("targets")["activeTargets"]} == {"up"}
            rules = [rule for group in prom.ask("rules")["groups"] for rule in group["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}
            assert not [rule["name"] for rule in rules if rule["state"] != "inactive"]
            worker.kill()
            submit(api)
            until(lambda: bool(prom.query('ALERTS{alertname="R3NoWorkers", alertstate="pending", model="fake"}')), 60)
