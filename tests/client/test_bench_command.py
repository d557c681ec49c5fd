"""`r3 bench` as a real command: with the small model, with the fake one, and for a server that runs already."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r3core.bench.results import Results
from server.bench.place import place_at
from server.bench.watching import NotMeasured, watch
from server.misconfigured import Misconfigured
from tests.client.service import SOON, Service
from tests.programs import without_proxies

PROJECT = Path(__file__).resolve().parents[2]
FAKE = {"R3_RUNNER": "fake", "R3_FAKE_STEP_S": "0.002"}


def bench(folder: Path, *given: str, **variables: str) -> subprocess.Popen[str]:
    """The command, whose temporary files lie in a folder of the test's."""
    temporary = folder / "temporary"
    temporary.mkdir()
    plain = {name: value for name, value in without_proxies().items() if not name.startswith("R3_")}
    environment = {**plain, "PYTHONPATH": str(PROJECT), "TMPDIR": str(temporary), **variables}
    line = [sys.executable, "-P", "-m", "server.cli", "bench", *given]
    return subprocess.Popen(
        line, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(run: subprocess.Popen[str]) -> tuple[str, str]:
    """What it said on standard output and standard error; nothing is left of it, whatever ends the waiting."""
    try:
        return run.communicate(timeout=110)
    except subprocess.TimeoutExpired:
        run.terminate()
        raise AssertionError(f"it did not end in time: {run.communicate()}") from None
    finally:
        run.kill()


def refusal(folder: Path, *given: str, **variables: str) -> str:
    """The one line that a refused command says."""
    run = bench(folder, *given, **variables)
    said, refused = ended(run)
    assert (run.returncode, said) == (2, ""), refused
    assert len(refused.splitlines()) == 1, refused
    return refused


def test_the_engine_and_the_service_around_it_are_measured_and_kept(tmp_path: Path) -> None:
    given = ("--quick", "--only", "phases", "--only", "overhead", "--results", "figures.json")
    run = bench(tmp_path, *given)
    said, complaints = ended(run)
    assert run.returncode == 0, complaints
    kept = Results.read(tmp_path / "figures.json")
    assert list(dict.fromkeys(line.part for line in kept.lines)) == ["ceiling", "phases", "overhead"]
    assert kept.checkpoint.startswith("r3-small ")
    assert kept.command == "r3 bench --runs 5 --only phases --only overhead --quick"
    assert any("--quick" in note for note in kept.notes)
    figures = {line.name: line.value for line in kept.of_part("overhead")}
    assert figures["overhead"] == pytest.approx(
        1000 * (figures["POST to the last event"] - figures["the engine's turns of it"]), rel=0.01
    )
    assert figures["the same job in an engine alone"] > 0  # it wrote and drew as much as the server's
    assert re.search(r"^phases: reason .* of the ceiling$", said, re.MULTILINE)
    assert re.search(r"^OVERHEAD +median +least to most", said, re.MULTILINE)
    assert not list((tmp_path / "temporary").glob("r3-bench-*"))


def test_the_whole_system_alone_is_told_as_json(tmp_path: Path) -> None:
    run = bench(tmp_path, "--quick", "--json", **FAKE)
    said, told = ended(run)
    assert run.returncode == 0, told
    value = json.loads(said)
    found: dict[str, set[str]] = {}
    for line in value["lines"]:
        found.setdefault(line["part"], set()).add(line["name"])
        assert min(line["values"]) > 0 or line["name"].startswith("of it"), line
    assert list(found) == ["system", "overhead", "system load"]
    assert {"generate", "refine", "time to first preview", "time to first image, fetched"} <= found["system"]
    assert {"throughput", "completion, p50", "completion, p99"} <= found["system load"]
    assert "system: whole job" in told


def test_ctrl_c_keeps_what_was_measured_and_says_that_it_is_not_all(tmp_path: Path) -> None:
    run = bench(tmp_path, "--engine-only", "--only", "growth", "--runs", "100000", "--results", "figures.json")
    assert run.stdout is not None
    first = run.stdout.readline()
    assert first.startswith("ceiling: "), first
    run.stdout.readline()
    run.send_signal(signal.SIGINT)
    said, told = ended(run)
    assert run.returncode == 130, told
    assert "CEILING" in said
    kept = Results.read(tmp_path / "figures.json")
    assert [line.part for line in kept.lines] == ["ceiling", "ceiling"]
    assert kept.notes == ("this is not all that was asked for: it was interrupted",)


def test_a_part_that_is_none_is_refused_with_the_names_of_those_there_are(tmp_path: Path) -> None:
    line = refusal(tmp_path, "--only", "system", "--only", "nothing", **FAKE)
    assert "--only nothing is no part" in line
    assert "there are system, overhead, system load" in line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
        (["--url", "http://127.0.0.1:1", "--results", "figures.json"], "none is measured here; use --json"),
        (["--url", "http://127.0.0.1:1", "--device", "cpu"], "leave out one"),
        (["--url", "http://127.0.0.1:1", "--engine-only"], "leave out one"),
        (["--key", "secret"], "give both, or neither"),
    ],
)
def test_what_cannot_be_is_refused(given: list[str], told: str, tmp_path: Path) -> None:
    assert told in refusal(tmp_path, *given)


def test_an_engine_that_computes_nothing_is_not_measured(tmp_path: Path) -> None:
    assert "has no engine to measure" in refusal(tmp_path, "--engine-only", **FAKE)


def test_a_server_that_runs_already_is_measured(service: Service, tmp_path: Path) -> None:
    run = bench(tmp_path, "--quick", "--only", "overhead", "--url", service.url)
    said, told = ended(run)
    assert run.returncode == 0, told
    assert "overhead, of what is allowed" in said
    assert "until a worker has the job" not in said  # it may be on another machine, with a clock of its own
    assert "CEILING" not in said


async def test_a_job_that_fails_is_no_figure(service: Service) -> None:
    async with place_at(service.url, None).http() as http:
        with pytest.raises(NotMeasured, match=r"job\.failed.*step_failed"):
            await watch(http, {"prompt": "a cat raise=generate", **SOON})
        with pytest.raises(NotMeasured, match="answered 422"):
            await watch(http, {"prompt": ""})


async def test_a_job_is_watched_to_its_end_and_its_first_picture_fetched(service: Service) -> None:
    async with place_at(service.url, None).http() as http:
        job = await watch(http, {"prompt": "a cat edits=1", "previews": 2, **SOON}, fetches=True)
    assert job.events[-1].name == "job.succeeded"
    assert job.picture_s is not None
    assert job.first_picture_s <= job.picture_s
    assert job.engine_s > 0
    assert list(job.phases()) == ["reason", "generate", "reflect", "refine"]


def test_what_is_no_server_of_ours_is_refused() -> None:
    with pytest.raises(Misconfigured, match="is the server running"):
        place_at("http://127.0.0.1:1", None)
