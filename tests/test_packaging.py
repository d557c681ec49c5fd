"""What a fresh clone rests on: lock files that name no index, commands in the README that exist, a licence, and a wheel
that brings no torch to those who only call a server.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import suppress
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from server.cli import app

PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = PROJECT / "requirements"
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def lock() -> str:
    return (REQUIREMENTS / "lock.txt").read_text()


def pyproject() -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


LOCKS = ["lock", "api", "worker", "cuda", "build", "k8s", "sbom", "checkov"]


@pytest.mark.parametrize("name", ["torch.txt", *(f"{name}.txt" for name in LOCKS)])
def test_a_lock_names_no_index_and_no_address(name: str) -> None:
    text = (REQUIREMENTS / name).read_text()
    assert "://" not in text
    for line in text.splitlines():
        assert not re.match(r"\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", line), line


def test_torch_is_pinned_apart_and_without_hash_or_build() -> None:
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", (REQUIREMENTS / "torch.txt").read_text())
    assert "torch" not in dict(PIN.findall(lock()))


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_is_exact_and_hashed(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    packages = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", text))
    assert len(packages) >= {"build": 1, "k8s": 5}.get(name, 30)
    for package in packages:
        assert PIN.match(package), package
        assert "--hash=sha256:" in package, package


def test_the_lock_has_every_dependency_of_what_make_install_installs() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    named = ("api", "worker", "dev", "s3", "otel")  # dev names the last two by the project's own name
    asked = [*project["dependencies"], *(line for extra in named for line in extras[extra])]
    names = {re.split(r"[\s<>=;\[]", line)[0].lower().replace("_", "-") for line in asked}
    assert names - {"torch", "r3-server"} <= {name for name, _ in PIN.findall(lock())}


@pytest.mark.parametrize("name", ["api", "worker", "build"])
def test_an_image_holds_what_the_lock_names_and_nothing_else(name: str) -> None:
    locked = dict(PIN.findall(lock()))
    pins = dict(PIN.findall((REQUIREMENTS / f"{name}.txt").read_text()))
    assert pins.items() <= locked.items()
    asked = {"build": ["setuptools"]}.get(name) or pyproject()["project"]["optional-dependencies"][name]
    assert {re.split(r"[\s<>=;\[]", line)[0].lower() for line in asked} - {"torch"} <= set(pins)


def test_the_api_and_the_client_need_no_torch() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    for needed in (project["dependencies"], extras["api"], extras["client"]):
        assert not [line for line in needed if re.match(r"torch|transformers|diffusers|xformers", line)]


def test_the_clients_source_imports_httpx_and_pydantic_alone() -> None:
    imported = set()
    for file in (PROJECT / "r3client").glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"r3client", "httpx", "pydantic", "PIL"}  # PIL where it is asked for


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source, built as pip does it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    for name in ("r3client", "r3core", "server"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build], cwd=copy, check=True, capture_output=True, timeout=100
    )
    [built] = (copy / "dist").glob("*.whl")
    return built


def asked_for(wheel: Path, extra: str) -> set[str]:
    """What installing the wheel with that extra asks for by name."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    return _named(lines, extra)


def everything_of(names: set[str]) -> set[str]:
    """These packages, and all that they need in turn."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        found.add(name)
        with suppress(PackageNotFoundError):  # it is for another system
            waiting |= _named(requires(name) or [], "") - found
    return found


def _named(lines: list[str], extra: str) -> set[str]:
    needed = [Requirement(line) for line in lines]
    return {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})}


def test_the_wheel_without_extras_is_the_python_client_and_asks_for_no_more(wheel: Path) -> None:
    assert asked_for(wheel, "") == {"httpx", "pydantic"}
    assert asked_for(wheel, "client") == {"httpx", "pydantic", "pillow", "pydantic-settings", "rich", "typer"}
    assert not everything_of(asked_for(wheel, "client")) & {"torch", "numpy", "transformers", "fastapi", "redis"}
    with zipfile.ZipFile(wheel) as archive:
        assert {"r3client/__init__.py", "r3client/py.typed"} <= set(archive.namelist())


ONLY = """
import sys
from importlib.metadata import packages_distributions

ALLOWED, OF = {allowed!r}, packages_distributions()


class Gate:  # nothing that the wheel did not ask for can be imported
    @staticmethod
    def find_spec(name, path=None, target=None):
        of = {{one.lower().replace("_", "-") for one in OF.get(name.partition(".")[0], [])}} - {{"r3-server"}}
        if of and not ALLOWED & of:
            raise ModuleNotFoundError(name + " was not asked for", name=name)


sys.meta_path.insert(0, Gate)
sys.path.insert(0, {wheel!r})
"""


def run_with_only(wheel: Path, extra: str, program: str) -> subprocess.CompletedProcess[str]:
    """A program that has the wheel, what the wheel asks for, and nothing else of what is installed here."""
    script = ONLY.format(allowed=everything_of(asked_for(wheel, extra)), wheel=str(wheel)) + program
    return subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=wheel.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


def test_what_the_wheel_asks_for_is_enough_for_the_client(wheel: Path) -> None:
    done = run_with_only(wheel, "", "import r3client; print(r3client.__file__); r3client.Client()")
    assert done.returncode == 0, done.stderr
    assert str(wheel) in done.stdout
    assert "typer was not asked for" in run_with_only(wheel, "", "import server.cli").stderr


def test_what_the_client_extra_asks_for_is_enough_for_r3_submit(wheel: Path) -> None:
    program = "sys.argv = ['r3', 'submit', 'a cat', '--url', 'http://127.0.0.1:9']; from server.cli import main; main()"
    done = run_with_only(wheel, "client", program)
    assert done.returncode == 2, done.stderr
    assert "r3: no answer" in done.stderr


def test_what_the_client_extra_asks_for_is_enough_for_r3_score_and_r3_roundtrip(wheel: Path) -> None:
    (wheel.parent / "pictures").mkdir()
    (wheel.parent / "pictures" / "a.png").touch()
    for given in (["score", "a cat", "pictures"], ["roundtrip", "pictures"]):
        command = ["r3", *given, "--url", "http://127.0.0.1:9"]
        done = run_with_only(wheel, "client", f"sys.argv = {command}; from server.cli import main; main()")
        assert done.returncode == 2, done.stderr
        assert "r3: no answer" in done.stderr
    done = run_with_only(wheel, "client", "import server.score, server.roundtrip; print('all there')")
    assert "all there" in done.stdout, done.stderr


def test_what_the_client_extra_asks_for_is_enough_for_r3_batch_and_r3_compare(wheel: Path) -> None:
    (wheel.parent / "prompts.jsonl").write_text('{"prompt": "a cat"}')
    given = ["r3", "batch", "prompts.jsonl", "--out", "out", "--url", "http://127.0.0.1:9"]
    done = run_with_only(wheel, "client", f"sys.argv = {given}; from server.cli import main; main()")
    assert done.returncode == 2, done.stderr
    assert "r3: no answer" in done.stderr
    program = "import server.research.difference_sheet, server.research.compare; print('all there')"
    done = run_with_only(wheel, "client", program)
    assert "all there" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "docs/checkpoints.md", "docs/api.md", "docs/deploy.md", "docs/research.md"],
)
def test_every_make_target_and_file_that_a_document_names_is_there(document: str) -> None:
    text = (PROJECT / document).read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    quoted = " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.DOTALL))
    named, links = re.findall(r"\bmake ([a-z][a-z0-9-]*)\b", quoted), re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert named or links
    assert {"serve", "test"} & set(named) or document.startswith("docs/")
    assert set(named) <= targets
    for link in links:
        assert (PROJECT / document).parent.joinpath(link).exists(), link


def test_every_r3_command_that_a_document_names_is_there() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None}
    found: set[str] = set()
    for document in ("README.md", "CONTRIBUTING.md", "docs/checkpoints.md", "docs/api.md", "docs/research.md"):
        for named in re.findall(
            r"\br3 ([a-z]+)\b", " ".join(re.findall(r"`[^`\n]+`", (PROJECT / document).read_text()))
        ):
            assert named in commands, f"r3 {named} in {document}"
            found.add(named)
    assert {"api", "worker", "submit", "generate", "verify", "doctor", "batch"} <= found


def test_the_licence_is_whole() -> None:
    text = (PROJECT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
