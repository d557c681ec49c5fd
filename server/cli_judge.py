"""`r3 score` and `r3 roundtrip`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from server.cli_settings import characters
from server.cli_submit import server_of
from server.misconfigured import Misconfigured

_PATIENCE_S: Final = 60.0
_LONG_PATIENCE_S: Final = 600.0  # for many pictures: a server that is restarted, others' jobs, a limit of requests
_FIRST_PATIENCE_S: Final = 2.0  # a server that is not there keeps nobody waiting
Url = Annotated[str | None, typer.Option(metavar="URL", help="The server [R3_URL; the one on this machine]")]
Key = Annotated[str | None, typer.Option(metavar="KEY", help="Your key, where keys are asked for [R3_API_KEY; R3_KEY]")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of every picture")]
Model = Annotated[str | None, typer.Option(help="Where the server has several")]
AsJson = Annotated[bool, typer.Option("--json", help="Print all that came of it, for machines")]


def score(
    prompt: Annotated[str, typer.Argument(help="What the pictures should show", show_default=False)],
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="Files, or folders of them", show_default=False)
    ],
    scorers: Annotated[
        str, typer.Option(metavar="NAME,...", help="Of gvu, lift, vqa and verdict, the last the dearest")
    ] = "lift",
    seed: Seed = 0,
    model: Model = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Have a running server say how well pictures show a prompt, by what the model makes of them.

    A picture that it cannot take is named and left out; the command then ends with 1.
    """
    from server.picture_files import picture_files

    characters("PROMPT", prompt)
    characters("--scorers", scorers)
    characters("--model", model or "")
    files = picture_files(pictures)
    address, shown_key = _reached(*server_of(url, key))
    from r3client import Client
    from server.score import run_score

    names = [name.strip() for name in scorers.split(",")]
    settings = _given({"scorers": names, "seed": seed, "model": model})
    client = Client(address, shown_key, patience_s=_PATIENCE_S)
    raise typer.Exit(run_score(client, prompt, files, settings, as_json=as_json))


def roundtrip(
    pictures: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of pictures", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for what comes of them [r3-roundtrip- and DIR's name]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Timesteps of each picture, 2-200 [the checkpoint's]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Of each description, 1-2048 [384]")] = None,
    seed: Seed = 0,
    model: Model = None,
    at_once: Annotated[int, typer.Option(metavar="N", help="Pictures at a time", min=1, max=64)] = 4,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Have a running server describe every picture of a folder, draw each description, and say how alike they are.

    Run it again to go on where it was left. A picture that cannot be read is named and left out; the command then ends
    with 1. With similarity models on the worker it prints Unified-Bench's scores (protocol 1).
    """
    from server.picture_files import in_folder

    characters("--model", model or "")
    files = in_folder(pictures)
    address, shown_key = _reached(*server_of(url, key))
    try:
        import rich.console  # noqa: F401 -- what is shown needs it
    except ImportError as error:
        raise Misconfigured(f"{error.name} is not installed; pip install '.[client]' in the clone brings it") from error
    from r3client import AsyncClient
    from server.asked_server import model_at
    from server.folder_lock import held
    from server.roundtrip import run_roundtrips
    from server.roundtrip_folder import RoundtripFolder

    generate = None if steps is None else {"num_timesteps": steps}
    describe = None if max_tokens is None else {"max_tokens": max_tokens}
    settings = _given({"generate": generate, "describe": describe, "seed": seed, "model": model})
    place = out or Path(f"r3-roundtrip-{pictures.resolve().name}")
    if place.exists() and place.samefile(pictures):
        raise Misconfigured(f"--out {place} is the folder of the pictures themselves; name another")
    with held(place, "r3 roundtrip"):
        folder = RoundtripFolder(place, settings)
        folder.open(model_at(address, shown_key, model))
        client = AsyncClient(address, shown_key, patience_s=_LONG_PATIENCE_S)
        raise typer.Exit(run_roundtrips(client, folder, files, settings, at_once, as_json=as_json))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _reached(address: str, key: str | None) -> tuple[str, str | None]:
    """The same, once it has answered; where it refuses the key the command ends with 1. Raises Misconfigured."""
    from r3client import Client, NoAnswer, Refused, UnexpectedAnswer
    from server.tables import plain

    try:
        with Client(address, key, patience_s=_FIRST_PATIENCE_S) as client:
            client.jobs(limit=1)
    except (NoAnswer, UnexpectedAnswer) as error:
        raise Misconfigured(f"{error}; name the server with --url/R3_URL") from error
    except Refused as error:
        remedy = "; give a key with --key/R3_API_KEY" if error.status in (401, 403) else ""
        typer.echo(f"r3: {plain(error.detail or str(error))}{remedy}", err=True)
        raise typer.Exit(1) from error
    return address, key
