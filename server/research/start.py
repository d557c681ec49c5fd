"""How `r3 batch` comes to a folder and a server: what is asked is judged first, then the model noted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from r3client import AsyncClient
from server.asked_server import is_ours, model_at
from server.misconfigured import Misconfigured
from server.own_server import own_server
from server.preflight import load_connection
from server.research.batch import AGAIN, Batch, finish, left, run_batch
from server.research.batch_view import BatchView
from server.research.folder import BatchFolder, opened
from server.research.prompts import Line, read_prompts

PATIENCE_S: Final = 600.0  # a server that is restarted, or busy with others' jobs
_OWN: Final = ".server"


@dataclass(frozen=True)
class Where:
    """Which server is asked: one that is named, or one of our own with these options of `r3 serve`."""

    url: str | None
    key: str | None
    options: Mapping[str, str]


def start(
    prompts: Path,
    out: Path,
    common: Mapping[str, Any],
    where: Where,
    limit: int | None,
    concurrency: int,
    on: Console,
) -> int:
    """Run the prompts into the folder; the exit code. Raises Misconfigured."""
    lines = read_prompts(prompts, common)[:limit]
    with opened(out, {"settings": common}) as folder:
        try:
            failed = _run(folder, lines, common, where, concurrency, on)
            shutil.rmtree(folder.path / _OWN, ignore_errors=True)
            return finish(folder, lines, failed, on)
        except KeyboardInterrupt:
            return left(folder, lines, on)
        except OSError as error:
            told = f"{error.filename or folder.path} cannot be written or read ({error.strerror or error})"
            raise Misconfigured(f"{told}; make room or mend it, and {AGAIN}") from error


def _run(
    folder: BatchFolder,
    lines: Sequence[Line],
    common: Mapping[str, Any],
    where: Where,
    concurrency: int,
    on: Console,
) -> Mapping[int, str]:
    """Ask for what is missing; why some of it is missing still, by number."""
    done = sum(folder.has(line) for line in lines)
    if done == len(lines):
        on.print("every prompt is there already")
        return {}
    with _served(where, folder, on) as (address, key):
        if (model := model_at(address, key, common.get("model"))) is not None:
            folder.same_model(model)
        client = AsyncClient(address, key, patience_s=PATIENCE_S)
        batch = Batch(client, folder, lines, common, concurrency, BatchView(on, len(lines), done))
        run_batch(batch)
        return batch.failed


@contextmanager
def _served(where: Where, folder: BatchFolder, on: Console) -> Iterator[tuple[str, str | None]]:
    """The address of the server that is asked, and the key that is shown to it."""
    given = {name: value for name, value in (("url", where.url), ("key", where.key)) if value is not None}
    connection = load_connection(given)
    shown = connection.key if where.key is not None else connection.api_key or connection.key
    key = None if shown is None else shown.get_secret_value()
    if connection.url is not None and not where.options:
        yield connection.address, key
        return
    if not where.options and is_ours(connection.address, key):
        on.print(f"asking the server at {connection.address}", markup=False)
        yield connection.address, key
        return
    on.print("starting a server for this run", markup=False)
    with own_server(folder.path / _OWN, where.options) as address:
        yield address, None
