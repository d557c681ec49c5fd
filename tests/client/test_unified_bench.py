"""`r3 roundtrip` with models that an operator names for the worker: small random ones of the classes that are served.

What is held is the way of their numbers into the table, not what the real ones say: none of their weights are here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.embedded import EmbeddedServer
from tests.client.service import running_service
from tests.core.test_similarity import write_clip, write_dinov2
from tests.server.test_small_tasks import HEART, THREE, TWO, pytestmark
from training.evaluate import CHECKPOINT

__all__ = ["pytestmark"]


def test_scores_are_the_mean_cosines_of_the_models_that_the_worker_has(
    valkey: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, dinov2 = write_clip(tmp_path / "clip"), write_dinov2(tmp_path / "dinov2")
    worker = {"runner": "model", "checkpoint": CHECKPOINT, "similarity_models": f"clip={clip},dinov2={dinov2}"}
    (tmp_path / "pictures").mkdir()
    for name, content in {"heart": HEART, "three": THREE, "two": TWO}.items():
        (tmp_path / "pictures" / f"{name}.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with running_service(f"{valkey.url}?db=2", tmp_path, worker=worker) as service:
        command = ["roundtrip", "pictures", "--url", service.url]
        done = CliRunner().invoke(app, [*command, "--json"])
        assert done.exit_code == 0, done.output
        shown = CliRunner().invoke(app, command).stdout
    told = json.loads(done.stdout)
    assert [one["file"] for one in told["results"]] == ["heart.png", "three.png", "two.png"]
    bench = told["unified_bench"]
    assert bench["over"] == ["clip", "dinov2"]
    for name in bench["over"]:
        cosines = [one["similarities"][name] for one in told["results"]]
        assert bench["scores"][name] == pytest.approx(100 * sum(cosines) / 3)
    assert bench["overall"] == pytest.approx((bench["scores"]["clip"] + bench["scores"]["dinov2"]) / 2)
    assert set(told["proxies"]) == {"self", "latent", "psnr"}
    assert f"{bench['overall']:.2f}  Unified-Bench, protocol 1, over clip, dinov2" in shown
    assert "no score of Unified-Bench" not in shown
