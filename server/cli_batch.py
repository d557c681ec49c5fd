"""`r3 batch`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli_options import Base, Checkpoint, Device, Dtype
from server.misconfigured import Misconfigured


def batch(
    prompts: Annotated[
        Path, typer.Argument(help="A JSON object a line, with a prompt and whatever else of it", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for all that comes of them; an earlier run there is gone on with")],
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Edits that may follow the first picture, 0-8")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of every prompt that has none of its own [0]")] = None,
    n: Annotated[int | None, typer.Option("--n", metavar="N", help="Independent tries of each, 1-4 [1]")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height [the checkpoint's]")] = None,
    model: Annotated[str | None, typer.Option(help="Where the server has several")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of POST /generate, such as judge.scorers=lift,vqa or candidates.first=4; "
            "may be given several times",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many prompts", min=1)] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Jobs at a time", min=1, max=256)] = 16,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The server [R3_URL; the one on this machine; one for this run]")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Your key, where keys are asked for [R3_API_KEY; R3_KEY]")
    ] = None,
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Run a file of prompts, and keep every picture, score and text, each round laid out for GenEval's own scorer.

    Run it again to go on where it was left. Without --url it asks the server on this machine, and where there is none
    starts one and stops it in the end; with --checkpoint, --device or --dtype it does so in any case.
    """
    own = {"checkpoint": checkpoint, "base-checkpoint": base_checkpoint, "device": device, "dtype": dtype}
    options = {name: str(value) for name, value in own.items() if value is not None}
    if options and url is not None:
        raise Misconfigured(
            f"--url names a server and --{next(iter(options))} is for one of this run's own; leave out one"
        )
    short = {"max_rounds": rounds, "seed": seed, "n": n, "size": size, "model": model}
    common = {name: value for name, value in short.items() if value is not None}
    for entry in settings or []:
        _add(common, entry, {name for name, value in short.items() if value is not None})
    try:
        import rich.console
    except ImportError as error:
        raise Misconfigured(f"{error.name} is not installed; pip install '.[client]' in the clone brings it") from error
    from server.research.start import Where, start

    where = Where(url, key, options)
    raise typer.Exit(start(prompts, out, common, where, limit, concurrency, rich.console.Console(stderr=True)))


def _add(common: dict[str, Any], entry: str, short: set[str]) -> None:
    """Put NAME=VALUE in its place. Raises Misconfigured."""
    from server.research.prompts import check_names

    name, mark, text = entry.partition("=")
    if not mark:
        raise Misconfigured(f"--set {entry} has no value; write it as NAME=VALUE")
    first, *rest = name.split(".")
    if first in short:
        raise Misconfigured(f"--set {name} says what another option says already; leave out one")
    if first == "prompt" or list(check_names([first], f"--set {name}")):
        raise Misconfigured(f"--set {name} is no setting of POST /generate; docs/api.md and openapi.yaml list them")
    into = common
    for part in (first, *rest)[:-1]:
        into = into.setdefault(part, {})
        if not isinstance(into, dict):
            raise Misconfigured(f"--set {name} is inside of what another --set gave a value of its own; leave out one")
    into[(first, *rest)[-1]] = _read(name, text)


def _read(name: str, text: str) -> Any:
    import json

    if name == "judge.scorers" and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        return json.loads(text)
    except ValueError:
        return text
