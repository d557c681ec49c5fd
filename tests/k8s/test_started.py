"""What a pod's environment makes of the program: its own probes, asked as a kubelet asks, and its end by SIGTERM.

And what KEDA would find in Redis under the names that it is told.
"""

from __future__ import annotations

import asyncio
import http.client
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis

from server.queue import Queue
from server.queue_records import QueuePolicy
from server.queue_worker import WorkerQueue
from tests.k8s.cluster import Cluster, probes
from tests.k8s.test_rules import chart
from tests.server.jobs import job
from tests.server.processes import R3, R3Process, free_port, private_server
from tests.server.waiting import until

Json = dict[str, Any]
POD: Final = "10.42.7.19"  # a kubelet asks by the pod's address, which nobody has told the program


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with private_server() as server:
        yield server.url


class Container:
    """The program of one of our containers, with its environment; what a cluster gives it is given here."""

    def __init__(self, cluster: Cluster, component: str, redis_url: str, folder: Path) -> None:
        [(self.pod, self.container)] = cluster.containers(component)
        told = cluster.environment(self.container)
        environment = {name: value for name, value in told.items() if name.startswith("R3_")}
        given = {"R3_REDIS_URL": redis_url, "R3_IMAGE_STORE": str(folder / "pictures"), "R3_DEVICE": "cpu"}
        given["R3_RUNNER"] = "fake"
        variable = {"http": "R3_PORT", "metrics": "R3_METRICS_PORT", "health": "R3_WORKER_PORT"}
        self.ports = {port["name"]: free_port() for port in self.container["ports"]}
        given |= {variable[name]: str(port) for name, port in self.ports.items()}
        settings = {name.removeprefix("R3_").lower(): value for name, value in {**environment, **given}.items()}
        self.process = R3Process(component, folder / f"{component}.log", settings, R3)

    def status(self, port: str, path: str) -> int:
        """What the pod answers without a key; 0: nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=10)
        try:
            connection.request(
                "GET", path, headers={"Host": f"{POD}:{self.ports[port]}", "User-Agent": "kube-probe/1.35"}
            )
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def passes(self, probe: str, where: Json) -> None:
        """Wait until a probe is content, and fail where it never will be."""
        until(lambda: self.status(where["port"], where["path"]) == 200 or not self.process.is_running(), 60)
        assert self.process.is_running(), (probe, self.process.log.read_text())


@pytest.mark.parametrize(("name", "component", "scraped"), [("other", "api", "metrics"), ("dev", "worker", "health")])
def test_a_pod_starts_passes_its_probes_is_scraped_and_ends(
    name: str, component: str, scraped: str, redis_url: str, tmp_path: Path
) -> None:
    pod = Container(chart(name), component, redis_url, tmp_path)
    try:
        for probe, asks in probes(pod.container):
            pod.passes(probe, asks["httpGet"])
        assert pod.status(scraped, "/metrics") == 200
        if component == "api":
            assert pod.status("http", "/jobs") == 401
            assert pod.status("http", "/metrics") == 401
        began = time.monotonic()
        pod.process.send(signal.SIGTERM)
        assert pod.process.process.wait(pod.pod.spec["terminationGracePeriodSeconds"]) == 0
        assert time.monotonic() - began < 30
    finally:
        pod.process.kill()


def test_keda_finds_what_waits_and_what_runs_under_the_names_that_it_is_told(redis_url: str) -> None:
    [scaler] = chart("other").of("ScaledObject")
    named = {trigger["name"]: trigger["metadata"]["listName"] for trigger in scaler["spec"]["triggers"]}
    model = named["waiting"].rpartition(":")[2]

    async def submit() -> None:
        queue = Queue(redis_url)
        try:
            for _ in range(3):
                await queue.submit(job(model=model))
        finally:
            await queue.close()

    asyncio.run(submit())
    work = WorkerQueue(redis_url, "worker", QueuePolicy())
    assert len(work.lease(model, 1, 0)) == 1
    work.close()
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        # As KEDA does: by the key's type, and a cardinality for a sorted set.
        found = {name: (redis.type(key), redis.zcard(key)) for name, key in named.items()}
    assert found == {"waiting": ("zset", 2), "leased": ("zset", 1)}
