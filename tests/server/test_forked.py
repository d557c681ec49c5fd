"""What a forked `r3` shares with one that is begun afresh: its arguments, environment, log, signals and exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.forked import ROOT, Forked
from tests.server.waiting import is_alive, until


class TimeIsOver(Exception):
    pass


def variables(**settings: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    return {**plain, "PYTHONPATH": str(ROOT), **settings}


@pytest.mark.parametrize("arguments", [["--version"], ["worker"], ["api"]])
def test_it_says_and_ends_as_one_that_is_begun_afresh(arguments: list[str], tmp_path: Path) -> None:
    env, log = variables(R3_RUNNER="none of them"), tmp_path / "forked.log"
    code = Forked(arguments, env, log).wait(60)
    command = [sys.executable, "-P", "-m", "server.cli", *arguments]
    afresh = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (code, log.read_text()) == (afresh.returncode, afresh.stdout + afresh.stderr)


def test_signals_reach_it_and_its_end_is_told(tmp_path: Path) -> None:
    log = tmp_path / "r3.log"
    nowhere = variables(
        R3_REDIS_URL=f"unix://{tmp_path}/none", R3_DATA_DIR=str(tmp_path), R3_RUNNER="fake", R3_WORKER_PORT="0"
    )
    for number, ended in ((signal.SIGTERM, 0), (signal.SIGKILL, -9)):
        process = Forked(["worker"], nowhere, log)
        until(lambda: "waiting for Redis" in log.read_text(), 60)
        with pytest.raises(subprocess.TimeoutExpired, match=str(process.pid)):
            process.wait(0.05)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(30) == ended
        process.kill()  # nobody: the number may be another's by now
        assert process.poll() == ended


def test_a_time_limit_in_mid_question_leaves_no_answer_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, log = variables(R3_RUNNER="none of them"), tmp_path / "r3.log"
    one = Forked(["worker"], env, log)
    assert one.wait(60) == 2

    class Deaf:
        def readline(self) -> str:
            raise TimeIsOver

    late = Forked(["worker"], env, log)
    until(lambda: not is_alive(late.pid), 60)
    with monkeypatch.context() as patched:
        patched.setattr(one._parent._process, "stdout", Deaf())
        for ask in (late.poll, lambda: Forked(["api"], env, log)):
            with pytest.raises(TimeIsOver):
                ask()
    assert late.poll() == 2
    other = Forked(["--version"], env, log)
    assert other.pid != one.pid
    assert other.wait(60) == 0
