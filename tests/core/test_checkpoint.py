"""Checkpoints: every layout that is served gives the same numbers, and every fault is named with its remedy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r3core.checkpoint import Description, describe, find_files, fingerprint
from r3core.config import EngineConfig
from r3core.errors import CheckpointError
from r3core.headers import plain_name, read_header
from r3core.model.vae import diffusers_name, name_on_disk
from r3core.model.weights import Loaded, load, prepare
from r3core.runtime import load_engine
from r3core.types import REFINE_DEFAULTS, REFLECT_DEFAULTS
from tests.core.conftest import PROJECT

Tensors = dict[str, Tensor]
CONFIGS = ("llm_config.json", "vit_config.json", "tokenizer.json", "ae.safetensors")
FIRST = "language_model.model.layers.0"
EMBEDDING = "language_model.model.embed_tokens.weight"
PATCHES = "vit_model.vision_model.embeddings.patch_embedding.weight"
TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> Tensors:
    return load_file(checkpoint / "ema.safetensors")


@pytest.fixture
def base(checkpoint: Path, tmp_path: Path) -> Path:
    """A BAGEL folder without weights."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in CONFIGS:
        shutil.copy(checkpoint / name, folder / name)
    return folder


def step_folder(tmp_path: Path, tensors: Tensors, name: str = "model.safetensors") -> Path:
    """What a training step leaves: weights and nothing else that is read."""
    folder = tmp_path / "ckpt-000100"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    (folder / ".metadata").write_bytes(b"\x80pickle")
    (folder / "__0_0.distcp").write_bytes(b"\x80pickle")
    (folder / "scheduler.pt").write_bytes(b"\x80pickle")
    return folder


def shard(folder: Path, tensors: Tensors, parts: int = 3) -> None:
    names = sorted(tensors)
    index: dict[str, str] = {}
    for part in range(parts):
        file = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        own = names[part::parts]
        save_file({name: tensors[name] for name in own}, folder / file)
        index |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def read(checkpoint: Path, base: Path | None = None, **options: Any) -> Loaded:
    return load(checkpoint, base, device=torch.device("cpu"), dtype=torch.float32, **options)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as refused:
        act()
    return str(refused.value)


def numbers(loaded: Loaded) -> Tensors:
    model = loaded.model
    return {
        **dict(model.bagel.named_parameters()),
        **{f"vae.{name}": tensor for name, tensor in model.vae.named_parameters()},
        "latent table": model.bagel.latent_pos_embed(torch.arange(model.config.latent_side**2)),
        "vit table": model.bagel.vit_pos_embed(torch.arange(model.config.vit_side**2)),
    }


def assert_same_numbers(one: Loaded, other: Loaded) -> None:
    ours, theirs = numbers(one), numbers(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- layouts


def layout_ema(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    save_file(weights, base / "ema.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, base / "model.safetensors")
    return base, None, "ema.safetensors"


def layout_model(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    save_file(weights, base / "model.safetensors")
    return base, None, "model.safetensors"


def layout_sharded(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    shard(base, weights)
    return base, None, "3 shards of model.safetensors.index.json"


def layout_step_fp32(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    return step_folder(tmp_path, {n: t.float() for n, t in weights.items()}), base, "model.safetensors"


def layout_step_bf16(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    step_folder(tmp_path, {name: tensor + 1 for name, tensor in weights.items()}, "ema.safetensors")
    return step_folder(tmp_path, weights), base, "model.safetensors"


def layout_step_sharded(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    folder = tmp_path / "resharded"
    folder.mkdir()
    shard(folder, {n: t.float() for n, t in weights.items()}, parts=2)
    return folder, base, "2 shards of model.safetensors.index.json"


def layout_file(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    save_file(weights, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors", base, "mine.safetensors (named)"


def layout_prefixed(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    wrapped = {
        "module._orig_mod." + name.replace(".layers.0.", ".layers.0._checkpoint_wrapped_module."): tensor
        for name, tensor in weights.items()
    }
    return step_folder(tmp_path, wrapped), base, "model.safetensors"


def layout_without_tables(base: Path, tmp_path: Path, weights: Tensors) -> tuple[Path, Path | None, str]:
    return step_folder(tmp_path, {n: t for n, t in weights.items() if n not in TABLES}), base, "model.safetensors"


@pytest.mark.parametrize(
    "layout",
    [
        layout_ema,
        layout_model,
        layout_sharded,
        layout_step_fp32,
        layout_step_bf16,
        layout_step_sharded,
        layout_file,
        layout_prefixed,
        layout_without_tables,
    ],
)
def test_every_layout_gives_the_same_numbers_and_says_what_was_chosen(
    layout: Callable[[Path, Path, Tensors], tuple[Path, Path | None, str]],
    base: Path,
    tmp_path: Path,
    weights: Tensors,
    loaded: Loaded,
) -> None:
    checkpoint, base_checkpoint, choice = layout(base, tmp_path, weights)
    ours = read(checkpoint, base_checkpoint)
    assert ours.files.choice == choice
    assert ours.warnings == ()
    assert_same_numbers(ours, loaded)
    description = describe(checkpoint, base_checkpoint)
    assert (description.latent_side, description.vit_side, description.latent_stride) == (64, 70, 16)


def test_two_loads_give_the_same_numbers(checkpoint: Path, loaded: Loaded) -> None:
    assert_same_numbers(read(checkpoint), loaded)


def test_tables_are_computed_and_not_taken_from_the_file(
    base: Path, tmp_path: Path, weights: Tensors, loaded: Loaded
) -> None:
    spoilt = {**weights, **{name: torch.zeros_like(weights[name]) for name in TABLES}}
    assert_same_numbers(read(step_folder(tmp_path, spoilt), base), loaded)


def test_the_side_of_a_table_is_that_of_its_rows(base: Path, tmp_path: Path, weights: Tensors) -> None:
    smaller = {**weights, TABLES[0]: weights[TABLES[0]][: 32 * 32].contiguous()}
    assert read(step_folder(tmp_path, smaller), base).model.config.latent_side == 32
    crooked = {**weights, TABLES[0]: weights[TABLES[0]][:1000].contiguous()}
    said = refusal(lambda: read(step_folder(tmp_path, crooked), base))
    assert "latent_pos_embed.pos_embed has 1000 rows, which is no square" in said


def test_weights_are_held_in_the_dtype_that_is_asked_for_and_the_vae_in_fp32(checkpoint: Path) -> None:
    ours = load(checkpoint, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {p.dtype for p in ours.model.bagel.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in ours.model.vae.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in ours.model.bagel.parameters())


def test_progress_ends_with_all_bytes(checkpoint: Path) -> None:
    told: list[tuple[int, int]] = []
    read(checkpoint, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- what is not there, or is something else


def test_a_checkpoint_that_does_not_exist(tmp_path: Path) -> None:
    said = refusal(lambda: find_files(tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'} does not exist" in said


def test_a_folder_without_configs_needs_its_base(tmp_path: Path, weights: Tensors) -> None:
    folder = step_folder(tmp_path, weights)
    assert "name the BAGEL folder it was trained from with --base-checkpoint" in refusal(lambda: find_files(folder))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_base_that_lacks_a_file_is_refused_with_its_name(
    name: str, base: Path, tmp_path: Path, weights: Tensors
) -> None:
    (base / name).unlink()
    folder = step_folder(tmp_path, weights)
    said = refusal(lambda: find_files(folder, base))
    assert name in said
    assert str(base) in said


@pytest.mark.parametrize("with_base", [True, False])
def test_distributed_shards_are_refused_with_the_conversion(base: Path, tmp_path: Path, with_base: bool) -> None:
    folder = tmp_path / "ckpt-000200"
    folder.mkdir()
    (folder / ".metadata").write_bytes(b"\x80pickle")
    (folder / "__0_0.distcp").write_bytes(b"\x80pickle")
    said = refusal(lambda: read(folder, base if with_base else None))
    assert "torch.distributed.checkpoint.format_utils.dcp_to_torch_save" in said
    assert "model.safetensors" in said


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
@pytest.mark.parametrize("with_base", [True, False])
def test_pickles_are_refused_unopened(name: str, base: Path, tmp_path: Path, with_base: bool) -> None:
    path = tmp_path / name
    torch.save({"a": torch.zeros(1)}, path)
    said = refusal(lambda: read(path, base if with_base else None))
    assert f"{path} is not a safetensors file; nothing else is opened" in said


def test_a_folder_of_pickles_has_no_weights(base: Path) -> None:
    torch.save({"a": torch.zeros(1)}, base / "pytorch_model.bin")
    said = refusal(lambda: read(base))
    assert "has no ema.safetensors, no model.safetensors and no *.safetensors.index.json" in said


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: cut(path, path.stat().st_size - 1), "is truncated"),
        (lambda path: cut(path, 100), "its header claims"),
        (lambda path: cut(path, 4), "cannot be read as safetensors"),
        (lambda path: cut(path, 0), "cannot be read as safetensors"),
        (lambda path: path.write_bytes(b"\x80\x04" + b"pickled" * 10), "its header claims"),
        (lambda path: path.write_bytes(struct.pack("<Q", 4) + b"[1] "), "cannot be read as safetensors"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), "is this a BAGEL checkpoint?"),
    ],
    ids=["last byte", "data", "length", "empty", "pickle", "no object", "no tensors"],
)
@pytest.mark.parametrize("which", ["model.safetensors", "ae.safetensors"])
def test_a_broken_file_is_refused_before_anything_is_loaded(
    harm: Callable[[Path], None], said: str, which: str, base: Path, weights: Tensors
) -> None:
    save_file(weights, base / "model.safetensors")
    harm(base / which)
    heard = refusal(lambda: read(base))
    assert said in heard or (said.startswith("is this") and "encoder.down" in heard)
    assert which in heard or said.startswith("is this")


def test_an_index_whose_shards_are_not_there_names_them(base: Path, weights: Tensors) -> None:
    shard(base, weights)
    (base / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in refusal(lambda: read(base))


def test_an_index_that_leaves_its_folder_is_refused(base: Path, tmp_path: Path, weights: Tensors) -> None:
    save_file(weights, tmp_path / "outside.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    assert "../outside.safetensors" in refusal(lambda: read(base))


def test_a_tensor_in_two_shards_is_refused(base: Path, weights: Tensors) -> None:
    shard(base, weights)
    name = sorted(weights)[1]  # of the second shard
    twice = {**load_file(base / "model-00001-of-00003.safetensors"), name: weights[name]}
    save_file(twice, base / "model-00001-of-00003.safetensors")
    assert f"{name} stands in" in refusal(lambda: read(base))


# --- tensors


def test_missing_tensors_are_listed_all(base: Path, tmp_path: Path, weights: Tensors) -> None:
    gone = [f"{FIRST}.mlp_moe_gen.up_proj.weight", "llm2vae.bias", "connector.fc2.weight"]
    folder = step_folder(tmp_path, {n: t for n, t in weights.items() if n not in gone})
    said = refusal(lambda: read(folder, base))
    assert "3 missing" in said
    assert all(name in said for name in gone)


def test_missing_tensors_that_sizes_are_read_from_are_listed_all(base: Path, tmp_path: Path, weights: Tensors) -> None:
    gone = ["vae2llm.weight", EMBEDDING, f"{FIRST}.self_attn.k_proj.weight", PATCHES]
    vae = load_file(base / "ae.safetensors")
    levels = "encoder.down.1.block.0.conv2.weight", "decoder.conv_in.weight"
    save_file({name: tensor for name, tensor in vae.items() if name not in levels}, base / "ae.safetensors")
    folder = step_folder(tmp_path, {name: tensor for name, tensor in weights.items() if name not in gone})
    said = refusal(lambda: read(folder, base))
    assert all(name in said for name in (*gone, *levels, "model.safetensors", "ae.safetensors"))


def test_misshaped_tensors_are_listed_with_both_shapes(base: Path, tmp_path: Path, weights: Tensors) -> None:
    wrong = {**weights, "llm2vae.bias": torch.zeros(7), "connector.fc1.weight": torch.zeros(96, 47)}
    said = refusal(lambda: read(step_folder(tmp_path, wrong), base))
    assert "2 of the wrong shape" in said
    assert "llm2vae.bias [7] should be [64]" in said
    assert "connector.fc1.weight [96, 47] should be [96, 48]" in said


def test_a_convolution_in_place_of_the_linear_patch_embedding_is_refused(
    base: Path, tmp_path: Path, weights: Tensors
) -> None:
    wrong = {**weights, PATCHES: weights[PATCHES].reshape(-1, 3, 14, 14).contiguous()}
    assert "is a linear layer, not a convolution" in refusal(lambda: read(step_folder(tmp_path, wrong), base))


def test_unexpected_tensors_are_refused_and_skipped_where_that_is_asked_for(
    base: Path, tmp_path: Path, weights: Tensors, loaded: Loaded
) -> None:
    folder = step_folder(tmp_path, {**weights, "lora_A.weight": torch.zeros(2), "reward.head": torch.zeros(2)})
    said = refusal(lambda: read(folder, base))
    assert "2 unexpected: lora_A.weight, reward.head (--allow-unexpected skips them)" in said
    ours = read(folder, base, allow_unexpected=True)
    assert ours.warnings == ("skipped 2 tensors that are not used: lora_A.weight, reward.head",)
    assert_same_numbers(ours, loaded)


def test_every_fault_is_in_one_message(base: Path, tmp_path: Path, weights: Tensors) -> None:
    wrong = {n: t for n, t in weights.items() if n != "connector.fc2.weight"}
    wrong |= {"llm2vae.bias": torch.zeros(7), "other": torch.zeros(1)}
    said = refusal(lambda: read(step_folder(tmp_path, wrong), base))
    assert all(what in said for what in ("1 missing", "1 of the wrong shape", "1 unexpected"))


def test_every_name_is_listed_however_many_there_are(base: Path, tmp_path: Path, weights: Tensors) -> None:
    more = {**weights, **{f"extra.{i:03d}": torch.zeros(1) for i in range(50)}}
    said = refusal(lambda: read(step_folder(tmp_path, more), base))
    assert "50 unexpected" in said
    assert all(f"extra.{i:03d}" in said for i in range(50))


def test_known_spare_tensors_are_skipped_with_one_warning(
    base: Path, tmp_path: Path, weights: Tensors, loaded: Loaded
) -> None:
    dropped = loaded.model.config.vit.layers
    spare = {
        "vit_model.vision_model.head.probe": torch.zeros(1),
        "vit_model.vision_model.head.mlp.fc1.weight": torch.zeros(1),
        f"vit_model.vision_model.encoder.layers.{dropped}.mlp.fc1.weight": torch.zeros(1),
        f"{FIRST}.self_attn.rotary_emb.inv_freq": torch.zeros(1),
        "vit_model.vision_model.embeddings.position_ids": torch.zeros(1, dtype=torch.int64),
    }
    ours = read(step_folder(tmp_path, {**weights, **spare}), base)
    assert len(ours.warnings) == 1
    assert "skipped 5 tensors that are not used" in ours.warnings[0]
    assert all(name in ours.warnings[0] for name in spare)
    assert_same_numbers(ours, loaded)


def test_a_vit_layer_beyond_the_dropped_one_is_unexpected(
    base: Path, tmp_path: Path, weights: Tensors, loaded: Loaded
) -> None:
    name = f"vit_model.vision_model.encoder.layers.{loaded.model.config.vit.layers + 1}.mlp.fc1.weight"
    assert name in refusal(lambda: read(step_folder(tmp_path, {**weights, name: torch.zeros(1)}), base))


def test_faults_of_the_vae_are_named_as_on_disk(base: Path, weights: Tensors) -> None:
    save_file(weights, base / "model.safetensors")
    vae = load_file(base / "ae.safetensors")
    gone = ["decoder.conv_out.bias", "decoder.mid.attn_1.proj_out.weight", "decoder.up.0.block.0.conv1.bias"]
    gone += ["decoder.up.1.upsample.conv.weight", "encoder.down.1.block.0.norm1.weight", "encoder.norm_out.weight"]
    kept = {name: tensor for name, tensor in vae.items() if name not in gone}
    save_file({**kept, "decoder.more": torch.zeros(1)}, base / "ae.safetensors")
    said = refusal(lambda: read(base))
    assert f"6 missing: {', '.join(gone)}" in said
    assert "1 unexpected: decoder.more" in said


def test_every_name_of_the_vae_is_found_again_from_diffusers_name(checkpoint: Path) -> None:
    for name in read_header(checkpoint / "ae.safetensors"):
        assert name_on_disk(diffusers_name(name, 4), 4) == name


def test_integers_are_no_weights(base: Path, tmp_path: Path, weights: Tensors) -> None:
    wrong = {**weights, "llm2vae.bias": torch.zeros(64, dtype=torch.int8)}
    assert "llm2vae.bias has dtype torch.int8" in refusal(lambda: read(step_folder(tmp_path, wrong), base))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.a.b", "a.b"),
        ("_orig_mod.module.a", "a"),
        ("a._checkpoint_wrapped_module.b._orig_mod.c", "a.b.c"),
        ("amodule.b", "amodule.b"),
        ("a.b", "a.b"),
    ],
)
def test_prefixes_of_training_wrappers(name: str, plain: str) -> None:
    assert plain_name(name) == plain


# --- settings and tensors that no model can be made of


def with_setting(file: str, **settings: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return harm


def with_tensor(name: str, *shape: int, file: str = "model.safetensors") -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        save_file({**load_file(folder / file), name: torch.zeros(shape)}, folder / file)

    return harm


def with_index(weight_map: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (with_setting("llm_config.json", num_attention_heads=None), "llm_config.json: num_attention_heads is null"),
        (with_setting("llm_config.json", num_attention_heads="4"), 'llm_config.json: num_attention_heads is "4"'),
        (with_setting("llm_config.json", num_attention_heads=0), "llm_config.json: num_attention_heads is 0; write it"),
        (with_setting("llm_config.json", num_attention_heads=7), "hidden size 96.*7 heads.*llm_config.json"),
        (with_setting("llm_config.json", num_attention_heads=3), "k_proj.weight .* has 48 rows.*size 32.*3 heads"),
        (with_setting("llm_config.json", max_position_embeddings=None), "max_position_embeddings is null; write it"),
        (with_setting("llm_config.json", rope_theta="far"), 'llm_config.json: rope_theta is "far"; write it'),
        (with_setting("llm_config.json", num_hidden_layers="2"), 'llm_config.json: num_hidden_layers is "2"; write it'),
        (with_setting("llm_config.json", num_hidden_layers=9), "layers end at number 2 .*num_hidden_layers in .* is 9"),
        (with_setting("llm_config.json", num_hidden_layers=1), r"model.safetensors: \d+ unexpected: .*layers\.1\."),
        (with_setting("vit_config.json", patch_size=None), "vit_config.json: patch_size is null; write it as a whole"),
        (with_setting("vit_config.json", patch_size=16), "has 588 columns|588 columns.*16 x 16 x 3"),
        (with_setting("vit_config.json", num_hidden_layers=1), "vit_config.json: num_hidden_layers is 1; write it"),
        (with_setting("vit_config.json", num_attention_heads=5), "hidden size 48.*5 heads.*vit_config.json"),
        (with_setting("vit_config.json", layer_norm_eps=None), "vit_config.json: layer_norm_eps is null; write it"),
        (with_tensor(EMBEDDING, 704), r"model.safetensors: .*embed_tokens.weight has shape \[704\] and should be"),
        (with_tensor(EMBEDDING, 0, 96), r"model.safetensors: .*embed_tokens.weight has shape \[0, 96\] and should be"),
        (with_tensor(PATCHES, 48), r"model.safetensors: .*patch_embedding.weight has shape \[48\] and should be"),
        (with_tensor(f"{FIRST}.self_attn.k_proj.weight"), r"k_proj.weight has shape \[\] and should be"),
        (with_tensor(f"{FIRST}.self_attn.k_proj.weight", 50, 96), "k_proj.weight .* has 50 rows.*of size 24"),
        (with_tensor(f"{FIRST}.self_attn.k_proj.weight", 72, 96), "k_proj.weight .* has 72 rows.*4 heads can share"),
        (with_tensor(TABLES[0]), r"model.safetensors: latent_pos_embed.pos_embed has shape \[\] and should be"),
        (
            with_tensor(TABLES[1], 4899, 96),
            "model.safetensors: vit_pos_embed.pos_embed has 4899 rows, which is no square",
        ),
        (
            with_tensor("encoder.down.x.block.0.conv1.weight", 8, file="ae.safetensors"),
            "ae.safetensors: 1 unexpected: encoder.down.x.block.0.conv1.weight",
        ),
        (
            with_tensor("encoder.down.0.block.0.conv2.weight", 33, 33, 3, 3, file="ae.safetensors"),
            "no model can be made of the sizes in .*ae.safetensors.*num_channels",
        ),
        (with_index(["model-00001.safetensors"]), r"index.json: weight_map has \['model-00001.safetensors'\] where"),
        (with_index({"a": "model-00001.safetensors", "b": 3}), "index.json: weight_map has 3 where a file name"),
    ],
)
def test_what_no_model_can_be_made_of_is_named_with_its_file(
    harm: Callable[[Path], None], said: str, base: Path, weights: Tensors
) -> None:
    save_file(weights, base / "model.safetensors")
    harm(base)
    assert re.search(said, refusal(lambda: read(base)))
    with contextlib.suppress(CheckpointError):  # it reads less, and what it reads it refuses too
        describe(base)


@pytest.mark.parametrize(
    ("token", "said"),
    [(None, "tokenizer.json cannot be read as a tokenizer"), (9000, r"ids up to 9000 and the embedding \d+ rows")],
)
def test_a_tokenizer_that_does_not_fit_is_refused_before_the_weights_are_read(
    token: int | None, said: str, base: Path, weights: Tensors
) -> None:
    save_file(weights, base / "model.safetensors")
    path = base / "tokenizer.json"
    whole = json.loads(path.read_text())
    if token is not None:
        whole["added_tokens"].append({**whole["added_tokens"][-1], "id": token, "content": "<|far|>"})
        whole["model"]["vocab"]["<|far|>"] = token
    path.write_text(json.dumps({} if token is None else whole))
    assert re.search(said, refusal(lambda: prepare(base, dtype=torch.float32)))


def test_a_header_with_an_impossible_shape_is_refused(base: Path) -> None:
    entry = {"dtype": "F32", "shape": [2, -1], "data_offsets": [0, 8]}
    text = json.dumps({"a": entry}).encode()
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert "a has shape [2, -1] at bytes 0 to 8" in refusal(lambda: read(base))


# --- what a checkpoint says of itself


def with_r3_json(base: Path, weights: Tensors, own: Any) -> Path:
    save_file(weights, base / "model.safetensors")
    (base / "r3.json").write_text(own if isinstance(own, str) else json.dumps(own))
    return base


def test_without_r3_json_the_values_are_r3s_own(base: Path, weights: Tensors) -> None:
    save_file(weights, base / "model.safetensors")
    description = describe(base)
    assert description.name == "base"
    assert description.transforms == {"vae": (512, 256, 16), "vit": (504, 252, 14)}
    assert description.default_size == (512, 512)
    assert description.defaults.max_rounds == 3
    assert description.defaults.refine == REFINE_DEFAULTS


def test_r3_json_changes_what_it_names_alone(base: Path, weights: Tensors) -> None:
    own = {"name": "mine", "defaults": {"refine": {"num_timesteps": 9}, "reflect": {"temperature": 0.5}}}
    description = describe(with_r3_json(base, weights, own))
    assert description.name == "mine"
    assert description.defaults.refine == replace(REFINE_DEFAULTS, num_timesteps=9)
    assert description.defaults.reflect == replace(REFLECT_DEFAULTS, temperature=0.5)


def test_the_r3_json_beside_the_weights_wins_over_the_bases(base: Path, tmp_path: Path, weights: Tensors) -> None:
    folder = step_folder(tmp_path, weights)
    (base / "r3.json").write_text('{"name": "base"}')
    assert describe(folder, base).name == "base"
    (folder / "r3.json").write_text('{"name": "step"}')
    assert describe(folder, base).name == "step"
    assert describe(folder / "model.safetensors", base).name == "step"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"nam": "x"}, "unknown nam; known: defaults, description"),
        ({"transforms": {"vea": [1, 2, 3]}}, "unknown transforms.vea"),
        ({"size": {"largest": "1x1"}}, "unknown size.largest"),
        ({"defaults": {"rounds": 3}}, "unknown defaults.rounds"),
        ({"defaults": {"refine": {"steps": 3}}}, "unknown defaults.refine.steps"),
        ({"size": {"default": "large"}}, "size.default is 'large'; write it as a size such as 512x512"),
        ({"size": {"default": 512}}, "size.default is 512; write it as"),
        ({"size": []}, "size must be an object"),
        ({"transforms": {"vae": [512, 256]}}, "transforms.vae"),
        ({"transforms": {"vae": "512"}}, "transforms.vae"),
        ({"transforms": {"vae": [512, 256, 0]}}, "transforms.vae"),
        ({"defaults": {"refine": 3}}, "defaults.refine must be an object"),
        ({"defaults": {"max_rounds": "three"}}, "defaults.max_rounds"),
        ({"defaults": {"reflect": {"temperature": "warm"}}}, "defaults.reflect.temperature"),
        ({"defaults": {"generate": {"cfg_interval": [1]}}}, "defaults.generate.cfg_interval"),
        ({"defaults": {"generate": {"cfg_renorm_type": "text_channe"}}}, "defaults.generate.cfg_renorm_type"),
        ({"name": 3}, "name is 3; write it as a text"),
        ({"example_prompts": "a cat"}, "example_prompts"),
        ([], "holds list, not a JSON object"),
        ("{", "cannot be read as JSON"),
    ],
    ids=lambda value: json.dumps(value)[:50] if not isinstance(value, str) else "",
)
def test_a_mistake_in_r3_json_is_named(own: Any, said: str, base: Path, weights: Tensors) -> None:
    heard = refusal(lambda: describe(with_r3_json(base, weights, own)))
    assert said in heard
    assert "r3.json" in heard


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("500x500", "default size 500x500"),
        ("1040x1040", "default size 1040x1040"),
        ("192x64", "default size 192x64"),
    ],
)
def test_a_default_size_that_cannot_be_drawn_is_refused(size: str, said: str, base: Path, weights: Tensors) -> None:
    own = {"transforms": {"vae": [128, 32, 16], "vit": [112, 28, 14]}, "size": {"default": size}}
    heard = refusal(lambda: load_engine(EngineConfig(with_r3_json(base, weights, own))))
    assert said in heard
    assert "mend r3.json" in heard


def test_a_default_size_with_too_many_patches_for_the_eye_is_refused(base: Path, weights: Tensors) -> None:
    own = {"transforms": {"vae": [1024, 512, 16], "vit": [1400, 224, 14]}, "size": {"default": "1024x1024"}}
    heard = refusal(lambda: load_engine(EngineConfig(with_r3_json(base, weights, own))))
    assert "ViT patches on a side and the tables have 70" in heard


def test_a_description_survives_json_and_ignores_what_a_newer_build_added(description: Description) -> None:
    stored = json.loads(json.dumps(description.to_json()))
    assert Description.from_json(stored) == description
    assert Description.from_json({**stored, "mood": "good"}) == description


def test_the_fingerprint_changes_with_any_part_and_with_nothing_else(base: Path, weights: Tensors) -> None:
    save_file(weights, base / "model.safetensors")
    before = fingerprint(find_files(base))
    (base / "r3.json").write_text("{}")
    assert fingerprint(find_files(base)) == before
    save_file({**weights, "llm2vae.bias": weights["llm2vae.bias"] + 1}, base / "model.safetensors")
    changed = fingerprint(find_files(base))
    assert changed != before
    (base / "vit_config.json").write_text((base / "vit_config.json").read_text() + " ")
    assert fingerprint(find_files(base)) not in (before, changed)


# --- memory

_MEASURE = """
import sys, threading
from pathlib import Path
import torch
from r3core.model.weights import load

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
torch.zeros(1).to(torch.bfloat16)
peak, done, before = 0, threading.Event(), anonymous()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
loaded = load(Path(sys.argv[1]), Path(sys.argv[2]), device=torch.device("cpu"), dtype=torch.bfloat16)
done.set()
watcher.join()
print(loaded.weights_bytes, max(peak, anonymous()) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RssAnon is Linux's")
def test_loading_holds_the_model_and_one_tensor_and_no_more(checkpoint: Path, base: Path, tmp_path: Path) -> None:
    """An fp32 file of 270 MB (sparse: all zeros), served in bf16: half of it is the model."""
    wide = 40_000
    header: dict[str, Any] = {}
    end = 0
    for name, info in read_header(checkpoint / "ema.safetensors").items():
        shape = [wide if ".mlp" in name and "language_model" in name and size == 192 else size for size in info.shape]
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * count]}
        end += 4 * count
    text = json.dumps(header).encode()
    folder = tmp_path / "wide"
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    command = [sys.executable, "-c", _MEASURE, str(folder), str(base)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True, timeout=100)
    model, peak = (int(word) for word in ran.stdout.split())
    largest, slack = 4 * wide * 96, 40 * 2**20
    assert model > 130 * 2**20
    assert peak < model + largest + slack, f"{peak / 2**20:.0f} MiB for a model of {model / 2**20:.0f} MiB"
