"""A file of prompts: what each line asks for, and what of it is for the benchmark's own scorer.

    {"prompt": "a photo of two clocks", "tag": "counting", "include": [{"class": "clock", "count": 2}], "seed": 3}

A name that POST /generate has is a setting; every other is the benchmark's, and is handed on as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from r3client.settings import Generation
from server.cli_settings import CLIENTS_OWN, finite, strange_names
from server.misconfigured import Misconfigured

Json = dict[str, Any]
SETTINGS: Final = frozenset(Generation.__annotations__)
SEED: Final = 0  # where none is given: two runs over the same prompts begin with the same noise
LONGEST_PATH: Final = 1024
NOT_HERE: Final = CLIENTS_OWN | dict.fromkeys(
    ("output_format", "output_compression"), "pictures are kept as PNG, lossless"
)


@dataclass(frozen=True)
class Line:
    """A prompt, the settings of its request, and what is kept for the benchmark's scorer."""

    number: int
    prompt: str
    settings: Mapping[str, Any]
    kept: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folders, as GenEval has them."""
        return f"{self.number:05}"

    def asked(self) -> Json:
        """All of it as JSON, with the hash of a picture in its place."""
        settings = dict(self.settings)
        if isinstance(image := settings.get("image"), Path):
            settings["image"] = f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
        return {"prompt": self.prompt, "settings": settings, "kept": dict(self.kept)}


def read_prompts(path: Path, common: Mapping[str, Any]) -> list[Line]:
    """The lines of a file, each with its own settings before those in `common`. Raises Misconfigured."""
    try:
        rows = [row for row in path.read_text(encoding="utf-8-sig").split("\n") if row.strip()]
    except OSError as error:
        raise Misconfigured(
            f"{path} cannot be read ({error.strerror}); name a file with a JSON object a line"
        ) from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); write it as UTF-8") from error
    if not rows:
        raise Misconfigured(f'{path} has no prompt; write one a line, such as {{"prompt": "a purple heart"}}')
    return [_line(f"{path}, prompt {number}", number, row, path.parent, common) for number, row in enumerate(rows)]


def _line(where: str, number: int, row: str, folder: Path, common: Mapping[str, Any]) -> Line:
    try:
        value = json.loads(row, parse_constant=finite, parse_float=finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be sent
    except ValueError as error:
        raise Misconfigured(f"{where} is not JSON ({error}); write one object a line") from error
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise Misconfigured(f'{where} has no "prompt"; write it as {{"prompt": "a purple heart"}}')
    strange = set(strange_names([name for name in value if name != "prompt"], where, NOT_HERE))
    own = {name: setting for name, setting in value.items() if name in SETTINGS and setting is not None}
    if "image" in own:
        own["image"] = _picture(own["image"], folder, where)
    kept = {name: data for name, data in value.items() if name == "prompt" or name in strange}
    return Line(number, value["prompt"], {"seed": SEED, **common, **own}, kept)


def _picture(image: Any, folder: Path, where: str) -> Any:
    """A file beside the prompts; an id, a data URL and base64 as they are."""
    if not isinstance(image, str) or len(image) > LONGEST_PATH or image.startswith(("img_", "data:")):
        return image
    path = folder / image
    if not path.is_file():
        raise Misconfigured(f"{where}: there is no picture {path}; name one by its place beside the prompts, or its id")
    return path
