"""`r3 jobs` and `r3 queue`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

jobs_app = typer.Typer(name="jobs", help="Everyone's jobs on a running server.", no_args_is_help=True)
queue_app = typer.Typer(name="queue", help="The queues of a running server.", no_args_is_help=True)

Url = Annotated[
    str | None, typer.Option(help="The server [R3_URL; the one on this machine]", metavar="URL", show_default=False)
]
Key = Annotated[
    str | None,
    typer.Option(help="A key of scope admin, where keys are asked for [R3_KEY]", metavar="KEY", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's own answer, for machines")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Whoever's jobs", show_default=False)]
Model = Annotated[str | None, typer.Argument(help="One model's; every model's unless given", show_default=False)]


@jobs_app.command("list")
def list_jobs(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's", show_default=False)] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only those: poisoned are the failed ones that were given up",
            metavar="queued|running|succeeded|failed|cancelled|poisoned",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most", min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List jobs, newest first."""
    from server import operate

    narrowed = {name: value for name, value in (("tenant", tenant), ("status", status)) if value is not None}
    with _server(url, key, as_json) as server:
        operate.list_jobs(server, narrowed, limit)


@jobs_app.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Whoever's job", show_default=False)],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show a job."""
    from server import operate

    with _server(url, key, as_json) as server:
        operate.show_job(server, job_id)


@jobs_app.command("cancel")
def cancel_jobs(ids: Ids, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """End jobs now; what is finished of them stays."""
    from server import operate

    with _server(url, key, as_json) as server:
        raise typer.Exit(operate.cancel_jobs(server, ids))


@jobs_app.command("retry")
def retry_jobs(ids: Ids, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Submit jobs that failed, were given up or were cancelled once more, as new ones with the same request."""
    from server import operate

    with _server(url, key, as_json) as server:
        raise typer.Exit(operate.retry_jobs(server, ids))


@queue_app.command("status")
def queue_status(as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Show what waits and runs, and the workers."""
    from server import operate

    with _server(url, key, as_json) as server:
        operate.queue_status(server)


@queue_app.command("pause")
def pause_queue(model: Model = None, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Hand out no more jobs. What runs goes on to its end; new jobs are taken, and wait."""
    from server import operate

    with _server(url, key, as_json) as server:
        operate.pause(server, model)


@queue_app.command("resume")
def resume_queue(model: Model = None, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Hand out jobs again; without MODEL those of every model, whatever was paused."""
    from server import operate

    with _server(url, key, as_json) as server:
        operate.resume(server, model)


@queue_app.command("forget")
def forget_model(
    model: Annotated[str, typer.Argument(help="One that no worker serves any more", show_default=False)],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Take no more jobs for a model that is served no more; nothing of it may wait or run."""
    from server import operate

    with _server(url, key, as_json) as server:
        operate.forget(server, model)


def _server(url: str | None, key: str | None, as_json: bool) -> Any:
    """The running server, for a `with` block; what it refuses ends the command with 1."""
    from server import operate
    from server.preflight import load_connection

    given = {name: value for name, value in (("url", url), ("key", key)) if value is not None}
    return operate.server_at(load_connection(given), as_json=as_json)
