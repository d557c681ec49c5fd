"""Every example of docs/looking.md, run as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.client.service import Service
from tests.client.test_docs import HEAD, PROJECT, WHERE, run

TEXT = (PROJECT / "docs" / "looking.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_examples_work_one_after_another(service: Service, tmp_path: Path) -> None:
    first, second = (HEAD + script.replace(WHERE, service.url) for script in examples("sh"))
    said = run(["bash", "-c", first], service, tmp_path)
    assert said.count('"status":"succeeded"') == 4  # three answers, and the job in the stream's last event
    assert all(f'"kind":"{kind}"' in said for kind in ("score", "reflect", "describe", "roundtrip"))
    [script] = examples("python")
    told = run([sys.executable, "-c", script], service, tmp_path).splitlines()
    assert told[0].startswith("t0_round0.png 0.")
    assert told[1] == "edit"
    assert (tmp_path / "again.png").exists()
    said = run(["bash", "-c", second], service, tmp_path)
    assert "asked/t0_round0.png" in said
    assert "of 1 picture\n" in said
    assert (tmp_path / "back" / "t0_round0.png.json").exists()
