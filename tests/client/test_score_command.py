"""`r3 score` and `r3 roundtrip`: what they print and keep, what they leave out, and how they go on."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner, Result

from r3client import AsyncClient, Client, DescribeResult, RoundtripResult, ScoreResult
from r3client.errors import failure
from server.cli import app
from server.embedded import EmbeddedServer
from server.folder_lock import held, made_in
from server.misconfigured import Misconfigured
from server.roundtrip_folder import RoundtripFolder
from server.similarity_table import shown, summary
from tests.client.service import FAST, Service, running_service
from tests.client.test_terminal_pictures import picture
from tests.server.waiting import until

PROJECT = Path(__file__).resolve().parents[2]

Run = Callable[..., Result]
ROUNDTRIP = ("roundtrip", "pictures", "--steps", "5")


@pytest.fixture
def r3(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process and a folder of its own, in which `pictures` holds three."""
    monkeypatch.setenv("R3_URL", service.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("b.png", "a.PNG", "c.webp")):
        form = "WEBP" if name.endswith("webp") else "PNG"
        (tmp_path / "pictures" / name).write_bytes(picture((256, 256 + 16 * number), form))
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def jobs_of(service: Service, kind: str) -> list[str]:
    with Client(service.url) as client:
        return [job.id for job in client.jobs(limit=100).jobs if job.kind == kind]


# score


def test_a_folder_is_scored_by_name_and_shown_as_a_table(r3: Run) -> None:
    done = r3("score", "a big cat", "pictures", "--scorers", "lift, vqa")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["PICTURE", "LIFT", "VQA", "LEAST", "SHOWN"]
    assert [line[0] for line in lines[1:]] == ["pictures/a.PNG", "pictures/b.png", "pictures/c.webp"]
    assert all(0 <= float(line[1]) <= 1 for line in lines[1:])
    assert all(line[3].strip(",") in ("a", "big", "cat") for line in lines[1:])


def test_json_has_every_word(r3: Run) -> None:
    done = r3("score", "a cat", "pictures/b.png", "pictures/c.webp", "--scorers", "gvu", "--json")
    told = json.loads(done.stdout)
    assert [one["file"] for one in told["pictures"]] == ["pictures/b.png", "pictures/c.webp"]
    assert [word["text"] for word in told["pictures"][0]["scores"][0]["words"]] == ["a", "cat"]
    assert (told["failed"], done.exit_code) == ([], 0)


def test_more_pictures_than_one_request_takes_are_several_jobs(r3: Run, service: Service, tmp_path: Path) -> None:
    before = len(jobs_of(service, "score"))
    for number in range(17):
        (tmp_path / "pictures" / f"more{number:02}.png").write_bytes(picture((256, 256)))
    done = r3("score", "a cat", "pictures")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 21
    assert len(jobs_of(service, "score")) == before + 2


def test_a_broken_picture_is_named_and_the_others_scored(r3: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "aa.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "d.png").write_bytes(picture((256, 256))[:100])
    done = r3("score", "a cat", "pictures", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert [Path(one["file"]).name for one in told["pictures"]] == ["a.PNG", "b.png", "c.webp"]
    assert [Path(one["file"]).name for one in told["failed"]] == ["aa.png", "d.png"]
    assert "r3: pictures/aa.png was left out: is no" in done.stderr


def test_what_is_too_much_for_one_request_is_sent_in_parts(valkey: EmbeddedServer, r3: Run, tmp_path: Path) -> None:
    noise = secrets.token_bytes(3 * 256 * 256)
    PILImage.frombytes("RGB", (256, 256), noise).save(tmp_path / "pictures" / "large.png")
    own = tmp_path / "own"
    own.mkdir()
    with running_service(f"{valkey.url}?db=3", own, worker=FAST, max_body_bytes=100_000) as service:
        done = r3("score", "a cat", "pictures", "--json", "--url", service.url)
    told = json.loads(done.stdout)
    assert [Path(one["file"]).name for one in told["pictures"]] == ["a.PNG", "b.png", "c.webp"]
    assert [Path(one["file"]).name for one in told["failed"]] == ["large.png"]


def test_a_job_that_fails_leaves_out_its_own_pictures_alone(
    r3: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / "pictures" / f"more{number:02}.png").write_bytes(picture((256, 256)))
    score, jobs = Client.score, count()

    def second_fails(client: Client, prompt: str, pictures: Sequence[bytes], **settings: Any) -> ScoreResult:
        number = next(jobs)
        if number == 1:
            raise failure("job_1", {"code": "out_of_memory", "message": "no memory left"})
        result = score(client, prompt, pictures, **settings)
        if number == 2:  # was stopped in the midst
            result.images[0].scores.clear()
        return result

    monkeypatch.setattr(Client, "score", second_fails)
    done = r3("score", "a cat", "pictures")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1 + 16
    assert done.stderr.count("no memory left") == 16
    assert done.stderr.count("its job was stopped before it was scored") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a cat", "pictures", "--scorers", "beauty"], 1, "r3: /scorers/0"),
        (["a cat raise=judge", "pictures"], 1, "judge failed because the prompt asked for it"),
        (["a cat", "nowhere.png"], None, "nowhere.png is not there; name pictures"),
        (["a cat", "."], None, ". holds no picture"),
    ],
)
def test_what_is_wrong_with_all_of_it_is_one_line(r3: Run, arguments: list[str], code: int | None, said: str) -> None:
    done = r3("score", *arguments)
    if code is None:
        assert isinstance(done.exception, Misconfigured)
        assert said in str(done.exception)
    else:
        assert (done.exit_code, done.stdout) == (code, "")
        assert said in done.stderr


@pytest.mark.parametrize("command", [("score", "a cat", "pictures"), ROUNDTRIP])
def test_a_server_that_is_away_keeps_nobody_waiting_for_long(r3: Run, command: tuple[str, ...]) -> None:
    began = time.monotonic()
    done = r3(*command, "--url", "http://127.0.0.1:9")
    assert time.monotonic() - began < 20
    assert isinstance(done.exception, Misconfigured)
    assert "name the server with --url/R3_URL" in str(done.exception)


# roundtrip


def test_every_picture_comes_round_and_is_kept(r3: Run, tmp_path: Path) -> None:
    done = r3(*ROUNDTRIP)
    assert done.exit_code == 0, done.output
    out = tmp_path / "r3-roundtrip-pictures"
    kept = set(made_in(out))
    names = ("a.PNG", "b.png", "c.webp")
    assert kept == {
        "run.json",
        "summary.json",
        *(f"{name}.json" for name in names),
        *(f"{name}.roundtrip.png" for name in names),
    }
    one = json.loads((out / "b.png.json").read_text())
    assert one["description"]
    assert {"self", "latent", "psnr"} <= set(one["similarities"])
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["MEASURE", "MEAN"]
    assert [line[0] for line in lines[1:4]] == ["self", "latent", "psnr"]
    assert all(line[-1] == "proxy" for line in lines[1:4])
    assert "of 3 pictures" in done.stdout
    assert "no score of Unified-Bench" in done.stdout


def test_a_second_run_does_only_what_is_missing(r3: Run, service: Service, tmp_path: Path) -> None:
    first = r3(*ROUNDTRIP)
    before = set(jobs_of(service, "roundtrip"))
    assert r3(*ROUNDTRIP).stdout == first.stdout
    assert set(jobs_of(service, "roundtrip")) == before
    out = tmp_path / "r3-roundtrip-pictures"
    (out / "a.PNG.roundtrip.png").unlink()
    (out / "b.png.json").write_text('{"half')
    (tmp_path / "pictures" / "c.webp").write_bytes(picture((320, 256)))
    assert r3(*ROUNDTRIP).exit_code == 0
    # Of the first two the job is found again by its key; the third is another picture now.
    assert len(set(jobs_of(service, "roundtrip")) - before) == 1
    assert (out / "a.PNG.roundtrip.png").exists()
    assert not list(out.glob("*.part"))


def test_other_settings_are_refused_in_the_same_folder(r3: Run) -> None:
    assert r3(*ROUNDTRIP).exit_code == 0
    other = r3(*ROUNDTRIP, "--seed", "2")
    assert isinstance(other.exception, Misconfigured)
    assert 'holds a run of other settings, {"generate": {"num_timesteps": 5}, "seed": 0}' in str(other.exception)
    same = r3(*ROUNDTRIP, "--out", "pictures")
    assert isinstance(same.exception, Misconfigured)
    assert "is the folder of the pictures themselves" in str(same.exception)


def test_unreadable_pictures_are_named_and_skipped(r3: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    done = r3(*ROUNDTRIP, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["pictures"], [one["file"] for one in told["failed"]]) == (3, ["broken.png"])
    assert "r3: pictures/broken.png was left out" in done.stderr
    (tmp_path / "pictures" / "broken.png").write_bytes(picture((256, 256)))
    assert r3(*ROUNDTRIP).exit_code == 0


def test_settings_that_the_server_refuses_end_the_run(r3: Run, tmp_path: Path) -> None:
    refused = r3(*ROUNDTRIP, "--out", "out", "--max-tokens", "4000")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.count("/describe/max_tokens") == 1
    assert made_in(tmp_path / "out") == ["run.json"]
    assert r3(*ROUNDTRIP, "--out", "out").exit_code == 0, "settings that were refused bind nobody"


def test_a_folder_is_written_by_one_run_at_a_time(r3: Run, tmp_path: Path) -> None:
    with held(tmp_path / "out", "r3 roundtrip"):
        second = r3(*ROUNDTRIP, "--out", "out")
    assert isinstance(second.exception, Misconfigured)
    assert "is being written by another r3 roundtrip" in str(second.exception)


def test_a_model_of_which_nothing_came_binds_nobody(tmp_path: Path) -> None:
    models = [{"name": name, "hash": "0"} for name in "ab"]
    for model in models:
        RoundtripFolder(tmp_path, {}).open(model)
    (tmp_path / "a.png.failed.json").touch()
    RoundtripFolder(tmp_path, {}).open(None)
    with pytest.raises(Misconfigured, match=r"was made with b \(0\), and a \(0\) answers now"):
        RoundtripFolder(tmp_path, {}).open(models[0])


def test_another_model_does_not_go_on_with_it(r3: Run, tmp_path: Path) -> None:
    assert r3(*ROUNDTRIP).exit_code == 0
    path = tmp_path / "r3-roundtrip-pictures" / "run.json"
    run = json.loads(path.read_text())
    assert run["model"]["name"] == "fake"
    path.write_text(json.dumps({**run, "model": {**run["model"], "hash": "another"}}))
    other = r3(*ROUNDTRIP)
    assert isinstance(other.exception, Misconfigured)
    assert "was made with fake (another), and fake (" in str(other.exception)


def test_a_try_that_failed_is_followed_by_another_job(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = RoundtripFolder(tmp_path / "out", {})
    folder.open(None)
    file = tmp_path / "pictures" / "a.png"
    keys = [folder.key(file, b"1"), folder.key(file, b"2")]
    again = RoundtripFolder(tmp_path / "out", {})
    again.open(None)
    assert again.key(file, b"1") == keys[0]
    again.keep_failure(file, "the worker had no memory left")
    assert len({*keys, again.key(file, b"1")}) == 3


def test_a_job_that_was_stopped_is_followed_by_another(
    r3: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundtrip = AsyncClient.roundtrip

    async def stopped(*arguments: Any, **settings: Any) -> RoundtripResult:
        return (await roundtrip(*arguments, **settings)).model_copy(update={"similarities": None})

    with monkeypatch.context() as patch:
        patch.setattr(AsyncClient, "roundtrip", stopped)
        left = r3(*ROUNDTRIP)
        assert left.exit_code == 1
        assert left.stderr.count("its job was stopped before it had come round") == 3
    before = set(jobs_of(service, "roundtrip"))
    assert r3(*ROUNDTRIP).exit_code == 0
    assert len(set(jobs_of(service, "roundtrip")) - before) == 3


def test_a_run_that_is_left_goes_on_with_the_jobs_that_it_had(own: Service, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(picture((256, 256 + 16 * number)))
    command = [sys.executable, "-P", "-m", "server.cli", *ROUNDTRIP, "--at-once", "2", "--url", own.url]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    out = tmp_path / "r3-roundtrip-pictures"
    with subprocess.Popen(command, cwd=tmp_path, env=env, text=True, stderr=subprocess.PIPE) as process:
        until(lambda: any(out.glob("*.png.json")), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert re.search(r"left with [123] of 4 pictures in r3-roundtrip-pictures", process.stderr.read())
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 4 pictures" in done.stdout
    assert len(jobs_of(own, "roundtrip")) == 4


# r3 jobs


def test_operators_see_what_a_job_is_and_what_it_came_to(r3: Run, service: Service) -> None:
    image = picture((256, 256))
    with Client(service.url) as client:
        jobs = {
            "score": client.ask("score", prompt="a cat", images=[image, image], scorers=["vqa", "lift"]),
            "reflect": client.ask("reflect", prompt="a cat edits=1", image=image),
            "describe": client.ask("describe", image=image),
            "roundtrip": client.ask("roundtrip", image=image, generate={"num_timesteps": 5}),
        }
        done = {kind: (list(client.follow(job)), client.job(job))[1] for kind, job in jobs.items()}
    listed = [line.split() for line in r3("jobs", "list").stdout.splitlines()]
    assert {tuple(line[2:4]) for line in listed[1:]} >= {(kind, "succeeded") for kind in jobs}
    told = {kind: r3("jobs", "show", job.id).stdout for kind, job in jobs.items()}
    shown = {kind: re.sub(r"^(\w+) +", r"\1: ", text, flags=re.MULTILINE) for kind, text in told.items()}
    assert all(f"kind: {kind}\n" in text for kind, text in shown.items())
    scored = done["score"].result
    assert isinstance(scored, ScoreResult)
    values = ["/".join(f"{score.value:.3f}" for score in image.scores) for image in scored.images]
    assert len(values) == 2
    assert f"result: vqa/lift {', '.join(values)}\n" in shown["score"]
    assert "result: edit: Add thing number 1.\n" in shown["reflect"]
    described = done["describe"].result
    assert isinstance(described, DescribeResult)
    assert f"result: {described.text}\n" in shown["describe"]
    alike = r"^result: .+ \(self \d\.\d{3}, latent \d\.\d{3}, psnr \d+\.\d{3}\)$"
    assert re.search(alike, shown["roundtrip"], re.MULTILINE)
    assert "prompt" not in shown["describe"]


# the table


def test_unified_bench_is_the_mean_over_the_models_that_were_used() -> None:
    proxies = {"self": 0.5, "latent": 0.1, "psnr": 12.0}
    value = summary([{**proxies, "clip": 0.8, "dinov2": 0.6}, {**proxies, "clip": 0.9, "dinov2": 0.7}])
    assert value["proxies"] == proxies
    bench = value["unified_bench"]
    assert bench["scores"] == pytest.approx({"clip": 85.0, "dinov2": 65.0})
    assert (bench["overall"], bench["over"]) == (pytest.approx(75.0), ["clip", "dinov2"])
    assert "75.00  Unified-Bench, protocol 1, over clip, dinov2" in shown(value)


def test_a_measure_that_not_every_picture_has_is_left_out() -> None:
    value = summary([{"self": 0.5, "clip": 0.8}, {"self": 0.7}])
    assert value["unified_bench"]["overall"] is None
    assert "another --out where pictures came round without them" in shown(value), "the worker has models now"
    assert value["proxies"] == {"self": pytest.approx(0.6)}
    assert summary([])["pictures"] == 0
