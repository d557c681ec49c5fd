"""Where each port listens: at the address that it was given, and at no other of this machine's."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from server.embedded import EmbeddedServer
from tests.server.processes import ApiProcess, free_port, worker_processes
from tests.server.waiting import until

USUAL: Final = "127.0.0.1"
OWN: Final = "127.0.0.2"
METRICS: Final = "127.0.0.3"


def is_ours(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


pytestmark = pytest.mark.skipif(
    not all(map(is_ours, (OWN, METRICS))), reason="127.0.0.2 and 127.0.0.3 are no addresses here; on Linux they are"
)


def answering(port: int, path: str) -> set[str]:
    """Where the path is answered 200; elsewhere the connection must be refused."""
    return {address for address in (USUAL, OWN, METRICS) if status(address, port, path) == 200}


@contextmanager
def held(port: int, *, but: str) -> Iterator[None]:
    """Nobody else listens on this port elsewhere meanwhile; connections there are refused."""
    with ExitStack() as stack:
        for address in {USUAL, OWN, METRICS} - {but}:
            stack.enter_context(socket.socket()).bind((address, port))
        yield


def status(address: str, port: int, path: str) -> int | None:
    with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
        try:
            connection.request("GET", path)
        except ConnectionRefusedError:
            return None
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("settings", "metrics_at"), [({}, USUAL), ({"host": OWN}, OWN), ({"host": OWN, "metrics_host": METRICS}, METRICS)]
)
def test_the_api_and_its_metrics_listen_where_they_are_told_and_nowhere_else(
    own_server: EmbeddedServer, tmp_path: Path, settings: dict[str, Any], metrics_at: str
) -> None:
    ports = {"port": free_port(), "metrics_port": free_port()}
    given, at = {"insecure": True, **ports, **settings}, settings.get("host", USUAL)
    with (
        held(ports["port"], but=at),
        held(ports["metrics_port"], but=metrics_at),
        closing(ApiProcess(own_server.url, tmp_path, tmp_path / "api.log", **given)) as api,
    ):
        until(lambda: bool(answering(ports["port"], "/livez")) or not api.is_running(), 60)
        assert answering(ports["port"], "/livez") == {at}, api.log.read_text()
        until(lambda: bool(answering(ports["metrics_port"], "/metrics")))
        assert answering(ports["metrics_port"], "/metrics") == {metrics_at}


@pytest.mark.parametrize(("settings", "probed_at"), [({}, USUAL), ({"worker_host": OWN}, OWN)])
def test_a_workers_port_for_probes_listens_where_it_is_told_and_nowhere_else(
    own_server: EmbeddedServer, tmp_path: Path, settings: dict[str, Any], probed_at: str
) -> None:
    port = free_port()
    with held(port, but=probed_at), worker_processes(own_server.url, tmp_path) as start:
        worker = start(worker_port=port, **settings)
        until(lambda: bool(answering(port, "/livez")) or not worker.is_running(), 60)
        assert answering(port, "/livez") == {probed_at}, worker.log.read_text()
