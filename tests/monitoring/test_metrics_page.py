"""docs/metrics.md lists what is exported, no more and no less, and that is what the processes tell."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.worker_health import HealthPort, Vitals
from tests.monitoring.exported import Exported, exported

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"


def row(one: Exported) -> str:
    """A metric's line of the table."""
    labels = ", ".join(f"`{label}`" for label in one.labels)
    return f"| `{one.name}` | {one.type} | {labels} | {one.means} |"


def tables(page: str) -> dict[str, list[str]]:
    """The lines of each process's table."""
    found: dict[str, list[str]] = {}
    for section in page.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found[title] = [line for line in text.splitlines() if line.startswith("| `")]
    return found


@pytest.mark.parametrize(("process", "title"), [("API", "API"), ("worker", "Worker")])
def test_the_page_lists_every_metric_that_is_exported_and_no_other(process: str, title: str) -> None:
    of_the_code = [row(one) for one in exported() if one.process == process]
    assert tables(PAGE.read_text())[title] == of_the_code, "\n".join(["docs/metrics.md should say:", *of_the_code])


def test_a_worker_tells_on_its_port_what_its_registry_holds() -> None:
    vitals = Vitals()
    vitals.metrics.loaded("tiny", "0" * 16, "1.0", 1.0)
    with HealthPort("127.0.0.1", 0, vitals) as health:
        with urllib.request.urlopen(f"http://127.0.0.1:{health.port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    told = {f"{f.name}_total" if f.type == "counter" else f.name for f in families if f.name.startswith("r3_")}
    assert told == {one.name for one in exported() if one.process == "worker"}


def test_no_metric_is_labelled_with_what_clients_can_make_more_of() -> None:
    """A series is kept for weeks: what is unbounded belongs into a log."""
    bounded = {"method", "route", "code", "reason", "outcome", "phase", "model", "version", "hash"}
    for one in exported():
        assert set(one.labels) <= bounded, one
