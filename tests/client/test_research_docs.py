"""Every example of docs/research.md that can be run, one after another, against a real service."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.client.service import Service
from tests.client.test_docs import HEAD, PROJECT, run

EXAMPLE = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXT = (PROJECT / "docs" / "research.md").read_text()


def test_the_examples_work_one_after_another(service: Service, tmp_path: Path) -> None:
    said = []
    for language, script in EXAMPLE.findall(TEXT):
        command = ["bash", "-c", HEAD + script] if language == "sh" else [sys.executable, "-c", script]
        said.append(run(command, service, tmp_path))
    assert len(said) == 3
    assert "lift by round" in said[0]
    assert "accuracy by round" in said[2]
    assert (tmp_path / "differences.png").exists()


def test_the_page_shows_the_folder_as_it_is(service: Service, tmp_path: Path) -> None:
    _, script = EXAMPLE.findall(TEXT)[0]
    run(["bash", "-c", HEAD + script], service, tmp_path)
    for shown in re.findall(r"^plain/(\S+)", TEXT, re.MULTILINE):
        assert (tmp_path / "plain" / shown).exists() == (not shown.startswith("failed")), shown
    assert list((tmp_path / "best4").glob("jobs/00000/t0_round0_candidate2.png"))
