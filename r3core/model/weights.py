"""From a checkpoint's files to a model on a device: sizes from tensors, built on the meta device, filled file to
device.

Nothing is filled in silently: every tensor that is missing, mis-shaped or unknown is named (the reference loads with
strict=False and says nothing). Tensors are read one at a time, so the host never holds more than one of them beside
what the device is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from r3core.checkpoint import (
    Files,
    TensorInfo,
    describe_files,
    find_files,
    latent_patch,
    read_header,
    read_json,
    read_tensors,
    vae_levels,
)
from r3core.errors import CheckpointError
from r3core.model.bagel import Bagel, Model, ModelConfig
from r3core.model.layers import DecoderConfig
from r3core.model.vae import VAE, VAEConfig, diffusers_name
from r3core.model.vit import ViTConfig

Progress = Callable[[int, int], None]

_SPARE: Final = re.compile(
    r"^(vit_model\.vision_model\.head\..*|.*\.inv_freq|.*\.position_ids|(latent|vit)_pos_embed\.pos_embed)$"
)
_SPARE_VAE: Final = re.compile(r"^(quant_conv|post_quant_conv)\.")
_LISTED: Final = 20


@dataclass(frozen=True)
class Loaded:
    """A model and what was noticed while loading it."""

    model: Model
    files: Files
    warnings: tuple[str, ...]
    weights_bytes: int


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that was looked at and not yet read: an empty model, and what goes where."""

    files: Files
    model: Model
    warnings: tuple[str, ...]
    plans: tuple[_Plan, ...]

    @property
    def weights_bytes(self) -> int:
        """What the weights will take on the device."""
        return _held(self.model)

    def fill(self, device: torch.device, progress: Progress | None = None) -> Loaded:
        """Read every tensor to its place. `progress(done, total)` is told bytes."""
        total = sum(info.nbytes for plan in self.plans for info in plan.wanted.values())
        done = 0
        for plan in self.plans:
            for nbytes in plan.fill(device):
                done += nbytes
                if progress is not None:
                    progress(done, total)
        self.model.bagel.ready()
        self.model.vae.eval().requires_grad_(False)
        return Loaded(self.model, self.files, self.warnings, self.weights_bytes)


def prepare(
    checkpoint: Path, base: Path | None = None, *, dtype: torch.dtype, allow_unexpected: bool = False
) -> Prepared:
    """All that can be said of a checkpoint, and refused, from its headers: milliseconds at any size.

    Raises CheckpointError with every fault listed.
    """
    files = find_files(checkpoint, base)
    main, vae_header = read_tensors(files.weights), read_header(files.vae)
    config = model_config(files, main, vae_header)
    with torch.device("meta"):
        bagel = Bagel(config).to(dtype)
        vae = VAE(config.vae, compute=dtype)
    levels = len(config.vae.channels)
    plans = (
        _Plan(bagel, main, lambda name: name, _spare_weights(config), dtype),
        _Plan(vae.model, vae_header, lambda n: diffusers_name(n, levels), _SPARE_VAE.match, torch.float32),
    )
    warnings = [w for plan in plans for w in plan.check(allow_unexpected=allow_unexpected)]
    return Prepared(files, Model(bagel, vae, config), tuple(warnings), plans)


def load(
    checkpoint: Path,
    base: Path | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    allow_unexpected: bool = False,
    progress: Progress | None = None,
) -> Loaded:
    """Load a checkpoint. Raises CheckpointError with every fault listed."""
    return prepare(checkpoint, base, dtype=dtype, allow_unexpected=allow_unexpected).fill(device, progress)


def _held(model: Model) -> int:
    return sum(p.numel() * p.element_size() for m in (model.bagel, model.vae) for p in m.parameters())


def model_config(files: Files, main: dict[str, TensorInfo], vae: dict[str, TensorInfo]) -> ModelConfig:
    """All sizes, from tensors where they show, else from the configs."""
    described = describe_files(files, main)
    try:
        return ModelConfig(
            decoder=_decoder_config(files, main),
            vit=_vit_config(files, main),
            vae=_vae_config(vae),
            latent_patch=latent_patch(main, vae),
            latent_side=described.latent_side,
            vit_side=described.vit_side,
        )
    except KeyError as error:
        where = ", ".join(p.name for p in (*files.weights, files.vae, files.llm_config, files.vit_config))
        raise CheckpointError(f"{error.args[0]} is in none of {where}; is this a BAGEL checkpoint?") from error


def _decoder_config(files: Files, main: dict[str, TensorInfo]) -> DecoderConfig:
    llm = read_json(files.llm_config)
    first = "language_model.model.layers.0"
    vocab, hidden = main["language_model.model.embed_tokens.weight"].shape
    heads = int(llm["num_attention_heads"])
    if hidden % heads or (hidden // heads) % 2:
        raise CheckpointError(
            f"hidden size {hidden} does not divide into {heads} heads of even size ({files.llm_config})"
        )
    kv_rows = main[f"{first}.self_attn.k_proj.weight"].shape[0]
    return DecoderConfig(
        hidden=hidden,
        intermediate=main[f"{first}.mlp.gate_proj.weight"].shape[0],
        layers=_count(main, r"language_model\.model\.layers\.(\d+)\."),
        heads=heads,
        kv_heads=kv_rows // (hidden // heads),
        vocab=vocab,
        rms_norm_eps=float(llm.get("rms_norm_eps", 1e-6)),
        rope_theta=float(llm.get("rope_theta", 1e6)),
        max_positions=int(llm.get("max_position_embeddings", 32768)),
    )


def _vit_config(files: Files, main: dict[str, TensorInfo]) -> ViTConfig:
    vit = read_json(files.vit_config)
    patch = int(vit["patch_size"])
    hidden, columns = main["vit_model.vision_model.embeddings.patch_embedding.weight"].shape[:2]
    rows = main["vit_model.vision_model.embeddings.position_embedding.weight"].shape[0]
    side = int(rows**0.5)
    if side * side != rows or columns != patch * patch * 3:
        raise CheckpointError(
            f"the ViT's position table has {rows} rows and its patch embedding {columns} columns; "
            f"wanted a square and {patch} x {patch} x 3 (the patch embedding is a linear layer, not a convolution)"
        )
    return ViTConfig(
        hidden=hidden,
        intermediate=main["vit_model.vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        # The config counts one layer more than runs: the reference drops the last one.
        layers=int(vit["num_hidden_layers"]) - 1,
        heads=int(vit["num_attention_heads"]),
        patch=patch,
        side=side,
        layer_norm_eps=float(vit.get("layer_norm_eps", 1e-6)),
    )


def _vae_config(vae: dict[str, TensorInfo]) -> VAEConfig:
    levels = vae_levels(vae)
    return VAEConfig(
        channels=tuple(vae[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)),
        blocks=_count(vae, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=vae["decoder.conv_in.weight"].shape[1],
    )


def _count(tensors: dict[str, TensorInfo], pattern: str) -> int:
    found = [int(m[1]) for name in tensors if (m := re.match(pattern, name))]
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return max(found) + 1


def _spare_weights(config: ModelConfig) -> Callable[[str], object]:
    dropped = f"vit_model.vision_model.encoder.layers.{config.vit.layers}."
    return lambda name: _SPARE.match(name) or name.startswith(dropped)


class _Plan:
    """What goes from one set of files into one module."""

    def __init__(
        self,
        module: nn.Module,
        tensors: dict[str, TensorInfo],
        rename: Callable[[str], str],
        spare: Callable[[str], object],
        dtype: torch.dtype,
    ) -> None:
        self._module, self._dtype = module, dtype
        self._targets = dict(module.named_parameters())
        renamed = {rename(name): info for name, info in tensors.items()}
        self.wanted = {name: info for name, info in renamed.items() if name in self._targets}
        self._source = {rename(name): name for name in tensors}
        extra = [name for name in renamed if name not in self._targets]
        self._skipped = [n for n in extra if spare(self._source[n])]
        self._unexpected = sorted(self._source[n] for n in extra if not spare(self._source[n]))

    def check(self, *, allow_unexpected: bool) -> list[str]:
        """Warnings; raises CheckpointError where anything is missing, mis-shaped or unexpected."""
        faults = []
        missing = sorted(set(self._targets) - set(self.wanted))
        if missing:
            faults.append(f"{len(missing)} missing: {_some(missing)}")
        wrong = [
            f"{info.name} {list(info.shape)} should be {list(self._targets[name].shape)}"
            for name, info in self.wanted.items()
            if _squeezed(info.shape) != _squeezed(self._targets[name].shape)
        ]
        if wrong:
            faults.append(f"{len(wrong)} of the wrong shape: {_some(wrong)}")
        if self._unexpected and not allow_unexpected:
            faults.append(
                f"{len(self._unexpected)} unexpected: {_some(self._unexpected)} (--allow-unexpected skips them)"
            )
        if faults:
            where = ", ".join(sorted({str(i.file) for i in self.wanted.values()})) or "the files"
            raise CheckpointError(f"tensors of {where}: {'; '.join(faults)}")
        skipped = [*self._skipped, *(self._unexpected if allow_unexpected else [])]
        tables = [n for n in skipped if n.endswith("_pos_embed.pos_embed")]  # always there, always recomputed
        others = [n for n in skipped if n not in tables]
        return [f"skipped {len(others)} tensors that are not used: {_some(sorted(others))}"] if others else []

    def fill(self, device: torch.device) -> Iterable[int]:
        """Put every tensor in its place, file by file; yields the bytes of each."""
        for path in sorted({info.file for info in self.wanted.values()}):
            names = [name for name, info in self.wanted.items() if info.file == path]
            try:
                with safe_open(path, framework="pt", device=str(device)) as file:
                    for name in sorted(names, key=lambda n: self.wanted[n].name):
                        info = self.wanted[name]
                        self._set(name, file.get_tensor(info.name))
                        yield info.nbytes
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}; fetch the file again") from error

    def _set(self, name: str, value: Tensor) -> None:
        target = self._targets[name]
        owner, _, leaf = name.rpartition(".")
        if not value.is_floating_point():
            raise CheckpointError(f"{name} has dtype {value.dtype}; weights are floating point")
        placed = value.to(self._dtype).reshape(target.shape)
        setattr(self._module.get_submodule(owner), leaf, nn.Parameter(placed, requires_grad=False))


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Shapes of one form: the VAE's 1x1 convolutions on disk are linear layers in diffusers."""
    sizes = tuple(shape)
    return sizes[:2] if len(sizes) == 4 and sizes[2:] == (1, 1) else sizes


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
