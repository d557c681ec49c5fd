"""`r3 bench`: the ceiling, the engine alone, then the whole system; each figure is told as it comes and all of them at
the end. What was measured is kept, whatever ends the rest.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from r3core.errors import R3Error
from server.bench.kept import Kept
from server.bench.latency import latencies
from server.bench.load import mixed_load
from server.bench.overhead import Beside, overheads
from server.bench.parts import chosen
from server.bench.place import Place, own_place, place_at
from server.bench.watching import NotMeasured
from server.engines import engine_config
from server.misconfigured import Misconfigured
from server.preflight import check_model
from server.settings import Settings

if TYPE_CHECKING:
    from r3core.bench.line import Line
    from r3core.runtime import Runtime

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130  # as a shell reports it


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    only: tuple[str, ...]
    runs: int
    results: Path | None
    url: str | None
    key: str | None
    quick: bool
    engine_only: bool
    as_json: bool

    @property
    def command(self) -> str:
        """The command without what only this machine knows: its files, addresses and keys."""
        flags = {"--quick": self.quick, "--engine-only": self.engine_only, "--url": self.url is not None}
        only = [f"--only '{part}'" if " " in part else f"--only {part}" for part in self.only]
        return " ".join(["r3 bench", f"--runs {self.runs}", *only, *(name for name, is_on in flags.items() if is_on)])


def run_bench(settings: Settings, asked: Asked, options: Mapping[str, str]) -> int:
    """Measure what was asked for; the exit code. `options` are what our own server is given beside the environment.

    Raises NotMeasured, Misconfigured or R3Error where nothing was measured before.
    """
    has_engine = asked.url is None and settings.runner == "model"
    if asked.results is not None and not has_engine:
        raise Misconfigured(
            "--results keeps figures with the engine they are of, and none is measured here; use --json"
        )
    parts = chosen(asked.only, has_engine=has_engine, engine_only=asked.engine_only)
    if asked.url is None:
        check_model(settings)
    kept = Kept(asked.command, asked.results, sys.stderr if asked.as_json else sys.stdout)
    code = 0
    with _ended_by_signals():
        try:
            bench = _Bench(settings, asked, kept)
            beside = None
            if has_engine:
                beside = bench.engine(parts.engine)
                _freed()
            bench.system(parts.system, options, beside)
        except KeyboardInterrupt:
            kept.note("this is not all that was asked for: it was interrupted")
            code = EXIT_INTERRUPTED
        except (NotMeasured, Misconfigured, R3Error) as error:
            if not kept.has_figures:  # and nothing to keep them for
                raise
            kept.note(f"this is not all that was asked for: {error}")
            code = EXIT_FAILED
    kept.show(as_json=asked.as_json)
    return code


class _Bench:
    def __init__(self, settings: Settings, asked: Asked, kept: Kept) -> None:
        self._settings, self._asked, self._kept = settings, asked, kept

    def engine(self, parts: Sequence[str]) -> Beside | None:
        """The ceiling and the engine's parts. It is given back where it is no burden to a server beside it."""
        from r3core.bench.engine_alone import measure, measure_ceiling
        from r3core.bench.results import Results
        from r3core.runtime import load_engine
        from r3core.warm_up import warm_up

        settings, asked = self._settings, self._asked
        runtime = load_engine(engine_config(settings, settings.max_trajectories))
        if settings.warm_up_s:
            self._kept.say(warm_up(runtime, settings.warm_up_s))
        ceiling, lines = measure_ceiling(runtime)
        quick = ["made with --quick: the figures are worth nothing"] if asked.quick else []
        self._kept.begun(Results.of(runtime, asked.command, ceiling, lines, quick))
        for part in parts:
            self._kept.add(measure(runtime, part, runs=asked.runs, quick=asked.quick, say=self._kept.note))
        return _beside(runtime)

    def system(self, parts: Sequence[str], options: Mapping[str, str], beside: Beside | None) -> None:
        """The parts of a whole system, our own unless one is named."""
        if not parts:
            return
        asked = self._asked
        with own_place(options) if asked.url is None else nullcontext(place_at(asked.url, asked.key)) as place:
            for part in parts:
                self._kept.add(self._of_system(part, place, beside))

    def _of_system(self, part: str, place: Place, beside: Beside | None) -> Iterator[Line]:
        quick = self._asked.quick
        runs = 1 if quick else self._asked.runs
        match part:
            case "system":
                return latencies(place, runs, quick=quick)
            case "overhead":
                return overheads(place, runs, beside, quick=quick)
            case _:
                return mixed_load(place, runs, self._settings.max_trajectories, quick=quick)


def _beside(runtime: Runtime) -> Beside | None:
    """On a CPU the same engine runs jobs in turn with the server's; a device is planned to be one engine's alone."""
    if runtime.loaded.model.bagel.device.type != "cpu":
        return None
    return Beside(runtime.engine, runtime.description)


def _freed() -> None:
    """A server takes the device's memory next, so that what no engine holds any more is given back."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with all that was started, and with what was measured."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
