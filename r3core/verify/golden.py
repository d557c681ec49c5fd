"""A set of recorded numbers: golden.json and golden.safetensors, and scores in judge.json where there is one, with an
account of what has been used of them.

A replay must miss nothing, so everything here remembers that it was read: whatever is left at the end, and is not
known to be informational, fails by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from r3core.checkpoint import Transform
from r3core.errors import CheckpointError
from r3core.headers import read_json
from r3core.prompts import PromptStrings

# The reference's notes on itself, its defects, and BAGEL's own inferencer: for reading, never a target.
_INFORMATIONAL: Final = re.compile(
    r"^(self_agreement|inf|bf16\w*|loop\.all_static)(\.|$)"
    r"|(^|\.)(STATIC_|naive_vs_static|batched_vs_single|inferencer|notes?$)"
    r"|_std$|margin"
)


def is_informational(name: str) -> bool:
    """Whether a recorded name is one that no replay judges."""
    return _INFORMATIONAL.search(name) is not None


class Missing(KeyError):
    """Something that a case needs is not in the set; the message names it."""

    def __str__(self) -> str:
        return str(self.args[0])


class Record(Mapping[str, Any]):
    """A JSON object that knows its name in the set and which of its fields were read."""

    def __init__(self, name: str, value: Mapping[str, Any], file: str = "golden.json") -> None:
        self.name = name
        self._value, self._file = value, file
        self._read: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._value:
            raise Missing(f"{_path(self.name, key)} is not in {self._file}")
        if key not in self._read:
            self._read[key] = _wrapped(_path(self.name, key), self._value[key], self._file)
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __contains__(self, key: object) -> bool:
        return key in self._value

    def plain(self) -> Any:
        """The whole object as plain JSON, all of it read."""
        for key in self._value:
            self.read(key)
        return self._value

    def read(self, key: str) -> None:
        """Count a field, and all that is in it, as read."""
        value = self[key]
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Record):
                inner.plain()

    def unread(self) -> Iterator[str]:
        """Names of the fields that nothing has read, and that are not informational."""
        for key in self._value:
            name = _path(self.name, key)
            if is_informational(key) or is_informational(name):
                continue
            if key not in self._read:
                yield name
            else:
                yield from _unread(self._read[key])


class GoldenSet:
    """One folder of recorded numbers."""

    def __init__(self, folder: Path) -> None:
        path = folder / "golden.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no golden.json; name a folder with golden.json and golden.safetensors")
        self.root = Record("", read_json(path))
        try:
            self._tensors: dict[str, Tensor] = load_file(folder / "golden.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / 'golden.safetensors'} cannot be read: {error}") from error
        scores = folder / "judge.json"
        self.scores = Record("judge", read_json(scores), scores.name) if scores.is_file() else None
        self._used: set[str] = set()
        self.excused: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Tensor:
        """A recorded tensor, which counts as used from now on."""
        if name not in self._tensors:
            raise Missing(f"{name} is not in golden.safetensors")
        self._used.add(name)
        return self._tensors[name]

    def form(self, name: str) -> tuple[str, list[int]] | None:
        """Dtype word and shape of a tensor, without using it; None where there is none."""
        if name not in self._tensors:
            return None
        tensor = self._tensors[name]
        return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)

    def names(self, pattern: str) -> list[re.Match[str]]:
        """The recorded names that a pattern matches as a whole, in alphabetical order."""
        return [m for name in sorted(self._tensors) if (m := re.fullmatch(pattern, name))]

    def excuse(self, name: str) -> None:
        """Say that nothing compares a tensor for a good reason: it is of a round after a loop's stop."""
        if name in self._tensors:
            self._used.add(name)
            self.excused.append(name)

    def unused(self) -> list[str]:
        """The tensors that nothing has used, informational ones included."""
        return sorted(set(self._tensors) - self._used)

    def transforms(self) -> dict[str, Transform]:
        """The set's picture transforms, (long edge, short edge, stride) by name."""
        return {name: (value[0], value[1], value[2]) for name, value in self.root["transforms"].items()}

    def prompt_strings(self) -> PromptStrings:
        """The strings that stood around the recorded prompts."""
        strings = self.root["prompt_strings"]
        recorded = PromptStrings(
            generate_system=strings["GEN_THINK_SYSTEM_PROMPT"],
            reflect_system=strings["VLM_THINK_SYSTEM_PROMPT"],
            reflect_template=strings["REFLECTION_TEMPLATE"],
        )
        if self.scores is None:
            return recorded
        return replace(
            recorded, describe_question=self.scores["question"], yes_no_template=self.scores["yes_no_question"]
        )

    def cases(self, kind: str) -> list[Record]:
        """The cases of a kind, named by their tag where they have one; none where the set has no such kind.

        Raises Missing where there is something else of that name.
        """
        if kind not in self.root:
            return []
        records: Any = self.root[kind]
        if not isinstance(records, list) or not all(isinstance(record, Record) for record in records):
            raise Missing(f"{kind} is not a list of cases")
        for record in records:
            if "tag" in record:
                record.name = record["tag"]
        return list(records)


def _path(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _wrapped(name: str, value: Any, file: str) -> Any:
    if isinstance(value, dict):
        return Record(name, value, file)
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return [Record(f"{name}[{i}]", v, file) for i, v in enumerate(value)]
    return value


def _unread(value: Any) -> Iterator[str]:
    for inner in value if isinstance(value, list) else [value]:
        if isinstance(inner, Record):
            yield from inner.unread()


def dumped(value: Any) -> str:
    """A recorded value in a few characters, for a note."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
