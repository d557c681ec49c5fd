"""docs/openai.md: its examples, in the order in which they stand, do what they say."""

from __future__ import annotations

import gc
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.embedded import EmbeddedServer
from tests.programs import needed
from tests.server.api.serving import served, size_of
from tests.server.processes import ROOT, ApiProcess

PAGE = (ROOT / "docs" / "openai.md").read_text()
EXAMPLES = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
WHERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """The server."""
    with served(valkey.url, tmp_path_factory.mktemp("docs")) as one:
        yield one


@pytest.fixture
def script() -> Iterator[dict[str, Any]]:
    """The names of the examples in Python. What they leave open goes with the test, for which that is no fault."""
    names: dict[str, Any] = {}
    yield names
    names.clear()
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # examples leave files and clients to the end of the program
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_examples_run(
    api: ApiProcess,
    script: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    needed("curl", package="curl")
    told: list[str] = []
    for language, text in EXAMPLES:
        own = text.replace(WHERE, api.url)
        assert own != text or language == "python"
        if language == "python":
            exec(compile(own, "docs/openai.md", "exec"), script)
        else:
            command = ["bash", "-euc", own.replace("curl ", "curl -sS --fail-with-body ")]
            told.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    generated, streamed, edited = told
    assert generated.count(f'"url":"{api.url}/images/img_') == 2
    assert "event: image_generation.completed" in streamed
    assert '"b64_json"' in edited
    assert size_of(Path("picture.png").read_bytes())[0] == "PNG"
    assert Path("completed.png").is_file()
    said = capsys.readouterr().out
    assert "['fake']" in said
    assert "invalid_request size" in said
    assert len([job for job in api.client.get("/jobs").json()["jobs"] if job["metadata"] == {"for": "the docs"}]) == 1


def test_every_address_of_an_example_is_that_of_make_serve() -> None:
    assert len(EXAMPLES) == 10
    assert set(re.findall(r"https?://[^/\s\"']+", PAGE)) == {WHERE}
