"""`r3 api` and `r3 worker` in milliseconds: forked from a process that has imported what they import.

Importing is two seconds of each, and a whole run of the tests starts some two hundred. A fork has the environment, the
folder and the log that it is given, runs what `r3` runs, and ends as any process does. What is to be imported in its
own way, has limits from the process that begins it, or is there to show what a start costs, is begun as users begin it:
see R3Process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
IMPORTED: Final = ("server.cli", "server.api", "server.worker", "r3core.fake")
NAP_S: Final = 0.01


class Forked:
    """One of them, with what its tests use of subprocess.Popen."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path) -> None:
        log.write_bytes(b"")  # it is there at once, as a shell's would be
        self._parent = _parent()
        self.pid = int(self._parent.ask({"argv": arguments, "env": env, "cwd": str(Path.cwd()), "log": str(log)}))
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it, None while it runs."""
        with self._lock:  # once it has been told, the number may be another process's
            if self.returncode is None:
                self.returncode = self._parent.ask({"ended": self.pid})
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        latest = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if latest is not None and time.monotonic() > latest:
                raise subprocess.TimeoutExpired(f"r3, forked as {self.pid}", timeout or 0.0)
            time.sleep(NAP_S)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that forks. It keeps those that have ended until their exit codes are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> Any:
        """One question, one answer, a line each. One whose answer a test's time limit cut off is not the next one's."""
        told, says = self._process.stdin, self._process.stdout
        assert told is not None
        assert says is not None
        with self._lock:
            self._asked += 1
            told.write(json.dumps([self._asked, question]) + "\n")
            told.flush()
            while line := says.readline():
                number, answer = json.loads(line)
                if number == self._asked:
                    return answer
        raise AssertionError("the process that forks has ended; its traceback is on standard error")


@cache
def _parent() -> _Parent:
    return _Parent()


def _become(question: dict[str, Any]) -> None:
    """In the fork: what a new process has of its own."""
    out = os.open(question["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for given, number in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(given, number)
    os.closerange(3, max(nothing, out) + 1)
    os.environ.clear()
    os.environ.update(question["env"])
    os.chdir(question["cwd"])
    sys.argv = ["r3", *question["argv"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _ended(pid: int, codes: dict[int, int]) -> int | None:
    if pid not in codes:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            return None
        codes[pid] = os.waitstatus_to_exitcode(status)
    return codes[pid]


def _fork_when_asked() -> bool:
    """Answer until nobody asks any more; whether this is a fork."""
    codes: dict[int, int] = {}  # the kernel tells each once, and who asked may not have heard it
    for line in sys.stdin:
        number, question = json.loads(line)
        if "ended" in question:
            answer = _ended(question["ended"], codes)
        elif (answer := os.fork()) == 0:
            _become(question)
            return True
        else:
            codes.pop(answer, None)
        sys.stdout.write(json.dumps([number, answer]) + "\n")
        sys.stdout.flush()
    return False


def _main() -> None:
    import gc

    from server.cli import main

    for name in IMPORTED:
        import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and for the forks
    gc.collect()
    gc.freeze()
    if _fork_when_asked():
        main()


if __name__ == "__main__":
    _main()
