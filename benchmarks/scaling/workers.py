"""Several workers in one process: the worker's own code, each with an engine over a device that sleeps.

    python -m benchmarks.scaling.workers '{"redis_url": ..., "data_dir": ..., "workers": 16, ...}'

Once all have said to the queue that they live, the file `stats` says twice a second how long the devices have been at
work. SIGTERM ends it: what is in hand is given back.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.scaling.plan import pace
from r3core.engine.batch import Part
from r3core.engine.engine import Engine
from r3core.fake import FakeRunner
from server import __version__
from server.engines import FAKE
from server.inbox import Inbox
from server.logs import configure_logging
from server.queue_records import QueuePolicy
from server.queue_worker import WorkerQueue
from server.settings import Settings
from server.worker import Worker
from server.worker_health import Vitals

STATS_EVERY_S: Final = 0.5  # a window's end is off by that much at most, and the rate is taken between two of these
LEFT_WITHIN_S: Final = 20.0


class Simulated:
    """One worker with its device; what `server.worker.run_worker` puts together, but for probes and signals."""

    def __init__(self, settings: Settings, name: str, speedup: float) -> None:
        self.busy_s = 0.0
        self._pace = pace(speedup)
        self._inbox, vitals = Inbox(), Vitals(hung_after_s=math.inf)
        engine = Engine(FakeRunner(pace=self._took), settings.max_trajectories)
        vitals.metrics.loaded(FAKE.name, FAKE.hash, __version__, 0.0)
        vitals.metrics.planned(engine.plan(), engine.memory_used_bytes)
        vitals.is_loaded = True
        assert settings.redis_url is not None
        self._work = WorkerQueue(settings.redis_url, name, QueuePolicy.from_settings(settings))
        self._work.ping()
        self.vitals = vitals
        self._worker = Worker(settings, engine, FAKE, self._work, self._inbox, vitals)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)  # what fails here ends the process

    @property
    def turning_s(self) -> float:
        """How long the engine has had a turn under way; the rest of the time it had nothing to do."""
        return sum(
            sample.value
            for metric in self.vitals.metrics.step_s.collect()
            for sample in metric.samples
            if sample.name.endswith("_sum")
        )

    def leave(self) -> None:
        """Ask it to leave at once."""
        self._inbox.leave()
        self._inbox.leave()

    def _run(self) -> None:
        try:
            self._worker.run()
        finally:
            self._work.close()

    def _took(self, part: Part, size: int, branches: int) -> float:
        seconds = self._pace(part, size, branches)
        self.busy_s += seconds
        return seconds


def main() -> int:
    """Run them until SIGTERM; 1 where one of them ended by itself."""
    asked = json.loads(sys.argv[1])
    configure_logging("warning", "json")
    settings = Settings(
        redis_url=asked["redis_url"],
        data_dir=Path(asked["data_dir"]),
        runner="fake",
        max_trajectories=asked["places"],
        **asked["policy"],
    )
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    workers = [
        Simulated(settings, f"scale-{os.getpid()}-{index}", asked["speedup"]) for index in range(asked["workers"])
    ]
    for one in workers:
        one.thread.start()
    while not over.is_set() and not all(one.vitals.readyz()[0] for one in workers):
        over.wait(0.05)
    stats = Path(asked["stats"])
    while not over.wait(STATS_EVERY_S) and all(one.thread.is_alive() for one in workers):
        turning_s = sum(one.turning_s for one in workers)
        _write(stats, {"at_s": time.time(), "busy_s": sum(one.busy_s for one in workers), "turning_s": turning_s})
    code = 0 if over.is_set() else 1
    for one in workers:
        one.leave()
    for one in workers:
        one.thread.join(LEFT_WITHIN_S)
    return code


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: somebody reads it meanwhile."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value))
    fresh.rename(path)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread that did not end in time must not keep the process
