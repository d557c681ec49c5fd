"""The command line, `r3`. It imports nothing heavy: every command imports what it needs when it runs.

An option wins over its R3_ variable, and that over the default. A mistake of the operator's is one line on stderr and
exit code 2; other faults of a command end with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from r3core.errors import CheckpointError, DeviceError, InvalidRequest
from server.cli_generate import generate
from server.misconfigured import EXIT_MISCONFIGURED, Misconfigured

app = typer.Typer(
    name="r3",
    help="An inference server for R3: it reasons, draws, looks at what it drew, and edits until it is satisfied.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Values stay text here: Settings is the one judge of them, and its refusals are one line.
Host = Annotated[str | None, typer.Option(help="Address to listen on [R3_HOST; 127.0.0.1]")]
Port = Annotated[str | None, typer.Option(metavar="<int>", help="Port of the API; 0 takes a free one [R3_PORT; 8000]")]
WorkerHost = Annotated[str | None, typer.Option(help="Address of the worker's health port [R3_WORKER_HOST; 127.0.0.1]")]
WorkerPort = Annotated[
    str | None, typer.Option(metavar="<int>", help="The worker's health port [R3_WORKER_PORT; 8001]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where queue and pictures are kept [R3_DATA_DIR; $XDG_DATA_HOME/r3]")
]
Checkpoint = Annotated[Path | None, typer.Option(help="Folder or file of the weights [R3_CHECKPOINT; the small one]")]
Base = Annotated[
    Path | None,
    typer.Option(help="BAGEL folder with configs, tokenizer and VAE, where the weights have none [R3_BASE_CHECKPOINT]"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N [R3_DEVICE; cuda where there is one]")]
Dtype = Annotated[str | None, typer.Option(help="bf16 or fp32 [R3_DTYPE; bf16 on CUDA, fp32 on CPU]")]
RedisUrl = Annotated[
    str | None, typer.Option(help="The queue; `r3 serve` brings its own where none is named [R3_REDIS_URL]")
]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure", help="Allow an address that others reach, with no keys asked for [R3_INSECURE]"),
]
AllowUnexpected = Annotated[
    bool | None,
    typer.Option("--allow-unexpected", help="Load weights with tensors of unknown names [R3_ALLOW_UNEXPECTED]"),
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and end")] = False) -> None:
    """Options that go before any command."""
    if version:
        typer.echo(f"r3 {installed_version()}")
        raise typer.Exit


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    worker_host: WorkerHost = None,
    worker_port: WorkerPort = None,
    data_dir: DataDir = None,
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    redis_url: RedisUrl = None,
    insecure: Insecure = None,
    allow_unexpected: AllowUnexpected = None,
) -> None:
    """Run everything on this machine: a private queue, the API and one worker."""
    given = _given(locals())
    from server.preflight import load_settings
    from server.serve import run_serve

    raise typer.Exit(run_serve(load_settings(given)))


@app.command()
def api(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    insecure: Insecure = None,
) -> None:
    """Run the API alone; the queue must be named."""
    given = _given(locals())
    from server.preflight import check_api, load_settings

    settings = load_settings(given)
    check_api(settings)
    from server.api import run_api

    raise typer.Exit(run_api(settings))


@app.command()
def worker(
    worker_host: WorkerHost = None,
    worker_port: WorkerPort = None,
    data_dir: DataDir = None,
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    redis_url: RedisUrl = None,
    allow_unexpected: AllowUnexpected = None,
) -> None:
    """Run one worker alone: it loads the model and takes jobs from the queue, which must be named."""
    given = _given(locals())
    from server.preflight import check_worker, load_settings

    settings = load_settings(given)
    check_worker(settings)
    from server.worker import run_worker

    raise typer.Exit(run_worker(settings))


app.command()(generate)


@app.command()
def verify(
    golden: Annotated[Path, typer.Option(help="Folder with golden.json and golden.safetensors")],
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Compare what this machine computes with recorded numbers of the reference; end with 1 where it differs."""
    given = {name: value for name, value in _given(locals()).items() if name != "golden"}
    from r3core.verify import main as verify_main
    from server.preflight import load_settings

    asked = load_settings(given)
    raise typer.Exit(verify_main(asked.checkpoint, golden, asked.device, asked.dtype, asked.base_checkpoint))


@app.command()
def openapi(
    output: Annotated[Path, typer.Option(help="The file")] = Path("openapi.yaml"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with 1 where the file is not up to date")
    ] = False,
) -> None:
    """Write the API's description, generated from the app."""
    from server.openapi import described, drift

    if not check:
        output.write_text(described(), encoding="utf-8")
        return
    if difference := drift(output):
        typer.echo(difference, err=True)
        raise typer.Exit(1)


@app.command()
def doctor(
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Look at device, versions, attention, memory, queue and checkpoint; end with 1 where something is broken."""
    given = _given(locals())
    from server.doctor import run_doctor
    from server.preflight import load_settings

    raise typer.Exit(run_doctor(load_settings(given)))


def installed_version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("r3-server")
    except PackageNotFoundError:
        return "0 (not installed)"


def main() -> None:
    """The console script."""
    try:
        app()
    except (Misconfigured, CheckpointError, DeviceError, InvalidRequest) as error:
        print(f"r3: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_MISCONFIGURED)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
