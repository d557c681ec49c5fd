"""What `r3 roundtrip` does: a round trip of every picture of a folder on a running server, some at a time.

What is there already is not done again. Exit codes: 0 every picture has come round; 1 some have not, and are named; 2
the server cannot be reached, or the folder cannot be written; 130 it was left with Ctrl-C, and can be gone on with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from r3client import (
    AsyncClient,
    GenerationCancelled,
    GenerationFailed,
    ImageDamaged,
    NoAnswer,
    Refused,
    UnexpectedAnswer,
)
from server.misconfigured import Misconfigured
from server.roundtrip_folder import Json, RoundtripFolder
from server.similarity_table import shown, summary
from server.tables import plain

EXIT_FAILED: Final = 1
EXIT_LEFT: Final = 130
AGAIN: Final = "run the same command again to go on"


@dataclass
class Roundtrips:
    """A run over some pictures: what came of each, or why nothing did."""

    client: AsyncClient
    folder: RoundtripFolder
    files: Sequence[Path]
    settings: Mapping[str, Any]
    at_once: int
    bar: Progress
    done: dict[Path, Json] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Do all that is missing. Raises Misconfigured where none of it can be had."""
        try:
            async with self.client:
                line, task = iter(self.files), self.bar.add_task("", total=len(self.files))
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.at_once, len(self.files))):
                        group.create_task(self._work(line, task))
        except BaseExceptionGroup as errors:
            raise _told(errors.exceptions[0]) from errors
        except (NoAnswer, UnexpectedAnswer, Refused) as error:
            raise _told(error) from error

    async def _work(self, line: Iterator[Path], task: Any) -> None:
        for file in line:
            try:
                self.done[file] = await self._one(file)
            except _Nothing as nothing:
                self.failed[file] = str(nothing)
            self.bar.advance(task)

    async def _one(self, file: Path) -> Json:
        """What came of a picture, now or earlier. Raises _Nothing, and what is wrong with all of them."""
        try:
            content = await asyncio.to_thread(file.read_bytes)
        except OSError as error:
            raise _Nothing(f"it cannot be read ({error.strerror})") from error
        if (earlier := await asyncio.to_thread(self.folder.done, file, content)) is not None:
            return earlier
        key = self.folder.key(file, content)
        try:
            result = await self.client.roundtrip(content, idempotency_key=key, **self.settings)
        except ImageDamaged as error:
            raise _Nothing(str(error)) from error
        except (GenerationFailed, GenerationCancelled) as error:
            await asyncio.to_thread(self.folder.keep_failure, file, str(error))
            raise _Nothing(str(error)) from error
        except Refused as error:
            if [fault.pointer for fault in error.errors] != ["/image"] and error.status != 413:
                raise
            why = error.errors[0].detail if error.errors else error.detail
            raise _Nothing(why or str(error)) from error
        if result.reconstruction is None or result.similarities is None:
            why = "its job was stopped before it had come round; run the same command again for another"
            await asyncio.to_thread(self.folder.keep_failure, file, why)
            raise _Nothing(why)
        return await asyncio.to_thread(self.folder.keep, file, content, result)


class _Nothing(Exception):
    """Nothing came of one picture; the message says why."""


def run_roundtrips(
    client: AsyncClient,
    folder: RoundtripFolder,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    at_once: int,
    *,
    as_json: bool,
) -> int:
    """Do, print; the exit code. Raises Misconfigured."""
    on = Console(stderr=True, highlight=False, quiet=as_json)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=on,
        disable=not on.is_terminal,
    )
    run = Roundtrips(client, folder, files, settings, at_once, bar)
    try:
        with bar:
            asyncio.run(run.run())
    except RefusedAll as error:
        typer.echo(f"r3: {plain(str(error))}", err=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        left = f"left with {folder.kept(files)} of {len(files)} pictures in {folder.path}; {AGAIN}"
        on.print(left, markup=False, soft_wrap=True)
        return EXIT_LEFT
    except OSError as error:
        told = f"{error.filename or folder.path} cannot be written ({error.strerror})"
        raise Misconfigured(f"{told}; make room or mend it, and {AGAIN}") from error
    return _print(run, as_json=as_json)


def _print(run: Roundtrips, *, as_json: bool) -> int:
    done = [run.done[file] for file in run.files if file in run.done]
    means = summary([one["similarities"] for one in done])
    run.folder.keep_summary(means)
    if as_json:
        failed = [{"file": file.name, "error": why} for file, why in run.failed.items()]
        typer.echo(json.dumps({**means, "results": done, "failed": failed}))
    elif done:
        typer.echo(shown(means))
    for file, why in run.failed.items():
        typer.echo(f"r3: {plain(str(file))} was left out: {plain(why)}", err=True)
    return EXIT_FAILED if run.failed else 0


def _told(error: BaseException) -> BaseException:
    """What ends the whole run, in a line."""
    if isinstance(error, NoAnswer | UnexpectedAnswer):
        return Misconfigured(f"{error}; {AGAIN}, or name the server with --url/R3_URL")
    if isinstance(error, Refused):
        remedy = "; give a key with --key/R3_API_KEY" if error.status in (401, 403) else ""
        return RefusedAll(f"{error.detail or error}{remedy}")
    return error


class RefusedAll(Exception):
    """The server refuses what would be asked of every picture."""
