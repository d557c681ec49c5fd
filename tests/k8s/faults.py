"""Faults, one or more for each rule: what to break in what was rendered, and the rule that must see it.

`at` says where: a kind, a part of the service, and then keys and places as they nest; A, W and R are the way to
the container of API, worker and Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.k8s.cluster import Cluster

Json = dict[str, Any]
Break = Callable[[Cluster], None]
POD: Final = ("spec", "template", "spec")
CONTAINER: Final = (*POD, "containers", 0)


@dataclass(frozen=True)
class Fault:
    """A fault in what the chart makes of tests/k8s/values/`of`.yaml."""

    rule: str
    name: str
    of: str
    break_: Break


def _found(cluster: Cluster, kind: str, component: str) -> Json:
    """The first document of that kind whose own name, or whose component, is that."""
    for document in cluster.of(kind):
        meta = document["metadata"]
        if component in (meta["name"], meta.get("labels", {}).get("app.kubernetes.io/component")):
            return document
    raise LookupError(f"no {kind} {component}")


def put(kind: str, component: str, *way: Any) -> Break:
    """Put the last of `way` where the others lead."""
    *path, last, value = way

    def break_(cluster: Cluster) -> None:
        place: Any = _found(cluster, kind, component)
        for step in path:
            place = place[step]
        place[last] = value

    return break_


def drop(kind: str, component: str, *way: Any) -> Break:
    """Take away what `way` leads to."""
    *path, last = way

    def break_(cluster: Cluster) -> None:
        place: Any = _found(cluster, kind, component)
        for step in path:
            place = place[step]
        del place[last]

    return break_


def without(kind: str, name: str) -> Break:
    """Take away a whole document."""

    def break_(cluster: Cluster) -> None:
        cluster.documents.remove(_found(cluster, kind, name))

    return break_


def again(kind: str, component: str) -> Break:
    """The same document twice."""

    def break_(cluster: Cluster) -> None:
        cluster.documents.append(_found(cluster, kind, component))

    return break_


def more(kind: str, component: str, *way: Any) -> Break:
    """Append the last of `way` to the list where the others lead."""
    *path, value = way

    def break_(cluster: Cluster) -> None:
        place: Any = _found(cluster, kind, component)
        for step in path:
            place = place[step]
        place.append(value)

    return break_


API: Final = ("Deployment", "api")
WORKER: Final = ("Deployment", "worker")
REDIS: Final = ("StatefulSet", "redis")
NP, PDB, SO, PM, HR = "NetworkPolicy", "PodDisruptionBudget", "ScaledObject", "PodMonitor", "HTTPRoute"
CM, HPA, TA = "ConfigMap", "HorizontalPodAutoscaler", "TriggerAuthentication"
A, W, R = (*API, *CONTAINER), (*WORKER, *CONTAINER), (*REDIS, *CONTAINER)
GPU, NAME, NOBODY = "nvidia.com/gpu", "app.kubernetes.io/name", {"a": "b"}
ALL_OF_R3 = {"matchLabels": {NAME: "r3"}}
DEVICE = ("spec", "spec", "devices", "requests", 0, "exactly")
API_ALONE = {"matchLabels": {NAME: "r3", "app.kubernetes.io/component": "api"}}
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
HOST_ROOT = {"name": "tmp", "hostPath": {"path": "/"}}
EVICTING = "appendonly yes\nappendfsync everysec\nmaxmemory-policy allkeys-lru"
SLOWLY = ("spec", "behavior", "scaleDown", "stabilizationWindowSeconds")
OUT, IN = ("spec", "egress", 0), ("spec", "ingress", 0)
SUM = ("spec", "advanced", "scalingModifiers")
OF_WORKER = {"matchLabels": {"app.kubernetes.io/component": "worker"}}
GATEWAYS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
ANY_NAMESPACE: Final[Json] = {"namespaceSelector": {}}
WORLD = (*OUT, "to", 0, "ipBlock")
HUB_ROOT = {"name": "HF_HOME", "value": "/home/r3"}
SHORT: Final = ("Secret", "r3-redis", "stringData", "address", "r3-redis:6379")
_ROOT: Final = {"name": "R3_API_PORT", "value": "tcp://10.0.0.1:80"}

_ = Fault
FAULTS: Final = [
    _("hardened", "uid 0", "prod", put(*API, *POD, "securityContext", "runAsUser", 0)),
    _("hardened", "root is allowed", "prod", drop(*API, *POD, "securityContext", "runAsNonRoot")),
    _("hardened", "no seccomp profile", "prod", drop(*WORKER, *POD, "securityContext", "seccompProfile")),
    _("hardened", "an empty context", "prod", put(*W, "securityContext", {})),
    _("hardened", "a writable root", "other", put(*R, "securityContext", "readOnlyRootFilesystem", False)),
    _("hardened", "a capability", "prod", put(*A, "securityContext", "capabilities", "add", ["NET_RAW"])),
    _("hardened", "the container is root again", "prod", put(*A, "securityContext", "runAsUser", 0)),
    _("hardened", "the node's network", "prod", put(*API, *POD, "hostNetwork", True)),
    _("hardened", "a port of the node", "prod", put(*A, "ports", 0, "hostPort", 8000)),
    _("alone", "Services' variables", "prod", drop(*API, *POD, "enableServiceLinks")),
    _("alone", "a token", "prod", put(*WORKER, *POD, "automountServiceAccountToken", True)),
    _("alone", "an account of nobody", "prod", without("DaemonSet", "weights-cache")),
    _("alone", "the default account", "prod", drop(*WORKER, *POD, "serviceAccountName")),
    _("bounded", "no memory limit", "prod", drop(*W, "resources", "limits", "memory")),
    _("bounded", "no cpu requested", "prod", drop(*A, "resources", "requests", "cpu")),
    _("whole_devices", "half a GPU", "prod", put(*W, "resources", "limits", GPU, "500m")),
    _("whole_devices", "none requested", "prod", drop(*W, "resources", "requests", GPU)),
    _("whole_devices", "no such claim", "other", without("ResourceClaimTemplate", "worker")),
    _("whole_devices", "all are seen, job", "other", drop("Job", "weights", *CONTAINER, "env", 4)),
    _("whole_devices", "all are seen, cache", "prod", drop("DaemonSet", "weights-cache", *CONTAINER, "env")),
    _("large_enough", "any GPU", "prod", drop(*WORKER, *POD, "affinity")),
    _("large_enough", "weights on any node", "prod", drop("DaemonSet", "weights-cache", *POD, "affinity")),
    _("large_enough", "any claim", "other", drop("ResourceClaimTemplate", "worker", *DEVICE, "selectors")),
    _("pinned", "latest", "prod", put(*A, "image", "r3-api:latest")),
    _("pinned", "no tag", "prod", put(*A, "image", "registry.example.com:5000/r3-api")),
    _("pinned", "weights by tag", "prod", put(*WORKER, *POD, "volumes", 2, "image", "reference", "r3-weights:1.0.0")),
    _("mounted", "a mount without a volume", "prod", drop(*API, *POD, "volumes", 0)),
    _("mounted", "a volume without a mount", "prod", drop(*W, "volumeMounts", 1)),
    _("mounted", "a folder of the node", "prod", put(*API, *POD, "volumes", 0, HOST_ROOT)),
    _("mounted", "a claim that is not there", "other", without("PersistentVolumeClaim", "r3-pictures")),
    _("mounted", "two at one place", "prod", put(*W, "volumeMounts", 1, "mountPath", "/tmp")),
    _("one_handler", "two ways", "prod", put(*A, "livenessProbe", "tcpSocket", {"port": "http"})),
    _("one_handler", "no way", "prod", drop(*A, "livenessProbe", "httpGet")),
    _("one_handler", "alive at the second try", "prod", put(*A, "livenessProbe", "successThreshold", 2)),
    _("one_handler", "slower than its period", "prod", put(*A, "readinessProbe", "timeoutSeconds", 9)),
    _("rolled_out", "nothing may move", "prod", put(*WORKER, "spec", "strategy", "rollingUpdate", "maxUnavailable", 0)),
    _("rolled_out", "a device more", "prod", put(*WORKER, "spec", "strategy", "rollingUpdate", "maxSurge", 1)),
    _("rolled_out", "no time to load", "prod", drop(*WORKER, "spec", "progressDeadlineSeconds")),
    _("selectors", "pods of another label", "prod", put(*API, "spec", "selector", "matchLabels", NAME, "r4")),
    _("selectors", "a Service of nobody", "prod", put("Service", "api", "spec", "selector", NAME, "r4")),
    _("selectors", "a budget of nobody", "prod", put(PDB, "api", "spec", "selector", "matchLabels", NOBODY)),
    _("selectors", "a monitor of nobody", "prod", put(PM, "r3-api", "spec", "selector", "matchLabels", NOBODY)),
    _("selectors", "a policy of nobody", "prod", put(NP, "r3-to-redis", "spec", "podSelector", "matchLabels", NOBODY)),
    _("selectors", "one name twice", "prod", again(*API)),
    _("labels", "a space", "prod", put(*API, "metadata", "labels", NAME, "r3 server")),
    _("labels", "a number", "prod", put(*API, "metadata", "labels", "version", 1)),
    _("labels", "64 characters", "prod", put(*API, *POD[:2], "metadata", "labels", "app", 64 * "a")),
    _("ports", "16 characters", "prod", put(*A, "ports", 1, "name", "metrics-and-logs")),
    _("ports", "a probe of no port", "prod", put(*A, "livenessProbe", "httpGet", "port", "web")),
    _("reached", "a Service of no port", "prod", put("Service", "api", "spec", "ports", 0, "targetPort", "web")),
    _("reached", "a monitor of no port", "prod", put(PM, "r3-api", "spec", "podMetricsEndpoints", 0, "port", "web")),
    _("reached", "a policy of no port", "other", put(NP, "r3-to-redis", *OUT, "ports", 0, "port", 6380)),
    _("reached", "a route to no port", "prod", put(HR, "r3", "spec", "rules", 0, "backendRefs", 0, "port", 8000)),
    _("budgets", "both numbers", "prod", put(PDB, "api", "spec", "minAvailable", 1)),
    _("budgets", "neither number", "prod", drop(PDB, "api", "spec", "maxUnavailable")),
    _("budgets", "no drain", "prod", put(PDB, "worker", "spec", "maxUnavailable", 0)),
    _("budgets", "broken pods hold up", "prod", drop(PDB, "worker", "spec", "unhealthyPodEvictionPolicy")),
    _("budgets", "none for the API", "prod", without(PDB, "api")),
    _("scaled", "a number of its own", "prod", put(*API, "spec", "replicas", 2)),
    _("scaled", "nobody to scale", "prod", put(SO, "worker", "spec", "scaleTargetRef", "name", "worker")),
    _("scaled", "two scalers", "prod", again(HPA, "api")),
    _("scaled", "more than most", "prod", put(SO, "worker", "spec", "minReplicaCount", 9)),
    _("scaled", "at once", "prod", drop(HPA, "api", *SLOWLY)),
    _("scaled", "to nothing before it began", "other", drop(SO, "worker", "spec", "initialCooldownPeriod")),
    _("configured", "no such ConfigMap", "prod", put(*A, "envFrom", 0, "configMapRef", "name", "settings")),
    _("configured", "no such Secret", "prod", put(*A, "env", 3, "valueFrom", "secretKeyRef", "name", "redis")),
    _("configured", "no such key", "prod", put(*A, "env", 3, "valueFrom", "secretKeyRef", "key", "uri")),
    _("configured", "a trial that waits for a Secret", "dev", without("Secret", "r3-redis")),
    _("configured", "no such file", "other", put(*REDIS, *POD, "volumes", 1, "secret", "items", 0, "key", "conf")),
    _("configured", "no such map as a volume", "other", put(*REDIS, *POD, "volumes", 0, "configMap", "name", "redis")),
    _("configured", "KEDA without a key", "prod", put(TA, "r3-redis", "spec", "secretTargetRef", 0, "key", "host")),
    _("found_from_elsewhere", "a short name", "dev", put(*SHORT)),
    _("closed", "nothing is denied", "prod", without(NP, "r3-default-deny")),
    _("closed", "only the way in is denied", "prod", put(NP, "r3-default-deny", "spec", "policyTypes", ["Ingress"])),
    _("closed", "from everywhere", "prod", drop(NP, "r3-api-from-gateway", "spec", "ingress", 0, "from")),
    _("closed", "to every port", "prod", drop(NP, "r3-dns", *OUT, "ports")),
    _("closed", "the whole namespace", "prod", put(NP, "r3-default-deny", "spec", "podSelector", {})),
    _("closed", "the API is open", "prod", put(NP, "r3-default-deny", "spec", "podSelector", OF_WORKER)),
    _("ways", "no way to Redis", "other", without(NP, "r3-to-redis")),
    _("ways", "no way to Redis outside", "prod", without(NP, "r3-to-redis")),
    _("ways", "no way to S3", "prod", without(NP, "r3-to-s3")),
    _("ways", "no way to webhooks", "other", without(NP, "r3-api-to-webhooks")),
    _("ways", "no way into Redis", "other", without(NP, "r3-redis-from-r3")),
    _("ways", "no names", "prod", without(NP, "r3-dns")),
    _("ways", "no names on nodes with a cache", "prod", drop(NP, "r3-dns", *OUT, "to", 1)),
    _("ways", "KEDA is kept out", "other", drop(NP, "r3-redis-from-r3", "spec", "ingress", 0, "from", 1)),
    _("ways", "Prometheus is kept out", "prod", drop(NP, "r3-metrics-from-prometheus", *IN, "ports", 1)),
    _("ways", "no way in", "prod", put(NP, "r3-api-from-gateway", *IN, "from", 0, GATEWAYS)),
    _("ways", "no way to the hub", "other", drop(NP, "r3-weights-to-hub", *OUT)),
    _("ways", "the whole cluster", "prod", more(NP, "r3-api-from-gateway", *IN, "from", ANY_NAMESPACE)),
    _("closed", "workers reach the world", "other", put(NP, "r3-api-to-webhooks", "spec", "podSelector", ALL_OF_R3)),
    _("closed", "the node's metadata", "other", drop(NP, "r3-weights-to-hub", *WORLD, "except", 3)),
    _("closed", "not HTTPS alone", "other", put(NP, "r3-weights-to-hub", *OUT, "ports", 0, "port", 80)),
    _("known_settings", "a misspelt one", "prod", put(CM, "r3-settings", "data", "R3_LEASES_S", "15")),
    _("known_settings", "a Service's", "prod", more(*A, "env", _ROOT)),
    _("known_settings", "nobody's", "prod", put(*W, "env", 3, "name", "HF_OFFLINE")),
    _("known_settings", "a value that is refused", "prod", put(CM, "r3-settings", "data", "R3_LEASE_S", "5")),
    _("known_settings", "keys asked of nobody", "prod", put(*A, "env", 1, "value", "auto")),
    _("known_settings", "heard by nobody", "prod", put(*W, "env", 0, "value", "127.0.0.1")),
    _("known_settings", "pictures on the pod's disk", "prod", drop(CM, "r3-settings", "data", "R3_IMAGE_STORE")),
    _("known_settings", "not OpenTelemetry's", "other", put(CM, "r3-settings", "data", "OTEL_ENDPOINT", "x")),
    _("traced", "no way out", "other", without(NP, "r3-to-collector")),
    _("traced", "a way out of the API alone", "other", put(NP, "r3-to-collector", "spec", "podSelector", API_ALONE)),
    _("traced", "another port", "other", put(NP, "r3-to-collector", *OUT, "ports", 0, "port", 4317)),
    _("traced", "a way out, and nobody to go there", "other", drop(CM, "r3-settings", "data", COLLECTOR)),
    _("traced", "no scheme", "other", put(CM, "r3-settings", "data", COLLECTOR, "otel-collector.monitoring:4318")),
    _("traced", "gRPC", "other", put(CM, "r3-settings", "data", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")),
    _("same_settings", "another lease", "prod", more(*W, "env", {"name": "R3_LEASE_S", "value": "30"})),
    _("same_settings", "another region", "prod", more(*W, "env", {"name": "R3_IMAGE_STORE_REGION", "value": "eu-3"})),
    _("commands", "the other part", "prod", put(*A, "args", ["worker"])),
    _("commands", "another program", "prod", put(*A, "command", ["sleep"])),
    _("probed", "a path of nobody, API", "prod", put(*A, "livenessProbe", "httpGet", "path", "/health")),
    _("probed", "a path of nobody, worker", "prod", put(*W, "livenessProbe", "httpGet", "path", "/health")),
    _("probed", "killed while Redis is away", "prod", put(*A, "livenessProbe", "httpGet", "path", "/readyz")),
    _("probed", "no time to load", "prod", put(*W, "startupProbe", "failureThreshold", 30)),
    _("probed", "no probe", "prod", drop(*W, "readinessProbe")),
    _("listening", "another port", "prod", put(*W, "ports", 0, "containerPort", 8000)),
    _("drained", "30 s for a round", "prod", drop(*WORKER, *POD, "terminationGracePeriodSeconds")),
    _("drained", "a longer drain", "prod", put(CM, "r3-settings", "data", "R3_DRAIN_S", "600")),
    _("drained", "gone before it is known", "prod", drop(*A, "lifecycle")),
    _("hub_closed", "the hub is asked", "prod", put(*W, "env", 3, "value", "0")),
    _("placed", "pictures beside their volume", "other", put(CM, "r3-settings", "data", "R3_IMAGE_STORE", "/images")),
    _("placed", "weights beside their volume", "prod", put(*W, "env", 1, "value", "/models")),
    _("placed", "weights that can be written", "prod", drop(*W, "volumeMounts", 2, "readOnly")),
    _("placed", "weights that change under it", "other", drop(*W, "volumeMounts", 2, "subPath")),
    _("placed", "the hub's cache on the root", "other", more("Job", "weights", *CONTAINER, "env", HUB_ROOT)),
    _("queues", "what runs is not seen", "prod", drop(SO, "worker", "spec", "triggers", 0)),
    _("queues", "another key", "prod", put(SO, "worker", "spec", "triggers", 0, "metadata", "listName", "r3:wait:r3")),
    _("queues", "two models", "prod", put(SO, "worker", "spec", "triggers", 0, "metadata", "listName", "{r3}:wait:r4")),
    _("queues", "TLS to ours", "other", put(SO, "worker", "spec", "triggers", 1, "metadata", "enableTLS", "true")),
    _("queues", "too many a worker", "prod", put(SO, "worker", *SUM, "target", "64")),
    _("queues", "no sum", "prod", put(SO, "worker", *SUM, "formula", "waiting")),
    _("streamed", "keys in the clear", "prod", drop(HR, "r3", "spec", "parentRefs", 0, "sectionName")),
    _("streamed", "cut after 15 s", "prod", drop(HR, "r3", "spec", "rules", 0, "timeouts")),
    _("persisted", "killed as it rewrites", "other", put(*R, "resources", "limits", "memory", "3Gi")),
    _("persisted", "jobs are thrown away", "other", put(CM, "r3-redis-config", "data", "valkey.conf", EVICTING)),
]  # fmt: skip
