"""`r3 batch`: real processes, the fake model, and a run that is left, broken and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from r3client import AsyncClient, Client, Job
from server.cli import app
from server.embedded import EmbeddedServer
from server.misconfigured import Misconfigured
from server.research.folder import read_job
from tests.client.service import Service, running_service
from tests.programs import without_proxies
from tests.research.made import samples
from tests.server.processes import free_port
from tests.server.waiting import until

PROJECT = Path(__file__).resolve().parents[2]
SOON = ["--set", "generate.num_timesteps=3", "--set", "refine.num_timesteps=3"]
Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def batch(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process against the shared service."""
    monkeypatch.setenv("R3_URL", service.url)
    return lambda *given: CliRunner().invoke(app, ["batch", "prompts.jsonl", "--out", "out", *SOON, *given])


def prompts(folder: Path, *rows: str | dict[str, Any]) -> None:
    lines = [json.dumps({"prompt": row} if isinstance(row, str) else row) for row in rows]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def job(folder: Path, number: int) -> Job:
    return read_job(folder / "out" / "jobs" / f"{number:05}")


def jobs_made(service: Service) -> int:
    with Client(service.url) as client:
        return len(client.jobs(limit=100).jobs)


def test_every_round_of_every_prompt_is_laid_out_as_genevals_scorer_reads_it(batch: Run, folder: Path) -> None:
    geneval = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats edits=1"}
    prompts(folder, geneval, {"prompt": "a dog edits=5", "n": 2, "seed": 9})
    done = batch("--rounds", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [f"out/round_{round_}" for round_ in range(4)]
    for round_ in range(4):
        assert samples(folder / "out", round_) == {"00000": ["00000.png"], "00001": ["00000.png", "00001.png"]}
    told = json.loads((folder / "out" / "round_0" / "00000" / "metadata.jsonl").read_text())
    assert told == geneval
    satisfied, went_on = job(folder, 0), job(folder, 1)
    assert [trajectory.seed for trajectory in went_on.trajectories] == [9, 10]
    assert (satisfied.params["seed"], satisfied.trajectories[0].stop_reason) == (0, "satisfied")
    for made, sample in ((satisfied, 0), (went_on, 1)):
        rounds = made.trajectories[sample].rounds
        for round_ in range(4):
            file = folder / "out" / f"round_{round_}" / f"{0 if made is satisfied else 1:05}" / "samples"
            image = rounds[min(round_, len(rounds) - 1)].image
            assert image is not None
            content = (file / f"{sample:05}.png").read_bytes()
            assert hashlib.sha256(content).hexdigest() == image.sha256


def test_the_last_round_is_the_result_whatever_is_chosen_and_every_candidate_is_kept(batch: Run, folder: Path) -> None:
    judged = ["--set", "judge.scorers=lift,vqa", "--set", "candidates.first=3", "--set", "choose=best"]
    prompts(folder, "a cat edits=9 scores=1719", {"prompt": "a dog edits=9 scores=13", "max_rounds": 1})
    done = batch(*judged, "--rounds", "2")
    assert done.exit_code == 0, done.output
    for number in range(2):
        made = job(folder, number)
        result = made.trajectories[0].image
        assert result is not None
        last = folder / "out" / "round_2" / f"{number:05}" / "samples" / "00000.png"
        assert hashlib.sha256(last.read_bytes()).hexdigest() == result.sha256
        files = {file.name for file in (folder / "out" / "jobs" / f"{number:05}").glob("*.png")}
        assert {f"t0_round0_candidate{c}.png" for c in range(3)} < files
        assert len(files) == len(list(made.every_image())) == made.usage.images
        assert [score.scorer for score in made.trajectories[0].rounds[0].scores] == ["lift", "vqa"]


def test_a_second_run_asks_for_nothing_that_is_there(batch: Run, folder: Path, service: Service) -> None:
    prompts(folder, "a cat edits=0", "a dog edits=0")
    assert batch("--limit", "1").exit_code == 0
    before = jobs_made(service)
    written = (folder / "out" / "jobs" / "00000" / "job.json").stat().st_mtime_ns
    done = batch()
    assert "1 of 2 prompts are there already" in done.stderr
    assert (done.exit_code, jobs_made(service)) == (0, before + 1)
    assert (folder / "out" / "jobs" / "00000" / "job.json").stat().st_mtime_ns == written
    done = batch()
    assert "every prompt is there already" in done.stderr
    assert (done.exit_code, jobs_made(service)) == (0, before + 1)
    assert "2 of 2 prompts are in out" in done.stderr


def test_prompts_that_fail_are_named_and_tried_again_as_other_jobs(batch: Run, folder: Path) -> None:
    prompts(folder, "a cat edits=0", "a dog raise=generate", "a bird raise=generate", {"prompt": "a cow", "n": 9})
    done = batch()
    assert done.exit_code == 1
    assert "1 of 4 prompts are in out" in done.stderr
    said = done.stderr.replace("\n", " ")
    assert "00001 (a dog raise=generate), 00002 (a bird raise=generate): generate failed because" in said
    assert "00003 (a cow): /n" in said
    assert samples(folder / "out", 0) == {"00000": ["00000.png"]}
    failed = [json.loads((folder / "out" / "failed" / f"{n:05}" / "why.json").read_text()) for n in (1, 3)]
    assert failed[0]["job"]["error"]["code"] == "step_failed"
    assert failed[1]["job"] is None
    assert batch().exit_code == 1
    again = json.loads((folder / "out" / "failed" / "00001" / "why.json").read_text())
    assert (again["tries"], again["job"]["id"] != failed[0]["job"]["id"]) == (2, True)


def test_what_was_finished_of_a_job_that_failed_is_kept_until_it_succeeds(batch: Run, folder: Path) -> None:
    prompts(folder, "a cat edits=2 raise=refine")
    assert batch().exit_code == 1
    kept = folder / "out" / "failed" / "00000"
    assert sorted(file.name for file in kept.iterdir()) == ["t0_round0.png", "why.json"]
    assert json.loads((kept / "why.json").read_text())["job"]["trajectories"][0]["rounds"][0]["image"]
    assert not list((folder / "out").glob("round_*"))


def test_where_a_key_is_asked_for_that_is_said_before_anything_is_made(
    valkey: EmbeddedServer, tmp_path: Path, folder: Path
) -> None:
    prompts(folder, "a cat")
    with running_service(f"{valkey.url}?db=1", tmp_path, worker=None, auth="keys") as keyed:
        done = CliRunner().invoke(app, ["batch", "prompts.jsonl", "--out", "out", "--url", keyed.url])
    assert isinstance(done.exception, Misconfigured), done.output
    assert "give a key with --key/R3_API_KEY" in str(done.exception)


def test_a_round_is_what_a_run_of_so_many_rounds_comes_to(batch: Run, folder: Path) -> None:
    prompts(folder, *[{"prompt": f"cat {n} edits={n}", "n": 2} for n in range(4)])
    judged = ["judge.scorers=vqa", "choose=best", "on_regression=backtrack", "candidates.refine=2"]
    settings = [part for setting in judged for part in ("--set", setting)]
    assert batch("--rounds", "3", *settings).exit_code == 0
    assert batch("--rounds", "1", *settings, "--out", "short").exit_code == 0
    for number in range(4):
        for sample in range(2):
            place = Path("round_1") / f"{number:05}" / "samples" / f"{sample:05}.png"
            assert (folder / "out" / place).read_bytes() == (folder / "short" / place).read_bytes()


@pytest.mark.parametrize(
    ("given", "made", "stop"),
    [
        (["on_regression=backtrack"], [0, 1, 2, 3], "max_rounds"),
        (["on_regression=backtrack", "choose=best"], [0, 1, 1, 3], "max_rounds"),
        (["early_stop.score.scorer=vqa", "early_stop.score.at_least=7"], [0, 1, 1, 1], "score"),
        (["max_images=3", "choose=best"], [0, 1, 1, 1], "budget"),
    ],
)
def test_each_round_has_what_would_have_been_the_result(
    batch: Run, folder: Path, given: list[str], made: list[int], stop: str
) -> None:
    prompts(folder, "a cat edits=9 scores=1728")
    settings = [part for setting in ["judge.scorers=vqa", *given] for part in ("--set", setting)]
    assert batch("--rounds", "3", *settings).exit_code == 0
    [trajectory] = job(folder, 0).trajectories
    hashes = [round_.image and round_.image.sha256 for round_ in trajectory.rounds]
    shown = [folder / "out" / f"round_{round_}" / "00000" / "samples" / "00000.png" for round_ in range(4)]
    assert [hashes.index(hashlib.sha256(path.read_bytes()).hexdigest()) for path in shown] == made
    assert trajectory.image is not None
    assert (trajectory.image.sha256, trajectory.stop_reason) == (hashes[made[-1]], stop)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rounds", "9"], "the server refuses the settings of this run: /max_rounds"),
        (["--model", "another"], "the server refuses the settings of this run: "),
        (["--set", "choose=best"], "the server refuses the settings of this run: /choose"),
        (["--set", "choose"], "--set choose has no value"),
        (["--set", "chose=best"], "chose is no setting; write choose"),
        (
            ["--set", "refine.cfg_text_scale=1e999"],
            "the server refuses the settings of this run: /refine/cfg_text_scale",
        ),
        (["--set", "tag=1"], "--set tag is no setting of POST /generate"),
        (["--set", "prompt=1"], "--set prompt is no setting of POST /generate"),
        (["--rounds", "1", "--set", "max_rounds=2"], "says what another option says already"),
        (["--set", "early_stop=false", "--set", "early_stop.score.scorer=lift"], "leave out one"),
        (["--set", "output_format=webp"], "pictures are kept as PNG"),
        (["--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["--url", "http://127.0.0.1:9", "--device", "cpu"], "--url names a server and --device is for one of"),
    ],
)
def test_a_mistake_of_the_callers_is_one_line(batch: Run, folder: Path, given: list[str], said: str) -> None:
    prompts(folder, "a cat edits=0", "a dog edits=0")
    done = batch(*given)
    assert isinstance(done.exception, Misconfigured), done.output
    assert said in str(done.exception)


def test_a_folder_that_cannot_be_written_ends_the_run_with_one_line(batch: Run, folder: Path) -> None:
    prompts(folder, "a cat edits=0", "a dog edits=0", "a cow raise=generate")
    assert batch("--limit", "1").exit_code == 0
    (folder / "out" / "failed").touch()
    assert "failed/.00002.part cannot be written or read (Not a directory)" in str(batch().exception)
    (folder / "out" / "failed").unlink()
    assert batch().exit_code == 1
    assert sorted(path.name for path in (folder / "out" / "jobs").iterdir()) == ["00000", "00001"]


def test_settings_that_were_refused_bind_nobody(batch: Run, folder: Path) -> None:
    prompts(folder, "a cat edits=0")
    assert "the server refuses the settings" in str(batch("--rounds", "9").exception)
    assert batch("--rounds", "1").exit_code == 0
    assert "was made with settings" in str(batch("--rounds", "2").exception)


@pytest.mark.parametrize("content", ["{", '{"format": 1, "settings": {"seed": 0}}'])
def test_a_broken_run_is_told_and_neither_overwritten_nor_to_be_deleted(batch: Run, folder: Path, content: str) -> None:
    prompts(folder, "a cat edits=0")
    assert batch().exit_code == 0
    (folder / "out" / "run.json").write_text(content)
    told = str(batch().exception)
    assert ("mend it, or name another" in told) == (content == "{")
    assert "delete" not in told
    assert (folder / "out" / "run.json").read_text() == content


def test_other_prompts_or_settings_do_not_mix_with_those_of_before(batch: Run, folder: Path) -> None:
    prompts(folder, "a cat edits=0")
    assert batch().exit_code == 0
    assert "was made with settings" in str(batch("--seed", "4").exception)
    prompts(folder, "a dog edits=0")
    assert "made for another request than prompt 0 is now" in str(batch().exception)


def command(folder: Path, *given: str, **variables: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    plain = {name: value for name, value in without_proxies().items() if not name.startswith("R3_")}
    line = [sys.executable, "-P", "-m", "server.cli", "batch", "prompts.jsonl", "--out", "out", *SOON, *given]
    environment = {**plain, "PYTHONPATH": str(PROJECT), **variables}
    return subprocess.Popen(
        line, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_left_or_killed_is_gone_on_with_and_makes_no_job_twice(
    own: Service, folder: Path, number: signal.Signals
) -> None:
    prompts(folder, *[f"cat {n} edits=0 words=5" for n in range(8)])
    first = command(folder, "--url", own.url, "--concurrency", "3")
    until(lambda: len(list(folder.glob("out/jobs/[0-9]*"))) >= 2 or first.poll() is not None, 60)
    first.send_signal(number)
    _, said = first.communicate(timeout=30)
    if number == signal.SIGINT:
        assert first.returncode == 130, said
        assert "left with " in said
    done = {path.name for path in folder.glob("out/jobs/[0-9]*")}
    assert 2 <= len(done) < 8
    for path in folder.glob("out/round_0/[0-9]*"):
        assert (path / "samples" / "00000.png").stat().st_size
    second = command(folder, "--url", own.url)
    _, said = second.communicate(timeout=100)
    assert second.returncode == 0, said
    assert len(samples(folder / "out", 0)) == 8
    assert jobs_made(own) == 8
    assert not list((folder / "out").rglob("*.part"))


def test_while_the_api_is_away_a_run_waits_and_says_so_once(own: Service, folder: Path) -> None:
    prompts(folder, *[f"cat {n} edits=0 words=5" for n in range(6)])
    run = command(folder, "--url", own.url, "--concurrency", "3")
    until(lambda: any(folder.glob("out/jobs/[0-9]*")) or run.poll() is not None, 60)
    own.api.kill()
    own.start_api()
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    assert said.count("trying again") <= 2
    assert jobs_made(own) == 6


def test_without_a_server_it_brings_its_own_and_leaves_none_behind(folder: Path) -> None:
    prompts(folder, "a cat edits=0", "a dog edits=1")
    variables = {"R3_RUNNER": "fake", "R3_PORT": str(free_port()), "R3_AUTH": "keys"}
    run = command(folder, "--rounds", "1", **variables)
    address: list[str] = []

    def has_come_up() -> bool:
        for log in folder.glob("out/.server/serve.log"):
            address.extend(re.findall(r"ready: (\S+)", log.read_text()))
        return bool(address) or run.poll() is not None

    until(has_come_up, 60)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    assert "starting a server for this run" in said
    assert len(samples(folder / "out", 1)) == 2
    assert not (folder / "out" / ".server").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address[0], trust_env=False)


def test_the_server_on_this_machine_is_found(service: Service, folder: Path) -> None:
    prompts(folder, "a cat edits=0")
    run = command(folder, R3_PORT=str(service.api.port))
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    assert f"asking the server at {service.url}" in said


def test_a_server_of_its_own_that_does_not_come_up_says_why(folder: Path) -> None:
    prompts(folder, "a cat")
    run = command(folder, "--checkpoint", "nowhere")
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2, said
    assert "did not come up" in said
    assert "nowhere" in said
    assert not list(folder.glob("out/jobs/*"))


def test_on_a_terminal_there_is_a_bar(service: Service, folder: Path) -> None:
    prompts(folder, "a cat edits=0", "a dog edits=0")
    controller, side = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm-256color", "R3_URL": service.url}
    line = [sys.executable, "-P", "-m", "server.cli", "batch", "prompts.jsonl", "--out", "out", *SOON]
    process = subprocess.Popen(line, cwd=folder, env=environment, stderr=side, stdout=subprocess.DEVNULL)
    os.close(side)
    said = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # nobody has it open any more
            break
        if not piece:
            break
        said += piece
    assert process.wait(30) == 0
    os.close(controller)
    assert b"2/2" in said


def test_a_job_without_a_picture_for_every_trajectory_is_not_done(
    batch: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose deadline came when the second had none yet."""
    generate = AsyncClient.generate

    async def cut(*given: Any, **named: Any) -> Job:
        made = await generate(*given, **named)
        first, second = made.trajectories
        late = second.model_copy(update={"image": None, "stop_reason": "deadline"})
        return made.model_copy(update={"trajectories": [first, late]})

    monkeypatch.setattr(AsyncClient, "generate", cut)
    prompts(folder, {"prompt": "a cat edits=0", "n": 2})
    done = batch()
    assert done.exit_code == 1, done.output
    assert "no picture came of trajectory 1 (deadline)" in done.output
    assert not (folder / "out" / "jobs" / "00000").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert (folder / "out" / "failed" / "00000" / "why.json").exists()
