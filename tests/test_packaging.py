"""What a fresh clone rests on: lock files that name no index, commands in the README that exist, a licence."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from server.cli import app

PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = PROJECT / "requirements"
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def lock() -> str:
    return (REQUIREMENTS / "lock.txt").read_text()


def pyproject() -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["torch.txt", "lock.txt"])
def test_a_lock_names_no_index_and_no_address(name: str) -> None:
    text = (REQUIREMENTS / name).read_text()
    assert "://" not in text
    for line in text.splitlines():
        assert not re.match(r"\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", line), line


def test_torch_is_pinned_apart_and_without_hash_or_build() -> None:
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", (REQUIREMENTS / "torch.txt").read_text())
    assert "torch" not in dict(PIN.findall(lock()))


def test_every_package_of_the_lock_is_exact_and_hashed() -> None:
    packages = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", lock()))
    assert len(packages) > 50
    for package in packages:
        assert PIN.match(package), package
        assert "--hash=sha256:" in package, package


def test_the_lock_has_every_dependency_of_what_make_install_installs() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["api"], *extras["worker"], *extras["dev"]]
    names = {re.split(r"[\s<>=;\[]", line)[0].lower().replace("_", "-") for line in asked}
    assert names - {"torch"} <= {name for name, _ in PIN.findall(lock())}


def test_the_api_and_the_client_need_no_torch() -> None:
    project = pyproject()["project"]
    for needed in (project["dependencies"], project["optional-dependencies"]["api"]):
        assert not [line for line in needed if re.match(r"torch|transformers|diffusers|xformers", line)]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/checkpoints.md", "docs/api-quickstart.md"])
def test_every_make_target_and_file_that_a_document_names_is_there(document: str) -> None:
    text = (PROJECT / document).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for named in re.findall(r"\bmake ([a-z][a-z-]*)\b", " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.DOTALL))):
        assert named in targets, f"make {named}"
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (PROJECT / document).parent.joinpath(link).exists(), link


def test_every_r3_command_that_a_document_names_is_there() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None}
    for document in ("README.md", "CONTRIBUTING.md", "docs/checkpoints.md", "docs/api-quickstart.md"):
        for named in re.findall(
            r"\br3 ([a-z]+)\b", " ".join(re.findall(r"`[^`\n]+`", (PROJECT / document).read_text()))
        ):
            assert named in commands, f"r3 {named} in {document}"


def test_the_licence_is_whole() -> None:
    text = (PROJECT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
