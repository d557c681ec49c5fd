"""The server whose whole way is measured: one of our own for as long as it lasts, or one that runs already."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from r3client.connection import Connection
from r3core import malloc
from server.misconfigured import Misconfigured
from server.own_server import own_server
from server.sizes import parse_size

_TIMEOUT_S: Final = 120.0
_PROMPT: Final = "a photo of three red apples on a wooden table"


@dataclass(frozen=True)
class Place:
    """A server that answers, and what it serves. `is_ours`: on this machine, with nobody else's jobs."""

    address: str
    key: str | None
    model: Mapping[str, Any]
    is_ours: bool

    @property
    def prompts(self) -> list[str]:
        """What the model says that it is good at, or anything."""
        return list(self.model["example_prompts"]) or [_PROMPT]

    @property
    def side(self) -> int:
        """The width of its pictures unless another is asked for."""
        return parse_size(self.model["sizes"]["default"])[0]

    def http(self) -> httpx.AsyncClient:
        """A client of it, for as many streams as are wanted."""
        options = Connection.of(self.address, self.key, _TIMEOUT_S).options()
        return httpx.AsyncClient(**options)


@contextmanager
def own_place(options: Mapping[str, str]) -> Iterator[Place]:
    """A server with these options of `r3 serve`, whose queue and pictures are gone with it. Raises Misconfigured."""
    # An engine in this process is measured beside its worker: both are to have the same malloc. Where ours is the one
    # that `r3 serve` gives a worker by itself, it does so, and queue and API go without.
    preloaded = os.environ.get(malloc.VARIABLE, "")
    variables = {malloc.VARIABLE: None if preloaded and preloaded == malloc.quicker() else preloaded}
    with (
        tempfile.TemporaryDirectory(prefix="r3-bench-") as folder,
        own_server(Path(folder), options, variables) as address,
    ):
        yield place_at(address, None, is_ours=True)


def place_at(address: str, key: str | None, *, is_ours: bool = False) -> Place:
    """The server there. Raises Misconfigured where none answers, or none that has a model and lets us in."""
    try:
        with httpx.Client(**Connection.of(address, key, 10.0).options()) as http:
            answer = http.get("/info")
            value = answer.json()
    except httpx.HTTPError as error:
        told = f"no answer from {address} ({str(error) or type(error).__name__})"
        raise Misconfigured(f"{told}; is the server running? name another with --url, or leave it out") from error
    except ValueError as error:
        raise Misconfigured(f"what answers at {address} is no R3 server; name it with --url") from error
    if answer.status_code in (401, 403):
        raise Misconfigured(f"{value.get('detail', 'a key is asked for')}; give one with --key/R3_API_KEY")
    models = {model["name"]: model for model in value.get("models", ())}
    name = value.get("default_model") or next(iter(models), None)
    if name not in models:
        raise Misconfigured(f"the server at {address} serves no model yet; wait for its worker, and ask again")
    return Place(address, key, models[name], is_ours)
