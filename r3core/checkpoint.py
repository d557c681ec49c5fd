"""Which files a checkpoint is made of, what it says of itself, and a fingerprint of it. No torch, no weights read.

Three layouts are served (docs/checkpoints.md):
    a BAGEL folder                 llm_config.json, vit_config.json, ae.safetensors, ema.safetensors, the tokenizer
    a base folder + an R3 step     the base's configs, tokenizer and VAE; the step folder's model.safetensors, or a file
    sharded files                  *.safetensors with a model.safetensors.index.json, in either place
Everything is safetensors; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from r3core.errors import CheckpointError
from r3core.headers import (
    TensorInfo,
    form_faults,
    plain_name,
    read_header,
    read_json,
    read_tensors,
    refuse,
    whole_number,
)
from r3core.other_weights import note_on
from r3core.r3_json import check
from r3core.types import (
    GENERATE_DEFAULTS,
    REASON_DEFAULTS,
    REFINE_DEFAULTS,
    REFLECT_DEFAULTS,
    ImageSampling,
    Request,
    TextSampling,
    image_sampling_from_json,
)

__all__ = [  # some of it is defined in headers.py
    "DEFAULT_LATENT_SIDE",
    "DEFAULT_MAX_ROUNDS",
    "DEFAULT_SIZE",
    "DEFAULT_TRANSFORMS",
    "DEFAULT_VIT_SIDE",
    "Defaults",
    "Description",
    "Files",
    "TensorInfo",
    "Transform",
    "describe",
    "describe_files",
    "find_files",
    "fingerprint",
    "latent_patch",
    "max_positions",
    "plain_name",
    "read_header",
    "read_json",
    "read_tensors",
    "vae_levels",
]

Transform = tuple[int, int, int]

# R3's own values (train/online_rl.py:101-106).
DEFAULT_TRANSFORMS: Final[dict[str, Transform]] = {"vae": (512, 256, 16), "vit": (504, 252, 14)}
DEFAULT_SIZE: Final = (512, 512)
DEFAULT_MAX_ROUNDS: Final = 3
DEFAULT_LATENT_SIDE: Final = 64
DEFAULT_VIT_SIDE: Final = 70

# Tensors that sizes are read from, and what their dimensions count.
VAE2LLM: Final = {"vae2llm.weight": ("hidden", "patch * patch * z")}
VAE_CONV_IN: Final = {"decoder.conv_in.weight": ("channels", "z", "3", "3")}

_VAE_LEVEL: Final = re.compile(r"encoder\.down\.(\d+)\.")
_FINGERPRINT_BLOCK: Final = 64 * 1024
_FINGERPRINT_BLOCKS: Final = 64  # of a file larger than this:
_FINGERPRINT_WHOLE: Final = 16 * 2**20


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint: weights (one or several), VAE, configs, tokenizer, and why these were chosen."""

    weights: tuple[Path, ...]
    vae: Path
    llm_config: Path
    vit_config: Path
    tokenizer: Path
    r3_json: Path | None
    name: str
    choice: str


@dataclass(frozen=True)
class Defaults:
    """What a request gets where it says nothing."""

    max_rounds: int = DEFAULT_MAX_ROUNDS
    reason: TextSampling = REASON_DEFAULTS
    reflect: TextSampling = REFLECT_DEFAULTS
    generate: ImageSampling = GENERATE_DEFAULTS
    refine: ImageSampling = REFINE_DEFAULTS


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself: all that the API must know to resolve and check a request without weights.

    `latent_stride` is the side in pixels of one latent token, `latent_side` the side of the position grid in tokens,
    `default_size` (width, height) in pixels.
    """

    name: str
    description: str
    licence: str
    hash: str
    transforms: dict[str, Transform]
    latent_stride: int
    latent_side: int
    vit_side: int
    default_size: tuple[int, int]
    defaults: Defaults
    example_prompts: tuple[str, ...]
    max_context_tokens: int

    def request(self, prompt: str, seed: int) -> Request:
        """A prompt with the checkpoint's own size and settings in everything else."""
        (width, height), own = self.default_size, self.defaults
        return Request(
            prompt,
            width,
            height,
            seed,
            max_rounds=own.max_rounds,
            reason=own.reason,
            reflect=own.reflect,
            generate=own.generate,
            refine=own.refine,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The description that `to_json` wrote; fields that a newer build added are ignored."""
        known = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        width, height = known["default_size"]
        return cls(
            **{
                **known,
                "transforms": {k: _triple(v) for k, v in known["transforms"].items()},
                "default_size": (width, height),
                "defaults": _defaults(known["defaults"]),
                "example_prompts": tuple(known["example_prompts"]),
            }
        )


def find_files(checkpoint: Path, base: Path | None = None) -> Files:
    """The files to load. Raises CheckpointError that names what is missing and where it was looked for."""
    if not checkpoint.exists():
        raise CheckpointError(
            f"checkpoint {checkpoint} does not exist; name a folder that holds llm_config.json and ema.safetensors"
        )
    if checkpoint.is_file() and checkpoint.suffix != ".safetensors":
        raise CheckpointError(f"{checkpoint} is not a safetensors file; nothing else is opened (docs/checkpoints.md)")
    is_base = (checkpoint / "llm_config.json").is_file()
    if not is_base and base is None:
        raise CheckpointError(
            f"{checkpoint} has no llm_config.json{note_on(checkpoint)}; name the BAGEL folder it was trained from "
            "with --base-checkpoint (R3_BASE_CHECKPOINT)"
        )
    configs = checkpoint if is_base else base
    assert configs is not None
    missing = [
        n
        for n in ("llm_config.json", "vit_config.json", "ae.safetensors", "tokenizer.json")
        if not (configs / n).is_file()
    ]
    if missing:
        raise CheckpointError(
            f"{configs} lacks {', '.join(missing)}; copy them from the BAGEL-7B-MoT files (docs/checkpoints.md)"
        )
    weights, choice = _weights(
        checkpoint, ("ema.safetensors", "model.safetensors") if is_base else ("model.safetensors", "ema.safetensors")
    )
    r3_json = next((p for p in (_folder(checkpoint) / "r3.json", configs / "r3.json") if p.is_file()), None)
    return Files(
        weights=weights,
        vae=configs / "ae.safetensors",
        llm_config=configs / "llm_config.json",
        vit_config=configs / "vit_config.json",
        tokenizer=configs / "tokenizer.json",
        r3_json=r3_json,
        name=checkpoint.resolve().stem if checkpoint.is_file() else checkpoint.resolve().name,
        choice=choice,
    )


def describe(checkpoint: Path, base: Path | None = None) -> Description:
    """What the checkpoint says of itself, from its JSON files and tensor headers alone (milliseconds, any size)."""
    files = find_files(checkpoint, base)
    return describe_files(files, read_tensors(files.weights))


def describe_files(files: Files, tensors: dict[str, TensorInfo]) -> Description:
    """As `describe`, for files and headers that were read already."""
    own = _read_r3_json(files.r3_json) if files.r3_json else {}
    llm = read_json(files.llm_config)
    return Description(
        name=own.get("name", files.name),
        description=own.get("description", ""),
        licence=own.get("licence", ""),
        hash=fingerprint(files),
        transforms={**DEFAULT_TRANSFORMS, **{k: _triple(v) for k, v in own.get("transforms", {}).items()}},
        latent_stride=_latent_stride(files, tensors),
        latent_side=latent_side(tensors),
        vit_side=vit_side(tensors),
        default_size=_size(size) if (size := own.get("size", {}).get("default")) else DEFAULT_SIZE,
        defaults=_own_defaults(own.get("defaults", {})),
        example_prompts=tuple(own.get("example_prompts", ())),
        max_context_tokens=max_positions(llm, files.llm_config),
    )


def fingerprint(files: Files) -> str:
    """A short hash of configs, tensor headers and data: blocks spread evenly over 29 GB, all of a small file."""
    digest = hashlib.sha256()
    for path in (files.llm_config, files.vit_config, files.tokenizer):
        digest.update(path.read_bytes())
    for path in (*files.weights, files.vae):
        size = path.stat().st_size
        digest.update(struct.pack("<Q", size))
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            digest.update(file.read(length))
            for offset in _sampled(8 + length, size):
                file.seek(offset)
                digest.update(file.read(_FINGERPRINT_BLOCK))
    return digest.hexdigest()[:16]


def _sampled(start: int, size: int) -> Iterable[int]:
    """Where the blocks begin that stand for a file's data."""
    if size <= _FINGERPRINT_WHOLE:
        return range(start, size, _FINGERPRINT_BLOCK)
    last = size - _FINGERPRINT_BLOCK
    return (start + (last - start) * i // (_FINGERPRINT_BLOCKS - 1) for i in range(_FINGERPRINT_BLOCKS))


def _folder(checkpoint: Path) -> Path:
    return checkpoint.parent if checkpoint.is_file() else checkpoint


def _weights(checkpoint: Path, names: tuple[str, str]) -> tuple[tuple[Path, ...], str]:
    if checkpoint.is_file():
        return (checkpoint,), f"{checkpoint.name} (named)"
    for name in names:
        if (checkpoint / name).is_file():
            return (checkpoint / name,), name
    for index in sorted(checkpoint.glob("*.safetensors.index.json")):
        shards = _shards(index)
        absent = [s for s in shards if Path(s).name != s or not (checkpoint / s).is_file()]
        if absent or not shards:
            raise CheckpointError(
                f"{index} names shards that are not beside it: {', '.join(map(str, absent)) or 'none at all'}"
            )
        return tuple(checkpoint / s for s in shards), f"{len(shards)} shards of {index.name}"
    raise CheckpointError(
        f"{checkpoint} has no {names[0]}, no {names[1]} and no *.safetensors.index.json{note_on(checkpoint)}"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names."""
    named = read_json(index).get("weight_map", {})
    unfit = [file for file in named.values() if not isinstance(file, str)] if isinstance(named, dict) else [named]
    if unfit:
        raise CheckpointError(
            f"{index}: weight_map has {reprlib.repr(unfit[0])} where a file name for each tensor should be; "
            "write the index again"
        )
    shards = sorted(set(named.values()))
    if others := [shard for shard in shards if not shard.endswith(".safetensors")]:
        raise CheckpointError(
            f"{index} names {', '.join(others)}, which are not safetensors files; nothing else is opened "
            "(docs/checkpoints.md)"
        )
    return shards


def max_positions(llm: dict[str, Any], path: Path) -> int:
    """How many positions a context may have, by llm_config.json."""
    return whole_number(llm, "max_position_embeddings", path, default=32768)


def latent_side(tensors: dict[str, TensorInfo]) -> int:
    """Side in tokens of the latent position table; 64 where the file has none."""
    return _side(tensors, "latent_pos_embed.pos_embed", DEFAULT_LATENT_SIDE)


def vit_side(tensors: dict[str, TensorInfo]) -> int:
    """Side in patches of the decoder's ViT position table; 70 where the file has none."""
    return _side(tensors, "vit_pos_embed.pos_embed", DEFAULT_VIT_SIDE)


def _side(tensors: dict[str, TensorInfo], name: str, default: int) -> int:
    """The side of a square position table, from its rows: config.json's max_latent_size is wrong for the weights."""
    if name not in tensors:
        return default
    info = tensors[name]
    refuse(form_faults(tensors, {name: ("side * side", "hidden")}, str(info.file)))
    side = math.isqrt(info.shape[0])
    if side * side != info.shape[0]:
        raise CheckpointError(
            f"{info.file}: {name} has {info.shape[0]} rows, which is no square; a position table holds side x side "
            "rows. Fetch the file again"
        )
    return side


def _latent_stride(files: Files, tensors: dict[str, TensorInfo]) -> int:
    """Pixels on a side of one latent token: the patch times the VAE's downsampling, both from tensor shapes."""
    vae = read_header(files.vae)
    return latent_patch(files, tensors, vae) << (vae_levels(files, vae) - 1)


def latent_patch(files: Files, tensors: dict[str, TensorInfo], vae: dict[str, TensorInfo]) -> int:
    """Side of a latent patch: vae2llm reads patch * patch * z numbers."""
    refuse(
        form_faults(tensors, VAE2LLM, ", ".join(map(str, files.weights)))
        + form_faults(vae, VAE_CONV_IN, str(files.vae))
    )
    columns, channels = tensors["vae2llm.weight"].shape[1], vae["decoder.conv_in.weight"].shape[1]
    patch = math.isqrt(columns // channels)
    if patch * patch * channels != columns:
        raise CheckpointError(
            f"vae2llm.weight has {columns} columns, which is no square patch of {channels} latent channels "
            f"({tensors['vae2llm.weight'].file}, {files.vae})"
        )
    return patch


def vae_levels(files: Files, vae: dict[str, TensorInfo]) -> int:
    """How many resolutions the VAE has."""
    levels = {int(found[1]) for name in vae if (found := _VAE_LEVEL.match(name))}
    if not levels:
        raise CheckpointError(f"{files.vae} has no encoder.down.* tensors; ae.safetensors must be BAGEL's (FLUX form)")
    return max(levels) + 1


def _read_r3_json(path: Path) -> dict[str, Any]:
    own = read_json(path)
    check(own, path)
    return own


def _own_defaults(own: dict[str, Any]) -> Defaults:
    plain = asdict(Defaults())
    for key, value in own.items():
        plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
    return _defaults(plain)


def _defaults(value: dict[str, Any]) -> Defaults:
    return Defaults(
        max_rounds=value["max_rounds"],
        reason=TextSampling(**value["reason"]),
        reflect=TextSampling(**value["reflect"]),
        generate=image_sampling_from_json(value["generate"]),
        refine=image_sampling_from_json(value["refine"]),
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _triple(value: Iterable[int]) -> Transform:
    longest, shortest, stride = value
    return int(longest), int(shortest), int(stride)
