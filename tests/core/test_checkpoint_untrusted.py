"""Checkpoint files from strangers: nothing in them is executed, and what is no safetensors is refused by its name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from r3core.checkpoint import describe
from r3core.model.tokenizer import Tokenizer
from tests.core.test_checkpoint import Tensors, read, refusal, shard

pytestmark = pytest.mark.row("C1")

PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "optimizer.pickle")


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A whole checkpoint that a test may harm."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def trap(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Sets a pickle that makes a folder when it is loaded, under a name; the folder that it would make."""
    mark = tmp_path / "executed"

    def set_trap(name: str) -> Path:
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
        return mark

    return set_trap


def test_the_trap_is_one(folder: Path, trap: Callable[[str], Path]) -> None:
    mark = trap("model.pkl")
    pickle.loads((folder / "model.pkl").read_bytes())
    assert mark.exists()


def test_pickles_beside_the_weights_are_left_alone(folder: Path, trap: Callable[[str], Path]) -> None:
    for name in (*PICKLES, ".metadata", "__0_0.distcp"):
        mark = trap(name)
    assert read(folder).weights_bytes > 0
    assert not mark.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_in_place_of_the_weights_are_named_and_never_opened(
    name: str, folder: Path, trap: Callable[[str], Path]
) -> None:
    (folder / "ema.safetensors").unlink()
    mark = trap(name)
    for act in (lambda: read(folder), lambda: describe(folder)):
        said = refusal(act)
        assert f"it has {name}, which hold pickles and are never opened here" in said
        assert "safetensors.torch.save_file" in said
    assert not mark.exists()


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "tokenizer.json", "llm_config.json"])
def test_a_pickle_under_another_name_is_never_opened_as_one(
    name: str, folder: Path, trap: Callable[[str], Path]
) -> None:
    mark = trap(name)
    assert name in refusal(lambda: (read(folder), Tokenizer(folder / "tokenizer.json")))
    assert not mark.exists()


def test_a_zip_of_torch_under_the_name_of_the_weights_is_refused(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "ema.safetensors")
    assert "ema.safetensors cannot be read as safetensors" in refusal(lambda: read(folder))


def test_an_index_that_names_pickles_is_refused_with_their_names(folder: Path, trap: Callable[[str], Path]) -> None:
    (folder / "ema.safetensors").unlink()
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name in names:
        mark = trap(name)
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    said = refusal(lambda: read(folder))
    assert all(name in said for name in names)
    assert "not safetensors files; nothing else is opened" in said
    assert not mark.exists()


def test_a_truncated_shard_is_named(folder: Path) -> None:
    weights: Tensors = load_file(folder / "ema.safetensors")
    (folder / "ema.safetensors").unlink()
    shard(folder, weights)
    bad = folder / "model-00002-of-00003.safetensors"
    os.truncate(bad, bad.stat().st_size - 1)
    said = refusal(lambda: read(folder))
    assert "model-00002-of-00003.safetensors" in said
    assert "is truncated" in said


def header(path: Path, text: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999999999999999]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": []}',
        b'{"a": NaN}',
        b"\xff\xfe",
    ],
    ids=range(9),
)
@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_header_that_is_none_is_refused_with_its_file(text: bytes, name: str, folder: Path) -> None:
    header(folder / name, text)
    said = refusal(lambda: read(folder))
    assert name in said
    assert "cannot be read as safetensors" in said


@pytest.mark.parametrize("name", ["llm_config.json", "vit_config.json", "r3.json"])
def test_a_setting_nested_a_hundred_thousand_times_is_refused_with_its_file(name: str, folder: Path) -> None:
    (folder / name).write_text('{"a":' * 100_000)
    assert f"{name} cannot be read as JSON" in refusal(lambda: read(folder))


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused_before_it_is_used(folder: Path) -> None:
    weights = load_file(folder / "ema.safetensors")
    save_file(weights, folder / "ema.safetensors")
    path = folder / "ema.safetensors"
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    head, data = json.loads(path.read_bytes()[8 : 8 + length]), path.read_bytes()[8 + length :]
    start, _ = head["llm2vae.bias"]["data_offsets"]
    head["llm2vae.bias"]["data_offsets"] = [start, start + 2]
    header(path, json.dumps(head).encode(), data)
    assert "ema.safetensors cannot be read" in refusal(lambda: read(folder))
