"""`r3 webhooks`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_options import DataDir, RedisUrl

app = typer.Typer(
    name="webhooks",
    help="The secrets that webhooks are signed with. Talks to the queue of a running server; else starts it for the "
    "moment.",
    no_args_is_help=True,
)


@app.callback()
def root() -> None:
    """Keeps `secret` a command of its own though it is the only one."""


@app.command()
def secret(
    tenant: Annotated[str, typer.Option(help="Whose webhooks", metavar="NAME")] = "local",
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make another; the one before is signed with too for 24 hours")
    ] = False,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Print the secret with which a tenant's webhooks are signed. It is shown once."""
    from server import webhook_commands
    from server.preflight import load_settings

    given: dict[str, Path | str | None] = {"data_dir": data_dir, "redis_url": redis_url}
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    raise typer.Exit(webhook_commands.secret(settings, tenant, rotate=rotate))
