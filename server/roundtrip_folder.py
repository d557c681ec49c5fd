"""The folder that `r3 roundtrip` writes into, so that it can be left and gone on with.

    run.json                 settings and model, which must be the same when it goes on
    cat.png.json             what came of cat.png: its description and how alike the pictures are
    cat.png.roundtrip.png    the picture of that description
    cat.png.failed.json      why nothing did; gone when it does
    summary.json             the means over all pictures

A picture's JSON is written last, and only whole: what is there is done. One that has changed since is done again.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r3client import RoundtripResult
from server.asked_server import refuse_other_model
from server.folder_lock import made_in
from server.misconfigured import Misconfigured

Json = dict[str, Any]


class RoundtripFolder:
    """See above. Raises OSError where something cannot be written."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self._settings = path, dict(settings)
        self._id = ""

    def open(self, model: Json | None) -> None:
        """Begin a run, or go on with the one that is in it, by the same model. Raises Misconfigured."""
        asked = {"settings": self._settings, **({} if model is None else {"model": model})}
        try:
            run = self._read("run.json")
            if run is None or (not _says(run, asked) and self._is_bare()):
                run = {"id": uuid.uuid4().hex, **asked}
            if run.get("settings") != self._settings or not isinstance(run.get("id"), str):
                raise Misconfigured(
                    f"--out {self.path} holds a run of other settings, {json.dumps(run.get('settings'))}; "
                    "give the same, or name another folder"
                )
            if model is not None:
                refuse_other_model(run.setdefault("model", model), model, self.path)
            self._write("run.json", run)
        except OSError as error:
            raise Misconfigured(
                f"--out {self.path} cannot be written ({error.strerror}); name another folder, or mend its permissions"
            ) from error
        self._id = run["id"]

    def _is_bare(self) -> bool:
        """Whether nothing has come of the run: settings that were refused bind nobody."""
        return set(made_in(self.path)) <= {"run.json", "summary.json"}

    def done(self, picture: Path, content: bytes) -> Json | None:
        """What came of that picture in an earlier run, None where it is to be done."""
        found = self._read(f"{picture.name}.json")
        drawn = self.path / f"{picture.name}.roundtrip.png"
        return found if found is not None and found.get("sha256") == _digest(content) and drawn.exists() else None

    def key(self, picture: Path, content: bytes) -> str:
        """The idempotency key of a try: a run that goes on finds the job of one that was left, not one that failed."""
        failed = self._read(f"{picture.name}.failed.json") or {}
        return f"roundtrip {self._id} {_digest(content)} {failed.get('tries', 0)}"

    def keep(self, picture: Path, content: bytes, result: RoundtripResult) -> Json:
        """Write what came of a picture; the same as plain JSON."""
        assert result.reconstruction is not None
        told = {
            "file": picture.name,
            "sha256": _digest(content),
            "description": result.description,
            "similarities": result.similarities,
        }
        drawn = self.path / f"{picture.name}.roundtrip.png"
        part = drawn.with_name(f"{drawn.name}.part")
        result.reconstruction.save(part)
        part.replace(drawn)
        self._write(f"{picture.name}.json", told)
        (self.path / f"{picture.name}.failed.json").unlink(missing_ok=True)
        return told

    def kept(self, pictures: Sequence[Path]) -> int:
        """How many of these have come round."""
        return sum((self.path / f"{picture.name}.json").exists() for picture in pictures)

    def keep_failure(self, picture: Path, why: str) -> None:
        """Write that nothing came of it."""
        name = f"{picture.name}.failed.json"
        tries = (self._read(name) or {}).get("tries", 0)
        self._write(name, {"file": picture.name, "error": why, "tries": tries + 1})

    def keep_summary(self, summary: Json) -> None:
        """Write the means."""
        self._write("summary.json", summary)

    def _read(self, name: str) -> Json | None:
        """What a file says; None where it is not there, or says nothing that we wrote."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _write(self, name: str, value: Json) -> None:
        part = self.path / f"{name}.part"
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        part.replace(self.path / name)


def _says(run: Json, asked: Json) -> bool:
    return all(run.get(name, value) == value for name, value in asked.items())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
