"""Models that compare pictures after a round trip, as R3_SIMILARITY_MODELS names them: `clip=/path,dinov2=/path`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_ENTRY: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,31})=(.+)")
_OWN: Final = ("self", "latent", "psnr")  # r3core.engine.likeness


def named_models(entries: Iterable[str]) -> tuple[tuple[str, Path], ...]:
    """Each name with its folder. Raises ValueError with the remedy; whether a folder holds a model is not asked."""
    found: dict[str, Path] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"{entry!r} is no name with a folder; write each as clip=/models/clip-l, its name in small letters"
            )
        name = match[1]
        if name in _OWN or name in found:
            raise ValueError(f"the name {name!r} is taken; give each model a name of its own, not {', '.join(_OWN)}")
        found[name] = Path(match[2]).expanduser().absolute()
    return tuple(found.items())
