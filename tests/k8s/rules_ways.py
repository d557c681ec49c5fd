"""Who must reach whom, walked through the policies as a CNI would. A rule tells complaints; none is good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from tests.k8s.cluster import Cluster, Pod, selects

Json = dict[str, Any]
NAMESPACE: Final = "kubernetes.io/metadata.name"
OURS: Final = "r3"
NODES_DNS: Final = "169.254.20.10"  # NodeLocal DNSCache
WORLD: Final = "203.0.113.7"
# Where the site of rendered.py and tests/k8s/values has them.
REDIS: Final = "192.0.2.10"
S3: Final = "198.51.100.7"


@dataclass(frozen=True)
class End:
    """One end of a way: a pod's labels and namespace, or an address outside the cluster; its named ports."""

    name: str
    labels: Mapping[str, str]
    namespace: str = OURS
    address: str | None = None
    ports: Mapping[str, int] | None = None

    @classmethod
    def of(cls, pod: Pod) -> End:
        """A pod of ours."""
        ports = {port["name"]: port["containerPort"] for one in pod.containers for port in one.get("ports", [])}
        return cls(pod.name, pod.labels, ports=ports)


def ways(cluster: Cluster) -> Iterator[str]:
    """Each way that the service needs is open at both of its ends, and those that it must not have are not."""
    policies = [policy["spec"] for policy in cluster.of("NetworkPolicy")]
    for source, target, port, protocol in _needed(cluster):
        if not _goes(policies, source, target, port, protocol):
            yield f"{source.name} does not reach {target.name}:{port}"
    for source, target, port in _forbidden(cluster):
        if _goes(policies, source, target, port, "TCP"):
            yield f"{source.name} reaches {target.name}:{port}"


def _needed(cluster: Cluster) -> Iterator[tuple[End, End, int, str]]:
    dns = End("the cluster's DNS", {"k8s-app": "kube-dns"}, "kube-system")
    ours = [End.of(pod) for pod in cluster.pods("api", "worker")]
    redis = [End.of(pod) for pod in cluster.pods("redis")]
    for end in (*ours, *redis, *(End.of(pod) for pod in cluster.pods("weights"))):
        for protocol in ("UDP", "TCP"):
            yield end, dns, 53, protocol
            yield end, End("the node's DNS", {}, address=NODES_DNS), 53, protocol
    keda = [End("KEDA", {}, "keda")] if any(cluster.of("ScaledObject")) else []
    yield from ((end, one, 6379, "TCP") for one in redis for end in (*ours, *keda))
    if not redis:
        yield from ((end, End("Redis", {}, address=REDIS), 6379, "TCP") for end in ours)
    for pod, container in cluster.containers("api", "worker"):
        if cluster.environment(container).get("R3_IMAGE_STORE", "").startswith("s3:"):
            yield End.of(pod), End("S3", {}, address=S3), 443, "TCP"
    scraped = {"api": 9090, "worker": 8001}
    if any(cluster.of("PodMonitor")):
        prometheus = End("Prometheus", {}, "monitoring")
        yield from ((prometheus, End.of(pod), scraped[pod.component], "TCP") for pod in cluster.pods(*scraped))
    for route in cluster.of("HTTPRoute"):
        proxies = End("the Gateway's proxy", {}, _proxies(route))
        yield from ((proxies, End.of(pod), 8000, "TCP") for pod in cluster.pods("api"))
    world = End("the world", {}, address=WORLD)
    yield from ((End.of(pod), world, 443, "TCP") for pod in cluster.pods("weights"))
    for pod, container in cluster.containers("api"):
        if "R3_WEBHOOK_ALLOW" in cluster.environment(container):
            yield End.of(pod), world, 443, "TCP"


def _proxies(route: Json) -> str:
    """The namespace that the proxies are in, at the site that rendered.py and tests/k8s/values tell of."""
    return f"{route['spec']['parentRefs'][0]['namespace']}-proxies"


def _forbidden(cluster: Cluster) -> Iterator[tuple[End, End, int]]:
    neighbour = End("a neighbour", {"app.kubernetes.io/name": "other"}, "default")
    beside = End("who else is in the namespace", {"app.kubernetes.io/name": "other"})
    for pod in cluster.pods("api", "worker", "redis"):
        end = End.of(pod)
        for port in (end.ports or {}).values():
            yield neighbour, end, port
            yield beside, end, port
        yield end, neighbour, 443
        yield end, End("the node's metadata", {}, address="169.254.169.254"), 80
    for pod in cluster.pods("worker", "redis"):
        yield End.of(pod), End("the world", {}, address=WORLD), 443


def _goes(policies: list[Json], source: End, target: End, port: int, protocol: str) -> bool:
    return _open(policies, "egress", source, target, port, protocol, target) and _open(
        policies, "ingress", target, source, port, protocol, target
    )


def _open(policies: list[Json], direction: str, at: End, other: End, port: int, protocol: str, listening: End) -> bool:
    """Whether what selects `at` lets the way through; an end that no policy of ours selects is not ours to close."""
    if at.address is not None or at.namespace != OURS:
        return True
    asked = [
        one for one in policies if direction.title() in one["policyTypes"] and selects(one["podSelector"], at.labels)
    ]
    rules = [rule for one in asked for rule in one.get(direction, [])]
    peers = "to" if direction == "egress" else "from"
    return not asked or any(
        any(_is(peer, other) for peer in rule[peers])
        and any(_listens(one, port, protocol, listening) for one in rule["ports"])
        for rule in rules
    )


def _is(peer: Json, end: End) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        inside = end.address is not None and ip_address(end.address) in ip_network(block["cidr"])
        return inside and not any(ip_address(end.address or "") in ip_network(one) for one in block.get("except", []))
    if end.address is not None:
        return False
    if "namespaceSelector" in peer:
        is_there = selects(peer["namespaceSelector"], {NAMESPACE: end.namespace})
    else:
        is_there = end.namespace == OURS
    return is_there and selects(peer.get("podSelector", {}), end.labels)


def _listens(port: Json, number: int, protocol: str, end: End) -> bool:
    asked = port["port"]
    named = (end.ports or {}).get(asked) if isinstance(asked, str) else asked
    return named == number and port.get("protocol", "TCP") == protocol
