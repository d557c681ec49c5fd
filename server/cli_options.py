"""Options that several commands take, with the variables and defaults that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
MetricsPort = Annotated[
    str | None,
    typer.Option(metavar="<int>", help="A port for /metrics alone, without a key [R3_METRICS_PORT; none]"),
]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure", help="Allow an address that others reach, with no keys asked for [R3_INSECURE]"),
]
AllowUnexpected = Annotated[
    bool | None,
    typer.Option("--allow-unexpected", help="Load weights with tensors of unknown names [R3_ALLOW_UNEXPECTED]"),
]
