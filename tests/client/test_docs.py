"""Every example of docs/api.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from r3client import Client
from tests.client.service import Service
from tests.node_packages import bare_node
from tests.programs import without_proxies

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docs" / "api.md").read_text()
WHERE = "http://127.0.0.1:8000"
HEAD = """
set -euo pipefail
curl() { command curl --silent --show-error --fail-with-body --retry 5 "$@"; }
r3() { "$PYTHON" -P -m server.cli "$@"; }
"""


def examples(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found


def run(command: Sequence[str], service: Service, folder: Path) -> str:
    ours = {"PYTHONPATH": str(PROJECT), "R3_URL": service.url, "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=folder, env={**without_proxies(), **ours}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shells_examples_work_one_after_another(service: Service, tmp_path: Path) -> None:
    scripts = [script.replace(WHERE, service.url) for script in examples("sh")]
    said = []
    with Client(service.url) as client:
        for script in scripts:
            said.append(run(["bash", "-c", HEAD + script], service, tmp_path))
            list(client.follow(client.jobs(limit=1).jobs[0]))  # the last job of one is what the next looks at
    assert said[0].count("event: job.succeeded") == 1
    assert '"status":"succeeded"' in said[0]
    assert "202 Accepted" in said[0]
    assert "id: 8\n" in said[1]
    assert "id: 7\n" not in said[1]
    assert "event: job.succeeded" in said[1]
    assert '"status":"succeeded"' in (tmp_path / "job.json").read_text()
    assert list(tmp_path.glob("r3-*/t0_round2.png"))


@pytest.mark.parametrize(
    ("number", "said", "files"),
    [
        (0, r"0 None edit\n1 .* edit\n2 .* None\n\(512, 512\)", ["stars.png"]),
        (1, r"round 2[^$]*job\.succeeded", ["round-0.png", "round-1.png", "round-2.png"]),
        (2, "", ["0.png", "1.png"]),
        (3, r"invalid_request \['/max_rounds'\]", []),
        (4, "", ["heart.png"]),
    ],
)
def test_an_example_in_python_works(
    service: Service, tmp_path: Path, number: int, said: str, files: Sequence[str]
) -> None:
    assert len(examples("python")) == 5
    script = examples("python")[number].replace(WHERE, service.url)
    assert re.search(said, run([sys.executable, "-c", script], service, tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == list(files)


def test_the_example_in_javascript_works(service: Service, tmp_path: Path) -> None:
    command = [str(bare_node()), "--experimental-eventsource"]
    [script] = examples("js")
    (tmp_path / "example.mjs").write_text(script.replace(WHERE, service.url))
    said = run([*command, "--no-warnings", str(tmp_path / "example.mjs")], service, tmp_path).splitlines()
    assert [line.split()[1] for line in said if line.startswith("round")] == ["0", "1"]
    assert said[-1] == "job.succeeded"
