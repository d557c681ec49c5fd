"""`r3 keys`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from server.cli_options import DataDir, RedisUrl

app = typer.Typer(
    name="keys",
    help="API keys, and what tenants may have. Talks to the queue of a running server; else starts it for the moment.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="What to call the key, such as who holds it", show_default=False)]
Tenant = Annotated[
    str | None, typer.Option(help="Whose jobs the key sees; all keys of a tenant see the same [NAME]", metavar="NAME")
]
Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        metavar="read|generate|admin",
        help="read: jobs and pictures; generate: also submit, cancel, stop, share, delete; admin: also /metrics and "
        "every tenant's. May be given several times [generate]",
    ),
]
PerMin = Annotated[
    int | None,
    typer.Option("--requests-per-min", help="Requests a minute with this key [R3_REQUESTS_PER_MIN; 600]", min=1),
]


@app.command()
def create(
    name: Name,
    tenant: Tenant = None,
    scope: Scopes = None,
    requests_per_min: PerMin = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Make a key and print it, this once. From the first one on requests without a key are refused."""
    from server import keys_commands

    made = keys_commands.new_key(name, tenant, scope, requests_per_min)
    _end(keys_commands.create(_settings(data_dir, redis_url), *made))


@app.command("list")
def list_keys(
    revoked: Annotated[bool, typer.Option("--revoked", help="Show those that were revoked, too")] = False,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show the keys: ids, names, tenants and scopes; the keys themselves are kept nowhere."""
    from server import keys_commands

    _end(keys_commands.show(_settings(data_dir, redis_url), with_revoked=revoked))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or its name where no other has it", show_default=False)],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Make a key no longer good: within five seconds it opens nothing, and its streams are closed."""
    from server import keys_commands

    _end(keys_commands.revoke(_settings(data_dir, redis_url), key))


@app.command()
def limits(
    tenant: Annotated[str, typer.Argument(help="Whose", show_default=False)],
    jobs_per_min: Annotated[int | None, typer.Option(help="Jobs submitted a minute", show_default=False)] = None,
    queued: Annotated[int | None, typer.Option(help="Jobs waiting", show_default=False)] = None,
    running: Annotated[int | None, typer.Option(help="Jobs computed at the same time", show_default=False)] = None,
    weight: Annotated[
        float | None, typer.Option(help="Shares of the workers' time where others have 1", show_default=False)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget its limits before setting any")] = False,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show what a tenant may have, or set it; what is not named stays as it is."""
    from server import keys_commands

    asked = {"jobs_per_min": jobs_per_min, "queued": queued, "running": running, "weight": weight}
    given = {name: value for name, value in asked.items() if value is not None}
    _end(keys_commands.limits(_settings(data_dir, redis_url), tenant, given, clear=clear))


@app.command("hash")
def hash_key(
    name: Name,
    tenant: Tenant = None,
    scope: Scopes = None,
    requests_per_min: PerMin = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the key instead of making one")] = False,
) -> None:
    """Make a key without a server: its entry for R3_KEYS_FILE on standard output, the key itself on standard error."""
    from server import keys_commands

    _end(keys_commands.write_entry(*keys_commands.new_key(name, tenant, scope, requests_per_min, stdin=stdin)))


def _settings(data_dir: Any, redis_url: str | None) -> Any:
    from server.preflight import load_settings

    asked = {"data_dir": data_dir, "redis_url": redis_url}
    return load_settings({name: value for name, value in asked.items() if value is not None})


def _end(code: int) -> None:
    raise typer.Exit(code)
