"""How `r3 batch` comes to a folder and a server: what is asked is judged first, then the model noted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from r3client import AsyncClient
from r3client.connection import Connection as ClientConnection
from server.misconfigured import Misconfigured
from server.own_server import own_server
from server.preflight import load_connection
from server.research.batch import AGAIN, Batch, finish, left, run_batch
from server.research.batch_view import BatchView
from server.research.folder import BatchFolder, opened
from server.research.prompts import Line, read_prompts

Json = dict[str, Any]
PATIENCE_S: Final = 600.0  # a server that is restarted, or busy with others' jobs
_LOOK_S: Final = 5.0
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
        if (model := _model(_info(address, key), common)) is not None:
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
    if not where.options and _is_ours(connection.address, key):
        on.print(f"asking the server at {connection.address}", markup=False)
        yield connection.address, key
        return
    on.print("starting a server for this run", markup=False)
    with own_server(folder.path / _OWN, where.options) as address:
        yield address, None


def _is_ours(address: str, key: str | None) -> bool:
    """Whether an R3 server answers there, one that wants another key among them."""
    try:
        answer = _get(address, key)
        return "models" in answer.json() or "request_id" in answer.json()
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def _info(address: str, key: str | None) -> Json:
    """What the server says of itself. Raises Misconfigured."""
    try:
        answer = _get(address, key)
        value = answer.json()
    except httpx.HTTPError as error:
        told = f"no answer from {address} ({str(error) or type(error).__name__})"
        raise Misconfigured(f"{told}; is the server running? name another with --url/R3_URL") from error
    except ValueError:
        value = None
    if not isinstance(value, dict) or not ("models" in value or "request_id" in value):
        raise Misconfigured(f"what answers at {address} is no R3 server; name it with --url/R3_URL")
    if answer.status_code in (401, 403):
        raise Misconfigured(f"{value.get('detail', 'a key is asked for')}; give a key with --key/R3_API_KEY")
    return value


def _get(address: str, key: str | None) -> httpx.Response:
    with httpx.Client(**ClientConnection.of(address, key, _LOOK_S).options()) as http:
        return http.get("/info")


def _model(info: Json, common: Mapping[str, Any]) -> Json | None:
    """Name and hash of the model that answers; None where the server does not know it yet."""
    models = {model["name"]: model for model in info.get("models", ())}
    name = common.get("model") or info.get("default_model") or (next(iter(models)) if len(models) == 1 else None)
    return {"name": name, "hash": models[name]["hash"]} if name in models else None
