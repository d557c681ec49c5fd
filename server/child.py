"""Child processes that end with their parent: on Linux even a parent that is killed outright leaves none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

PR_SET_PDEATHSIG: Final = 1


def spawn(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    when_parent_dies: signal.Signals = signal.SIGKILL,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that a Ctrl-C in the terminal reaches the parent alone. What it says
    goes to `output`, else to where ours goes.

    Call it from the main thread: the kernel sends `when_parent_dies` when the *thread* that started the child ends.
    """
    return subprocess.Popen(
        list(command),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_tie_to_parent(when_parent_dies),  # noqa: PLW1509 -- no other way; nothing but two system calls in it
    )


def stop(process: subprocess.Popen[bytes], grace_s: float, *, hurry: Callable[[], bool] = lambda: False) -> None:
    """Ask the process to end, and kill it where it has not within `grace_s`, or as soon as `hurry()` says so."""
    process.terminate()
    while grace_s > 0 and not hurry():
        try:
            process.wait(min(grace_s, 0.1))
        except subprocess.TimeoutExpired:
            grace_s -= 0.1
        else:
            return
    process.kill()
    process.wait()


def _tie_to_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return tie
