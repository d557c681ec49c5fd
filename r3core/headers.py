"""What a checkpoint's files hold, without reading a weight: safetensors headers and JSON settings. No torch.

Nothing that is read here is trusted to be well formed: every fault is a CheckpointError that names file and value.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from r3core.errors import CheckpointError

_PREFIXES: Final = ("module.", "_orig_mod.", "_checkpoint_wrapped_module.")
_MAX_HEADER: Final = 100_000_000

# What the dimensions of a tensor count, by the tensor's name: a form that sizes are read from.
Forms = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file, read from the header alone: its name on disk, dtype word, shape and size in bytes."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, from its header. Raises CheckpointError for a broken or other file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _MAX_HEADER):
                raise ValueError(f"its header claims {length} bytes of a file of {size}")
            header = json.loads(file.read(length))
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        infos = {name: _tensor_info(path, name, entry) for name, entry in tensors.items()}
        needed = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
        if needed > size:
            raise ValueError(f"it is truncated: {size} bytes where its header needs {needed}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}; fetch the file again") from error
    return infos


def _tensor_info(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end - start)):
        raise ValueError(f"{name} has shape {shape} at bytes {start} to {end}")
    return TensorInfo(path, name, str(entry["dtype"]), tuple(shape), end - start)


def read_tensors(paths: Iterable[Path]) -> dict[str, TensorInfo]:
    """All tensors of some files by their plain names, training wrappers' prefixes stripped."""
    found: dict[str, TensorInfo] = {}
    for path in paths:
        for name, info in read_header(path).items():
            plain = plain_name(name)
            if plain in found:
                raise CheckpointError(f"{plain} stands in {found[plain].file} and again in {path}; remove one of them")
            found[plain] = info
    return found


def plain_name(name: str) -> str:
    """A weight's name without the prefixes that training wrappers put in it, wherever they stand."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix).replace("." + prefix, ".")
    return name


def form_faults(tensors: Mapping[str, TensorInfo], forms: Forms, where: str) -> list[str]:
    """What keeps sizes from being read: every tensor that is not there, and every one with other dimensions.

    `where` names the files in the faults.
    """
    missing = [name for name in forms if name not in tensors]
    wrong = [
        f"{name} has shape {list(tensors[name].shape)} and should be [{', '.join(form)}]"
        for name, form in forms.items()
        if name in tensors and (len(tensors[name].shape) != len(form) or not all(tensors[name].shape))
    ]
    return ([f"{where} lacks {', '.join(missing)}"] if missing else []) + [f"{where}: {fault}" for fault in wrong]


def refuse(faults: list[str]) -> None:
    """Raise CheckpointError that lists the faults, where there are any."""
    if faults:
        raise CheckpointError(f"{'; '.join(faults)}; is this a BAGEL checkpoint? If it is, fetch the file again")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def whole_number(settings: dict[str, Any], key: str, path: Path, *, default: int | None = None, least: int = 1) -> int:
    """The whole number, `least` or more, that `path` gives under a key. Without a default it must be there."""
    value = settings.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _unfit(settings, key, path, f"a whole number from {least} on")
    return value


def positive_number(settings: dict[str, Any], key: str, path: Path, *, default: float) -> float:
    """The number above 0 that `path` gives under a key."""
    value = settings.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _unfit(settings, key, path, "a number above 0")
    return float(value)


def _unfit(settings: dict[str, Any], key: str, path: Path, words: str) -> CheckpointError:
    said = f"is {json.dumps(settings[key])}" if key in settings else "is not there"
    return CheckpointError(f"{path}: {key} {said}; write it as {words}, or take the file from the BAGEL files")
