"""R3_SIMILARITY_MODELS: names with folders, or a start that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.engines import engine_config
from server.settings import Settings


def test_names_with_folders_reach_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("R3_SIMILARITY_MODELS", f"clip={tmp_path}/a, dinov3-l={tmp_path}/b")
    config = engine_config(Settings(), 1)
    assert config.similarity_models == (("clip", tmp_path / "a"), ("dinov3-l", tmp_path / "b"))
    monkeypatch.delenv("R3_SIMILARITY_MODELS")
    assert engine_config(Settings(), 1).similarity_models == ()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/models/clip", "no name with a folder"),
        ("clip=", "no name with a folder"),
        ("CLIP=/a", "small letters"),
        ("clip=/a,clip=/b", "taken"),
        ("psnr=/a", "taken"),
    ],
)
def test_what_names_no_model_is_refused_at_start(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3_SIMILARITY_MODELS", value)
    with pytest.raises(ValidationError, match=says):
        Settings()
