"""A served model and its public API, as any client has them: measuring has no other way to the model.

with private_server(checkpoint) as url:
    answers = ask(url, [{"prompt": "a red circle", "seed": 1}])
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image as PILImage

from server import child
from training.render import Pixels

Json = dict[str, Any]
Tell = Callable[[str], None]
CONCURRENCY: Final = 8
_READY_S: Final = 120.0
_ANSWER_S: Final = 120.0
_POLL_S: Final = 0.5
_GRACE_S: Final = 20.0
_TELL_EVERY: Final = 100
_SHOWN: Final = 80  # characters of a value in a message
_ENDED: Final = ("succeeded", "failed", "cancelled")


class ServeFailed(RuntimeError):
    """The private server did not come up; it has said why."""


class AskFailed(RuntimeError):
    """A job came to nothing; the message names its request and what the server said."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A finished job, its pictures by trajectory and round, and how long the client waited, in seconds."""

    job: Json
    pictures: tuple[tuple[Pixels, ...], ...]
    wall_s: float


@contextmanager
def private_server(checkpoint: Path) -> Iterator[str]:
    """The address of an `r3 serve` of its own: free ports, an empty data folder, every other setting the default.

    Raises ServeFailed where it does not come up.
    """
    # Short, for a socket's path in it is bounded; and no R3_ variable of the caller's: defaults are what is measured.
    folder = Path(tempfile.mkdtemp(prefix="r3-eval-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    port, worker_port = _free_port(), _free_port()
    command = [sys.executable, "-P", "-m", "server.cli", "serve"]
    options = {"port": port, "worker-port": worker_port, "data-dir": folder, "checkpoint": checkpoint.absolute()}
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    process = child.spawn(command, environment={**environment, "R3_LOG_LEVEL": "warning"})
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _READY_S
        while not _is_ready(url):
            if process.poll() is not None:
                raise ServeFailed(f"r3 serve ended with code {process.returncode}; its message stands above")
            if time.monotonic() > deadline:
                raise ServeFailed(f"r3 serve with {checkpoint} was not ready within {_READY_S:.0f} s")
            time.sleep(_POLL_S)
        yield url
    finally:
        child.stop(process, _GRACE_S)
        shutil.rmtree(folder, ignore_errors=True)


def ask(
    url: str, bodies: Sequence[Json], *, concurrency: int = CONCURRENCY, tell: Tell = lambda _line: None
) -> list[Answer]:
    """The answers of POST /generate to these bodies, in their order, with every picture fetched.

    `tell` is told now and then how far it is. Raises AskFailed for the first job that does not succeed.
    """
    return asyncio.run(_ask(url, bodies, concurrency, tell))


def fetch(url: str, image_ids: Sequence[str], *, concurrency: int = CONCURRENCY) -> dict[str, Pixels]:
    """The pictures of these ids."""
    return asyncio.run(_fetch(url, image_ids, concurrency))


def info(url: str) -> Json:
    """What GET /info says of the default model, and the versions."""
    answer = httpx.get(f"{url}/info", timeout=_ANSWER_S, trust_env=False)
    answer.raise_for_status()
    value = answer.json()
    named = [model for model in value["models"] if model["name"] == value["default_model"]]
    if not named:
        raise AskFailed(f"{url} has no default model; start it with one, or give --checkpoint in place of --url")
    return {**named[0], "versions": value["versions"]}


async def _ask(url: str, bodies: Sequence[Json], concurrency: int, tell: Tell) -> list[Answer]:
    turns = asyncio.Semaphore(concurrency)
    began, done = time.monotonic(), 0

    async def one(body: Json) -> Answer:
        nonlocal done
        async with turns:
            answer = await _answer(http, body)
        done += 1
        if done % _TELL_EVERY == 0 or done == len(bodies):
            tell(f"{done} of {len(bodies)} jobs, {time.monotonic() - began:.0f} s")
        return answer

    async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_S, trust_env=False) as http:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(body)) for body in bodies]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]


async def _fetch(url: str, image_ids: Sequence[str], concurrency: int) -> dict[str, Pixels]:
    turns = asyncio.Semaphore(concurrency)

    async def one(image_id: str) -> Pixels:
        async with turns:
            return await _picture(http, image_id)

    async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_S, trust_env=False) as http:
        pictures = await asyncio.gather(*map(one, image_ids))
    return dict(zip(image_ids, pictures, strict=True))


async def _answer(http: httpx.AsyncClient, body: Json) -> Answer:
    began = time.perf_counter()
    response = await http.post("/generate", json=body)
    while response.status_code == httpx.codes.ACCEPTED or _is_unfinished(response):
        await asyncio.sleep(_POLL_S)
        response = await http.get(f"/jobs/{response.json()['id']}")
    wall_s = time.perf_counter() - began
    job = response.json()
    if response.status_code != httpx.codes.OK or job["status"] != "succeeded":
        said = job.get("detail") or job.get("error")
        asked = ", ".join(f"{name} {str(value)[:_SHOWN]!r}" for name, value in body.items())
        raise AskFailed(f"a job of {asked} came to nothing ({response.status_code}): {said}")
    pictures = [
        tuple([await _picture(http, round_["image"]["id"]) for round_ in trajectory["rounds"]])
        for trajectory in job["trajectories"]
    ]
    return Answer(job, tuple(pictures), wall_s)


def _is_unfinished(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.OK and response.json()["status"] not in _ENDED


async def _picture(http: httpx.AsyncClient, image_id: str) -> Pixels:
    response = await http.get(f"/images/{image_id}")
    response.raise_for_status()
    with PILImage.open(io.BytesIO(response.content)) as picture:
        return np.array(picture.convert("RGB"))


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz?workers=1", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
