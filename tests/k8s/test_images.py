"""docker/: what the files say, held against the program and the tree. test_images_built.py builds them."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from r3core import malloc
from server.api import GRACE_S
from server.settings import Settings
from server.worker import ARRIVED_WITHIN_S, PUBLISHED_WITHIN_S
from tests.k8s.rendered import PROJECT
from tests.k8s.rules_app import OTHERS, api_paths, worker_has

DOCKER: Final = PROJECT / "docker"
FILES: Final = ("api", "worker")
# Of the images' own: where programs and caches are.
PLAIN: Final = OTHERS | {
    *("PATH", "HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
    malloc.VARIABLE,
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
}
COMPOSE: Final = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def text(name: str) -> str:
    return (DOCKER / f"{name}.Dockerfile").read_text()


def instructions(said: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each on one line."""
    lines = re.sub(r"(?m)^\s*#.*\n", "", said).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for line in lines if line.strip() for word, _, rest in [line.partition(" ")]]


def complaints(said: str, app: str) -> Iterator[str]:
    """What is wrong with a Dockerfile of the API or the worker."""
    steps = instructions(said)
    last = max(number for number, (word, rest) in enumerate(steps) if word == "FROM" and rest.startswith("${BASE}"))
    final = steps[last:]
    yield from _base(steps)
    yield from _user(final)
    if not [rest for word, rest in final if word == "ENTRYPOINT" and rest == '["r3"]']:
        yield "r3 is not what runs"
    if [rest for word, rest in final if word == "CMD"] != [f'["{app}"]']:
        yield f"it does not run r3 {app}"
    port = Settings.model_fields["port" if app == "api" else "worker_port"].default
    if ("EXPOSE", str(port)) not in final:
        yield f"the port is not {port}"
    checks = [rest for word, rest in final if word == "HEALTHCHECK"]
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", checks[0]) if checks else None
    if asked is None or int(asked[1]) != port:
        yield "nothing asks whether it is alive"
    elif not (asked[2] in api_paths() if app == "api" else worker_has(asked[2])):
        yield f"{asked[2]} is no path of the program"
    yield from _variables(steps)
    for _, rest in [step for step in final if step[0] == "RUN"]:
        if re.search(r"\b(pip|python3-venv|gcc|build-essential|curl)\b", rest):
            yield f"what only builds is in the result: {rest}"


def _user(final: list[tuple[str, str]]) -> Iterator[str]:
    """The first stage says who it runs as, and those that build on it may not leave it otherwise."""
    starts = [number for number, (word, _) in enumerate(final) if word == "FROM"]
    users = [
        [rest for word, rest in final[start:end] if word == "USER"][-1:]
        for start, end in pairwise([*starts, len(final)])
    ]
    if users[0] != ["10001:10001"] or any(user not in ([], ["10001:10001"]) for user in users):
        yield "the program does not run as 10001"


def _base(steps: list[tuple[str, str]]) -> Iterator[str]:
    stages = {"${BASE}"}
    for word, rest in steps:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            if base not in stages:
                yield f"FROM {base} is not the one base"
            stages.add(name)
    if not any(
        word == "ARG" and re.fullmatch(r"BASE=[\w./-]+:[\w.-]*\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", rest)
        for word, rest in steps
    ):
        yield "the base is not named by an exact tag"


def _variables(steps: list[tuple[str, str]]) -> Iterator[str]:
    for word, rest in steps:
        if word == "ENV":
            names = re.findall(r"(\w+)=", rest)
            yield from Settings.unknown_variables(dict.fromkeys(names, ""))
            yield from (f"nobody reads {name}" for name in names if not name.startswith("R3_") and name not in PLAIN)


@pytest.mark.parametrize("name", FILES)
def test_a_dockerfile_is_as_the_program_needs_it(name: str) -> None:
    assert list(complaints(text(name), name)) == []


def test_a_malloc_is_preloaded_in_the_cpu_image_alone_and_installed_there() -> None:
    stages = text("worker").split("\nFROM ")
    assert [stage.partition("\n")[0] for stage in stages if malloc.VARIABLE in stage] == ["runtime AS cpu"]
    (cpu,) = (stage for stage in stages if stage.startswith("runtime AS cpu"))
    assert f"{malloc.VARIABLE}=libtcmalloc_minimal.so.4" in cpu
    assert f"--no-install-recommends {malloc.PACKAGE}" in cpu
    assert malloc.VARIABLE not in text("api")


def test_a_cpu_image_that_stays_root_is_seen() -> None:
    said = text("worker")
    before, _, after = said.rpartition("USER 10001:10001\n")
    assert "the program does not run as 10001" in complaints(before + after, "worker")
    assert "the program does not run as 10001" not in complaints(said, "worker")


@pytest.mark.parametrize(
    ("was", "becomes", "sees"),
    [
        ("ARG BASE=debian:12.14-slim", "ARG BASE=debian:latest", "exact tag"),
        ("FROM ${BASE}\n", "FROM alpine:3.20.1\n", "not the one base"),
        ("USER 10001:10001", "USER root", "10001"),
        ('ENTRYPOINT ["r3"]', "ENTRYPOINT r3", "r3 is not what runs"),
        ('CMD ["api"]', 'CMD ["serve"]', "r3 api"),
        ("EXPOSE 8000", "EXPOSE 80", "the port"),
        ("8000/livez", "8000/health", "no path"),
        ("HEALTHCHECK", "LABEL a=b #", "alive"),
        ("R3_HOST=", "R3_HOSTS=", "R3_HOSTS is no setting"),
        ("HOME=/tmp", "HOME=/tmp PYTHONOPTIMISE=1", "PYTHONOPTIMISE"),
        ("install --yes --no-install-recommends ca-certificates", "install --yes gcc", "only builds"),
    ],
)
def test_a_fault_in_a_dockerfile_is_seen(was: str, becomes: str, sees: str) -> None:
    assert was in text("api")
    assert sees in " ".join(complaints(text("api").replace(was, becomes), "api"))


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file of the tree from a build: the last line that matches says."""
    out = False
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        if fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"{pattern}/*"):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize("name", FILES)
def test_what_a_dockerfile_copies_is_there_and_is_seen(name: str) -> None:
    for word, rest in instructions(text(name)):
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (PROJECT / source).exists(), source
                assert not ignored(source if (PROJECT / source).is_file() else f"{source.rstrip('/')}/a.txt"), source
        for lock in re.findall(r"requirements/\w+\.txt", rest):
            assert (PROJECT / lock).is_file(), lock


def test_a_build_sees_no_tests_no_git_no_keys() -> None:
    for path in (".git/config", ".venv/bin/python", "tests/conftest.py", "data/redis/dump.rdb", ".env", "server/a.pyc"):
        assert ignored(path), path


def _around(compose: dict[str, Any], name: str, service: dict[str, Any]) -> Iterator[str]:
    for needed in service.get("depends_on", {}):
        if needed not in compose["services"] or "healthcheck" not in compose["services"][needed]:
            yield f"{name}: waits for {needed}, which says nothing of its health"
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"{name}: {port} is open to other machines"


def wrong_in(compose: dict[str, Any]) -> Iterator[str]:
    """What is wrong with compose.yaml."""
    for name, service in compose["services"].items():
        if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", service["image"]):
            yield f"{name}: {service['image']} may change"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or not service.get("security_opt"):
            yield f"{name}: not hardened"
        yield from (f"{name}: {one}" for one in Settings.unknown_variables(service.get("environment", {})))
        if name != "valkey" and {"path": "r3.env", "required": False} not in service.get("env_file", []):
            yield f"{name}: nobody can set anything without a change of this file"
        yield from _around(compose, name, service)
        if "build" in service:
            file = PROJECT / service["build"]["dockerfile"]
            target = service["build"].get("target")
            if not file.is_file() or (target and f" AS {target}\n" not in file.read_text()):
                yield f"{name}: no target {target} in {file.name}"
    least = {
        "api": GRACE_S,
        "worker": Settings.model_fields["drain_s"].default + PUBLISHED_WITHIN_S + ARRIVED_WITHIN_S,
    }
    for name, seconds in least.items():
        number, unit = re.fullmatch(r"(\d+)([sm])", compose["services"][name].get("stop_grace_period", "10s")).groups()  # type: ignore[union-attr]
        if int(number) * (60 if unit == "m" else 1) < seconds:
            yield f"{name}: is killed before it has ended"


def test_compose_is_as_the_program_needs_it() -> None:
    assert list(wrong_in(COMPOSE)) == []
    assert (DOCKER / COMPOSE["services"]["api"]["build"]["context"]).resolve() == PROJECT


@pytest.mark.parametrize(
    ("service", "field", "value"),
    [
        ("valkey", "image", "valkey/valkey:latest"),
        ("api", "read_only", False),
        ("api", "environment", {"R3_REDIS": "redis://valkey"}),
        ("worker", "depends_on", {"api": {}}),
        ("worker-gpu", "env_file", []),
        ("api", "ports", ["8000:8000"]),
        ("worker", "build", {"dockerfile": "docker/worker.Dockerfile", "target": "tpu"}),
        ("worker", "stop_grace_period", "10s"),
    ],
)
def test_a_fault_in_compose_is_seen(service: str, field: str, value: Any) -> None:
    services = COMPOSE["services"]
    broken = {**COMPOSE, "services": {**services, service: {**services[service], field: value}}}
    assert len(list(wrong_in(broken))) == 1


def test_the_tags_are_the_projects_version() -> None:
    version = re.search(r'(?m)^version = "(.+)"', (PROJECT / "pyproject.toml").read_text())
    assert version is not None
    places = [DOCKER / "compose.yaml", *(PROJECT / "k8s").rglob("*.yaml")]
    for file in places:
        for tag in re.findall(r"r3-(?:api|worker):(\d+\.\d+\.\d+)|newTag: (\d+\.\d+\.\d+)", Path(file).read_text()):
            assert "".join(tag) == version[1], file


# make pin-images, with a registry that answers, and one that breaks off


def pinned(folder: Path, skopeo: str) -> subprocess.CompletedProcess[str]:
    """Run the script on a copy of the tree, with this program in skopeo's place."""
    for name in ("docker", "k8s"):
        shutil.copytree(PROJECT / name, folder / name, symlinks=True)
    program = folder / "bin" / "skopeo"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{skopeo}\n")
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = [folder / "docker" / "pin_images"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_pinning_reaches_every_image_of_others(tmp_path: Path) -> None:
    digest = f"sha256:{64 * 'c'}"
    done = pinned(tmp_path, f"echo {digest}")
    assert done.returncode == 0, done.stderr
    named = [
        line
        for file in (*(tmp_path / "docker").iterdir(), *(tmp_path / "k8s").rglob("*.yaml"))
        if file.name != "pin_images"
        for line in file.read_text().splitlines()
        if re.search(r"debian:\d|valkey/valkey[:,]", line)
    ]
    assert len(named) == 5
    assert [line for line in named if digest not in line] == []


def test_nothing_is_pinned_where_a_digest_is_missing(tmp_path: Path) -> None:
    done = pinned(tmp_path, 'case "$4" in *debian*) echo sha256:$(printf "%064d" 1);; *) echo gone; esac')
    assert done.returncode != 0
    for name in ("docker/compose.yaml", "docker/api.Dockerfile", "k8s/chart/values.yaml"):
        assert (tmp_path / name).read_text() == (PROJECT / name).read_text()
