"""Every rule over everything that is rendered, and every rule shown to see the faults that it is there for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.k8s import rules_app, rules_pods, rules_ways, rules_wiring
from tests.k8s.cluster import Cluster
from tests.k8s.faults import FAULTS, Fault
from tests.k8s.rendered import K8S, SITE, TO_SAY, filled, kustomized, templated

Rule = Callable[[Cluster], Iterator[str]]
VALUES: Final = Path(__file__).parent / "values"
CHARTS: Final = {"dev": K8S / "chart" / "dev.yaml", "prod": VALUES / "prod.yaml", "other": VALUES / "other.yaml"}
# The Secret that docs/deploy.md has the operator make; a trial needs none.
BY_HAND: Final = {"r3-redis": frozenset({"url", "address", "password", "auth.conf"})}
NOT_ASKED: Final = ("dev",)

RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        *(rules_pods.hardened, rules_pods.alone, rules_pods.bounded, rules_pods.whole_devices, rules_pods.pinned),
        rules_pods.large_enough,
        *(rules_pods.mounted, rules_pods.one_handler, rules_pods.rolled_out),
        *(
            rules_wiring.selectors,
            rules_wiring.labels,
            rules_wiring.ports,
            rules_wiring.reached,
            rules_wiring.budgets,
            rules_wiring.scaled,
        ),
        *(rules_wiring.configured, rules_wiring.found_from_elsewhere, rules_wiring.closed, rules_ways.ways),
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
    return Cluster(templated(CHARTS[name]), by_hand(name))


def by_hand(name: str) -> dict[str, frozenset[str]]:
    """The Secrets that are there before."""
    return {} if name in NOT_ASKED else BY_HAND


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def overlays(site: Path) -> Callable[[str], Cluster]:
    return cache(lambda name: Cluster(kustomized(site / "overlays" / name), by_hand(name)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CHARTS)
def test_the_chart_keeps_every_rule(name: str, rule: str) -> None:
    assert list(RULES[rule](chart(name))) == []


FILES: Final = """
secretSettings: r3-secrets
settings: {R3_KEYS_FILE: /keys/keys.yaml, R3_WEBHOOK_ALLOW: hooks.example.com, R3_WEBHOOK_CA_FILE: /ca/ca.pem}
files: [{path: /keys, secret: r3-keys}, {path: /ca, configMap: r3-ca}, {path: /base, claim: r3-pictures}]
"""


def test_what_settings_name_can_be_brought_there(tmp_path: Path) -> None:
    """Secrets into the environment and files into the pods, of API and workers, by every rule."""
    values = tmp_path / "values.yaml"
    values.write_text(FILES)
    documents = templated(CHARTS["other"], "-f", str(values))
    documents.append({"kind": "ConfigMap", "metadata": {"name": "r3-ca"}, "data": {"ca.pem": ""}})
    secrets = {"r3-secrets": frozenset({"R3_TOKEN_SECRET"}), "r3-keys": frozenset({"keys.yaml"})}
    cluster = Cluster(documents, {**BY_HAND, **secrets})
    complaints = [said for rule in RULES.values() for said in rule(cluster)]
    assert complaints == ["r3-api: R3_KEYS_FILE=/keys/keys.yaml cannot be read (No such file or directory)"]  # not here
    pods = [pod for pod in cluster.pods("api", "worker") if pod.kind == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        [container] = pod.containers
        assert {"secretRef": {"name": "r3-secrets"}} in container["envFrom"]
        mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"] if one.get("readOnly")}
        brought = {one["name"]: one for one in pod.spec["volumes"]}
        assert brought[mounted["/keys"]]["secret"] == {"secretName": "r3-keys"}
        assert brought[mounted["/ca"]]["configMap"] == {"name": "r3-ca"}
        assert ("/base" in mounted) is (pod.component == "worker"), "one node's volume would keep the API from others"
        if "/base" in mounted:
            assert brought[mounted["/base"]]["persistentVolumeClaim"]["claimName"] == "r3-pictures"


@pytest.mark.parametrize("name", ["R3_TOKEN_SECRET", "OTEL_EXPORTER_OTLP_HEADERS"])
def test_a_secret_is_not_taken_among_the_settings(name: str) -> None:
    """They lie in a ConfigMap."""
    with pytest.raises(AssertionError, match=f'Property name of "{name}" does not match'):
        templated(CHARTS["other"], "--set-string", f"settings.{name}=x")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dev", "prod", "other"])
def test_the_overlays_keep_every_rule(name: str, rule: str, overlays: Callable[[str], Cluster]) -> None:
    assert list(RULES[rule](overlays(name))) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rule}: {fault.name}")
def test_a_fault_is_seen(fault: Fault) -> None:
    broken = Cluster(deepcopy(chart(fault.of).documents), by_hand(fault.of))
    fault.break_(broken)
    assert list(RULES[fault.rule](broken)) != []


def test_every_rule_is_shown_to_see_a_fault() -> None:
    assert {fault.rule for fault in FAULTS} == set(RULES)


def test_what_a_site_must_say_is_refused_where_it_is_left_unsaid(overlays: Callable[[str], Cluster]) -> None:
    unsaid = Cluster(kustomized(K8S / "overlays" / "prod"), BY_HAND)
    assert any(TO_SAY in complaint for complaint in rules_pods.pinned(unsaid))
    assert any(TO_SAY in complaint for complaint in rules_app.known_settings(unsaid))
    assert TO_SAY not in str(overlays("prod").documents)


def test_each_thing_that_a_site_says_arrives(tmp_path: Path) -> None:
    """A value that no replacement takes is said for nothing."""
    site = filled(tmp_path)
    file = site / "overlays" / "prod" / "site.yaml"
    head, mark, said = file.read_text().partition("\ndata:\n")
    file.write_text(head + mark + re.sub(r"^  ([\w-]+): .*", r"  \1: say-\1", said, flags=re.MULTILINE))
    rendered = str(kustomized(site / "overlays" / "prod"))
    assert len(SITE) > 8
    assert {name for name in SITE if f"say-{name}" not in rendered} == set()


def test_another_component_in_the_place_of_one_takes_its_lines_with_it(tmp_path: Path) -> None:
    """As docs/deploy.md tells: Redis in the cluster in place of one outside, in what is otherwise prod."""
    prod = filled(tmp_path) / "overlays" / "prod"
    file, site = prod / "kustomization.yaml", prod / "site.yaml"
    text = file.read_text().replace(
        "- ../../components/external-redis ", "- ../../components/redis\n  - ../../components/keda-redis "
    )
    lines = r"  - source: \{kind: ConfigMap, name: site, fieldPath: data\.redis-network\}\n(    .*\n)+"
    file.write_text(re.sub(lines, "", text))
    assert file.read_text() != text
    for ciphered, complaints in (("true", 1), ("false", 0)):
        site.write_text(re.sub(r"redis-tls: \S+", f'redis-tls: "{ciphered}"', site.read_text()))
        cluster = Cluster(kustomized(prod), BY_HAND)
        assert any(cluster.pods("redis"))
        assert len([said for rule in RULES.values() for said in rule(cluster)]) == complaints


def test_every_overlay_is_in_a_namespace_that_admits_restricted_pods_alone(
    overlays: Callable[[str], Cluster],
) -> None:
    for name in ("dev", "prod", "other"):
        cluster = overlays(name)
        [namespace] = cluster.of("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        others = [document for document in cluster.documents if document["kind"] != "Namespace"]
        assert {document["metadata"].get("namespace") for document in others} == {"r3"}
