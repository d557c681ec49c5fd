"""Random walks over the lease protocol against the real scripts, with crashes between any two steps."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from server.embedded import EmbeddedServer
from tests.recorded import Record
from tests.server.lease_protocol import LeaseProtocol

STEPS = 120


@pytest.mark.row("R4")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("walks", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_no_walk_breaks_the_lease_protocol(
    queue_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, record: Record, walks: int
) -> None:
    for module in ("queue_link", "queue_worker"):
        monkeypatch.setattr(f"server.{module}.backoff_s", lambda: repeat(0.0))
    for limit in ("ANSWER_WITHIN_S", "ATTEMPT_S"):  # a walk knows what it lost; a busy machine loses nothing
        monkeypatch.setattr(f"server.queue_link.{limit}", 60.0)

    class Walk(LeaseProtocol):
        url = queue_server.url

    limits = settings(
        max_examples=walks,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking a walk takes minutes, and the walk is printed as it is
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Walk, settings=limits)
    record("R4", f"{queue_server.binary.name}: {walks} random walks of {STEPS} steps, crashes between, as modelled")
