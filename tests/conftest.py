"""For all tests: figures are written down where a test measures them (recorded.py)."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.recorded import Record, Recorder

# Machines that run tests are shared: an example that takes long is no fault.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

SOAK_MINUTES = 30.0
_RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--minutes`, for the soak."""
    parser.addoption("--minutes", type=float, default=SOAK_MINUTES, help="how long the soak lasts (30)")


def pytest_configure(config: pytest.Config) -> None:
    """One recorder for the run; a soak that is cut short has nothing to say.

    A shell that puts tests into the background has them ignore Ctrl-C, and so all programs that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    recorder = config.stash[_RECORDER] = Recorder()
    recorder.is_on = recorder.is_on and config.getoption("--minutes") >= SOAK_MINUTES


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """What a module leaves open fails there, and not where Python happens to find it. An engine that a test loads takes
    a thread for each core, and whatever the process computes later would too: on cores that the tests beside it want,
    six times as slow.
    """
    yield
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None:  # seldom is, and it takes long to import
        torch.set_num_threads(1)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Writes down a figure of a row: `record("S1", "p99 12 ms", kept=True)`."""
    return Record(request.config.stash[_RECORDER], request.node.name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What came of a test that is marked with a row is recorded, where the test itself recorded nothing."""
    report = yield
    recorder = item.config.stash[_RECORDER]
    for mark in item.iter_markers("row"):
        for row in mark.args:
            _note(recorder, row, report)
    return report


def _note(recorder: Recorder, row: str, report: pytest.TestReport) -> None:
    test = report.nodeid.rpartition("::")[2]
    if report.failed:
        recorder.add(row, test, f"`{test}` fails", "missed")
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        recorder.add(row, test, reason.removeprefix("Skipped: "), "not run")
    elif report.when == "call" and not recorder.has_heard(row, test):
        recorder.add(row, test, "", "kept")
