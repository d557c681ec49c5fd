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

from r3core.checkpoint import Description, Files, describe_files, find_files
from r3core.errors import CheckpointError
from r3core.headers import TensorInfo, read_header, read_tensors
from r3core.model.bagel import Bagel, Model, ModelConfig
from r3core.model.sizes import model_config
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE, name_on_disk

Progress = Callable[[int, int], None]

_SPARE: Final = re.compile(
    r"^(vit_model\.vision_model\.head\..*|.*\.inv_freq|.*\.position_ids|(latent|vit)_pos_embed\.pos_embed)$"
)
_SPARE_VAE: Final = re.compile(r"^(quant_conv|post_quant_conv)\.")


@dataclass(frozen=True)
class Loaded:
    """A model and what was noticed while loading it."""

    model: Model
    files: Files
    tokenizer: Tokenizer
    warnings: tuple[str, ...]
    weights_bytes: int


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that was looked at and not yet read: an empty model, and what goes where."""

    files: Files
    description: Description
    tokenizer: Tokenizer
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
        self.model.vae.ready()
        return Loaded(self.model, self.files, self.tokenizer, self.warnings, self.weights_bytes)


def prepare(
    checkpoint: Path, base: Path | None = None, *, dtype: torch.dtype, allow_unexpected: bool = False
) -> Prepared:
    """All that can be said of a checkpoint, and refused, before its weights are read: a second or two at any size.

    Raises CheckpointError with every fault listed.
    """
    files = find_files(checkpoint, base)
    main, vae_header = read_tensors(files.weights), read_header(files.vae)
    bagel, vae = _empty(files, main, vae_header, dtype)
    config = bagel.config
    levels = len(config.vae.channels)
    plans = (
        _Plan(bagel, main, lambda name: name, _spare_weights(config), dtype),
        _Plan(vae.model, vae_header, lambda name: name_on_disk(name, levels), _SPARE_VAE.match, torch.float32),
    )
    warnings = [w for plan in plans for w in plan.check(allow_unexpected=allow_unexpected)]
    tokenizer = _tokenizer(files, config)
    return Prepared(files, describe_files(files, main), tokenizer, Model(bagel, vae, config), tuple(warnings), plans)


def _tokenizer(files: Files, config: ModelConfig) -> Tokenizer:
    """Ids to words, none of them beyond the embedding's rows; fewer there may be."""
    tokenizer = Tokenizer(files.tokenizer)
    if tokenizer.largest >= config.decoder.vocab:
        raise CheckpointError(
            f"{files.tokenizer} has ids up to {tokenizer.largest} and the embedding {config.decoder.vocab} rows "
            f"({', '.join(map(str, files.weights))}); take both from one checkpoint"
        )
    return tokenizer


def _empty(
    files: Files, main: dict[str, TensorInfo], vae_header: dict[str, TensorInfo], dtype: torch.dtype
) -> tuple[Bagel, VAE]:
    """The modules of a checkpoint on the meta device. What the libraries say of its sizes is said with its files."""
    try:
        config = model_config(files, main, vae_header)
        with torch.device("meta"):
            return Bagel(config).to(dtype), VAE(config.vae, compute=dtype)
    except CheckpointError:
        raise
    except Exception as error:
        where = ", ".join(map(str, (*files.weights, files.vae, files.llm_config, files.vit_config)))
        raise CheckpointError(
            f"no model can be made of the sizes in {where}: {type(error).__name__}: {error}; "
            "take all of them from one checkpoint"
        ) from error


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


def _spare_weights(config: ModelConfig) -> Callable[[str], object]:
    dropped = f"vit_model.vision_model.encoder.layers.{config.vit.layers}."
    return lambda name: _SPARE.match(name) or name.startswith(dropped)


class _Plan:
    """What goes from one set of files into one module. Tensors are known by their names on disk."""

    def __init__(
        self,
        module: nn.Module,
        tensors: dict[str, TensorInfo],
        on_disk: Callable[[str], str],
        spare: Callable[[str], object],
        dtype: torch.dtype,
    ) -> None:
        self._module, self._dtype = module, dtype
        self._targets = {on_disk(name): name for name, _ in module.named_parameters()}
        self.wanted = {name: info for name, info in tensors.items() if name in self._targets}
        self._files = ", ".join(sorted({str(info.file) for info in tensors.values()}))
        extra = sorted(name for name in tensors if name not in self._targets)
        self._skipped = [name for name in extra if spare(name)]
        self._unexpected = [name for name in extra if not spare(name)]

    def check(self, *, allow_unexpected: bool) -> list[str]:
        """Warnings; raises CheckpointError where anything is missing, mis-shaped or unexpected."""
        faults = []
        missing = sorted(set(self._targets) - set(self.wanted))
        if missing:
            faults.append(f"{len(missing)} missing: {', '.join(missing)}")
        shapes = {name: self._module.get_parameter(target).shape for name, target in self._targets.items()}
        wrong = [
            f"{info.name} {list(info.shape)} should be {list(shapes[name])}"
            for name, info in self.wanted.items()
            if _squeezed(info.shape) != _squeezed(shapes[name])
        ]
        if wrong:
            faults.append(f"{len(wrong)} of the wrong shape: {', '.join(wrong)}")
        if self._unexpected and not allow_unexpected:
            named = ", ".join(self._unexpected)
            faults.append(f"{len(self._unexpected)} unexpected: {named} (--allow-unexpected skips them)")
        if faults:
            raise CheckpointError(f"tensors of {self._files}: {'; '.join(faults)}")
        skipped = [*self._skipped, *(self._unexpected if allow_unexpected else [])]
        # The position tables are always there and always computed anew.
        others = sorted(name for name in skipped if not name.endswith("_pos_embed.pos_embed"))
        return [f"skipped {len(others)} tensors that are not used: {', '.join(others)}"] if others else []

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
        owner, _, leaf = self._targets[name].rpartition(".")
        if not value.is_floating_point():
            raise CheckpointError(f"{name} has dtype {value.dtype}; weights are floating point")
        shape = self._module.get_parameter(self._targets[name]).shape
        placed = value.to(self._dtype).reshape(shape)
        setattr(self._module.get_submodule(owner), leaf, nn.Parameter(placed, requires_grad=False))


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Shapes of one form: the VAE's 1x1 convolutions on disk are linear layers in diffusers."""
    sizes = tuple(shape)
    return sizes[:2] if len(sizes) == 4 and sizes[2:] == (1, 1) else sizes
