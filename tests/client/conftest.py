"""A service of real processes, shared by tests that leave it whole; others start what they harm themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from r3client import Client
from server.embedded import EmbeddedServer
from tests.client.service import FAST, Service, running_service
from tests.server.processes import private_server


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own server is none of ours."""
    for name in ("R3_URL", "R3_API_KEY", "R3_KEY", "R3_HOST", "R3_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedServer]:
    """A running Valkey that no test harms."""
    with private_server() as server:
        yield server


@pytest.fixture(scope="session")
def service(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API and a worker that draws at once; no test harms them."""
    with running_service(f"{valkey.url}?db=0", tmp_path_factory.mktemp("service"), worker=FAST) as running:
        yield running


@pytest.fixture
def own(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[Service]:
    """An API and a slow worker that a test may harm."""
    with running_service(f"{valkey.url}?db=1", tmp_path, worker={"fake_step_s": 0.03}) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A client of the shared service."""
    with Client(service.url, patience_s=20) as one:
        yield one
