"""What lies in a folder in place of safetensors, by its names alone. It holds pickles, and is never opened."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_SHOWN: Final = 5
_DCP_REMEDY: Final = (
    "these are torch distributed-checkpoint shards, which hold pickles and are never opened here. Convert them "
    "offline: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, 'all.pt'), then save the 'model' "
    "part of it with safetensors.torch.save_file to model.safetensors"
)


def note_on(folder: Path) -> str:
    """What is there instead, and how to convert it, as the end of a sentence; nothing where there is nothing."""
    if not folder.is_dir() or (folder / "model.safetensors").is_file():
        return ""
    if (folder / ".metadata").exists() or any(folder.glob("*.distcp")):
        return f"; {_DCP_REMEDY}"
    found = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"; it has {', '.join(found[:_SHOWN])}{more}, which hold pickles and are never opened here. Convert them "
        "offline: load the weights where you trust them, and save them with safetensors.torch.save_file to "
        "model.safetensors"
    )
