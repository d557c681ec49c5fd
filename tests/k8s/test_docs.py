"""docs/deploy.md names what there is: files, overlays, components, targets, Secrets and their keys."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from benchmarks.scaling.plan import EDITS, job_s
from server.cli import app
from server.worker import ARRIVED_WITHIN_S, PUBLISHED_WITHIN_S
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
    assert "[`k8s/monitoring`]" in DEPLOY


def test_the_secret_that_is_made_by_hand_has_the_keys_that_are_read() -> None:
    told = set(re.findall(r"--from-literal=\"?([\w.]+)=", DEPLOY))
    assert told == BY_HAND["r3-redis"]


def test_where_redis_is_ours_its_address_is_told_with_its_namespace() -> None:
    """KEDA asks from another."""
    assert "the address is `r3-redis.r3:6379`" in DEPLOY.replace("\n", " ")


@pytest.mark.parametrize("file", ["site.yaml", "settings.env", "kustomization.yaml"])
def test_what_a_site_must_say_stands_in_the_three_places_that_are_told(file: str) -> None:
    assert TO_SAY in (K8S / "overlays" / "prod" / file).read_text()
    assert file.replace("kustomization.yaml", "under `images`") in DEPLOY.replace("\n", " ")


def test_nothing_is_applied_before_it_is_looked_for_what_was_left_unsaid() -> None:
    said = commands()
    looked = next(
        at for at, line in enumerate(said) if line.startswith("kubectl kustomize k8s/overlays/prod | grep SET-ME")
    )
    assert said[looked + 1] == "kubectl apply -k k8s/overlays/prod"


@pytest.mark.parametrize("page", ["operations.md", "runbook.md"])
def test_how_long_a_stop_may_take_is_what_the_program_takes(page: str) -> None:
    text = (PROJECT / "docs" / page).read_text()
    [told] = re.findall(r"longer\s+than `R3_DRAIN_S` and (\d+) s", text)
    assert int(told) == PUBLISHED_WITHIN_S + ARRIVED_WITHIN_S


def test_what_is_computed_of_cold_starts_and_cost_is_computed_right() -> None:
    """Nothing of it was measured; each figure follows from those that stand beside it."""
    text = DEPLOY.replace("\n", " ")
    size_gb, way = 29, r"(?:disk|file system) of (\d+) GB/s: (\d+)"
    disks = [(size_gb / float(rate), told) for rate, told in re.findall(way, text)]
    network = [(size_gb * 8 / float(rate), told) for rate, told in re.findall(r"at (\d+) Gbit/s: (\d+)", text)]
    unpacked = [(size_gb * 1000 / float(rate), told) for rate, told in re.findall(r"at (\d+) MB/s: (\d+)", text)]
    assert (len(disks), len(network), len(unpacked)) == (2, 1, 1)
    for took_s, told in (*disks, *network, *unpacked):
        assert abs(took_s - float(told)) <= 0.5
    [(seconds, price, full, half)] = re.findall(
        r"with (\d+) s, `P` = (\d+) and full use it would be ([\d.]+) cents, at half use ([\d.]+)\.", text
    )
    cents = 100 * float(price) * float(seconds) / 3600
    assert (f"{cents:.1f}", f"{2 * cents:.1f}") == (full, half)
    assert float(seconds) == round(job_s(max(EDITS)))  # the load test's device, and docs/scaling.md


def unknown(text: str) -> list[str]:
    """What a text calls a command or an option of `r3`, and is none."""
    found = []
    for said in re.findall(
        r"(?:^|`|-- |\.\.\. |exec api )r3 ((?:[a-z]+ ?)+(?:[^`\n]*?--[a-z-]+)*)", text, re.MULTILINE
    ):
        words = said.split()
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", ()):
            command = command.commands[words.pop(0)]
        options = {name for one in command.params for name in one.opts}
        strange = [word for word in words if word.startswith("--") and word not in options]
        if hasattr(command, "commands") or strange:
            found.append(f"r3 {said}")
    return found


@pytest.mark.parametrize("page", ["deploy.md", "runbook.md"])
def test_the_commands_of_ours_are_there_with_their_options(page: str) -> None:
    text = (PROJECT / "docs" / page).read_text()
    assert text.count("r3 queue ") + text.count("r3 keys ") > 2
    assert unknown(text) == []


@pytest.mark.parametrize("wrong", ["`r3 queue stop`", "r3 keys create alice --scopes admin", "`r3 job list`"])
def test_a_command_that_there_is_not_is_noticed(wrong: str) -> None:
    assert unknown(wrong) != []


def test_commands_are_in_the_shells_form() -> None:
    done = subprocess.run(["bash", "-n"], input="\n".join(commands()), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
