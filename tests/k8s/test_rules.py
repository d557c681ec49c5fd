"""Every rule over everything that is rendered, and every rule shown to see the faults that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.k8s import rules_app, rules_pods, rules_wiring
from tests.k8s.cluster import Cluster
from tests.k8s.faults import FAULTS, Fault
from tests.k8s.rendered import K8S, TO_SAY, filled, kustomized, templated

Rule = Callable[[Cluster], Iterator[str]]
VALUES: Final = Path(__file__).parent / "values"
CHARTS: Final = {"dev": K8S / "chart" / "dev.yaml", "prod": VALUES / "prod.yaml", "other": VALUES / "other.yaml"}
# The Secret that docs/deploy.md has the operator make.
BY_HAND: Final = {"r3-redis": frozenset({"url", "address", "password", "auth.conf"})}

RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        *(rules_pods.hardened, rules_pods.alone, rules_pods.bounded, rules_pods.whole_devices, rules_pods.pinned),
        *(rules_pods.mounted, rules_pods.one_handler, rules_pods.rolled_out),
        *(
            rules_wiring.selectors,
            rules_wiring.labels,
            rules_wiring.ports,
            rules_wiring.reached,
            rules_wiring.budgets,
            rules_wiring.scaled,
        ),
        *(rules_wiring.configured, rules_wiring.closed),
        *(rules_app.known_settings, rules_app.same_settings, rules_app.commands, rules_app.probed, rules_app.traced),
        *(
            rules_app.listening,
            rules_app.drained,
            rules_app.hub_closed,
            rules_app.placed,
            rules_app.queues,
            rules_app.streamed,
        ),
        rules_app.persisted,
    )
}


@cache
def chart(name: str) -> Cluster:
    return Cluster(templated(CHARTS[name]), BY_HAND)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def overlays(site: Path) -> Callable[[str], Cluster]:
    return cache(lambda name: Cluster(kustomized(site / "overlays" / name), BY_HAND))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CHARTS)
def test_the_chart_keeps_every_rule(name: str, rule: str) -> None:
    assert list(RULES[rule](chart(name))) == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dev", "prod", "other"])
def test_the_overlays_keep_every_rule(name: str, rule: str, overlays: Callable[[str], Cluster]) -> None:
    assert list(RULES[rule](overlays(name))) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rule}: {fault.name}")
def test_a_fault_is_seen(fault: Fault) -> None:
    broken = Cluster(deepcopy(chart(fault.of).documents), BY_HAND)
    fault.break_(broken)
    assert list(RULES[fault.rule](broken)) != []


def test_every_rule_is_shown_to_see_a_fault() -> None:
    assert {fault.rule for fault in FAULTS} == set(RULES)


def test_what_a_site_must_say_is_refused_where_it_is_left_unsaid(overlays: Callable[[str], Cluster]) -> None:
    unsaid = Cluster(kustomized(K8S / "overlays" / "prod"), BY_HAND)
    assert any(TO_SAY in complaint for complaint in rules_pods.pinned(unsaid))
    assert any(TO_SAY in complaint for complaint in rules_app.known_settings(unsaid))
    assert TO_SAY not in str(overlays("prod").documents)


def test_every_overlay_is_in_a_namespace_that_admits_restricted_pods_alone(
    overlays: Callable[[str], Cluster],
) -> None:
    for name in ("dev", "prod", "other"):
        cluster = overlays(name)
        [namespace] = cluster.of("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        others = [document for document in cluster.documents if document["kind"] != "Namespace"]
        assert {document["metadata"].get("namespace") for document in others} == {"r3"}


def test_the_chart_and_the_overlays_run_the_same_pods(overlays: Callable[[str], Cluster]) -> None:
    """Two sources for one thing: what they say of a part of the service must not drift apart."""
    for name in ("dev", "prod", "other"):
        theirs = {pod.component: pod for pod in chart(name).pods() if pod.labels.get("worker") in (None, "main")}
        ours = {pod.component: pod for pod in overlays(name).pods()}
        assert set(theirs) == set(ours)
        for component, pod in ours.items():
            [mine], [other] = pod.containers, theirs[component].containers
            for field in (
                *("securityContext", "ports", "startupProbe", "livenessProbe", "readinessProbe"),
                *("lifecycle", "args", "command"),
            ):
                assert mine.get(field) == other.get(field), (name, component, field)
            assert mine["image"].partition("@")[0] == other["image"].partition("@")[0], (name, component)
            for field in ("securityContext", "nodeSelector", "tolerations", "terminationGracePeriodSeconds"):
                assert pod.spec.get(field) == theirs[component].spec.get(field), (name, component, field)
            mounts, others = (
                {(mount["name"], mount["mountPath"], mount.get("readOnly")) for mount in one["volumeMounts"]}
                for one in (mine, other)
            )
            assert mounts == others, (name, component)
