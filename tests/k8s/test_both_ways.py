"""The chart and the overlays are two sources for one thing: what they make of equal values must not drift apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest

from tests.k8s.cluster import WORKLOADS, Cluster
from tests.k8s.faults import CM, PDB, SO, WORKER, A, Break, W, put, without
from tests.k8s.rendered import filled, kustomized
from tests.k8s.test_rules import CHARTS, chart

Json = dict[str, Any]
# Policies are walked through in rules_ways.py; settings are in the environments; the rest is in test_monitoring.py.
COMPARED: Final = (
    *WORKLOADS,
    *("Service", "PersistentVolumeClaim", "PodDisruptionBudget", "HorizontalPodAutoscaler"),
    *("ScaledObject", "TriggerAuthentication", "ResourceClaimTemplate", "HTTPRoute", "PodMonitor"),
)
# Where one says more than the other, and why it may.
EXPLAINED: Final = {
    r"Deployment r3-worker .*(environment\.REVISION|\[weights\]\.subPath(Expr)?)": "one value, two ways to it",
    r"Job r3-weights .*ttlSecondsAfterFinished": "without a name of its own for each the last one must go",
    r".*\.imagePullSecrets\[registry\]\.name": "a patch of the site's, by kustomize",
    r".*\.annotations\.checksum/\w+": "kustomize gives a ConfigMap another name where it changes",
    r"PersistentVolumeClaim r3-pictures .*resource-policy": "kubectl apply takes nothing away",
}
_TOLD: Final = {"labels", "namespace", "app.kubernetes.io/instance", "worker"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Cluster, Cluster]]:
    site: Path = filled(tmp_path_factory.mktemp("site"))
    return lambda name: (chart(name), Cluster(kustomized(site / "overlays" / name)))


def apart(one: Cluster, other: Cluster) -> list[str]:
    """What only one of them says, or says otherwise, and is not explained."""
    mine, theirs = said(one), said(other)
    return [
        f"{way}: {mine.get(way)!r} and {theirs.get(way)!r}"
        for way in sorted({*mine, *theirs})
        if mine.get(way) != theirs.get(way) and not any(re.fullmatch(known, way) for known in EXPLAINED)
    ]


def said(cluster: Cluster) -> dict[str, Any]:
    """Each value that matters, by kind, name and path."""
    told: dict[str, Any] = {}
    for document in deepcopy(list(cluster.of(*COMPARED))):
        kind, name = document["kind"], named(document["metadata"]["name"])
        for container in document["spec"]["template"]["spec"]["containers"] if kind in WORKLOADS else ():
            container["environment"] = cluster.environment(container)
            keys = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container.pop("env", [])}
            container["secrets"] = {variable: key for variable, key in keys.items() if key}
            container.pop("envFrom", None)
        if not name.startswith("r3-worker-second"):  # the chart's alone
            told |= {f"{kind} {name} {path}": value for path, value in values(document)}
    for document in cluster.of("ConfigMap"):
        if "valkey.conf" in document["data"]:
            told["valkey.conf"] = document["data"]["valkey.conf"].strip()
    return told


def values(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a document, without what only says whose it is."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in _TOLD and not (path == ".metadata" and key == "name"):
                yield from values(value, f"{path}.{key}")
    elif isinstance(part, list):
        for at, value in enumerate(part):
            yield from values(value, f"{path}[{value.get('name', at) if isinstance(value, dict) else at}]")
    else:
        yield path.removeprefix("."), named(part) if isinstance(part, str) else part


def named(name: str) -> str:
    """A name without what tells workers apart, and without the end that says what is in it."""
    name = re.sub(r"^(r3-(?:settings|redis-config|redis|weights))-[a-z0-9]{8,10}$", r"\1", name)
    return re.sub(r"^r3-(worker|weights)-main(-\w+)?$", _short, name)


def _short(found: re.Match[str]) -> str:
    ends = {"-gpu": "r3-gpu", "-cache": "r3-weights-cache"}
    return ends.get(found[2] or "", f"r3-{found[1]}")


@pytest.mark.parametrize("name", CHARTS)
def test_the_chart_and_the_overlay_say_the_same(name: str, both: Callable[[str], tuple[Cluster, Cluster]]) -> None:
    assert apart(*both(name)) == []


DRIFTS: Final[dict[str, tuple[Break, str]]] = {
    "resources": (put(*W, "resources", "limits", "memory", "64Gi"), "limits.memory"),
    "strategy": (put(*WORKER, "spec", "progressDeadlineSeconds", 1800), "progressDeadlineSeconds"),
    "scaling": (put(SO, "worker", "spec", "pollingInterval", 30), "pollingInterval"),
    "secret": (put(*A, "env", 3, "valueFrom", "secretKeyRef", "key", "address"), "secrets.R3_REDIS_URL.key"),
    "setting": (put(*A, "env", 1, "value", "auto"), "environment.R3_AUTH"),
    "redis": (put(CM, "r3-redis-config", "data", "valkey.conf", "maxmemory 3gb"), "valkey.conf"),
    "budget": (without(PDB, "r3-api"), "PodDisruptionBudget r3-api"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_where_they_drift_apart_is_seen(drift: str, both: Callable[[str], tuple[Cluster, Cluster]]) -> None:
    break_, path = DRIFTS[drift]
    mine, theirs = both("other")
    drifted = Cluster(deepcopy(mine.documents))
    break_(drifted)
    assert any(path in line for line in apart(drifted, theirs))


def test_no_difference_is_explained_that_there_is_not(both: Callable[[str], tuple[Cluster, Cluster]]) -> None:
    told = [(said(mine), said(theirs)) for mine, theirs in map(both, CHARTS)]
    ways = {way for one, other in told for way in {*one, *other} if one.get(way) != other.get(way)}
    assert [known for known in EXPLAINED if not any(re.fullmatch(known, way) for way in ways)] == []
