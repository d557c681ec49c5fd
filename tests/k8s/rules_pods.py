"""What every pod must be like: hardened, bounded, whole. A rule tells complaints; none is good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tests.k8s.cluster import Cluster, Pod, probes

Json = dict[str, Any]
UID: Final = 10001
_PINNED: Final = re.compile(r"[^@\s]+(:[^:@/]*\d+\.\d+(\.\d+)?[^:@/]*|@sha256:[0-9a-f]{64})")
_BY_DIGEST: Final = re.compile(r"[a-z0-9][^@\s]*@sha256:[0-9a-f]{64}")
# Pod Security "restricted"; image volumes since Kubernetes 1.33.
_VOLUMES: Final = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("image", "persistentVolumeClaim", "projected", "secret"),
}


def hardened(cluster: Cluster) -> Iterator[str]:
    """No root, no capability, no way to more rights, nothing of the host; Pod Security "restricted"."""
    for pod in cluster.pods():
        context = pod.spec.get("securityContext", {})
        if not (context.get("runAsNonRoot") is True and context.get("runAsUser") == UID):
            yield f"{pod.name}: runAsNonRoot and runAsUser {UID} are not said"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name}: no seccomp profile"
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(name):
                yield f"{pod.name}: {name}"
        for container in pod.containers:
            yield from _hardened(pod.name, container)


def _hardened(pod: str, container: Json) -> Iterator[str]:
    where, context = f"{pod}/{container['name']}", container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: may gain rights"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: may write its root"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: capabilities are kept or added"
    if context.get("privileged") or context.get("runAsUser", UID) != UID or context.get("runAsNonRoot") is False:
        yield f"{where}: the container undoes what the pod says"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: takes a port of the node"


def alone(cluster: Cluster) -> Iterator[str]:
    """No token of the Kubernetes API, no account that others use, no variables that Services put beside ours."""
    accounts = {account["metadata"]["name"]: account for account in cluster.of("ServiceAccount")}
    for name in accounts.keys() - {pod.spec.get("serviceAccountName") for pod in cluster.pods()}:
        yield f"no pod has the account {name}"
    for pod in cluster.pods():
        account = accounts.get(pod.spec.get("serviceAccountName", "default"))
        if account is None or account.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: no ServiceAccount of its own without a token"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: a token is mounted"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: Services put variables such as R3_API_PORT=tcp://... among the settings"


def bounded(cluster: Cluster) -> Iterator[str]:
    """Each container says what it needs, and has a bound on memory and disk."""
    for pod, container in cluster.containers():
        asked = container.get("resources", {}).get("requests", {})
        most = container.get("resources", {}).get("limits", {})
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in asked:
                yield f"{pod.name}/{container['name']}: requests no {resource}"
        for resource in ("memory", "ephemeral-storage"):
            if resource not in most:
                yield f"{pod.name}/{container['name']}: no limit of {resource}"


def whole_devices(cluster: Cluster) -> Iterator[str]:
    """Whole GPUs, as many requested as allowed; or a claim, and then one that the pod has; else none is seen."""
    for pod, container in cluster.containers():
        resources = container.get("resources", {})
        asked, most = (resources.get(part, {}).get("nvidia.com/gpu") for part in ("requests", "limits"))
        if asked != most or not re.fullmatch(r"None|[1-9]\d*", str(most)):
            yield f"{pod.name}/{container['name']}: {asked} GPUs requested, {most} allowed"
        claims = {claim["name"]: claim for claim in pod.spec.get("resourceClaims", [])}
        for claim in resources.get("claims", []):
            template = claims.get(claim["name"], {}).get("resourceClaimTemplateName")
            if template not in {one["metadata"]["name"] for one in cluster.of("ResourceClaimTemplate")}:
                yield f"{pod.name}/{container['name']}: no claim {claim['name']}"
        # The image says NVIDIA_VISIBLE_DEVICES=all, for docker; a node's runtime may heed it without any request.
        seen = cluster.environment(container).get("NVIDIA_VISIBLE_DEVICES")
        if container["image"].endswith("-cuda") and not most and not resources.get("claims") and seen != "void":
            yield f"{pod.name}/{container['name']}: asks for no GPU and may see them all"


def large_enough(cluster: Cluster) -> Iterator[str]:
    """Workers, and who holds weights for them, go to devices that are large enough; others would be tried for ever."""
    claims = {one["metadata"]["name"]: str(one["spec"]) for one in cluster.of("ResourceClaimTemplate")}
    for pod in cluster.pods("worker", "weights-cache"):
        wanted = "nvidia.com/gpu" in str(pod.spec.get("nodeSelector")) or "resourceClaims" in pod.spec
        named = (claims.get(claim["resourceClaimTemplateName"], "") for claim in pod.spec.get("resourceClaims", []))
        said = [str(pod.spec.get("affinity")), *named]
        if wanted and not any("nvidia.com/gpu.memory" in one or ".memory.compareTo" in one for one in said):
            yield f"{pod.name}: any GPU will do, however small"


def pinned(cluster: Cluster) -> Iterator[str]:
    """Images by an exact tag or digest; weights by digest alone."""
    for pod, container in cluster.containers():
        if not _PINNED.fullmatch(container["image"]) or container["image"].endswith(":latest"):
            yield f"{pod.name}/{container['name']}: image {container['image']} may change"
        if container.get("imagePullPolicy", "IfNotPresent") != "IfNotPresent":
            yield f"{pod.name}/{container['name']}: a pinned image is pulled once"
    for pod in cluster.pods():
        for volume in pod.spec.get("volumes", []):
            if "image" in volume and not _BY_DIGEST.fullmatch(volume["image"]["reference"]):
                yield f"{pod.name}: weights {volume['image']['reference']!r} are not named by digest"


def mounted(cluster: Cluster) -> Iterator[str]:
    """Every mount has its volume and every volume a mount, of a kind that is allowed, each at a place of its own."""
    claims = {claim["metadata"]["name"] for claim in cluster.of("PersistentVolumeClaim")}
    for pod in cluster.pods():
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        templates = {one["metadata"]["name"] for one in pod.workload["spec"].get("volumeClaimTemplates", [])}
        used = set()
        for container in pod.containers:
            mounts = container.get("volumeMounts", [])
            used |= {mount["name"] for mount in mounts}
            if len({mount["mountPath"] for mount in mounts}) < len(mounts):
                yield f"{pod.name}/{container['name']}: two mounts at one place"
        for name in used ^ (set(volumes) | templates):
            yield f"{pod.name}: {name} is mounted and no volume, or a volume and not mounted"
        for name, volume in volumes.items():
            if not set(volume) - {"name"} <= _VOLUMES:
                yield f"{pod.name}: volume {name} is of a kind that is not allowed"
            if "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] not in claims:
                yield f"{pod.name}: volume {name} has no claim"


def one_handler(cluster: Cluster) -> Iterator[str]:
    """A probe asks in exactly one way; those that kill are content with one good answer."""
    for pod, container in cluster.containers():
        for name, probe in probes(container):
            ways = set(probe) & {"httpGet", "tcpSocket", "exec", "grpc"}
            if len(ways) != 1:
                yield f"{pod.name}: {name} asks in {len(ways)} ways"
            if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
                yield f"{pod.name}: {name} wants more than one good answer"
            if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10):
                yield f"{pod.name}: {name} may still be asking when it asks again"


def rolled_out(cluster: Cluster) -> Iterator[str]:
    """Something may move at a roll-out, no device is asked for twice, and a slow start is no failed one."""
    for pod in cluster.pods():
        spec = pod.workload["spec"]
        strategy = spec.get("strategy", spec.get("updateStrategy", {})).get("rollingUpdate", {})
        surge, gone = strategy.get("maxSurge"), strategy.get("maxUnavailable")
        if pod.kind in ("Deployment", "DaemonSet") and str(surge) in ("0", "0%") and str(gone) in ("0", "0%"):
            yield f"{pod.name}: neither surge nor unavailable: no roll-out can begin"
        if pod.component == "worker" and surge != 0:
            yield f"{pod.name}: a surge asks for a device more than there are"
        if pod.kind == "Deployment" and spec.get("progressDeadlineSeconds", 600) <= _start_s(pod):
            yield f"{pod.name}: the roll-out is called failed while a start is still allowed"


def _start_s(pod: Pod) -> int:
    return max(
        int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))
        for container in pod.containers
        for name, probe in probes(container)
        if name == "startupProbe"
    )
