"""What kustomize and Helm make of k8s/, and the values that a site would say.

kubectl is not among Debian's packages in a version that knows components: where none is found that is new enough,
what kustomize renders is skipped by name. Helm comes with `make k8s-tools`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.programs import needed

PROJECT: Final = Path(__file__).resolve().parents[2]
K8S: Final = PROJECT / "k8s"
TOOLS: Final = (PROJECT / ".venv-k8s" / "bin", PROJECT / ".venv-checkov" / "bin")
TO_SAY: Final = "SET-ME"
DIGEST: Final = "sha256:" + 64 * "a"  # of no image: what matters is its form

Document = dict[str, Any]

# What one site says in k8s/overlays/prod/site.yaml.
SITE: Final = {
    "host": "r3.example.com",
    "gateway": "public",
    "gateway-namespace": "gateways",
    "gateway-listener": "https",
    "gateway-proxies": "gateways-proxies",
    "redis-network": "192.0.2.10/32",
    "redis-tls": '"true"',
    "s3-network": "198.51.100.0/24",
    "model": "r3",
    "prometheus": "prometheus",
    "weights-image": f"registry.example.com/r3-weights@{DIGEST}",
}
SETTINGS: Final = {
    "R3_IMAGE_STORE": "s3://pictures/r3",
    "R3_PUBLIC_URL": "https://r3.example.com",
    "R3_TRUSTED_PROXIES": "10.0.0.0/8",
}
# The other way to have everything: Redis and pictures in the cluster, weights on a volume, DRA, webhooks, traces.
OTHER: Final = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: r3
resources: [../../base]
components: [{components}]
configMapGenerator:
  - {{name: r3-settings, behavior: merge, literals: [R3_WEBHOOK_ALLOW=hooks.example.com]}}
  - {{name: r3-weights, literals: [REPOSITORY=example/r3, REVISION=0123456789abcdef0123456789abcdef01234567]}}
patches:
  - target: {{kind: ScaledObject}}
    patch: |
      - {{op: replace, path: /spec/triggers/0/metadata/listName, value: "{{r3}}:wait:r3"}}
      - {{op: replace, path: /spec/triggers/1/metadata/listName, value: "{{r3}}:lease:r3"}}
      - {{op: replace, path: /spec/minReplicaCount, value: 0}}
"""
OTHERS: Final = [
    "redis",
    "keda-redis",
    "pictures-pvc",
    "weights-pvc",
    "dra",
    "hpa",
    "keda",
    "metrics",
    "webhooks",
    "traces",
]


def tool(name: str) -> Path:
    """A program of requirements/k8s.txt or checkov.txt. Without it: skip, or fail where R3_TEST_ALL is set."""
    for folder in TOOLS:
        if (folder / name).is_file():
            return folder / name
    return needed(name, made_by="make k8s-tools")


def kubectl() -> Path:
    """A kubectl whose kustomize is 5 or newer (kubectl 1.27). Without one: skip, in CI too."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("no kubectl on PATH; the chart is rendered all the same")
    done = subprocess.run([found, "version", "--client"], capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r"Kustomize Version: v(\d+)\.", done.stdout)
    if version is None or int(version[1]) < 5:
        pytest.skip("kubectl is older than 1.27; the chart is rendered all the same")
    return Path(found)


def filled(folder: Path) -> Path:
    """A copy of k8s/ in which a site has said what is its own to say."""
    copy = folder / "k8s"
    shutil.copytree(K8S, copy)
    prod = copy / "overlays" / "prod"
    _say(prod / "site.yaml", {f"  {name}": f" {value}" for name, value in SITE.items()}, ":")
    _say(prod / "settings.env", SETTINGS, "=")
    file = prod / "kustomization.yaml"
    file.write_text(file.read_text().replace(f"{TO_SAY}/", "registry.example.com/"))
    other = copy / "overlays" / "other"
    other.mkdir()
    components = ", ".join([*(f"../../components/{name}" for name in OTHERS), "../../monitoring"])
    (other / "kustomization.yaml").write_text(OTHER.format(components=components))
    return copy


def _say(file: Path, values: dict[str, str], mark: str) -> None:
    lines = file.read_text().splitlines()
    for name, value in values.items():
        [at] = [number for number, line in enumerate(lines) if line.startswith(f"{name}{mark}")]
        lines[at] = f"{name}{mark}{value}"
    file.write_text("\n".join(lines) + "\n")


def kustomized(overlay: Path) -> list[Document]:
    """The documents of an overlay."""
    return rendered_by([str(kubectl()), "kustomize", str(overlay)])


def templated(values: Path, *options: str) -> list[Document]:
    """The documents of the chart under one file of values."""
    chart = K8S / "chart"
    return rendered_by([str(tool("helm")), "template", "r3", str(chart), "-n", "r3", "-f", str(values), *options])


def rendered_by(command: list[str]) -> list[Document]:
    """The documents that a command writes."""
    quiet = {**os.environ, "HELM_CACHE_HOME": "/tmp/helm", "HELM_CONFIG_HOME": "/tmp/helm"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]
