"""How documents name each other: selectors, ports, scalers, policies. A rule tells complaints; none is good."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, Final

from tests.k8s.cluster import Cluster, Pod, probes, selects

Json = dict[str, Any]
ANYWHERE: Final = "0.0.0.0/0"
STRANGER: Final = {"app.kubernetes.io/name": "other"}
_LABEL: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_KEY: Final = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def selectors(cluster: Cluster) -> Iterator[str]:
    """A workload selects its own pods, and whatever else selects pods selects some."""
    pods = list(cluster.pods())
    for pod in pods:
        if pod.kind != "Job" and not selects(pod.workload["spec"]["selector"], pod.labels):
            yield f"{pod.kind} {pod.name} does not select its own pods"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"], pod.labels):
                yield f"{pod.name} is spread among pods of others"
    for document in cluster.of("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec = document["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        selector = {"matchLabels": selector} if document["kind"] == "Service" else selector
        if not any(selects(selector, pod.labels) for pod in pods):
            yield f"{document['kind']} {document['metadata']['name']} selects no pod"
    names = [pod.name for pod in pods if pod.kind != "Job"]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two workloads are called {name}"


def labels(cluster: Cluster) -> Iterator[str]:
    """Labels as Kubernetes takes them."""
    for document in cluster.documents:
        template = document.get("spec", {}).get("template", {})
        for key, value in (*_labels(document), *_labels(template)):
            if not _KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL.fullmatch(value):
                yield f"{document['kind']} {document['metadata']['name']}: label {key}={value!r}"


def _labels(document: Json) -> list[tuple[str, Any]]:
    return list(document.get("metadata", {}).get("labels", {}).items())


def ports(cluster: Cluster) -> Iterator[str]:
    """Ports have names that Kubernetes takes, and probes ask one that there is."""
    for pod, container in cluster.containers():
        named = {port["name"] for port in container.get("ports", [])}
        for name in named:
            if not _PORT.fullmatch(name):
                yield f"{pod.name}: port name {name}"
        for kind, probe in probes(container):
            for way in ("httpGet", "tcpSocket"):
                if way in probe and probe[way]["port"] not in named:
                    yield f"{pod.name}: {kind} asks port {probe[way]['port']}, which is none of {sorted(named)}"


def reached(cluster: Cluster) -> Iterator[str]:
    """Who names a port of others finds it: Services, monitors, policies, routes."""
    for document in cluster.of("Service", "PodMonitor", "NetworkPolicy"):
        for selector, port in _asked(document):
            if not _listened(cluster, selector, port):
                yield f"{document['kind']} {document['metadata']['name']}: nobody listens on {port}"
    services = {
        (service["metadata"]["name"], port["port"])
        for service in cluster.of("Service")
        for port in service["spec"]["ports"]
    }
    for route in cluster.of("HTTPRoute"):
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        for name, port in {(backend["name"], backend["port"]) for backend in backends} - services:
            yield f"HTTPRoute {route['metadata']['name']}: no Service {name}:{port}"


def _asked(document: Json) -> Iterator[tuple[Json, str | int]]:
    """Which port of which pods a document speaks of."""
    spec = document["spec"]
    if document["kind"] == "Service":
        yield from (({"matchLabels": spec["selector"]}, port.get("targetPort", port["port"])) for port in spec["ports"])
    elif document["kind"] == "PodMonitor":
        yield from ((spec["selector"], end["port"]) for end in spec["podMetricsEndpoints"])
    for rule in spec.get("ingress", []):
        yield from ((spec["podSelector"], port["port"]) for port in rule["ports"])
    for rule in spec.get("egress", []):
        for peer in rule["to"]:
            if set(peer) == {"podSelector"}:
                yield from ((peer["podSelector"], port["port"]) for port in rule["ports"])


def _listened(cluster: Cluster, selector: Json, port: str | int) -> bool:
    return any(
        port in (listened["name"], listened["containerPort"])
        for pod, container in cluster.containers()
        if selects(selector, pod.labels)
        for listened in container.get("ports", [])
    )


def budgets(cluster: Cluster) -> Iterator[str]:
    """A disruption budget says one of its two numbers, lets a drain go on, and is there for API and workers."""
    kept = set()
    for budget in cluster.of("PodDisruptionBudget"):
        spec, name = budget["spec"], budget["metadata"]["name"]
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"budget {name}: say minAvailable or maxUnavailable"
        if str(spec.get("maxUnavailable", 1)) in ("0", "0%") or str(spec.get("minAvailable")) == "100%":
            yield f"budget {name}: no node could ever be drained"
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"budget {name}: a broken pod holds up a drain"
        kept |= {pod.component for pod in cluster.pods() if selects(spec["selector"], pod.labels)}
    for component in {"api", "worker"} - kept:
        yield f"no disruption budget for {component}"


def scaled(cluster: Cluster) -> Iterator[str]:
    """What is scaled is there, has one scaler, says no number of its own, and goes down slowly."""
    workloads = {(pod.kind, pod.name): pod.workload for pod in cluster.pods()}
    seen = set()
    for scaler in cluster.of("HorizontalPodAutoscaler", "ScaledObject"):
        name, spec = scaler["metadata"]["name"], scaler["spec"]
        target = spec["scaleTargetRef"]
        at = (target["kind"], target["name"])
        if at not in workloads:
            yield f"{name}: scales {at}, which is not there"
        elif "replicas" in workloads[at]["spec"]:
            yield f"{name}: {at} says a number of replicas itself, which every apply sets anew"
        if at in seen:
            yield f"{at} has two scalers"
        seen.add(at)
        least, most = (spec.get(f"{end}Replicas", spec.get(f"{end}ReplicaCount", 0)) for end in ("min", "max"))
        if least > most:
            yield f"{name}: at least {least}, at most {most}"
        if scaler["kind"] == "ScaledObject" and not least and spec.get("initialCooldownPeriod", 0) < 1200:
            yield f"{name}: takes the first worker away before it has described its model, and no job is ever taken"
        behaviour = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        if behaviour["scaleDown"].get("stabilizationWindowSeconds", 300) < 600:
            yield f"{name}: scales in sooner than after ten quiet minutes"


def configured(cluster: Cluster) -> Iterator[str]:
    """Every Secret and ConfigMap that is named is there, with the keys that are named."""
    for pod, container in cluster.containers():
        for kind, reference, field in _references(container):
            held = cluster.keys(kind, reference["name"])
            if reference.get("optional"):
                continue
            if held is None:
                yield f"{pod.name}: no {kind} {reference['name']}"
            elif field is not None and field not in held:
                yield f"{pod.name}: {kind} {reference['name']} has no {field}"
    for pod in cluster.pods():
        yield from _files(cluster, pod)
    for authentication in cluster.of("TriggerAuthentication"):
        for target in authentication["spec"]["secretTargetRef"]:
            if target["key"] not in (cluster.keys("Secret", target["name"]) or frozenset()):
                yield f"TriggerAuthentication: no Secret {target['name']} with {target['key']}"


def found_from_elsewhere(cluster: Cluster) -> Iterator[str]:
    """KEDA asks for Redis from a namespace of its own, where the name of a Service alone is nobody's."""
    services = {service["metadata"]["name"] for service in cluster.of("Service")}
    for secret in cluster.of("Secret"):
        encoded = {key: b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        host = {**encoded, **secret.get("stringData", {})}.get("address", "").partition(":")[0]
        if host in services:
            yield f"Secret {secret['metadata']['name']}: the address {host} has no namespace"


def _files(cluster: Cluster, pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume and cluster.keys("ConfigMap", volume["configMap"]["name"]) is None:
            yield f"{pod.name}: no ConfigMap {volume['configMap']['name']}"
        if "secret" in volume:
            held = cluster.keys("Secret", volume["secret"]["secretName"]) or frozenset()
            for item in volume["secret"].get("items", []):
                if item["key"] not in held:
                    yield f"{pod.name}: no Secret {volume['secret']['secretName']} with {item['key']}"


def _references(container: Json) -> Iterator[tuple[str, Json, str | None]]:
    for source in container.get("envFrom", []):
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if field in source:
                yield kind, source[field], None
    for variable in container.get("env", []):
        for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if field in variable.get("valueFrom", {}):
                reference = variable["valueFrom"][field]
                yield kind, reference, reference["key"]


def closed(cluster: Cluster) -> Iterator[str]:
    """Nothing comes in or goes out unless a policy says so; only who must reaches the world, and never a neighbour."""
    policies = list(cluster.of("NetworkPolicy"))
    denied = [p["spec"] for p in policies if not p["spec"].get("ingress") and not p["spec"].get("egress")]
    for pod in cluster.pods():
        kept = (one for one in denied if selects(one["podSelector"], pod.labels))
        if {way for one in kept for way in one["policyTypes"]} != {"Ingress", "Egress"}:
            yield f"{pod.name}: no policy denies by default"
    if not any(cluster.of("Namespace")):
        strangers = [p["metadata"]["name"] for p in policies if selects(p["spec"]["podSelector"], STRANGER)]
        yield from (f"policy {name} is for whoever else is in a namespace that is not ours alone" for name in strangers)
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        who = {pod.component for pod in cluster.pods() if selects(spec["podSelector"], pod.labels)}
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            if not (rule.get("from") or rule.get("to")) or not rule.get("ports"):
                yield f"policy {name}: a rule for everyone or for every port"
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                yield from _too_far(name, who, peer.get("ipBlock", {}), rule)


def _too_far(name: str, who: set[str], block: Json, rule: Json) -> Iterator[str]:
    if block.get("cidr") != ANYWHERE:
        return
    if who not in ({"weights"}, {"api"}):
        yield f"policy {name}: {sorted(who)} reach the whole world"
    if not {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(block.get("except", [])):
        yield f"policy {name}: neighbours and the node's metadata are reached too"
    if [port["port"] for port in rule["ports"]] != [443]:
        yield f"policy {name}: more than HTTPS goes out"
