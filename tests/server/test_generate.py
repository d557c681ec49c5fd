"""`r3 generate`: the API's fields as options, judged as the API judges them, and a folder of what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from pydantic import BaseModel
from typer.testing import CliRunner

from server.cli import app
from server.cli_generate import fields_of
from server.generate import EXIT_CANCELLED, EXIT_FAILED, run_generate
from server.misconfigured import Misconfigured
from server.schemas import GenerationCreate, JudgeCreate, ScoreStopCreate
from server.settings import Settings

# Fields that mean nothing without a service.
SERVICE_ONLY = {
    *("model", "response_format", "priority", "webhook", "stream", "cancel_on_disconnect"),
}
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
AS_FAKE = {"R3_RUNNER": "fake", "R3_CHECKPOINT": str(GOLDEN)}
QUICK = {"generate": {"num_timesteps": 4}, "refine": {"num_timesteps": 4}}


def generate(out: Path, overwrite: bool = False, step_s: float = 0.0, **fields: Any) -> tuple[int, dict[str, Any]]:
    """Run a request on the fake engine; the exit code and trajectory.json."""
    settings = Settings(runner="fake", fake_step_s=step_s, checkpoint=GOLDEN)
    code = run_generate(settings, {"prompt": "a cat", "seed": 1, **QUICK, **fields}, out, overwrite=overwrite)
    return code, json.loads((out / "trajectory.json").read_text(encoding="utf-8"))


def refusal(out: Path, **fields: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        generate(out, **fields)
    assert not (out / "trajectory.json").exists()
    return str(refused.value)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (75, 131), (200, 10, 10)).save(path)
    return path


def test_one_trajectory_is_written_as_a_job_shows_it_with_paths_in_place_of_links(tmp_path: Path) -> None:
    code, story = generate(tmp_path / "out", metadata={"for": "a test"})
    assert code == 0
    assert (story["status"], story["error"], story["stop_reason"]) == ("succeeded", None, "satisfied")
    assert [r["index"] for r in story["rounds"]] == [0, 1, 2]
    first = story["rounds"][0]
    assert first["instruction"] is None
    assert first["reflection"]["verdict"] == "edit"
    assert first["reflections"] == [first["reflection"]["text"]]
    assert story["rounds"][1]["instruction"] == first["reflection"]["instruction"]
    assert story["image"] == story["rounds"][2]["image"]
    assert story["params"]["generate"]["num_timesteps"] == 4
    assert story["params"]["seed"] == story["seed"] == 1
    assert story["metadata"] == {"for": "a test"}
    assert story["usage"]["denoise_steps"] == 9
    assert not SERVICE_ONLY & set(story["params"])
    for round_ in story["rounds"]:
        with Image.open(tmp_path / "out" / round_["image"]["path"]) as picture:
            assert picture.size == (round_["image"]["width"], round_["image"]["height"]) == (64, 64)


def test_every_picture_says_where_it_comes_from(tmp_path: Path) -> None:
    generate(tmp_path, prompt="a cat – ein Hütchen", n=2)
    with Image.open(tmp_path / "t1_round2.png") as picture:
        picture.load()
        assert picture.info["prompt"] == "a cat – ein Hütchen"
        assert (picture.info["seed"], picture.info["round"]) == ("2", "2")
        assert picture.info["Software"].startswith("r3-server ")


def test_several_trajectories_are_a_list(tmp_path: Path) -> None:
    _, story = generate(tmp_path, n=3)
    assert [(t["index"], t["seed"]) for t in story["trajectories"]] == [(0, 1), (1, 2), (2, 3)]
    assert "rounds" not in story
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.height > 3 * 320


def test_a_seed_that_was_not_given_is_in_the_story_and_gives_the_same_again(tmp_path: Path) -> None:
    _, story = generate(tmp_path / "one", seed=None)
    _, again = generate(tmp_path / "two", seed=story["params"]["seed"])
    assert [r["image"]["sha256"] for r in story["rounds"]] == [r["image"]["sha256"] for r in again["rounds"]]


def test_every_candidate_is_kept_with_its_scores_and_the_best_is_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: Any = {"judge": {"scorers": ["lift", "vqa"]}, "candidates": {"first": 3}, "choose": "best", "max_rounds": 2}
    code, story = generate(tmp_path, prompt="a cat scores=352 best=1 edits=9", output_format="webp", **asked)
    assert code == 0
    first, second, third = story["rounds"]
    assert [one["image"]["path"] for one in first["candidates"]] == [f"t0_round0_candidate{c}.webp" for c in range(3)]
    assert [one["scores"][0]["value"] for one in first["candidates"]] == [3.0, 3.5, 3.0]
    assert (first["chosen"], first["image"], first["from_round"]) == (1, first["candidates"][1]["image"], None)
    assert (second["candidates"], second["image"]["path"], second["from_round"]) == ([], "t0_round1.webp", 0)
    assert (story["image"], third["scores"][0]["value"]) == (second["image"], 2.0)
    assert (story["usage"]["images"], story["usage"]["discarded_images"]) == (5, 3)
    assert story["params"]["judge"] == {"scorers": ["lift", "vqa"]}
    for number in range(3):
        with Image.open(tmp_path / f"t0_round0_candidate{number}.png") as picture:
            assert (picture.info["round"], picture.info["candidate"]) == ("0", str(number))
    assert (tmp_path / "contact_sheet.png").exists()
    shown = capsys.readouterr().err
    assert "round 0, candidate 1: lift 3.5 (least: " in shown
    assert "round 0, candidate 1: goes on" in shown
    assert "round 1: vqa 5" in shown
    generate(tmp_path, overwrite=True)
    assert not (tmp_path / "t0_round0_candidate1.png").exists(), "an earlier run's pictures go with it"


def test_a_run_without_judge_tells_nothing_of_scores(tmp_path: Path) -> None:
    _, story = generate(tmp_path, max_rounds=1)
    assert set(story["rounds"][0]) == {"index", "image", "instruction", "reflection", "reflections"}
    assert set(story["usage"]) == {"text_tokens", "denoise_steps", "forwards", "compute_s"}


@pytest.mark.parametrize("rules", [{"score": {"scorer": "lift", "at_least": 3}}, {"on_satisfied": False}])
def test_every_way_to_end_can_be_drawn_on_the_sheet(tmp_path: Path, rules: dict[str, Any]) -> None:
    _, story = generate(
        tmp_path, judge={"scorers": ["lift"]}, prompt="a cat scores=3", early_stop=rules, max_images=2, max_rounds=4
    )
    assert story["stop_reason"] == ("score" if "score" in rules else "budget")
    assert (tmp_path / "contact_sheet.png").exists()


def test_previews_and_the_form_of_delivery_stand_beside_the_lossless_pictures(tmp_path: Path) -> None:
    _, story = generate(tmp_path, previews=1, max_rounds=0, output_format="webp", output_compression=30)
    image = story["image"]
    assert (image["path"], image["master"], image["format"]) == ("t0_round0.webp", "t0_round0.png", "webp")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        *("contact_sheet.png", "t0_round0.png", "t0_round0.webp", "t0_round0_step02.png", "trajectory.json")
    ]


def test_a_given_picture_is_resized_once_and_becomes_round_0(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, *more: written.append(text))
    _, story = generate(tmp_path / "out", image=str(photo), instruction="Make it blue.", max_rounds=1)
    assert story["reasoning"] is None
    assert story["params"]["image"] == str(photo)
    assert not {"size", "cfg_img_scale"} & {*story["params"], *story["params"]["generate"]}
    assert [line for line in written if line.startswith("Round")] == ["Round 0 · the given picture", "Round 1"]
    assert [r["instruction"] for r in story["rounds"]] == [None, "Make it blue."]
    with Image.open(tmp_path / "out" / "t0_round0.png") as picture:
        assert picture.size == (80, 128)
        assert picture.getpixel((5, 5)) == (200, 10, 10)


def test_all_faults_are_one_line_in_the_options_words(tmp_path: Path) -> None:
    said = refusal(
        tmp_path, max_rounds=9, n="two", reason={"top_p": 0}, size="10x10", generate={"cfg_interval": [0.5, 0.4]}
    )
    assert "--max-rounds must be less than or equal to 8; it is 9" in said
    assert '--n must be a valid integer; it is "two"' in said
    assert "--reason-top-p must be greater than 0; it is 0" in said
    assert "--size is 10x10" in said
    assert "the nearest is 32x32" in said
    assert "--generate-cfg-interval the first number must be below the second" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": ""}, "PROMPT must have at least 1 character"),
        ({"instruction": "x"}, "--instruction is an edit of image, which is missing"),
        ({"early_stop": {"confirmations": 6}}, "--confirmations must be less than or equal to 5"),
        ({"output_compression": 5}, "--output-compression is 5, but PNG is lossless"),
        ({"metadata": {"k": "v" * 513}}, "--metadata k "),
        ({"refine": {"cfg_renorm_type": "text_channe"}}, "--refine-cfg-renorm-type must be"),
        ({"generate": {"cfg_img_scale": 2.0}}, "--generate-cfg-img-scale is not a known field"),
        ({"deadline_s": float("nan")}, "--deadline-s must be a finite number"),
        ({"judge": {"scorers": ["clip"]}}, "--scorers must be 'gvu', 'lift', 'vqa' or 'verdict'"),
        ({"early_stop": {"score": {"scorer": "lift"}}}, "--stop-scorer goes by lift, but nothing is scored"),
        ({"early_stop": {"score": {"at_least": 1}}}, "--stop-scorer is required"),
        ({"early_stop": {"score": {"scorer": "lift", "min_gain": -1}}}, "--stop-min-gain must be"),
        ({"candidates": {"first": 9}}, "--candidates-first must be less than or equal to 8"),
        ({"choose": "best"}, "--choose is best, but nothing is scored"),
        ({"n": 2, "max_images": 1}, "--max-images is 1, fewer than n, 2"),
    ],
)
def test_a_fault_names_its_option(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, **fields)


def test_pictures_are_judged_as_uploads_are(tmp_path: Path, photo: Path) -> None:
    assert "no-such.png cannot be read (No such file" in refusal(tmp_path, image=str(tmp_path / "no-such.png"))
    photo.write_bytes(photo.read_bytes()[:60])
    assert "the image is truncated" in refusal(tmp_path, image=str(photo))
    photo.write_bytes(b"<svg/>")
    assert "the image is an SVG" in refusal(tmp_path, image=str(photo))
    assert "--max-rounds is 0" in refusal(tmp_path, image=str(photo), max_rounds=0)


def test_an_earlier_run_is_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    generate(tmp_path, n=2)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(Misconfigured, match=r"holds an earlier run .* or say --overwrite"):
        generate(tmp_path)
    generate(tmp_path, overwrite=True, max_rounds=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("contact_sheet.png", "notes.txt", "t0_round0.png", "trajectory.json")
    ]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"cannot be written \(Not a directory\)"):
        generate(tmp_path / "file" / "out")


def test_a_failed_trajectory_is_told_and_what_was_finished_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, story = generate(tmp_path, prompt="a cat raise=refine")
    assert code == EXIT_FAILED
    assert (story["status"], story["error"]["code"]) == ("failed", "step_failed")
    assert [r["index"] for r in story["rounds"]] == [0]
    assert (tmp_path / "contact_sheet.png").exists()
    assert "step_failed" in capsys.readouterr().err


def test_a_deadline_fails_a_run_without_a_picture_and_ends_one_with(tmp_path: Path) -> None:
    code, story = generate(tmp_path / "none", deadline_s=0.01, step_s=0.02)
    assert (code, story["error"]["code"], story["rounds"]) == (EXIT_FAILED, "deadline_exceeded", [])
    code, story = generate(tmp_path / "one", prompt="a cat words=300", think=False, deadline_s=2.0, step_s=0.05)
    assert (code, story["status"], story["stop_reason"]) == (0, "succeeded", "deadline")


def test_ctrl_c_keeps_what_is_finished_and_ends_as_an_interrupted_program_does(tmp_path: Path) -> None:
    environment = {**os.environ, "R3_RUNNER": "fake", "R3_FAKE_STEP_S": "0.02"}
    command = [sys.executable, "-m", "server.cli", "generate", "a cat words=300", "--out", str(tmp_path), "--no-think"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    give_up_at_s = time.monotonic() + 60
    while not (tmp_path / "trajectory.json").exists():
        assert time.monotonic() < give_up_at_s
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_CANCELLED, said
    assert "cancelled; what is finished is in" in said
    assert "Traceback" not in said
    story = json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))
    assert (story["status"], story["stop_reason"], len(story["rounds"])) == ("cancelled", None, 1)
    assert (tmp_path / "contact_sheet.png").exists()


def test_every_field_of_the_api_is_an_option() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "server.cli", "generate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    expected = {name.replace("_", "-") for name in options_of(GenerationCreate)} - {"prompt"}
    missing = [name for name in expected if f"--{name} " not in f"{shown} ".replace("\n", " \n")]
    assert missing == []


@pytest.mark.parametrize(
    ("options", "is_on"),
    [
        (["--early-stop", "--stop-all", "--think"], True),
        (["--no-early-stop", "--stop-any", "--no-think"], False),
    ],
)
def test_each_switch_of_the_command_line_turns_on_and_off_what_it_says(
    tmp_path: Path, options: list[str], is_on: bool
) -> None:
    command = ["generate", "a cat", "--out", str(tmp_path), "--scorers", "lift", "--stop-scorer", "lift", *options]
    ran = CliRunner().invoke(app, [*command, "--max-rounds", "1"], env=AS_FAKE)
    assert ran.exit_code == 0, ran.output
    story = json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))
    rules = story["params"]["early_stop"]
    assert (rules["on_satisfied"], rules.get("all", False), story["params"]["think"]) == (is_on, is_on, is_on)
    assert (story["reasoning"] is not None) == is_on


def options_of(schema: type[BaseModel]) -> set[str]:
    """The options' names that the schema's fields call for."""
    stages = {"reason", "reflect", "generate", "refine", "candidates"}
    names: set[str] = set()
    for name, field in schema.model_fields.items():
        if name in stages:
            inner = field.annotation
            assert isinstance(inner, type)
            assert issubclass(inner, BaseModel)
            names |= {f"{name}_{setting}" for setting in inner.model_fields}
        elif name == "early_stop":
            rule = {f"stop_{setting}" for setting in (*ScoreStopCreate.model_fields, "all")}
            names |= {"early_stop", "confirmations", *rule}
        elif name == "judge":
            names |= set(JudgeCreate.model_fields)
        elif name not in SERVICE_ONLY:
            names.add(name)
    return names


def test_numbers_become_numbers_and_anything_else_stays_for_the_schema_to_refuse() -> None:
    given = {
        "prompt": "12",
        "size": "64x64",
        "max_rounds": "2",
        "n": "two",
        "deadline_s": "1.5",
        "early_stop": False,
        "confirmations": "3",
        "think": True,
        "generate_cfg_interval": ("0", "0.5"),
        "reason_top_p": "0.5",
        "metadata": ["a=b=c", "d="],
        "scorers": "lift, vqa",
        "stop_scorer": "lift",
        "stop_at_least": "0.5",
        "stop_patience": "2",
        "stop_all": True,
        "candidates_first": "4",
        "candidates_refine": "two",
        "choose": "best",
        "on_regression": "backtrack",
        "max_images": "9",
    }
    assert fields_of(given) == {
        "prompt": "12",
        "size": "64x64",
        "max_rounds": 2,
        "n": "two",
        "deadline_s": 1.5,
        "early_stop": {
            "on_satisfied": False,
            "confirmations": 3,
            "score": {"scorer": "lift", "at_least": 0.5, "patience": 2},
            "all": True,
        },
        "think": True,
        "generate": {"cfg_interval": [0, 0.5]},
        "reason": {"top_p": 0.5},
        "metadata": {"a": "b=c", "d": ""},
        "judge": {"scorers": ["lift", "vqa"]},
        "candidates": {"first": 4, "refine": "two"},
        "choose": "best",
        "on_regression": "backtrack",
        "max_images": 9,
    }
    with pytest.raises(Misconfigured, match="--metadata a has no value; write it as KEY=VALUE"):
        fields_of({"metadata": ["a"]})


def test_the_small_model_runs_offline(tmp_path: Path) -> None:
    """The whole way once, with the model: what a user of a fresh clone types first."""
    command = [sys.executable, "-m", "server.cli", "generate", "two blue stars", "--out", str(tmp_path), "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(tmp_path / "contact_sheet.png")
    story = json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))
    assert story["model"] == "r3-small"
    assert story["usage"]["forwards"] > 0
