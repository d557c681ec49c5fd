"""`r3 bench`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_options import Base, Checkpoint, Device, Dtype
from server.misconfigured import Misconfigured


def bench(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help="This part alone; may be given several times [all parts]"),
    ] = None,
    runs: Annotated[int, typer.Option(metavar="N", help="Repetitions, of which the median is told", min=1)] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="See that it works, in a minute; the figures are worth nothing")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep all figures, the machine and the versions here, as JSON")
    ] = None,
    engine_only: Annotated[bool, typer.Option("--engine-only", help="The engine alone, without a server")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON in place of tables, and all else on standard error")
    ] = False,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Measure this running server, and no engine [a server of its own]")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Your key there [R3_API_KEY]")] = None,
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure this machine's ceiling, the engine alone, then the whole system as its users see it.

    The model is loaded as `r3 serve` would, and the server that is measured is a real one: on a free port of this
    machine, with a queue and a folder of its own, which are gone with it. Ctrl-C keeps what was measured.
    """
    own = {"checkpoint": checkpoint, "base_checkpoint": base_checkpoint, "device": device, "dtype": dtype}
    given = {name: value for name, value in own.items() if value is not None}
    if url is None and key is not None:
        raise Misconfigured("--key is for the server that --url names; give both, or neither")
    if url is not None and given:
        other = next(iter(given)).replace("_", "-")
        raise Misconfigured(f"--url names a server and --{other} is for an engine of this run's own; leave out one")
    if url is not None and engine_only:
        raise Misconfigured("--url names a server and --engine-only measures none; leave out one")
    from server.bench.run import Asked, run_bench
    from server.bench.watching import NotMeasured
    from server.preflight import load_settings

    asked = Asked(tuple(only or ()), runs, results, url, key, quick=quick, engine_only=engine_only, as_json=as_json)
    options = {name.replace("_", "-"): str(value) for name, value in given.items()}
    try:
        raise typer.Exit(run_bench(load_settings(given), asked, options))
    except NotMeasured as error:
        typer.echo(f"r3: nothing was measured: {error}", err=True)
        raise typer.Exit(1) from error
