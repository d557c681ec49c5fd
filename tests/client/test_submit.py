"""`r3 submit`: what it keeps, how it ends, and how it is on a terminal."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rich.console
from typer.testing import CliRunner, Result

from r3client import AsyncClient, Client
from server.cli import app
from server.cli_submit import server_of
from server.misconfigured import Misconfigured
from server.submit import Asked, run_submit
from tests.client.service import Service
from tests.client.test_terminal_pictures import picture
from tests.server.processes import free_port
from tests.server.waiting import until

PROJECT = Path(__file__).resolve().parents[2]
# the command

Run = Callable[..., Result]


@pytest.fixture
def r3_submit(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process and a folder of its own, where there is no terminal."""
    monkeypatch.setenv("R3_URL", service.url)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["submit", *arguments])


def test_the_pictures_are_kept_and_the_final_ones_named(r3_submit: Run, tmp_path: Path) -> None:
    done = r3_submit("a cat edits=1", "--seed", "7", "--n", "2", "--out", "out")
    assert done.exit_code == 0, done.output
    assert sorted(done.stdout.split()) == ["out/t0_round1.png", "out/t1_round1.png"]
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["job.json", "t0_round0.png", "t0_round1.png", "t1_round0.png", "t1_round1.png"]
    assert "[1] Round 1  Add thing number 1." in done.stderr
    assert "\x1b" not in done.stderr
    refused = r3_submit("a cat", "--out", "out")
    assert isinstance(refused.exception, Misconfigured)
    assert "--out out holds an earlier run (job.json)" in str(refused.exception)
    unreachable = r3_submit("a cat", "--url", f"http://127.0.0.1:{free_port()}", "--out", "out", "--overwrite")
    assert isinstance(unreachable.exception, Misconfigured)
    assert r3_submit("a cat", "--seed", "-4", "--out", "out", "--overwrite").exit_code == 1
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names  # no job was made
    (tmp_path / "out" / "t0_round5.jpg").touch()
    (tmp_path / "out" / "mine.png").touch()
    assert r3_submit("a cat edits=1", "--rounds", "0", "--out", "out", "--overwrite").exit_code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["job.json", "mine.png", "t0_round0.png"]


def test_every_candidate_is_kept_and_what_was_said_of_it_is_shown(service: Service, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"judge": {"scorers": ["lift"]}, "candidates": {"first": 3, "refine": 2}}
    with Client(service.url) as client:
        asked = Asked("a cat edits=1 best=1", {**settings, "n": 2}, tmp_path / "out", as_json=False, way=None)
        shown = rich.console.Console(record=True, file=io.StringIO(), width=100)
        assert run_submit(AsyncClient(service.url), asked, shown) == 0
        job = client.jobs(limit=1).jobs[0]
        assert len({image.id for image in job.every_image()}) == 10
        last = job.trajectories[1].rounds[1]
        assert (last.chosen, last.from_round, len(last.candidates)) == (1, 0, 2)
        kept = (tmp_path / "out" / "t1_round1_candidate1.png").read_bytes()
        assert last.image is not None
        assert kept == client.image(last.image)
    assert len(list((tmp_path / "out").glob("t?_round?_candidate?.png"))) == 10
    text = shown.export_text()
    assert "[1] Round 0, candidate 2" in text
    assert "[1] Round 1  goes on with candidate 1" in text
    assert "lift 0." in text


def test_any_setting_can_be_given(r3_submit: Run) -> None:
    given = ["judge.scorers=lift,vqa", "early_stop.score.scorer=vqa", "early_stop.score.at_least=0", "max_images=3"]
    done = r3_submit("a cat", "--json", *[part for setting in given for part in ("--set", setting)])
    job = json.loads(done.stdout)
    assert (job["params"]["judge"], job["params"]["max_images"]) == ({"scorers": ["lift", "vqa"]}, 3)
    assert job["trajectories"][0]["stop_reason"] == "score"


def test_json_is_the_job_and_nothing_else(r3_submit: Run, service: Service, tmp_path: Path) -> None:
    (tmp_path / "start.png").write_bytes(picture((256, 256)))
    done = r3_submit("a dog", "--json", "--image", "start.png", "--rounds", "1")
    assert (done.exit_code, done.stderr) == (0, "")
    job = json.loads(done.stdout)
    assert (job["status"], job["params"]["max_rounds"], len(job["trajectories"][0]["rounds"])) == ("succeeded", 1, 2)
    with Client(service.url) as client:
        assert json.loads(client.job(job["id"]).model_dump_json(exclude_unset=True)) == job
    [folder] = tmp_path.glob(f"r3-{job['id'][4:12]}")
    assert json.loads((folder / "job.json").read_text()) == job


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a cat raise=refine"], "Failed  refine failed because the prompt asked for it (step_failed)"),
        (["a cat", "--rounds", "9"], "r3: /max_rounds"),
        (["a cat", "--model", "another"], "r3: "),
        (["a cat", "--set", "n=abc"], "r3: /n"),
        (["a cat", "--set", "seed=NaN"], "r3: /seed"),
        (["a cat", "--set", "generate.cfg_text_scale=1e999"], "r3: /generate/cfg_text_scale"),
    ],
)
def test_what_the_server_refuses_or_fails_ends_with_1(r3_submit: Run, arguments: list[str], said: str) -> None:
    done = r3_submit(*arguments)
    assert done.exit_code == 1, done.output
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a cat", "--image", "nowhere.png"], "--image nowhere.png cannot be read (No such file or directory)"),
        (["a cat", "--set", "chose=best"], "write choose"),
        (["a cat", "--n", "2", "--set", "n=3"], "says what another option says already"),
        (["a cat", "--set", "stream=true"], "stream cannot be set"),
        (["a cat", "--images", "ascii"], "--images=ascii is refused"),
        (["a cat", "--url", "http://127.0.0.1:9"], "name the server with --url/R3_URL"),
        (["a cat", "--key", "two words"], "--key=*** is refused"),
        (["a \udcff cat"], "PROMPT holds a lone surrogate"),
        (["a cat", "--set", "model=\udcff"], "--set holds a lone surrogate"),
    ],
)
def test_a_mistake_of_the_callers_is_one_line(r3_submit: Run, arguments: list[str], said: str) -> None:
    done = r3_submit(*arguments)
    assert isinstance(done.exception, Misconfigured), done.output
    assert said in str(done.exception)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that even root cannot write")
def test_where_nothing_can_be_written_no_job_is_made(
    r3_submit: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    done = r3_submit("a cat that nobody could keep")
    assert isinstance(done.exception, Misconfigured)
    assert "this folder cannot be written" in str(done.exception)
    with Client(service.url) as client:
        assert not [job for job in client.jobs(limit=100).jobs if job.prompt == "a cat that nobody could keep"]


def test_the_key_is_the_option_or_ones_own_or_an_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3_KEY", "r3_operator")
    assert server_of(None, None) == ("http://127.0.0.1:8000", "r3_operator")
    monkeypatch.setenv("R3_API_KEY", "r3_own")
    monkeypatch.setenv("R3_PORT", "8080")
    assert server_of(None, None) == ("http://127.0.0.1:8080", "r3_own")
    assert server_of("https://one.example", "r3_given") == ("https://one.example", "r3_given")


# a terminal


def environment(service: Service) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("R3_", "TMUX", "KITTY"))}
    ours = {"PYTHONPATH": str(PROJECT), "R3_URL": service.url}
    return {**plain, **ours, "TERM": "xterm-256color", "COLORTERM": "truecolor"}


@dataclass
class Terminal:
    """A command on a pseudo-terminal, and all that it has written."""

    process: subprocess.Popen[bytes]
    controller: int
    said: str = ""

    def read(self) -> bool:
        """What has come meanwhile; whether the terminal is still open."""
        ready, _, _ = select.select([self.controller], [], [], 0.05)
        try:
            self.said += os.read(self.controller, 65536).decode("utf-8", "replace") if ready else ""
        except OSError:  # Linux: nobody has it open any more
            return False
        return True

    def until(self, wanted: str, timeout_s: float = 60) -> None:
        """Read until that was written."""
        until(lambda: not self.read() or wanted in self.said, timeout_s)
        assert wanted in self.said, self.said

    def types(self, keys: bytes) -> None:
        os.write(self.controller, keys)

    def ended(self) -> int:
        until(lambda: not self.read(), 60)
        return self.process.wait(20)


SET_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


@contextmanager
def terminal(service: Service, folder: Path, *arguments: str) -> Iterator[Terminal]:
    """`r3 submit` on a terminal of its own, 80 columns wide; nothing answers to what it asks."""
    import fcntl
    import struct
    import termios

    controller, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    command = [sys.executable, "-P", "-m", "server.cli", "submit", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", SET_TERMINAL, *command],
        cwd=folder,
        env=environment(service),
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    try:
        yield Terminal(process, controller)
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def test_on_a_terminal_rounds_are_live_and_pictures_are_drawn(service: Service, tmp_path: Path) -> None:
    with terminal(service, tmp_path, "a cat edits=1 words=30") as screen:
        assert screen.ended() == 0
    assert screen.said.count("▀") > 500
    for wanted in ("\x1b[c", "Round 1", "Add thing number 1.", "✔ satisfied", "the model is satisfied", "/49"):
        assert wanted in screen.said, wanted
    assert "\x1b[?25h" in screen.said  # the cursor is back


def test_a_terminal_that_knows_sixels_gets_sixels(service: Service, tmp_path: Path) -> None:
    with terminal(service, tmp_path, "a cat", "--rounds", "0") as screen:
        screen.until("\x1b[c")
        screen.types(b"\x1b[?62;4c")
        assert screen.ended() == 0
    assert '\x1bPq"1;1;' in screen.said
    assert "▀" not in screen.said


def test_without_images_they_are_kept_and_not_drawn(service: Service, tmp_path: Path) -> None:
    with terminal(service, tmp_path, "a cat", "--rounds", "0", "--no-images") as screen:
        assert screen.ended() == 0
    assert "▀" not in screen.said
    assert "\x1b[c" not in screen.said
    assert len(list(tmp_path.glob("r3-*/t0_round0.png"))) == 1


def test_in_the_background_it_asks_the_terminal_nothing_and_is_not_stopped() -> None:
    import pty

    asks = "from server.terminal_pictures import attributes_of_terminal as ask; print('it said', repr(ask()))"
    script = f'set -m; "{sys.executable}" -c "{asks}" & wait'
    said = bytearray()

    def read(controller: int) -> bytes:
        piece = os.read(controller, 1024)
        said.extend(piece)
        return piece

    assert pty.spawn(["bash", "-c", script], read) == 0
    assert b"it said ''" in said


def test_ctrl_c_has_the_server_cancel(own: Service, tmp_path: Path) -> None:
    with terminal(own, tmp_path, "a cat words=200") as screen:
        screen.until("plan")
        screen.types(b"\x03")
        assert screen.ended() == 130
    assert "asking the server to cancel" in screen.said
    assert "Cancelled" in screen.said
    with Client(own.url) as client:
        [job] = client.jobs().jobs
    assert job.status == "cancelled"


def test_a_second_ctrl_c_leaves_at_once(own: Service, tmp_path: Path) -> None:
    with terminal(own, tmp_path, "a cat words=200") as screen:
        screen.until("plan")
        own.api.send(signal.SIGSTOP)  # so that it answers nothing any more
        try:
            screen.types(b"\x03")
            screen.until("Ctrl-C once more")
            began = time.monotonic()
            screen.types(b"\x03")
            assert screen.ended() == 130
            assert time.monotonic() - began < 10
            assert "may go on" in screen.said
        finally:
            own.api.send(signal.SIGCONT)
