"""The API's image, built for real from a Debian that debootstrap makes, and started: slow, as root, with the network.

No container engine and no registry is needed: buildah builds in a chroot, and the same chroot runs what it built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from server.embedded import find_binary
from tests.k8s.rendered import PROJECT
from tests.programs import needed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
BASE: Final = "localhost/r3-test-base:1.0"
IMAGE: Final = "localhost/r3-test-api:1.0"
REDIS: Final = ("--bind", "127.0.0.1", "--port", "8438", "--save", "", "--daemonize", "no")
ENVIRONMENT: Final = {  # as the image says, and a queue
    "PATH": "/opt/r3/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "R3_AUTH": "keys",
    "R3_HOST": "0.0.0.0",
    "R3_IMAGE_STORE": "/pictures",
    "R3_REDIS_URL": "redis://127.0.0.1:8438/0",
}
AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"  # where the Dockerfile puts the secret
MOST_BYTES: Final = 200 * 1000 * 1000


def buildah(*arguments: str, timeout_s: float = 1800) -> str:
    program = needed("buildah", package="buildah")
    where = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
    done = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=where,
        cwd=PROJECT,
    )
    assert done.returncode == 0, f"buildah {' '.join(arguments[:2])}: {done.stderr[-4000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image's name. What pip asks is what this machine says, by secrets."""
    if os.geteuid() != 0:
        pytest.skip("debootstrap and chroot are root's")
    folder = tmp_path_factory.mktemp("base")
    debootstrap = needed("debootstrap", package="debootstrap")
    subprocess.run([str(debootstrap), "--variant=minbase", "bookworm", str(folder / "root")], check=True, timeout=1200)
    slim(folder / "root")
    base = buildah("from", "scratch")
    buildah("add", base, str(folder / "root"), "/")
    buildah("commit", "--rm", base, BASE)
    buildah(
        *("build", "--file", "docker/api.Dockerfile", "--build-arg", f"BASE={BASE}", "--format", "docker"),
        *(*secrets(folder), "--network", "host", "--tag", IMAGE, "."),
    )
    yield IMAGE
    for name in (IMAGE, BASE):
        with suppress(AssertionError):
            buildah("rmi", "--force", name)


def slim(root: Path) -> None:
    """Take out what Debian's own slim images leave out: what apt fetched, and texts that nobody reads."""
    for kept_empty in (
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(root / kept_empty)
        (root / kept_empty).mkdir()


def secrets(folder: Path) -> list[str]:
    """What pip is told on this machine, and the authorities that it trusts, as the secrets that the build takes."""
    done = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60)
    told = [line.partition("=") for line in done.stdout.splitlines() if line.startswith("global.")]
    options = {name.removeprefix("global."): value.strip("'") for name, _, value in told}
    authorities = options.get("cert")
    if authorities:
        options["cert"] = AUTHORITIES
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    return [
        *("--secret", f"id=pip,src={file}"),
        *(("--secret", f"id=ca,src={authorities}") if authorities else ()),
    ]


@pytest.fixture(scope="module")
def root(image: str) -> Iterator[Path]:
    """The image's files."""
    container = buildah("from", image)
    yield Path(buildah("mount", container))
    buildah("rm", container)


def test_the_image_is_small_and_holds_no_torch_and_nothing_that_builds(image: str, root: Path, tmp_path: Path) -> None:
    buildah("push", image, f"oci-archive:{tmp_path / 'image.tar'}")
    assert (tmp_path / "image.tar").stat().st_size < MOST_BYTES  # as a registry holds it
    packages = {path.name.lower() for path in (root / "opt/r3/lib/python3.11/site-packages").iterdir()}
    assert not packages & {"torch", "triton", "nvidia", "transformers", "pip", "setuptools"}
    assert not [name for name in ("gcc", "pip", "pip3", "curl") if (root / "usr/bin" / name).exists()]


def test_the_image_says_who_runs_what_and_how_it_is_asked(image: str) -> None:
    config = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["r3"], ["api"])
    assert "/livez" in " ".join(config["Healthcheck"]["Test"])


def test_the_api_in_the_image_starts_as_its_user_and_answers(root: Path, tmp_path: Path) -> None:
    with running(str(find_binary()), *REDIS, "--dir", str(tmp_path)):
        api = [str(needed("chroot")), "--userspec=10001:10001", str(root), "/opt/r3/bin/r3", "api", "--port", "8437"]
        with running(*api, **ENVIRONMENT) as process:
            assert answers("http://127.0.0.1:8437/livez") == {"status": "ok"}
            process.terminate()
            assert process.wait(timeout=30) == 0


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for as long as the block lasts."""
    process = subprocess.Popen(command, env=environment or None)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> object:
    """What the URL answers, once it does."""
    deadline_s = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
