"""What was measured so far: told as it comes, kept in a file where one is named, shown as tables or JSON at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from r3core.bench.line import Line
from server.bench.shown import about, tables, told
from server.misconfigured import Misconfigured

if TYPE_CHECKING:
    from r3core.bench.results import Results

Json = dict[str, Any]


class Kept:
    """See above. Without an engine (`begun`) there is nothing to keep but lines. Raises Misconfigured for a file that
    cannot be written, before anything is measured.
    """

    def __init__(self, command: str, path: Path | None, out: TextIO) -> None:
        if path is not None:
            _check(path)
        self._command, self._path, self._out = command, path, out
        self._results: Results | None = None
        self._lines: list[Line] = []
        self._notes: list[str] = []

    @property
    def has_figures(self) -> bool:
        """Whether anything was measured."""
        return bool(self._lines)

    def begun(self, results: Results) -> None:
        """Which engine is measured, on which machine."""
        self._results = results
        self.add(results.lines)

    def add(self, lines: Iterable[Line]) -> None:
        """Keep figures, and tell them as they come; a part that was measured to its end goes to the file."""
        for line in lines:
            self._lines.append(line)
            ceiling = None if self._results is None else self._results.ceiling
            self._print(told(line, ceiling))
        self.write()

    def say(self, text: str) -> None:
        """Tell what is no figure."""
        sys.stderr.write(f"r3: {text}\n")

    def note(self, text: str) -> None:
        """Tell it, and keep it with the figures."""
        self._notes.append(text)
        self.say(text)

    def write(self) -> None:
        """Into the file, where one is named."""
        if self._path is not None and (results := self._so_far()) is not None:
            results.write(self._path)

    def show(self, *, as_json: bool) -> None:
        """All of it once more, in order."""
        self.write()
        results = self._so_far()
        if as_json:
            plain: Json = {"command": self._command, "lines": [asdict(line) for line in self._lines]}
            value = {**plain, "notes": self._notes} if results is None else results.to_json()
            sys.stdout.write(json.dumps(value, indent=1) + "\n")
            return
        if results is not None:
            self._print(f"\n{about(results)}")
        self._print(f"\n{tables(self._lines, None if results is None else results.ceiling)}")

    def _print(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def _so_far(self) -> Results | None:
        if self._results is None:
            return None
        return replace(self._results, lines=tuple(self._lines), notes=(*self._results.notes, *self._notes))


def _check(path: Path) -> None:
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Misconfigured(f"--results {path} cannot be written; name a file in a folder that is there")
