"""`r3 serve`: a private queue, the API and one worker as child processes, on one machine.

    queue    answers first: the others write to it
    API      answers while the weights load: jobs are taken and wait
    worker   loads the model, then takes jobs

A child that dies is started again, later each time it dies young; its jobs go on from the queue. A child that ends as
misconfigured ends everything, for it has said why and would say it again; so does one that never comes up. Ctrl-C and
SIGTERM stop API, worker and queue in that order; a second one stops waiting.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from r3core.malloc import preload
from server import child
from server.embedded import EmbeddedServer, locked
from server.health import Startup, is_up, startup
from server.misconfigured import EXIT_BROKEN, EXIT_MISCONFIGURED
from server.other_variables import local_url
from server.preflight import check_data_dir, check_exposure, check_serve
from server.settings import NONE, Settings

POLL_S: Final = 0.1
BACK_OFF_S: Final = (0.2, 30.0)
GREW_UP_S: Final = 60.0
API_GRACE_S: Final = 10.0
LOADING_GRACE_S: Final = 3.0
# A child that dies this often in a row before it was ever ready is broken, not unlucky.
STILLBORN_LIMIT: Final = 5


def run_serve(settings: Settings) -> int:
    """Serve until told to stop; the exit code of the process. Raises Misconfigured where it cannot start."""
    check_exposure(settings)
    check_data_dir(settings.data_dir)
    with asked_to_stop() as asked, locked(settings.data_dir) as directory:
        model = check_serve(settings)
        # The queue remembers every model that was ever served from it; who names none means this one.
        default = {} if settings.default_model else {"default_model": model}
        settings = settings.model_copy(update={**_free_ports(settings), **_keeping(settings), **default})
        if settings.redis_url is not None:
            directory.record(elsewhere=True)
            return _Household(settings, None, asked).run()
        with EmbeddedServer(directory, hurry=lambda: asked.times > 0) as queue:
            if asked.times:  # it may not have read its data yet
                return 0
            say(f"queue: {queue.binary.name}, its data in {directory.path}")
            return _Household(settings.model_copy(update={"redis_url": queue.url}), queue, asked).run()


class Asked:
    """How often the process was asked to stop."""

    times = 0


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Hear Ctrl-C, SIGTERM and a closed terminal instead of dying of them."""
    asked = Asked()

    def hear(_number: int, _frame: FrameType | None) -> None:
        asked.times += 1

    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """A process of ours that is started again when it dies, later each time it dies young."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._deaths = 0
        self.stillborn = 0

    def start(self) -> None:
        """Start it."""
        # -P: a folder named `server` where the user stands is not ours.
        self._process = child.spawn(
            [sys.executable, "-P", "-m", "server.cli", self.name], environment=self._environment
        )
        self._started_at = time.monotonic()

    def died(self) -> int | None:
        """Its exit code, once, where it has ended; a dead child is to be started again after `rest_s`."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._process = None
        self._deaths = 1 if time.monotonic() - self._started_at > GREW_UP_S else self._deaths + 1
        self.stillborn += 1
        return code

    @property
    def rest_s(self) -> float:
        """How long to wait before the next start."""
        first, longest = BACK_OFF_S
        return min(longest, first * 2.0 ** (self._deaths - 1))

    def stop(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        """End it, within `grace_s` or as soon as `hurry()` says so."""
        if self._process is not None:
            child.stop(self._process, grace_s, hurry=hurry)
            self._process = None


class _Household:
    """The API and the worker around a queue, and what is said of them."""

    def __init__(self, settings: Settings, queue: EmbeddedServer | None, asked: Asked) -> None:
        environment = child_environment(settings)
        self._settings = settings
        self._queue = queue
        self._asked = asked
        self._api = Child("api", environment)
        self._worker = Child("worker", environment | preload(environment, settings.device))
        self._due: dict[Child, float] = {}
        self._said_percent = -1
        self._is_loaded = False
        self._is_ready = False

    def run(self) -> int:
        """Keep both alive until asked to stop; the exit code."""
        try:
            say(f"model: {self._settings.checkpoint}" if self._settings.runner == "model" else "model: the fake one")
            self._api.start()
            self._worker.start()
            while not self._asked.times:
                if EXIT_MISCONFIGURED in (self._mind(self._api), self._mind(self._worker)):
                    return EXIT_MISCONFIGURED
                if broken := next((c for c in (self._api, self._worker) if c.stillborn >= STILLBORN_LIMIT), None):
                    say(f"{broken.name} does not come up; `r3 doctor` may say why")
                    return EXIT_BROKEN
                self._mind_queue()
                self._report()
                time.sleep(POLL_S)
            return 0
        finally:
            self._stop()

    def _mind(self, one: Child) -> int | None:
        """Start a dead child again when its time has come; the exit code where it has just died."""
        code = one.died()
        if code == EXIT_MISCONFIGURED:
            return code
        if code is not None:
            say(f"{one.name} ended ({_how(code)}); it is started again in {one.rest_s:.1f} s")
            self._due[one] = time.monotonic() + one.rest_s
            self._is_ready = False
            if one is self._worker:
                self._is_loaded, self._said_percent = False, -1
        elif self._due.get(one, float("inf")) <= time.monotonic():
            del self._due[one]
            one.start()
        return code

    def _mind_queue(self) -> None:
        if self._queue is not None and not self._queue.is_running():
            say("the queue ended; it is started again with its data")
            self._queue.start()

    def _report(self) -> None:
        """Say how far the weights are, and the address once all is up."""
        if self._is_ready or self._worker in self._due or self._api in self._due:
            return
        state = startup(self._settings.worker_host, self._settings.worker_port)
        if state is None:
            return
        self._say_progress(state)
        self._is_loaded = state.is_done
        if state.is_done and is_up(self._settings.host, self._settings.port):
            self._is_ready = True
            self._api.stillborn = self._worker.stillborn = 0
            say(f"ready: {local_url(self._settings.host, self._settings.port)}")

    def _say_progress(self, state: Startup) -> None:
        """A line for every tenth of the weights, so that a log stays short."""
        percent = int(10 * state.share) * 10
        if state.total_bytes and percent > self._said_percent and not state.is_done:
            self._said_percent = percent
            say(f"weights: {percent} % of {_size(state.total_bytes)}")

    def _stop(self) -> None:
        enough = 2 if self._asked.times else 1
        drain_s = self._settings.drain_s
        if self._is_loaded and self._asked.times:
            say(f"stopping: the rounds in hand are finished first, {drain_s:.0f} s at most; Ctrl-C again stops at once")

        def hurry() -> bool:
            return self._asked.times >= enough

        self._api.stop(API_GRACE_S, hurry)
        self._worker.stop(drain_s + API_GRACE_S if self._is_loaded else LOADING_GRACE_S, hurry)


def child_environment(settings: Settings) -> dict[str, str]:
    """Our own environment with every setting in it, so that a child reads exactly these."""
    dumped = settings.model_dump(mode="json", exclude_none=True)
    values = {name: ",".join(value) if isinstance(value, list) else value for name, value in dumped.items()}
    if settings.token_secret is not None:
        values["token_secret"] = settings.token_secret.get_secret_value()
    fields = Settings.model_fields.items()
    values |= {name: NONE for name, field in fields if getattr(settings, name) is None and field.default is not None}
    if "log_format" not in settings.model_fields_set and sys.stdout.isatty():
        values["log_format"] = "console"
    as_text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    # What is under our prefix and no setting was told once, and is not handed on.
    others = {name: text for name, text in os.environ.items() if not name.startswith("R3_")}
    return {**others, **{f"R3_{name.upper()}": text for name, text in as_text.items()}}


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"r3  {line}", flush=True)


def _free_ports(settings: Settings) -> dict[str, int]:
    """A free port for each that is 0: parent and child must speak of the same one."""
    asked = {"port": (settings.host, settings.port), "worker_port": (settings.worker_host, settings.worker_port)}
    free = {}
    for name, (host, port) in asked.items():
        if port == 0:
            family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.bind(where)
                free[name] = int(probe.getsockname()[1])
    return free


def _keeping(settings: Settings) -> dict[str, None]:
    """Jobs are kept until they are deleted, or until R3_KEEP_GB is full, unless a lifetime was asked for."""
    return {} if "job_ttl_s" in settings.model_fields_set else {"job_ttl_s": None}


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
