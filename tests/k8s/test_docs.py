"""docs/deploy.md names what there is: files, overlays, components, targets, Secrets and their keys."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.k8s.rendered import K8S, PROJECT, TO_SAY
from tests.k8s.test_rules import BY_HAND

DEPLOY: Final = (PROJECT / "docs" / "deploy.md").read_text()
COMPONENTS: Final = {folder.name for folder in (K8S / "components").iterdir()}


def commands() -> list[str]:
    """The commands of the document, each on one line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", DEPLOY, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_every_file_that_a_command_names_is_there() -> None:
    named = {path for line in commands() for path in re.findall(r"(?:docker|k8s)/[\w./-]+", line)}
    assert {
        "docker/api.Dockerfile",
        "docker/compose.yaml",
        "k8s/overlays/dev",
        "k8s/overlays/prod",
        "k8s/chart",
    } <= named
    for path in named:
        assert (PROJECT / path).exists(), path
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", DEPLOY):
        assert (PROJECT / "docs" / link).exists(), link


def test_no_command_is_there_twice_but_those_that_each_way_needs() -> None:
    said = commands()
    assert {line for line in said if said.count(line) > 1} <= {
        "kubectl -n r3 exec deploy/r3-api -- r3 keys create alice"
    }


def test_every_target_of_a_build_is_in_its_file() -> None:
    for file, target in re.findall(r"-f (docker/\w+\.Dockerfile) --target (\w+)", DEPLOY):
        assert f" AS {target}\n" in (PROJECT / file).read_text()


def test_the_components_are_all_told_and_are_all_there() -> None:
    prod = yaml.safe_load((K8S / "overlays" / "prod" / "kustomization.yaml").read_text())
    assert {Path(one).name for one in prod["components"]} <= COMPONENTS | {"monitoring"}
    assert set(re.findall(r"`([a-z0-9-]+)`", DEPLOY)) >= COMPONENTS


def test_the_secret_that_is_made_by_hand_has_the_keys_that_are_read() -> None:
    told = set(re.findall(r"--from-literal=\"?([\w.]+)=", DEPLOY))
    assert told == BY_HAND["r3-redis"]


@pytest.mark.parametrize("file", ["site.yaml", "settings.env", "kustomization.yaml"])
def test_what_a_site_must_say_stands_in_the_three_places_that_are_told(file: str) -> None:
    assert TO_SAY in (K8S / "overlays" / "prod" / file).read_text()
    assert file.replace("kustomization.yaml", "under `images`") in DEPLOY.replace("\n", " ")


def test_commands_are_in_the_shells_form() -> None:
    done = subprocess.run(["bash", "-n"], input="\n".join(commands()), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
