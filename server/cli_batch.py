"""`r3 batch`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_options import Base, Checkpoint, Device, Dtype
from server.cli_settings import Set, add_settings
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
    settings: Set = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many prompts", min=1)] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Jobs at a time", min=1, max=64)] = 16,
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
    try:
        import rich.console
    except ImportError as error:
        raise Misconfigured(f"{error.name} is not installed; pip install '.[client]' in the clone brings it") from error
    from server.research.prompts import NOT_HERE
    from server.research.start import Where, start

    add_settings(common, settings or [], NOT_HERE)
    where = Where(url, key, options)
    raise typer.Exit(start(prompts, out, common, where, limit, concurrency, rich.console.Console(stderr=True)))
