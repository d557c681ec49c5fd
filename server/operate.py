"""What `r3 jobs` and `r3 queue` do: ask a running server over HTTP, and say what it answers.

Exit codes: 0 it was done; 1 the server refused it; 2 the server cannot be reached, or is none of ours.
Whatever came from a client is printed without its control characters, which would be orders to the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx
import typer

from server.misconfigured import Misconfigured
from server.other_variables import Connection
from server.tables import age, lines_of, plain, table

Json = dict[str, Any]
TIMEOUT_S: Final = 15.0
PAGE: Final = 100
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_REMEDIES: Final = {
    401: "give a key of scope admin with --key/R3_KEY",
    403: "give a key of scope admin with --key/R3_KEY",
}


class Refused(Exception):
    """The server's answer was an error; the message is its own sentence, and what to do."""


class Server:
    """A running server."""

    def __init__(self, client: httpx.Client, *, as_json: bool) -> None:
        self._client, self.as_json = client, as_json

    def ask(self, method: str, path: str, query: Mapping[str, str | int] | None = None, body: Any = None) -> Json:
        """The JSON of an answer. Raises Refused, or Misconfigured where nothing of ours answers."""
        url = str(self._client.base_url).rstrip("/")
        try:
            answer = self._client.request(method, f"admin/{path}", params=query, json=body)
            value = answer.json()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            told = f"no answer from {url} ({str(error) or type(error).__name__})"
            raise Misconfigured(f"{told}; is the server running? name another with --url/R3_URL") from error
        except ValueError as error:
            told = f"what answers at {url} is no R3 server (status {answer.status_code}, no JSON)"
            raise Misconfigured(f"{told}; name it with --url/R3_URL") from error
        if answer.is_success and isinstance(value, dict):
            return value
        raise _refused(answer.status_code, value)

    def say(self, answer: Json, shown: Callable[[Json], str]) -> None:
        """Print an answer: as it is for machines, or as people read it."""
        typer.echo(json.dumps(answer) if self.as_json else shown(answer))


@contextmanager
def server_at(connection: Connection, *, as_json: bool) -> Iterator[Server]:
    """The server, while the block lasts; what it refuses ends the command with 1 and one line."""
    headers = {"Accept": "application/json"}
    if connection.key is not None:
        headers["Authorization"] = f"Bearer {connection.key.get_secret_value()}"
    is_near = httpx.URL(connection.address).host in _LOOPBACK  # where no proxy is in between
    client = httpx.Client(base_url=connection.address, headers=headers, timeout=TIMEOUT_S, trust_env=not is_near)
    with client:
        try:
            yield Server(client, as_json=as_json)
        except Refused as error:
            _complain(str(error))
            raise typer.Exit(1) from error


# jobs


def list_jobs(server: Server, narrowed: Mapping[str, str], limit: int) -> None:
    """Print a list of jobs."""
    jobs: list[Json] = []
    cursor = None
    while len(jobs) < limit:
        query: dict[str, str | int] = {**narrowed, "limit": min(limit - len(jobs), PAGE)}
        if cursor is not None:
            query["cursor"] = cursor
        page = server.ask("GET", "jobs", query)
        jobs += page["jobs"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    server.say({"jobs": jobs, "next_cursor": cursor}, lambda answer: _listed(answer["jobs"]))
    if cursor is not None and not server.as_json:
        _complain(f"there are more than {limit}; raise --limit to see them")


def show_job(server: Server, job_id: str) -> None:
    """Print one job."""
    server.say(server.ask("GET", f"jobs/{_part(job_id)}"), _shown)


def cancel_jobs(server: Server, ids: Sequence[str]) -> int:
    """Cancel jobs; the exit code."""
    return _each(server, ids, "cancel", lambda job: f"{job['id']} {_cancelled(job['status'])}")


def retry_jobs(server: Server, ids: Sequence[str]) -> int:
    """Try jobs again; the exit code."""
    return _each(server, ids, "retry", lambda job: f"{job['parent']['job']} is tried again as {job['id']}")


def _cancelled(status: str) -> str:
    return "is cancelled" if status == "cancelled" else "will be cancelled within a step"


def _each(server: Server, ids: Sequence[str], act: str, shown: Callable[[Json], str]) -> int:
    """Do it to each, whatever becomes of the others; 1 where the server refused any."""
    code = 0
    for job_id in ids:
        try:
            server.say(server.ask("POST", f"jobs/{_part(job_id)}/{act}"), shown)
        except Refused as error:
            _complain(str(error))
            code = 1
    return code


def _part(text: str) -> str:
    """One part of a path, whatever was typed."""
    return quote(text, safe="") or "-"


def _listed(jobs: Sequence[Json]) -> str:
    if not jobs:
        return "no jobs"
    rows = [
        (
            *(job["id"], job["tenant"], _kind(job), job["status"]),
            *(job["model"], job["created_at"], str(job["attempt"]), _why(job)),
        )
        for job in jobs
    ]
    headings = ("ID", "TENANT", "KIND", "STATUS", "MODEL", "CREATED", "ATTEMPT", "ERROR")
    return table(headings, rows, right={"ATTEMPT"})


def _kind(job: Json) -> str:
    return str(job.get("kind", "generate"))


def _why(job: Json) -> str:
    return str(job["error"]["code"]) if job.get("error") else ""


def _shown(job: Json) -> str:
    place = job["queue_position"]
    waits = None if place is None else f"{place} in its queue, {_eta(job['eta_s'])}"
    facts = {
        "id": job["id"],
        "tenant": job["tenant"],
        "kind": _kind(job),
        "status": job["status"],
        "error": f"{job['error']['code']}: {job['error']['message']}" if job["error"] else None,
        "model": job["model"],
        "priority": job["priority"],
        "place": waits,
        "created": job["created_at"],
        "started": job["started_at"],
        "finished": job["finished_at"],
        "attempt": job["attempt"],
        "parent": (job.get("parent") or {}).get("job"),
        "prompt": job["prompt"] or None,
        "result": _result(job),
        **{f"trajectory {t['index']}": _trajectory(t) for t in job["trajectories"]},
        **{f"metadata {name}": value for name, value in job["metadata"].items()},
        "cost": f"at most {job['cost']:.2f} pictures of 512 px",
        "used": f"{job['usage']['denoise_steps']} steps, {job['usage']['compute_s']:.1f} s",
    }
    return lines_of({name: str(value) for name, value in facts.items() if value is not None})


def _result(job: Json) -> str | None:
    """What a job that is no generation came to, in a line; None where there is nothing yet."""
    result = job.get("result", {})
    match job.get("kind"):
        case "score":
            scored = [image for image in result["images"] if image["scores"]]
            values = ("/".join(_value(score["value"]) for score in image["scores"]) for image in scored)
            names = "/".join(score["scorer"] for score in scored[0]["scores"]) if scored else ""
            return f"{names} {', '.join(values)}" if scored else None
        case "reflect" if result["reflection"]:
            said = result["reflection"]
            return f"{said['verdict']}: {said['instruction'] or said['text']}"
        case "describe" if result["text"]:
            return str(result["text"])
        case "roundtrip" if result["similarities"]:
            alike = ", ".join(f"{name} {_value(value)}" for name, value in result["similarities"].items())
            return f"{result['description']} ({alike})"
        case _:
            return None


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _trajectory(trajectory: Json) -> str:
    pictures = len(trajectory["rounds"])
    return f"{pictures} picture{'' if pictures == 1 else 's'}, {trajectory['stop_reason'] or 'not at its end'}"


def _eta(eta_s: float | None) -> str:
    return "nobody knows when it starts" if eta_s is None else f"starts in about {age(eta_s)}"


# queues


def queue_status(server: Server) -> None:
    """Print how the queues are."""
    server.say(server.ask("GET", "queue"), _queues)


def pause(server: Server, model: str | None) -> None:
    """Pause one model's queue, or all."""
    what = "all queues are" if model is None else f"the queue of {model} is"
    told = f"{what} paused: jobs under way go on, new ones are taken and wait"
    server.say(server.ask("POST", "queue/pause", body={"model": model}), lambda _: plain(told))


def resume(server: Server, model: str | None) -> None:
    """Resume one model's queue, or all."""
    server.say(server.ask("POST", "queue/resume", body={"model": model}), lambda queue: plain(_resumed(queue, model)))


def forget(server: Server, model: str) -> None:
    """Have a model known no longer."""
    told = f"{model} is forgotten: jobs for it are refused until a worker loads it again"
    server.say(server.ask("POST", "queue/forget", body={"model": model}), lambda _: plain(told))


def _resumed(queue: Json, model: str | None) -> str:
    if model is None:
        return "all queues go on"
    if queue["all_paused"]:
        return f"{model} itself is not paused, but all queues are; `r3 queue resume` without a name resumes them"
    return f"the queue of {model} goes on"


def _queues(queue: Json) -> str:
    models = [
        (
            model["model"],
            str(model["waiting"]),
            str(model["running"]),
            f"{model['cost']:.2f}",
            age(model["oldest_s"]) if model["waiting"] else "",
            "" if model["seconds_left"] is None or not model["waiting"] else age(model["seconds_left"]),
            str(model["workers"]),
            "paused" if model["paused"] else "" if model["workers"] else "no worker",
        )
        for model in queue["models"]
    ]
    workers = [
        (
            worker["id"],
            worker["model"],
            worker["version"],
            str(worker["holding"]),
            str(worker["room"]),
            f"{age(worker['age_s'])} ago",
            "leaving" if worker["draining"] else "",
        )
        for worker in queue["workers"]
    ]
    parts = [
        table(
            ("MODEL", "WAITING", "RUNNING", "COST", "OLDEST", "LEFT", "WORKERS", "STATE"),
            models,
            right={"WAITING", "RUNNING", "COST", "OLDEST", "LEFT", "WORKERS"},
        )
        if models
        else "no model is known yet: no worker has come",
        table(("WORKER", "MODEL", "VERSION", "JOBS", "ROOM", "HEARD", "STATE"), workers, right={"JOBS", "ROOM"})
        if workers
        else "no worker is heard from",
        f"{queue['reclaimed']} leases taken back from lost workers, {queue['poisoned']} jobs given up, ever",
    ]
    if queue["all_paused"]:
        parts.append("all queues are paused; `r3 queue resume` has jobs handed out again")
    return "\n\n".join(parts)


def _refused(status: int, value: Any) -> Exception:
    if not isinstance(value, dict) or not isinstance(value.get("detail"), str) or "code" not in value:
        return Misconfigured(f"what answers there is no R3 server (status {status}); name it with --url/R3_URL")
    remedy = f"; {_REMEDIES[status]}" if status in _REMEDIES else ""
    return Refused(f"{value['detail']}{remedy}")


def _complain(text: str) -> None:
    typer.echo(f"r3: {plain(text)}", err=True)
