"""Alerts and dashboards arrive in a cluster as they lie in k8s/monitoring, by either way."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import yaml

from k8s.monitoring.prometheus_rule import FILE, wrapped
from tests.k8s.cluster import Cluster
from tests.k8s.rendered import K8S, filled, kustomized
from tests.k8s.test_rules import chart

MONITORING = K8S / "monitoring"


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Cluster]]:
    def overlay() -> Cluster:
        return Cluster(kustomized(filled(tmp_path_factory.mktemp("site")) / "overlays" / "prod"))

    return {"chart": lambda: chart("prod"), "overlay": overlay}


@pytest.mark.parametrize("way", ["chart", "overlay"])
def test_alerts_and_dashboards_arrive_as_they_are(way: str, ways: dict[str, Callable[[], Cluster]]) -> None:
    cluster = ways[way]()
    [rule] = cluster.of("PrometheusRule")
    assert rule["spec"] == yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    told = {
        key: json.loads(text)
        for document in cluster.of("ConfigMap")
        if document["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for key, text in document["data"].items()
    }
    assert told == {file.name: json.loads(file.read_text()) for file in (MONITORING / "dashboards").glob("*.json")}


@pytest.mark.parametrize("way", ["chart", "overlay"])
def test_monitors_and_alerts_have_the_label_by_which_prometheus_takes_them(
    way: str, ways: dict[str, Callable[[], Cluster]]
) -> None:
    """kube-prometheus-stack passes over what has it not, and says nothing: no metrics, no alert."""
    found = list(ways[way]().of("PodMonitor", "PrometheusRule"))
    assert len(found) == 3
    assert {document["metadata"]["labels"].get("release") for document in found} == {"prometheus"}


def test_the_rule_for_the_operator_is_the_rule_file() -> None:
    alerts = (MONITORING / "alerts.yaml").read_text()
    assert FILE.read_text() == wrapped(alerts)
    assert FILE.read_text() != wrapped(alerts.replace("for: 2m", "for: 3m", 1))


def test_a_chart_without_monitors_brings_neither() -> None:
    assert not list(chart("dev").of("PrometheusRule", "PodMonitor"))
