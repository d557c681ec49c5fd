"""Rendered documents, looked at as what they would be in a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job")
Json = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """The pods of one workload."""

    kind: str
    name: str
    workload: Json
    labels: Mapping[str, str]
    spec: Json

    @property
    def component(self) -> str:
        """What part of the service it is: api, worker, redis, weights, weights-cache."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def containers(self) -> list[Json]:
        """All of them, those that run before the others too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


@dataclass(frozen=True)
class Cluster:
    """Documents, and the Secrets that the operator makes by hand: name to keys."""

    documents: list[Json]
    by_hand: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def of(self, *kinds: str) -> Iterator[Json]:
        """The documents of these kinds."""
        return (document for document in self.documents if document["kind"] in kinds)

    def one(self, kind: str, name: str) -> Json:
        """The document of that kind whose name begins so, for generated names end with a hash."""
        [found] = [d for d in self.of(kind) if d["metadata"]["name"].startswith(name)]
        return found

    def pods(self, *components: str) -> Iterator[Pod]:
        """The pods of every workload, or of those parts of the service alone."""
        for workload in self.of(*WORKLOADS):
            template = workload["spec"]["template"]
            labels = template.get("metadata", {}).get("labels", {})
            pod = Pod(workload["kind"], workload["metadata"]["name"], workload, labels, template["spec"])
            if not components or pod.component in components:
                yield pod

    def containers(self, *components: str) -> Iterator[tuple[Pod, Json]]:
        """Each container with its pod."""
        return ((pod, container) for pod in self.pods(*components) for container in pod.containers)

    def keys(self, kind: str, name: str) -> frozenset[str] | None:
        """The keys of a ConfigMap or Secret; None where there is none of that name."""
        for document in self.of(kind):
            if document["metadata"]["name"] == name:
                held = {**document.get("data", {}), **document.get("stringData", {})}
                return frozenset(held)
        return self.by_hand.get(name) if kind == "Secret" else None

    def environment(self, container: Json) -> dict[str, str]:
        """What the container's environment would be; what a Secret holds is told as ''."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            for document in self.of("ConfigMap"):
                if document["metadata"]["name"] == source.get("configMapRef", {}).get("name"):
                    found |= document.get("data", {})
        for variable in container.get("env", []):
            asked = variable.get("valueFrom", {}).get("configMapKeyRef", {})
            held = (one["data"] for one in self.of("ConfigMap") if one["metadata"]["name"] == asked.get("name"))
            found[variable["name"]] = variable.get("value", next(held, {}).get(asked.get("key"), ""))
        return found


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects an object with these labels; an empty one selects all."""
    wanted = selector.get("matchLabels", {}).items()
    told = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted) and all(_holds(one, labels) for one in told)


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    value, operator = labels.get(expression["key"]), expression["operator"]
    if operator == "In":
        return bool(value in expression["values"])
    if operator == "NotIn":
        return bool(value not in expression["values"])
    return (value is not None) is (operator == "Exists")


def probes(container: Json) -> Iterator[tuple[str, Json]]:
    """The probes of a container, by name."""
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            yield name, container[name]
