"""`r3 submit`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli_settings import CLIENTS_OWN, Set, add_settings, characters
from server.misconfigured import Misconfigured

if TYPE_CHECKING:
    from rich.console import Console

    from server.terminal_pictures import Way


def submit(
    prompt: Annotated[str, typer.Argument(help="What the picture should show", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures [r3- and the job's id]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder")] = False,
    image: Annotated[
        str | None, typer.Option(metavar="FILE", help="Start from this picture: a file, or the id of one of yours")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="With --image: the edit of round 1")] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Edits that may follow the first picture, 0-8")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed gives the same pictures [random]")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", metavar="N", help="Independent tries, 1-4 [1]")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height [the checkpoint's]")] = None,
    model: Annotated[str | None, typer.Option(help="Where the server has several")] = None,
    more: Set = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Show nothing, and print the finished job, for machines")
    ] = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Draw no pictures here; they are saved all the same")
    ] = False,
    how: Annotated[
        str | None,
        typer.Option("--images", metavar="kitty|iterm2|sixel|blocks", help="How to draw them [as the terminal can]"),
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="The server [R3_URL; the one on this machine]")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Your key, where keys are asked for [R3_API_KEY; R3_KEY]")
    ] = None,
) -> None:
    """Ask a running server for pictures, watch them come about, and keep them in a folder.

    Ctrl-C has the server cancel the job, a second one leaves at once. The final pictures' paths go to standard output,
    all else to standard error.
    """
    characters("PROMPT", prompt)
    fields = {
        "image": None if image is None else _picture(image),
        "instruction": None if instruction is None else characters("--instruction", instruction),
        "max_rounds": rounds,
        "seed": seed,
        "n": n,
        "size": size,
        "model": None if model is None else characters("--model", model),
    }
    settings = {name: value for name, value in fields.items() if value is not None}
    add_settings(settings, more or [], CLIENTS_OWN)
    try:
        import PIL  # noqa: F401 -- what is drawn needs it
        import rich.console
    except ImportError as error:
        raise Misconfigured(f"{error.name} is not installed; pip install '.[client]' in the clone brings it") from error
    from r3client import AsyncClient
    from server.out_folder import check_here, open_folder
    from server.submit import Asked, run_submit

    address, shown_key = server_of(url, key)
    if out is None:
        check_here()
    else:
        open_folder(out, overwrite=overwrite)
    console = rich.console.Console(stderr=True, highlight=False, quiet=as_json)
    way = None if as_json or no_images else _way(console, how)
    client = AsyncClient(address, shown_key, patience_s=60)
    raise typer.Exit(run_submit(client, Asked(prompt, settings, out, as_json, way), console))


def server_of(url: str | None, key: str | None) -> tuple[str, str | None]:
    """A server's address and one's own key for it: what was given, else the environment's. Raises Misconfigured."""
    from server.preflight import load_connection

    given = {name: value for name, value in (("url", url), ("key", key)) if value is not None}
    connection = load_connection(given)
    shown = connection.key if key is not None else connection.api_key or connection.key
    return connection.address, None if shown is None else shown.get_secret_value()


def _picture(image: str) -> Any:
    """An image's id as it is, a file's bytes."""
    if image.startswith("img_") and not Path(image).exists():
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise Misconfigured(f"--image {image} cannot be read ({error.strerror})") from error


def _way(on: Console, how: str | None) -> Way | None:
    """How pictures are drawn: as was asked for, else as the terminal can; not at all where there is none."""
    import os

    from server.terminal_pictures import WAYS, attributes_of_terminal, way_of

    if how is not None:
        for way in WAYS:
            if way == how:
                return way
        raise Misconfigured(f"--images={how} is refused: it must be one of {', '.join(WAYS)}")
    if not on.is_terminal:
        return None
    way = way_of(os.environ, attributes_of_terminal)
    return None if way == "blocks" and on.color_system is None else way
