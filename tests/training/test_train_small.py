"""The command around the training: what it asks for, how it tells where it stands, and that it goes on."""

from __future__ import annotations

import io
import json
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from r3core.model.weights import load
from training.progress import Board, Report
from training.small import SIZES, config, untrained
from training.train_small import ON_CUDA, Plan, asked, remember, write

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "small"


def count(part: str, steps: int, report: Report) -> None:
    """A stage of some steps."""
    for step in range(steps):
        report(part, step + 1, steps, f"step {step + 1}" if step + 1 == steps else None)


def fail(report: Report) -> None:
    raise ValueError("no paint left")


def wait(report: Report) -> None:
    time.sleep(60)


def test_bars_and_lines_tell_where_each_stage_stands(tmp_path: Path) -> None:
    seen = io.StringIO()
    board = Board(tmp_path / "log", Console(file=seen, force_terminal=True, width=80))
    board.together({"VAE": partial(count, "VAE", 7), "ViT": partial(count, "ViT", 5)})
    assert "VAE" in seen.getvalue()
    assert "7/7" in seen.getvalue()
    assert "5/5" in seen.getvalue()
    assert sorted(line.split("min  ")[1] for line in (tmp_path / "log").read_text().splitlines()) == [
        "VAE step 7",
        "ViT step 5",
    ]


def test_without_a_terminal_only_lines_are_printed(tmp_path: Path) -> None:
    seen = io.StringIO()
    Board(tmp_path / "log", Console(file=seen, width=80)).together({"VAE": partial(count, "VAE", 7)})
    assert seen.getvalue() == (tmp_path / "log").read_text()
    assert seen.getvalue().count("\n") == 1


def test_a_stage_that_fails_ends_the_others_and_is_named(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(SystemExit, match="stage ViT failed"):
        Board(tmp_path / "log", Console(file=io.StringIO())).together({"VAE": wait, "ViT": fail})
    assert time.monotonic() - begun < 50


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert asked([]) == (ON_CUDA, Path("build/large"), Path("checkpoints/large"))
    plan, work, out = asked(["--size", "small", "--steps", "5", "--out", "here"])
    assert (plan.size, plan.device, plan.ranks, plan.joint.steps) == ("small", "cuda", 1, 5)
    assert (work, out) == (Path("build/small"), Path("here"))
    assert asked(["--device", "cpu"])[0] == Plan()
    with pytest.raises(SystemExit):
        asked(["--ranks", "2"])


def test_without_a_gpu_the_small_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert asked([]) == (Plan(), Path("build/small"), Path("checkpoints/small"))
    assert asked(["--own", "9", "--pool", "8"])[0].joint.dagger_pictures == 9


def test_a_folder_of_another_sizes_work_is_not_gone_on_with(tmp_path: Path) -> None:
    remember(Plan(), tmp_path)
    remember(Plan(seed=2), tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["seed"] == 2
    with pytest.raises(SystemExit, match="holds the work of a small model"):
        remember(ON_CUDA, tmp_path)


def test_a_large_model_is_written_as_a_checkpoint_that_loads(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    for name in ("ae.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (work / name).write_bytes((CHECKPOINT / name).read_bytes())
    vocab = json.loads((CHECKPOINT / "llm_config.json").read_text())["vocab_size"]
    bagel = untrained(config(vocab, "large"), 1, torch.float32)
    save_file({k: v.contiguous() for k, v in bagel.state_dict().items()}, work / "averaged.safetensors")
    write(ON_CUDA, work, out)
    loaded = load(out, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert loaded.model.config.decoder.hidden == SIZES["large"].hidden
