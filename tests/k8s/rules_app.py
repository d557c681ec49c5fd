"""What manifests say of our own program, held against the program. A rule tells complaints; none is good."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.sdk import environment_variables
from pydantic import ValidationError

from server.api import GRACE_S
from server.app import create_app
from server.misconfigured import Misconfigured
from server.other_variables import PROTOCOL
from server.preflight import check_exposure
from server.queue_records import ROOT, QueuePolicy
from server.settings import LOOPBACK_HOSTS, Settings
from server.traces_otel import FLUSH_S
from server.worker import ARRIVED_WITHIN_S, PUBLISHED_WITHIN_S
from server.worker_health import HealthPort, Vitals
from tests.k8s.cluster import Cluster, Pod, probes, selects

Json = dict[str, Any]
OURS: Final = ("api", "worker")
# What Redis clients, S3's and the hub's libraries read themselves; everything else must be a setting.
OTHERS: Final = frozenset({"HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "NVIDIA_VISIBLE_DEVICES", "REPOSITORY", "REVISION"})
OTEL: Final = frozenset(name for name in vars(environment_variables) if name.startswith("OTEL_"))
START_S: Final = 900
MAX_TRAJECTORIES: Final = str(Settings.model_fields["max_trajectories"].default)


@cache
def api_paths() -> frozenset[str]:
    """The paths of the API's routes."""
    app = create_app(Settings(redis_url="unix:///nowhere"))
    return frozenset(app.openapi()["paths"])


@cache
def worker_has(path: str) -> bool:
    """Whether the worker's own port knows the path."""
    with HealthPort("127.0.0.1", 0, Vitals()) as health:
        connection = http.client.HTTPConnection("127.0.0.1", health.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status != http.HTTPStatus.NOT_FOUND
        finally:
            connection.close()


def settings_of(cluster: Cluster, container: Json) -> Settings:
    """The settings that the container would read; a secret URL is some URL. Raises ValidationError."""
    environment = cluster.environment(container)
    told = {name.lower().removeprefix("r3_"): value for name, value in environment.items() if name.startswith("R3_")}
    told["redis_url"] = told.get("redis_url") or "redis://redis:6379/0"
    known: dict[str, Any] = {name: value for name, value in told.items() if name in Settings.model_fields and value}
    return Settings(**known)


def known_settings(cluster: Cluster) -> Iterator[str]:
    """Every variable is one that Settings reads, with a value that it takes; the API listens to others with keys."""
    for pod, container in cluster.containers():
        environment = cluster.environment(container)
        yield from (f"{pod.name}: {strange}" for strange in Settings.unknown_variables(environment))
        for name in environment:
            if not name.startswith("R3_") and name not in OTHERS | OTEL:
                yield f"{pod.name}: nobody reads {name}"
    for pod, container in cluster.containers(*OURS):
        try:
            settings = settings_of(cluster, container)
            if pod.component == "api":
                check_exposure(settings)
        except (ValidationError, Misconfigured) as error:
            yield f"{pod.name}: {error}"
            continue
        host = settings.host if pod.component == "api" else settings.worker_host
        if host in LOOPBACK_HOSTS:
            yield f"{pod.name}: listens on {host}, where nobody reaches it"
        if settings.image_store is None:
            yield f"{pod.name}: pictures go to a disk of the pod's own"


def traced(cluster: Cluster) -> Iterator[str]:
    """Who is told of a collector can reach it, with what is spoken there, and nobody else has a way out to one."""
    for pod, container in cluster.containers(*OURS):
        environment = cluster.environment(container)
        endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        ways = set(_ways_to_collectors(cluster, pod))
        if endpoint is None:
            yield from (f"{pod.name}: has a way to a collector at {way}, and none is named" for way in ways)
            continue
        url = urlsplit(endpoint)
        namespace = (url.hostname or "").partition(".")[2].partition(".")[0]
        if url.scheme not in ("http", "https") or ways != {(namespace, url.port)}:
            yield f"{pod.name}: sends traces to {endpoint}, and the ways out are {sorted(ways)}"
        if (protocol := environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL)) != PROTOCOL:
            yield f"{pod.name}: traces are to be sent by {protocol}, which it does not speak"


def _ways_to_collectors(cluster: Cluster, pod: Pod) -> Iterator[tuple[str, int]]:
    """Namespace and port of each way out to another namespace, but for that to the cluster's DNS."""
    for policy in cluster.of("NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], pod.labels):
            for rule in policy["spec"].get("egress", []):
                for peer in rule["to"]:
                    name = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
                    if name not in (None, "kube-system"):
                        yield from ((name, port["port"]) for port in rule["ports"])


def same_settings(cluster: Cluster) -> Iterator[str]:
    """API and workers share what every call to Redis carries, and where pictures are."""
    shared = (*QueuePolicy.__dataclass_fields__, "image_store", "image_store_endpoint", "image_store_region")
    told: dict[str, set[Any]] = {name: set() for name in shared}
    for _, container in cluster.containers(*OURS):
        environment = cluster.environment(container)
        for name in shared:
            told[name].add(environment.get(f"R3_{name.upper()}"))
    yield from (f"R3_{name.upper()} differs: {values}" for name, values in told.items() if len(values) > 1)


def commands(cluster: Cluster) -> Iterator[str]:
    """Each container runs its part of the program."""
    for pod, container in cluster.containers(*OURS):
        if container.get("args") != [pod.component] or "command" in container:
            yield f"{pod.name}: runs {container.get('command')} {container.get('args')}, not `r3 {pod.component}`"


def probed(cluster: Cluster) -> Iterator[str]:
    """Probes ask routes that the program has, each its own; the worker's start may take its time."""
    wanted = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for pod, container in cluster.containers(*OURS):
        asked = dict(probes(container))
        for name, path in wanted.items():
            told = asked.get(name, {}).get("httpGet", {}).get("path")
            there = told is not None and (told in api_paths() if pod.component == "api" else worker_has(told))
            if not there:
                yield f"{pod.name}: {name} asks {told}, which the program does not answer"
            elif told != path:
                yield f"{pod.name}: {name} asks {told} in place of {path}"
        start = asked.get("startupProbe", {})
        if pod.component == "worker" and start.get("periodSeconds", 10) * start.get("failureThreshold", 3) < START_S:
            yield f"{pod.name}: a start that takes {START_S} s is killed"


def listening(cluster: Cluster) -> Iterator[str]:
    """The ports that are named are those that the program listens on."""
    for pod, container in cluster.containers(*OURS):
        try:
            settings = settings_of(cluster, container)
        except ValidationError:
            continue  # known_settings tells
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        wanted = {"http": settings.port, "metrics": settings.metrics_port}
        if pod.component == "worker":
            wanted = {"health": settings.worker_port}
        if ports != wanted:
            yield f"{pod.name}: ports {ports}, and the program listens on {wanted}"


def drained(cluster: Cluster) -> Iterator[str]:
    """The kubelet waits longer than the program takes to end; new requests have gone elsewhere before it begins."""
    for pod, container in cluster.containers(*OURS):
        try:
            needs_s = _needs_s(pod, settings_of(cluster, container))
        except ValidationError:
            continue
        first_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if pod.component == "api" and first_s < 5:
            yield f"{pod.name}: ends while requests still come"
        if pod.spec.get("terminationGracePeriodSeconds", 30) < first_s + needs_s:
            yield f"{pod.name}: is killed before the {first_s + needs_s:g} s that it may take to end"


def _needs_s(pod: Pod, settings: Settings) -> float:
    works_s = GRACE_S if pod.component == "api" else settings.drain_s + PUBLISHED_WITHIN_S + ARRIVED_WITHIN_S
    return works_s + FLUSH_S


def hub_closed(cluster: Cluster) -> Iterator[str]:
    """Nobody but the job that fetches weights asks the hub."""
    for pod, container in cluster.containers("worker"):
        if cluster.environment(container).get("HF_HUB_OFFLINE") != "1":
            yield f"{pod.name}: the hub may be asked while it serves"


def placed(cluster: Cluster) -> Iterator[str]:
    """What is read and written lies on a volume: the root is read-only, and only the CPU's image has weights in it."""
    for pod, container in cluster.containers(*OURS, "weights"):
        environment = cluster.environment(container)
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
        written = ["/tmp", environment.get("R3_IMAGE_STORE"), environment.get("HF_HOME")]
        if pod.component == "weights":
            written.append("/weights")
        for path in written:
            if path and "://" not in path and not any(f"{path}/".startswith(f"{at}/") for at in _writable(mounts)):
                yield f"{pod.name}: {path} is on no volume that can be written"
        checkpoint = environment.get("R3_CHECKPOINT")
        if checkpoint and mounts.get(checkpoint) is not True and not container["image"].endswith("-cpu"):
            yield f"{pod.name}: no weights are mounted, read-only, at {checkpoint}"
        for mount in container["volumeMounts"] if pod.component == "worker" and checkpoint else ():
            is_filled_later = "weights" in _claimed(pod, mount["name"])
            if mount["mountPath"] == checkpoint and is_filled_later and not _of_one_revision(mount):
                yield f"{pod.name}: reads weights while another revision is written over them"


def _claimed(pod: Pod, volume: str) -> str:
    volumes = {one["name"]: one for one in pod.spec.get("volumes", [])}
    return str(volumes.get(volume, {}).get("persistentVolumeClaim", {}).get("claimName", ""))


def _of_one_revision(mount: Json) -> bool:
    return bool(mount.get("subPath") or mount.get("subPathExpr") == "$(REVISION)")


def _writable(mounts: dict[str, bool]) -> list[str]:
    return [path for path, is_read_only in mounts.items() if not is_read_only]


def queues(cluster: Cluster) -> Iterator[str]:
    """KEDA looks at both sorted sets of one model, under the names that the queue gives them."""
    for scaler in cluster.of("ScaledObject"):
        spec, name = scaler["spec"], scaler["metadata"]["name"]
        lists = [trigger["metadata"]["listName"] for trigger in spec["triggers"]]
        models = {listed.rpartition(":")[2] for listed in lists}
        if {listed.rpartition(":")[0] for listed in lists} != {f"{ROOT}wait", f"{ROOT}lease"} or len(models) != 1:
            yield f"{name}: looks at {lists}"
        names = {trigger.get("name") for trigger in spec["triggers"]}
        formula = spec.get("advanced", {}).get("scalingModifiers", {}).get("formula", "")
        if set(formula.split(" + ")) != names:
            yield f"{name}: the formula {formula!r} does not add up {sorted(map(str, names))}"
        wanted = {spec.get("advanced", {}).get("scalingModifiers", {}).get("target")}
        wanted |= {trigger["metadata"].get("listLength") for trigger in spec["triggers"]}
        for pod, container in cluster.containers("worker"):
            takes = cluster.environment(container).get("R3_MAX_TRAJECTORIES", MAX_TRAJECTORIES)
            if pod.name == spec["scaleTargetRef"]["name"] and wanted != {takes}:
                yield f"{name}: wants a worker for {wanted} jobs, and one takes {takes} at a time"
        ciphered = {trigger["metadata"].get("enableTLS") for trigger in spec["triggers"]}
        if any(cluster.pods("redis")) and ciphered != {"false"}:
            yield f"{name}: speaks TLS to a Redis of ours, which does not"


def streamed(cluster: Cluster) -> Iterator[str]:
    """A route cuts no stream, and lets nobody show a key in the clear."""
    for route in cluster.of("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            if rule.get("timeouts") != {"request": "0s", "backendRequest": "0s"}:
                yield f"{route['metadata']['name']}: streams are cut after {rule.get('timeouts')}"
        for parent in route["spec"]["parentRefs"]:
            if not parent.get("sectionName"):
                yield f"{route['metadata']['name']}: joins every listener of {parent['name']}, plain HTTP among them"


def persisted(cluster: Cluster) -> Iterator[str]:
    """A Redis of our own loses nothing (docs/operations.md)."""
    for document in cluster.of("ConfigMap"):
        if (text := document.get("data", {}).get("valkey.conf")) is None:
            continue
        said = dict(line.split(" ", 1) for line in text.splitlines() if line.strip())
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        for name, value in wanted.items():
            if said.get(name) != value:
                yield f"valkey.conf: {name} is {said.get(name)}, not {value}"
        for pod, container in cluster.containers("redis"):
            limit = _bytes(container["resources"]["limits"]["memory"])
            if "maxmemory" not in said or limit < 2 * _bytes(said["maxmemory"]):
                yield f"{pod.name}: with maxmemory {said.get('maxmemory')} it is killed at {limit} bytes"


def _bytes(text: str) -> int:
    """What Kubernetes calls 4Gi, and Valkey 4gb."""
    units = {"k": 10, "m": 20, "g": 30}
    number = text.rstrip("KMGibkmg")
    return int(number) << units[text[len(number)].lower()]
