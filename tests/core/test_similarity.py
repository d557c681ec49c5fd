"""Other models' features of pictures, with small random checkpoints of the classes that are served.

What these tests hold is the reading of CLIP, DINOv2 and DINOv3, not what the real ones say: none of their weights are
here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from r3core.errors import CheckpointError
from r3core.similarity import load_similarities

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
CLIP_SIZES = {**SIZES, "intermediate_size": 64, "image_size": 28}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
CENTRE = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 3}


def save(folder: Path, model: Any, prepared: dict[str, Any]) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**CENTRE, **prepared}), encoding="utf-8")
    return folder


def write_clip(folder: Path) -> Path:
    torch.manual_seed(1)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_SIZES, projection_dim=16))
    # As the older files of CLIP have it: one number for a size.
    return save(folder, model, {"size": 28, "crop_size": 28})


def write_whole_clip(folder: Path) -> Path:
    """With its text half, as it is published."""
    torch.manual_seed(1)
    text = {**SIZES, "intermediate_size": 64, "vocab_size": 40}
    del text["patch_size"]
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP_SIZES, projection_dim=16))
    return save(folder, model, {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}})


def write_dinov2(folder: Path) -> Path:
    torch.manual_seed(2)
    model = Dinov2Model(Dinov2Config(**SIZES, image_size=28, mlp_ratio=2))
    return save(folder, model, {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}})


def write_dinov3(folder: Path) -> Path:
    torch.manual_seed(3)
    model = DINOv3ViTModel(DINOv3ViTConfig(**SIZES, intermediate_size=64, image_size=28))
    return save(folder, model, {"size": {"height": 28, "width": 28}, "crop_size": None, "resample": 2})


def pixels(seed: int = 0, height: int = 40, width: int = 56) -> Any:
    smooth = np.random.Generator(np.random.PCG64(seed)).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return smooth.repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(
    ("write", "dims"), [(write_clip, 16), (write_whole_clip, 16), (write_dinov2, 32), (write_dinov3, 32)]
)
def test_features_are_what_the_class_gives_of_the_prepared_picture(write: Any, dims: int, tmp_path: Path) -> None:
    (one,) = load_similarities((("mine", write(tmp_path)),), CPU)
    got = one.features(pixels())
    assert (one.name, got.shape, got.dtype) == ("mine", (dims,), torch.float32)
    with torch.inference_mode():
        out = one.model(pixel_values=one.prepare(pixels()))
    if write in (write_clip, write_whole_clip):
        assert torch.equal(got, out.image_embeds[0])
    else:
        assert torch.equal(got, out.last_hidden_state[0, 0])
    assert not torch.equal(got, one.features(pixels(seed=1)))


@pytest.mark.parametrize(
    ("write", "theirs"), [(write_clip, CLIPImageProcessorPil), (write_dinov2, BitImageProcessorPil)]
)
@pytest.mark.parametrize("shape", [(40, 56), (96, 48), (32, 32)])
def test_pictures_are_prepared_as_transformers_does(
    write: Any, theirs: Any, shape: tuple[int, int], tmp_path: Path
) -> None:
    (one,) = load_similarities((("mine", write(tmp_path)),), CPU)
    picture = pixels(height=shape[0], width=shape[1])
    expected = theirs.from_pretrained(tmp_path)(images=picture, return_tensors="pt")["pixel_values"]
    got = one.prepare(picture)
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < 1e-5


def test_a_size_of_both_sides_is_taken_as_it_is(tmp_path: Path) -> None:
    (one,) = load_similarities((("mine", write_dinov3(tmp_path)),), CPU)
    flat = np.full((40, 56, 3), (10, 100, 200), dtype=np.uint8)
    got = one.prepare(flat)
    assert got.shape == (1, 3, 28, 28)
    expected = (np.array([10, 100, 200]) / 255 - MEAN) / STD
    assert got[0, :, 5, 9].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("shape", [(40, 56), (96, 48)])
def test_a_size_of_both_sides_is_taken_with_the_filter_that_it_names(shape: tuple[int, int], tmp_path: Path) -> None:
    (one,) = load_similarities((("mine", write_dinov3(tmp_path)),), CPU)
    picture = pixels(height=shape[0], width=shape[1])
    small = Image.fromarray(picture).resize((28, 28), Image.Resampling.BILINEAR)
    expected = ((np.asarray(small) / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert np.abs(one.prepare(picture)[0].numpy() - expected).max() < 1.01 / 255 / min(STD), "8-bit rounding"
    other = Image.fromarray(picture).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(other) - np.asarray(small, dtype=np.float64)).max() > 3, "which another filter exceeds"


def without_folder(folder: Path) -> Path:
    return folder / "nowhere"


def of_another_kind(folder: Path) -> Path:
    (write_clip(folder) / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    return folder


def without_weights(folder: Path) -> Path:
    (write_clip(folder) / "model.safetensors").unlink()
    return folder


def pickled(folder: Path) -> Path:
    weights = write_clip(folder) / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def without_projection(folder: Path) -> Path:
    weights = write_clip(folder) / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "projection" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    return folder


def without_preparation(folder: Path) -> Path:
    (write_clip(folder) / "preprocessor_config.json").unlink()
    return folder


def prepared_oddly(folder: Path) -> Path:
    (write_clip(folder) / "preprocessor_config.json").write_text('{"size": {"longest": 3}}', encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_folder, "is no folder"),
        (of_another_kind, "bert"),
        (without_weights, "cannot be read"),
        (pickled, "cannot be read"),
        (without_projection, "lacks visual_projection.weight"),
        (without_preparation, "preprocessor_config.json"),
        (prepared_oddly, "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_by_name(spoil: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="similarity model mine") as refused:
        load_similarities((("mine", spoil(tmp_path)),), CPU)
    assert says in str(refused.value)
