"""All sizes of a checkpoint: from its tensors where they show, else from its configs. No weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from r3core.checkpoint import (
    VAE2LLM,
    VAE_CONV_IN,
    Files,
    latent_patch,
    latent_side,
    max_positions,
    vae_levels,
    vit_side,
)
from r3core.errors import CheckpointError
from r3core.headers import TensorInfo, form_faults, positive_number, read_json, refuse, whole_number
from r3core.model.bagel import ModelConfig
from r3core.model.layers import DecoderConfig
from r3core.model.vae import VAEConfig
from r3core.model.vit import ViTConfig

_EMBEDDING: Final = "language_model.model.embed_tokens.weight"
_K_PROJ: Final = "language_model.model.layers.0.self_attn.k_proj.weight"
_GATE_PROJ: Final = "language_model.model.layers.0.mlp.gate_proj.weight"
_PATCHES: Final = "vit_model.vision_model.embeddings.patch_embedding.weight"
_POSITIONS: Final = "vit_model.vision_model.embeddings.position_embedding.weight"
_VIT_MLP: Final = "vit_model.vision_model.encoder.layers.0.mlp.fc1.weight"
_FORMS: Final = {
    _EMBEDDING: ("vocabulary", "hidden"),
    _K_PROJ: ("kv heads * head size", "hidden"),
    _GATE_PROJ: ("intermediate", "hidden"),
    _PATCHES: ("hidden", "patch * patch * 3 (it is a linear layer, not a convolution)"),
    _POSITIONS: ("side * side", "hidden"),
    _VIT_MLP: ("intermediate", "hidden"),
    **VAE2LLM,
}


def model_config(files: Files, main: dict[str, TensorInfo], vae: dict[str, TensorInfo]) -> ModelConfig:
    """All sizes. Raises CheckpointError that lists every tensor they cannot be read from."""
    levels = vae_levels(files, vae)
    blocks = {f"encoder.down.{i}.block.0.conv2.weight": ("channels", "channels", "3", "3") for i in range(levels)}
    faults = form_faults(main, _FORMS, ", ".join(map(str, files.weights)))
    refuse(faults + form_faults(vae, {**blocks, **VAE_CONV_IN}, str(files.vae)))
    return ModelConfig(
        decoder=_decoder_config(files, main),
        vit=_vit_config(files, main),
        vae=VAEConfig(
            channels=tuple(vae[name].shape[0] for name in blocks),
            blocks=_count(vae, r"encoder\.down\.0\.block\.(\d+)\."),
            latent_channels=vae["decoder.conv_in.weight"].shape[1],
        ),
        latent_patch=latent_patch(files, main, vae),
        latent_side=latent_side(main),
        vit_side=vit_side(main),
    )


def _decoder_config(files: Files, main: dict[str, TensorInfo]) -> DecoderConfig:
    path = files.llm_config
    llm = read_json(path)
    vocab, hidden = main[_EMBEDDING].shape
    heads = whole_number(llm, "num_attention_heads", path)
    if hidden % heads or (hidden // heads) % 2 or hidden % 4:
        raise CheckpointError(
            f"hidden size {hidden} ({main[_EMBEDDING].file}) must divide by 4 and into {heads} heads of even size "
            f"(num_attention_heads in {path}); take both from one checkpoint"
        )
    head_dim = hidden // heads
    kv_rows = main[_K_PROJ].shape[0]
    if kv_rows % head_dim or heads % (kv_rows // head_dim):
        raise CheckpointError(
            f"{_K_PROJ} ({main[_K_PROJ].file}) has {kv_rows} rows, which are no key/value heads of size {head_dim} "
            f"that {heads} heads can share evenly (num_attention_heads in {path}); take both from one checkpoint"
        )
    return DecoderConfig(
        hidden=hidden,
        intermediate=main[_GATE_PROJ].shape[0],
        layers=_layers(files, main, llm),
        heads=heads,
        kv_heads=kv_rows // head_dim,
        vocab=vocab,
        rms_norm_eps=positive_number(llm, "rms_norm_eps", path, default=1e-6),
        rope_theta=positive_number(llm, "rope_theta", path, default=1e6),
        max_positions=max_positions(llm, path),
    )


def _layers(files: Files, main: dict[str, TensorInfo], llm: dict[str, Any]) -> int:
    """The decoder's layers: a file that was cut short has whole ones, and a model of those would only draw badly."""
    found = _count(main, r"language_model\.model\.layers\.(\d+)\.")
    said = whole_number(llm, "num_hidden_layers", files.llm_config, default=found)
    if said > found:
        raise CheckpointError(
            f"the decoder's layers end at number {found - 1} ({', '.join(map(str, files.weights))}) and "
            f"num_hidden_layers in {files.llm_config} is {said}; copy or convert the weights again, whole"
        )
    return said


def _vit_config(files: Files, main: dict[str, TensorInfo]) -> ViTConfig:
    path = files.vit_config
    vit = read_json(path)
    patch, heads = whole_number(vit, "patch_size", path), whole_number(vit, "num_attention_heads", path)
    hidden, columns = main[_PATCHES].shape
    rows = main[_POSITIONS].shape[0]
    side = int(rows**0.5)
    if side * side != rows or columns != patch * patch * 3:
        raise CheckpointError(
            f"the ViT's position table has {rows} rows and its patch embedding {columns} columns "
            f"({main[_PATCHES].file}); wanted a square and {patch} x {patch} x 3 (patch_size in {path})"
        )
    if hidden % heads:
        raise CheckpointError(
            f"the ViT's hidden size {hidden} ({main[_PATCHES].file}) does not divide into {heads} heads "
            f"(num_attention_heads in {path}); take both from one checkpoint"
        )
    return ViTConfig(
        hidden=hidden,
        intermediate=main[_VIT_MLP].shape[0],
        # The config counts one layer more than runs: the reference drops the last one.
        layers=whole_number(vit, "num_hidden_layers", path, least=2) - 1,
        heads=heads,
        patch=patch,
        side=side,
        layer_norm_eps=positive_number(vit, "layer_norm_eps", path, default=1e-6),
    )


def _count(names: Iterable[str], pattern: str) -> int:
    """How many layers there are by the highest number in the names; one at least has been seen."""
    return 1 + max(int(found[1]) for name in names if (found := re.match(pattern, name)))
