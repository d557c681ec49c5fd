"""`r3 jobs` and `r3 queue` against a running API: what they print, and how they end."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from typer.testing import CliRunner, Result

from server.cli import app
from server.misconfigured import Misconfigured
from server.tables import age, plain, table
from tests.server.api.by_hand import TINY, HandWorker
from tests.server.api.running import RunningApi
from tests.server.api.test_api_admin import anothers, failed_job

Run = Callable[..., Result]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The API's log lines would stand among what the commands print, for it runs in this process."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture
def r3(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, against the API."""
    monkeypatch.setenv("R3_URL", api.url)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def said(ended: Result, code: int = 0) -> str:
    assert ended.exit_code == code, (ended.output, ended.exception)
    return str(ended.output if code == 0 else ended.stderr)


def misconfigured(ended: Result) -> str:
    assert isinstance(ended.exception, Misconfigured)
    return str(ended.exception)


def test_the_status_is_a_table_of_models_and_one_of_workers(r3: Run, api: RunningApi, worker: HandWorker) -> None:
    assert "no worker is heard from" in said(r3("queue", "status"))
    api.submit()
    worker.queue.heartbeat({"model": TINY.name, "version": "0.1.0", "room": 3, "holding": 1, "draining": True})
    lines = said(r3("queue", "status")).splitlines()
    assert lines[0].split() == ["MODEL", "WAITING", "RUNNING", "COST", "OLDEST", "LEFT", "WORKERS", "STATE"]
    assert re.fullmatch(r"tiny +1 +0 +\d+\.\d\d +\d+ s +1", lines[1])
    assert re.fullmatch(r"worker-by-hand +tiny +0\.1\.0 +1 +3 +\d+ s ago +leaving", lines[4])


def test_pause_and_resume_say_what_they_came_to(r3: Run, worker: HandWorker) -> None:
    assert said(r3("queue", "pause", "tiny")).startswith("the queue of tiny is paused: jobs under way go on")
    assert said(r3("queue", "pause")).startswith("all queues are paused")
    status = said(r3("queue", "status"))
    assert "paused" in status.splitlines()[1]
    assert "`r3 queue resume` has jobs handed out again" in status
    assert "but all queues are; `r3 queue resume` without a name" in said(r3("queue", "resume", "tiny"))
    assert said(r3("queue", "resume")) == "all queues go on\n"
    assert said(r3("queue", "resume", "tiny")) == "the queue of tiny goes on\n"


def test_a_model_is_forgotten_by_its_name(r3: Run, worker: HandWorker) -> None:
    assert said(r3("queue", "forget", "tiny")).startswith("tiny is forgotten: jobs for it are refused until a worker")
    assert "no model is known yet" in said(r3("queue", "status"))


def test_jobs_are_listed_as_a_table_that_can_be_cut_to_words(
    r3: Run, api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    assert said(r3("jobs", "list")) == "no jobs\n"
    failed = failed_job(api, worker)
    theirs = anothers(api, database)
    lines = [line.split() for line in said(r3("jobs", "list")).splitlines()]
    assert lines[0] == ["ID", "TENANT", "KIND", "STATUS", "MODEL", "CREATED", "ATTEMPT", "ERROR"]
    assert lines[1][:5] == [theirs, "another", "generate", "queued", "tiny"]
    assert lines[2][:5] == [failed["id"], "local", "generate", "failed", "tiny"]
    assert lines[2][6:] == ["1", "step_failed"]
    narrowed = said(r3("jobs", "list", "--tenant", "another", "--status", "queued"))
    assert theirs in narrowed
    assert failed["id"] not in narrowed


def test_a_list_goes_over_as_many_pages_as_it_must_and_says_where_it_stops(
    r3: Run, api: RunningApi, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.operate.PAGE", 2)
    sent = [api.submit()["id"] for _ in range(5)]
    whole = r3("jobs", "list")
    assert [line.split()[0] for line in said(whole).splitlines()[1:]] == sent[::-1]
    assert whole.stderr == ""
    part = r3("jobs", "list", "--limit", "3")
    assert [line.split()[0] for line in part.stdout.splitlines()[1:]] == sent[:1:-1]
    assert part.stderr == "r3: there are more than 3; raise --limit to see them\n"


def test_a_job_is_shown_without_orders_to_the_terminal(r3: Run, api: RunningApi, worker: HandWorker) -> None:
    job = api.submit(prompt="a \x1b[31mred\x1b[0m cat\r\nroot# \u202eevil", metadata={"k\x07": "\x9b2J"}, n=2)
    shown = said(r3("jobs", "show", job["id"]))
    assert all(character.isprintable() or character == "\n" for character in shown)
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in shown.splitlines())
    assert facts["prompt"] == r"a \x1b[31mred\x1b[0m cat\r\nroot# \u202eevil"
    assert facts[r"metadata k\x07"] == r"\x9b2J"
    assert (facts["status"], facts["tenant"], facts["attempt"]) == ("queued", "local", "0")
    assert facts["place"] == "1 in its queue, nobody knows when it starts"
    assert facts["trajectory 1"] == "0 pictures, not at its end"


def test_a_failed_job_is_shown_with_its_reason(r3: Run, api: RunningApi, worker: HandWorker) -> None:
    shown = said(r3("jobs", "show", failed_job(api, worker)["id"]))
    assert "step_failed: it broke" in shown
    assert "place" not in shown


def test_jobs_are_cancelled_and_tried_again_each_for_itself(r3: Run, api: RunningApi, worker: HandWorker) -> None:
    running, waiting = api.submit()["id"], api.submit()["id"]
    worker.takes()
    ended = r3("jobs", "cancel", running, f"job_{'0' * 32}", waiting)
    assert ended.exit_code == 1
    assert ended.stdout.splitlines() == [f"{running} will be cancelled within a step", f"{waiting} is cancelled"]
    assert ended.stderr.startswith(f"r3: there is no job 'job_{'0' * 32}'")
    again = said(r3("jobs", "retry", waiting))
    found = re.fullmatch(rf"{waiting} is tried again as (job_[0-9a-f]{{32}})\n", again)
    assert found is not None
    assert f"parent        {waiting}" in said(r3("jobs", "show", found[1]))
    assert "cancel it first, or wait for its end" in said(r3("jobs", "retry", found[1]), 1)


@pytest.mark.parametrize("arguments", [("queue", "status"), ("queue", "pause"), ("jobs", "list")])
def test_machines_get_the_servers_own_answer(r3: Run, worker: HandWorker, arguments: tuple[str, ...]) -> None:
    answer = json.loads(said(r3(*arguments, "--json")))
    assert answer.keys() & {"models", "jobs"}


def test_each_of_several_answers_is_a_line_for_machines(r3: Run, api: RunningApi, worker: HandWorker) -> None:
    ids = [api.submit()["id"] for _ in range(2)]
    lines = said(r3("jobs", "cancel", *ids, "--json")).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("queue", "pause", "tyni"), "no model is named 'tyni'; use one of tiny"),
        (("jobs", "list", "--status", "lost"), "/status"),
        (("jobs", "show", "../queue"), "there is nothing at"),
        (("jobs", "show", ""), "there is no job '-'"),
        (("jobs", "show", "\x1b[2J"), r"'\x1b[2J'"),
    ],
)
def test_what_the_server_refuses_is_one_line_and_ends_with_1(
    r3: Run, worker: HandWorker, arguments: tuple[str, ...], told: str
) -> None:
    line = said(r3(*arguments), 1)
    assert told in line
    assert line.startswith("r3: ")
    assert line.count("\n") == 1


# the way there


def test_a_server_that_cannot_be_reached_is_one_line_and_ends_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "server.cli", "queue", "status", "--url", NOWHERE]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        rf"r3: no answer from {NOWHERE} \(.*\); is the server running\? name another with --url/R3_URL\n", ended.stderr
    )


@pytest.mark.parametrize("name", ["no-such-host.invalid", "127.0.0.1:9"])
def test_no_proxy_is_asked_for_a_server_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, stranger: str, name: str
) -> None:
    monkeypatch.setenv("http_proxy", stranger)
    told = misconfigured(CliRunner().invoke(app, ["queue", "status", "--url", f"http://{name}"]))
    assert ("is no R3 server" in told) == (name != "127.0.0.1:9")


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that is none of ours: it answers everything with HTML, and /problem with an error in another form."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_json = self.path.startswith("/json")
            body = b'{"message": "no"}' if is_json else b"<html>"
            self.send_response(404 if is_json else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/json"])
def test_what_is_no_server_of_ours_is_said_to_be_none(stranger: str, path: str) -> None:
    told = misconfigured(CliRunner().invoke(app, ["queue", "status", "--url", stranger + path]))
    assert "is no R3 server" in told


def test_the_key_is_shown_as_a_bearer_and_named_nowhere(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    async def looking(scope: Any, receive: Any, send: Any) -> None:
        shown.extend(value.decode() for name, value in scope["headers"] if name == b"authorization")
        await stack(scope, receive, send)

    stack: Any = api.app.middleware_stack
    monkeypatch.setattr(api.app, "middleware_stack", looking)
    monkeypatch.setenv("R3_KEY", "r3_secret")
    ended = CliRunner().invoke(app, ["queue", "status", "--url", api.url])
    assert (ended.exit_code, shown) == (0, ["Bearer r3_secret"])
    monkeypatch.setenv("R3_KEY", "r3_secret with spaces")
    told = misconfigured(CliRunner().invoke(app, ["queue", "status"]))
    assert "R3_KEY=*** is refused" in told
    assert "r3_secret" not in told


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://user:secret@host", "http://host?x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    told = misconfigured(CliRunner().invoke(app, ["queue", "status", "--url", url]))
    assert "is no address of a server; write it as http://HOST:PORT" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"R3_PORT": "9"}, "http://127.0.0.1:9"),
        ({"R3_HOST": "0.0.0.0", "R3_PORT": "9"}, "http://127.0.0.1:9"),
        ({"R3_HOST": "::"}, "http://[::1]:8000"),
        ({"R3_URL": "https://r3.example/behind/"}, "https://r3.example/behind/"),
    ],
)
def test_the_server_on_this_machine_is_meant_unless_another_is_named(
    given: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.preflight import load_connection

    for name in ("R3_URL", "R3_HOST", "R3_PORT", "R3_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load_connection({}).address == address


# text


def test_a_table_is_as_wide_as_its_cells() -> None:
    drawn = table(("NAME", "COUNT", "X"), [("a", "1", ""), ("much longer", "1000000", "y\nz")], right={"COUNT"})
    assert drawn.splitlines() == [
        "NAME           COUNT  X",
        "a                  1",
        "much longer  1000000  y\\nz",
    ]


def test_ages_are_told_in_their_largest_unit() -> None:
    assert [age(s) for s in (0.4, 99, 100, 5999, 6000, 90_000)] == [
        "0 s",
        "99 s",
        "2 min",
        "100 min",
        "1.7 h",
        "25.0 h",
    ]


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\x85", "\u2028", "\u200f", "😀"])
def test_nothing_but_what_can_be_seen_is_left(text: str) -> None:
    assert plain(text).isprintable()
