"""`--set NAME=VALUE`: any setting of POST /generate, for commands that ask a running server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Final

import typer

from server.misconfigured import Misconfigured

Json = dict[str, Any]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting of POST /generate, such as judge.scorers=lift,vqa or candidates.first=4; "
        "may be given several times",
    ),
]
CLIENTS_OWN: Final = dict.fromkeys(
    ("stream", "cancel_on_disconnect", "response_format"), "the client waits for jobs and fetches pictures itself"
)
_ALIKE: Final = 0.85


def add_settings(given: Json, entries: Sequence[str], refused: Mapping[str, str]) -> None:
    """Put each NAME=VALUE in its place beside what other options gave. Raises Misconfigured."""
    others = frozenset(given)
    for entry in entries:
        name, mark, text = characters("--set", entry).partition("=")
        first, *_ = path = name.split(".")
        if not mark:
            raise Misconfigured(f"--set {entry} has no value; write it as NAME=VALUE")
        if first in others:
            raise Misconfigured(f"--set {name} says what another option says already; leave out one")
        if first == "prompt" or list(strange_names([first], f"--set {name}", refused)):
            raise Misconfigured(f"--set {name} is no setting of POST /generate; docs/api.md and openapi.yaml list them")
        _put(given, name, path, _read(name, text))


def strange_names(names: Sequence[str], where: str, refused: Mapping[str, str]) -> Iterator[str]:
    """The names that are no settings. Raises Misconfigured for one that is meant to be, or is refused; `refused` says
    why.
    """
    from r3client.settings import Generation

    for name in names:
        if name in refused:
            raise Misconfigured(f"{where}: {name} cannot be set, for {refused[name]}; leave it out")
        if name in Generation.__annotations__:
            continue
        if meant := get_close_matches(name, Generation.__annotations__, 1, _ALIKE):
            raise Misconfigured(f"{where}: {name} is no setting; write {meant[0]}, or give yours another name")
        yield name


def _put(into: Json, name: str, path: Sequence[str], value: Any) -> None:
    *outer, last = path
    for part in outer:
        into = into.setdefault(part, {})
        if not isinstance(into, dict):
            raise Misconfigured(f"--set {name} is inside of what another --set gave a value of its own; leave out one")
    into[last] = value


def _read(name: str, text: str) -> Any:
    if name == "judge.scorers" and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        return json.loads(text, parse_constant=finite, parse_float=finite)
    except ValueError:
        return text


def finite(text: str) -> float:
    """A number that JSON can hold. Raises ValueError."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON's")
    return number


def characters(name: str, text: str) -> str:
    """The text, if it can be sent: what a terminal gave that is not UTF-8 holds halves of characters. Raises
    Misconfigured.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misconfigured(
            f"{name} holds a lone surrogate, which is no character ({error.reason} at {error.start}); write it as UTF-8"
        ) from error
    return text
