"""A fault of a request as the client is told it: a JSON pointer, and a sentence with the value and what to do.

`ApiError` carries them to where they are answered (errors.py), or printed (`r3 generate`): no web framework here.

Texts of people (prompts, instructions) are never repeated in an answer or a log: their length is.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

MAX_FAULTS: Final = 100
_MAX_VALUE_CHARS: Final = 60
_MAX_POINTER_CHARS: Final = 200
_SENTENCE_OF: Final = {
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
_TEXTS_OF_PEOPLE: Final = ("prompt", "instruction", "question", "image", "images")
_PREFIXES: Final = ("Input should ", "String should ", "List should ", "Dictionary should ", "Data should ")


class Fault(NamedTuple):
    """One thing that is wrong with a request; an empty pointer is the whole body."""

    pointer: str
    detail: str


@dataclass
class ApiError(Exception):
    """An answer that is not what the client hoped for. `detail` says what was wrong, with the value, and what to do."""

    code: str
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def pointer_to(place: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a place in the body."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in place)
    pointer = "".join(f"/{part}" for part in parts)
    return pointer if len(pointer) <= _MAX_POINTER_CHARS else pointer[:_MAX_POINTER_CHARS] + "…"


def faults_of_pydantic(errors: Iterable[Any], skip: int = 0, known: Collection[str] = ()) -> list[Fault]:
    """Pydantic's errors in our words; the first `skip` parts of each place are left out, `known` names the fields."""
    faults = [_fault(error, skip, known) for error in errors]
    if len(faults) > MAX_FAULTS:
        left_out = len(faults) - MAX_FAULTS
        faults = [*faults[:MAX_FAULTS], Fault("", f"{left_out} further faults are not listed")]
    return faults


def shown(value: Any) -> str:
    """A value as an error may show it: short, and a long text by its length only."""
    if isinstance(value, str):
        return _shown_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if isinstance(value, dict):
        return f"an object with {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if len(value) > 4 else f"[{', '.join(shown(v) for v in value)}]"
    return json.dumps(value, default=repr)


def _shown_text(text: str) -> str:
    return json.dumps(text) if len(text) <= _MAX_VALUE_CHARS else f"a text of {len(text):,} characters"


def _fault(error: Any, skip: int, known: Collection[str]) -> Fault:
    place = [part for part in error["loc"][skip:] if part != "[key]"]
    return Fault(pointer_to(place), _sentence(error, place, known))


def _sentence(error: Any, place: Sequence[str | int], known: Collection[str]) -> str:
    kind, value = error["type"], error.get("input")
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return f"is not a known field{_guess(str(place[-1]), known)}; remove it"
    if kind == "string_unicode":
        return "holds a lone surrogate, which is no character; send valid Unicode"
    message = str(error["msg"]).removeprefix("Value error, ")
    if kind in _SENTENCE_OF:
        message = _SENTENCE_OF[kind].format_map(error.get("ctx", {}))
    for prefix in _PREFIXES:
        if message.startswith(prefix):
            message = "must " + message.removeprefix(prefix)
    return f"{message}; it is {_shown_at(place, value)}"


def _shown_at(place: Sequence[str | int], value: Any) -> str:
    """Prompts, pictures and what may hold a secret by their size alone."""
    if place and (place[0] in _TEXTS_OF_PEOPLE or tuple(place) == ("webhook", "url")):
        if isinstance(value, str):
            return f"a text of {len(value):,} characters"
        if isinstance(value, list):
            return f"a list of {len(value)}"
    return shown(value)


def _guess(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
