"""What `r3 score` does: have pictures scored against a prompt by a running server, and print a table.

Exit codes: 0 every picture has its scores; 1 some have none, and are named, or the server refused it all; 2 the server
cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from r3client import Client, GenerationCancelled, GenerationFailed, NoAnswer, Refused, UnexpectedAnswer
from r3client.models import Score
from server.misconfigured import Misconfigured
from server.tables import plain, table

EXIT_FAILED: Final = 1
AT_ONCE: Final = 16
AT_ONCE_BYTES: Final = 20_000_000  # base64 makes a third more of it, and a body may have 32 MiB
LEAST_SHOWN: Final = 2


@dataclass
class Scores:
    """What came of each picture: its scores, or why there are none."""

    files: Sequence[Path]
    found: dict[Path, list[Score]] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


def run_score(client: Client, prompt: str, files: Sequence[Path], settings: Mapping[str, Any], *, as_json: bool) -> int:
    """Score, print; the exit code. Raises Misconfigured where nothing of ours answers."""
    scores = Scores(files)
    with client:
        try:
            for some in _batches(files, scores):
                _score(client, prompt, some, settings, scores)
        except (NoAnswer, UnexpectedAnswer) as error:
            raise Misconfigured(f"{error}; name the server with --url/R3_URL") from error
        except Refused as error:
            remedy = "; give a key with --key/R3_API_KEY" if error.status in (401, 403) else ""
            typer.echo(f"r3: {plain(error.detail or str(error))}{remedy}", err=True)
            return EXIT_FAILED
    if as_json or scores.found:
        typer.echo(json.dumps(_as_json(prompt, scores)) if as_json else _as_table(scores))
    for file, why in scores.failed.items():
        typer.echo(f"r3: {plain(str(file))} was left out: {plain(why)}", err=True)
    return EXIT_FAILED if scores.failed else 0


def _batches(files: Sequence[Path], scores: Scores) -> Iterator[dict[Path, bytes]]:
    """The pictures' bytes, as many as one request takes; what cannot be read is left out."""
    some: dict[Path, bytes] = {}
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            scores.failed[file] = f"it cannot be read ({error.strerror})"
            continue
        if some and (len(some) == AT_ONCE or sum(map(len, some.values())) + len(content) > AT_ONCE_BYTES):
            yield some
            some = {}
        some[file] = content
    if some:
        yield some


def _score(
    client: Client, prompt: str, some: Mapping[Path, bytes], settings: Mapping[str, Any], scores: Scores
) -> None:
    """Score these; those that the server cannot take are left out, and the others are sent again, in two parts where
    it is too much at once. A job that fails leaves out its own.
    """
    left = dict(some)
    while left:
        try:
            result = client.score(prompt, list(left.values()), **settings)
        except Refused as error:
            if error.status == 413 and len(left) > 1:
                pairs = list(left.items())
                for half in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
                    _score(client, prompt, dict(half), settings, scores)
                return
            wrong = _pictures_of(error, list(left))
            if not wrong:
                raise
            scores.failed |= wrong
            left = {file: content for file, content in left.items() if file not in wrong}
        except (GenerationFailed, GenerationCancelled) as error:
            scores.failed |= dict.fromkeys(left, str(error))
            return
        else:
            for file, one in zip(left, result.images, strict=True):
                if len(one.scores) == len(settings["scorers"]):
                    scores.found[file] = one.scores
                else:
                    scores.failed[file] = "its job was stopped before it was scored"
            return


def _pictures_of(error: Refused, files: Sequence[Path]) -> dict[Path, str]:
    """The pictures that were refused, each with its reason; none where it is about something else."""
    if error.status == 413 and len(files) == 1:
        return {files[0]: error.detail or str(error)}
    places = {f"/images/{index}": file for index, file in enumerate(files)}
    if any(fault.pointer not in places for fault in error.errors):
        return {}
    return {places[fault.pointer]: fault.detail for fault in error.errors}


def _as_json(prompt: str, scores: Scores) -> dict[str, Any]:
    pictures = [
        {"file": str(file), "scores": [score.model_dump(exclude_unset=True) for score in scores.found[file]]}
        for file in scores.files
        if file in scores.found
    ]
    failed = [{"file": str(file), "error": why} for file, why in scores.failed.items()]
    return {"prompt": prompt, "pictures": pictures, "failed": failed}


def _as_table(scores: Scores) -> str:
    found = {file: scores.found[file] for file in scores.files if file in scores.found}
    names = [score.scorer for score in next(iter(found.values()), [])]
    has_words = any(score.words for said in found.values() for score in said)
    headings = ("PICTURE", *(name.upper() for name in names), *(("LEAST SHOWN",) if has_words else ()))
    rows = [
        (str(file), *(_number(score.value) for score in said), *((_least(said),) if has_words else ()))
        for file, said in found.items()
    ]
    return table(headings, rows, right={name.upper() for name in names})


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _least(said: Sequence[Score]) -> str:
    """The words that the picture shows least."""
    words = next((score.words for score in said if score.words), [])
    return ", ".join(word.text for word in sorted(words, key=lambda word: word.lift)[:LEAST_SHOWN])
