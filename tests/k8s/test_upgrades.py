"""`helm upgrade` with other values: what may not change does not, and what must be new is new.

A job's pods, a StatefulSet's volumes and everyone's selectors cannot be changed in place: an upgrade that tries fails,
and leaves half of itself behind.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.k8s.cluster import Cluster
from tests.k8s.rendered import K8S, rendered_by, templated, tool
from tests.k8s.test_rules import CHARTS

Json = dict[str, Any]
Key = tuple[str, str]
REVISION: Final = "0123456789abcdef0123456789abcdef01234567"
NEWER: Final = "89abcdef0123456789abcdef0123456789abcdef"
UPGRADES: Final = {
    "image": "images.worker.tag=0.2.0-cuda",
    "registry": "pullSecrets[0]=another",
    "weights": f"workers.main.weights.revision={NEWER}",
    "setting": "settings.R3_LEASE_S=30",
}


def fixed(documents: list[Json]) -> dict[Key, Json]:
    """What of each document may never change, by kind and name."""
    ways = {
        "Deployment": ("selector",),
        "DaemonSet": ("selector",),
        "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates"),
        "Job": ("template",),
        "PersistentVolumeClaim": ("accessModes", "storageClassName"),
    }
    return {
        (document["kind"], document["metadata"]["name"]): {
            field: document["spec"].get(field) for field in ways[document["kind"]]
        }
        for document in documents
        if document["kind"] in ways
    }


def refused(before: list[Json], after: list[Json]) -> list[Key]:
    """The documents that an API server would not take in place of those before."""
    was, would_be = fixed(before), fixed(after)
    return [key for key in was.keys() & would_be.keys() if was[key] != would_be[key]]


@pytest.mark.parametrize("value", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("name", ["prod", "other"])
def test_no_upgrade_is_refused(name: str, value: str) -> None:
    assert refused(templated(CHARTS[name]), templated(CHARTS[name], "--set-string", value)) == []


def test_a_newer_chart_is_not_refused(tmp_path: Path) -> None:
    newer = tmp_path / "chart"
    shutil.copytree(K8S / "chart", newer)
    about = newer / "Chart.yaml"
    about.write_text(about.read_text().replace("ersion: 0.1.0", "ersion: 0.2.0"))
    for values in CHARTS.values():
        command = [str(tool("helm")), "template", "r3", str(newer), "-n", "r3", "-f", str(values)]
        after = rendered_by(command)
        assert "0.2.0" in str(after)
        assert refused(templated(values), after) == []


def test_a_job_that_would_change_in_place_is_noticed() -> None:
    before = templated(CHARTS["other"])
    after = templated(CHARTS["other"], "--set-string", UPGRADES["image"])
    [job], [changed] = Cluster(before).of("Job"), Cluster(after).of("Job")
    changed["metadata"]["name"] = job["metadata"]["name"]
    assert refused(before, after) == [("Job", job["metadata"]["name"])]


def test_other_weights_and_other_settings_make_new_pods() -> None:
    for name, part in (("weights", "worker"), ("setting", "worker"), ("setting", "api")):
        before, after = (
            [pod.workload["spec"]["template"] for pod in Cluster(templated(CHARTS["other"], *more)).pods(part)]
            for more in ((), ("--set-string", UPGRADES[name]))
        )
        assert before != after, (name, part)


def test_another_configuration_of_redis_makes_a_new_pod(tmp_path: Path) -> None:
    newer = tmp_path / "chart"
    shutil.copytree(K8S / "chart", newer)
    file = newer / "templates" / "redis.yaml"
    file.write_text(file.read_text().replace("appendfsync everysec", "appendfsync always"))
    command = [str(tool("helm")), "template", "r3", str(newer), "-n", "r3", "-f", str(CHARTS["other"])]
    [before], [after] = Cluster(templated(CHARTS["other"])).pods("redis"), Cluster(rendered_by(command)).pods("redis")
    assert before.workload["spec"]["template"] != after.workload["spec"]["template"]


# the job that fetches weights, run as a container would


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run the job's command on a folder, with an `hf` that writes two files, or breaks off after one."""
    [pod] = Cluster(templated(CHARTS["other"])).pods("weights")
    *shell, script = pod.containers[0]["command"]
    program = tmp_path / "bin" / "hf"
    program.parent.mkdir()
    (tmp_path / "weights").mkdir()
    program.write_text('#!/bin/sh\nset -eu\nmkdir -p "$6"\necho a > "$6/one"\n$BREAK\necho "$4" > "$6/two"\necho ran\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def run(breaking: str = "") -> subprocess.CompletedProcess[str]:
        variables = {"REPOSITORY": "example/r3", "REVISION": REVISION, "BREAK": breaking}
        return subprocess.run(
            [*shell, script.replace("/weights", str(tmp_path / "weights"))],
            env={**variables, "PATH": f"{program.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_workers_see_weights_only_once_they_are_whole(
    fetch: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    there = tmp_path / "weights" / REVISION
    assert fetch("exit 1").returncode != 0
    assert not there.exists()
    there.mkdir()  # as a kubelet may, for who would mount it
    assert "ran" in fetch("").stdout
    assert {file.name: file.read_text() for file in there.iterdir()} == {"one": "a\n", "two": f"{REVISION}\n"}
    again = fetch("")
    assert (again.returncode, again.stdout) == (0, "")
