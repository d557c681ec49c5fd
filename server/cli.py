"""The command line, `r3`. It imports nothing heavy: every command imports what it needs when it runs.

An option wins over its R3_ variable, and that over the default. A mistake of the operator's is one line on stderr and
exit code 2; other faults of a command end with 1.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from r3core.errors import CheckpointError, DeviceError, InvalidRequest
from server import cli_keys, cli_webhooks, collector
from server.cli_batch import batch
from server.cli_bench import bench
from server.cli_compare import compare
from server.cli_generate import generate
from server.cli_judge import roundtrip, score
from server.cli_operate import jobs_app, queue_app
from server.cli_options import (
    AllowUnexpected,
    Base,
    Checkpoint,
    DataDir,
    Device,
    Dtype,
    Host,
    Insecure,
    MetricsPort,
    Port,
    RedisUrl,
    WorkerHost,
    WorkerPort,
)
from server.cli_submit import submit
from server.misconfigured import EXIT_BROKEN, EXIT_MISCONFIGURED, Misconfigured

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})
SERVING: Final = frozenset({"serve", "api", "worker"})  # whose faults are of more than their output

app = typer.Typer(
    name="r3",
    help="An inference server for R3: it reasons, draws, looks at what it drew, and edits until it is satisfied.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
    metrics_port: MetricsPort = None,
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
    metrics_port: MetricsPort = None,
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
app.command()(submit)
app.command()(score)
app.command()(roundtrip)
app.command()(batch)
app.command()(compare)
app.command()(bench)
app.add_typer(cli_keys.app)
app.add_typer(cli_webhooks.app)
app.add_typer(jobs_app)
app.add_typer(queue_app)


@app.command()
def verify(
    golden: Annotated[Path, typer.Option(help="Folder with golden.json and golden.safetensors")],
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Compare what this machine computes with recorded numbers of the reference; end with 1 where it differs.

    The checkpoint is the one that lies beside the numbers, where none is named.
    """
    given = {name: value for name, value in _given(locals()).items() if name != "golden"}
    from r3core.verify import main as verify_main
    from server.preflight import load_settings

    asked = load_settings(given)
    if "checkpoint" not in asked.model_fields_set and (golden / "checkpoint").is_dir():
        asked = asked.model_copy(update={"checkpoint": golden / "checkpoint"})
    where = (asked.device, asked.dtype, asked.base_checkpoint, asked.attention)
    raise typer.Exit(verify_main(asked.checkpoint, golden, *where))


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
        try:
            output.write_text(described(), encoding="utf-8")
        except OSError as error:
            raise Misconfigured(f"--output {output} cannot be written: {error.strerror or error}") from error
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
    collector.leave_out_at_end()
    try:
        app()
    except SystemExit as end:
        if not end.code and (fault := _unwritten()) is not None:
            _end_unwritten(fault)
        raise
    except (Misconfigured, CheckpointError, DeviceError, InvalidRequest) as error:
        _end_with(str(error))
    except ImportError as error:
        if "socksio" not in str(error):
            raise
        told = "a proxy in the environment (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) is a SOCKS proxy, which needs socksio"
        _end_with(f"{told}; pip install socksio, or unset it")
    except OSError as error:
        # Where Python does not buffer, nothing is left to be tried again; a file's fault names the file.
        is_of_output = error.errno in FULL and error.filename is None and not SERVING & {*sys.argv[1:2]}
        if not is_of_output:
            raise
        _end_unwritten(error)


def _end_with(words: str) -> NoReturn:
    print(f"r3: {' '.join(words.split())}", file=sys.stderr)
    sys.exit(EXIT_MISCONFIGURED)


def _unwritten() -> OSError | None:
    """Why standard output does not take what was printed, None where it does, or there is none."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _end_unwritten(fault: OSError) -> NoReturn:
    """End where nothing can be printed: without a word where the reader has gone, as other programs do."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more as it ends
    if isinstance(fault, BrokenPipeError):
        sys.exit(EXIT_BROKEN)
    _end_with(f"the output cannot be written ({fault.strerror}); make room, or mend it")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
