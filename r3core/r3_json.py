"""Whether r3.json, the operator's word on a checkpoint, can be taken: every field known, of its type, and of use.

    {"name", "description", "licence": text, "transforms": {"vae": [max, min, stride], "vit": [max, min, stride]},
     "size": {"default": "512x512"}, "defaults": {"max_rounds", "reason", "reflect", "generate", "refine"},
     "example_prompts": [text, ...]}

All of it is optional. A fault is a CheckpointError that names file, field and value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

from r3core.errors import CheckpointError
from r3core.types import MOST_CACHED, ImageSampling, RenormType, TextSampling

_SIZE: Final = re.compile(r"[1-9]\d*x[1-9]\d*", re.ASCII)


def check(own: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError for the first fault of `own`, which was read from `path`."""
    _Reader(path).check(own)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, own: dict[str, Any]) -> None:
        known = {"name", "description", "licence", "transforms", "size", "defaults", "example_prompts"}
        self._object("", own, known)
        for name in known & own.keys() & {"name", "description", "licence"}:
            self._demand(isinstance(own[name], str), name, own[name], "a text")
        for name, value in self._object("transforms", own.get("transforms", {}), {"vae", "vit"}).items():
            self._demand(_is_transform(value), f"transforms.{name}", value, "[max, min, stride] in pixels")
        size = self._object("size", own.get("size", {}), {"default"}).get("default", "1x1")
        fits = isinstance(size, str) and _SIZE.fullmatch(size) is not None
        self._demand(fits, "size.default", size, "a size such as 512x512")
        prompts = own.get("example_prompts", [])
        texts = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
        self._demand(texts, "example_prompts", prompts, "a list of texts")
        self._defaults(own.get("defaults", {}))

    def _defaults(self, value: Any) -> None:
        stages = {"reason": TextSampling, "reflect": TextSampling, "generate": ImageSampling, "refine": ImageSampling}
        given = self._object("defaults", value, {"max_rounds", *stages})
        rounds = given.get("max_rounds", 0)
        self._demand(_whole(rounds, 0), "defaults.max_rounds", rounds, "a whole number from 0 on")
        for stage, kind in stages.items():
            where = f"defaults.{stage}"
            for name, setting in self._object(where, given.get(stage, {}), {f.name for f in fields(kind)}).items():
                test, words = _SETTINGS[name]
                self._demand(test(setting), f"{where}.{name}", setting, words)

    def _object(self, where: str, value: Any, known: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(f"{where} must be an object, and is {value!r}")
        unknown = sorted(set(value) - known)
        if unknown:
            named = ", ".join(f"{where}.{name}" if where else name for name in unknown)
            self._refuse(f"unknown {named}; known: {', '.join(sorted(known))}")
        return value

    def _demand(self, holds: bool, where: str, value: Any, words: str) -> None:
        if not holds:
            self._refuse(f"{where} is {value!r}; write it as {words}")

    def _refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self._path}: {what}")


def _number(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and value < math.inf


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and _number(value, low)


def _is_transform(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_whole(v, 1) for v in value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_number(v, 0, 1) for v in value) and value[0] < value[1]


# What the arithmetic needs; how far a client may go is the service's to say.
_SETTINGS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "max_tokens": (lambda v: _whole(v, 1), "a whole number from 1 on"),
    "temperature": (lambda v: _number(v, 0), "a number from 0 on"),
    "top_p": (lambda v: _number(v, 0, 1) and v > 0, "a number above 0, at most 1"),
    "top_k": (lambda v: _whole(v, 0), "a whole number from 0 on"),
    "num_timesteps": (lambda v: _whole(v, 2), "a whole number from 2 on"),
    "cfg_text_scale": (lambda v: _number(v, 0), "a number from 0 on"),
    "cfg_img_scale": (lambda v: _number(v, 0), "a number from 0 on"),
    "cfg_interval": (_is_interval, "[low, high] with 0 <= low < high <= 1"),
    "cfg_renorm_type": (lambda v: v in get_args(RenormType), f"one of {', '.join(get_args(RenormType))}"),
    "cfg_renorm_min": (lambda v: _number(v, 0, 1), "a number from 0 to 1"),
    "timestep_shift": (lambda v: _number(v, 0) and v > 0, "a number above 0"),
    "step_cache": (lambda v: _whole(v, 1) and v <= MOST_CACHED, f"a whole number from 1 to {MOST_CACHED}"),
}
