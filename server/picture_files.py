"""Which pictures a command was given: files as they are, and of a folder those that look like pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from server.misconfigured import Misconfigured

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(given: Sequence[Path]) -> list[Path]:
    """The files, those of a folder by name; what lies deeper in it is left out. Raises Misconfigured."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += in_folder(path)
        elif path.exists():
            found.append(path)
        else:
            raise Misconfigured(f"{path} is not there; name pictures, or a folder of them")
    return found


def in_folder(path: Path) -> list[Path]:
    """The pictures of a folder by name. Raises Misconfigured where there are none."""
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror}); name a folder of pictures") from error
    if not found:
        raise Misconfigured(f"{path} holds no picture ({', '.join(ENDINGS)}); name a folder that does")
    return found
