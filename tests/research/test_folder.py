"""The folder of a run: GenEval's layout for every round, whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from server.misconfigured import Misconfigured
from server.research.folder import BatchFolder, opened, read_job
from tests.research.made import job, line, png, run, samples


def shown(path: Path, round_: int, prompt: int = 0, sample: int = 0) -> bytes:
    return (path / f"round_{round_}" / f"{prompt:05}" / "samples" / f"{sample:05}.png").read_bytes()


def test_a_loop_that_has_stopped_keeps_its_picture_in_the_rounds_after_it(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[None], [None, None, None]], stop="satisfied")])
    for round_ in range(4):
        assert samples(path, round_) == {"00000": ["00000.png", "00001.png"]}
        assert shown(path, round_) == png("run cat (0, 0, 0)")
        assert shown(path, round_, sample=1) == png(f"run cat (1, {min(round_, 2)}, 0)")
    assert json.loads((path / "round_3" / "00000" / "metadata.jsonl").read_text())["tag"] == "counting"


def test_where_the_best_is_chosen_a_round_has_the_best_until_then(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[0.1, 0.5, 0.2, 0.5]], choose="best")])
    made = [next(r for r in range(4) if shown(path, k) == png(f"run cat (0, {r}, 0)")) for k in range(4)]
    assert made == [0, 1, 1, 1]


def test_every_candidate_is_kept_and_the_chosen_one_is_the_rounds(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[0.1, 0.2]], candidates=3, max_rounds=1)])
    files = sorted(file.name for file in (path / "jobs" / "00000").iterdir())
    assert files[2:] == [f"t0_round{r}_candidate{c}.png" for r in range(2) for c in range(3)]
    assert shown(path, 0) == png("run cat (0, 0, 2)")
    assert read_job(path / "jobs" / "00000").trajectories[0].rounds[1].candidates[0].scores[0].value == 0.2


def test_every_prompt_has_as_many_rounds_as_the_one_with_the_most(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[None]], max_rounds=0), job("dog", [[None, None]], max_rounds=1)])
    assert samples(path, 1) == {"00000": ["00000.png"], "00001": ["00000.png"]}
    assert not (path / "round_2").exists()


def test_a_try_without_a_picture_is_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[], [None]], stop="stopped", max_rounds=0)])
    assert samples(path, 0) == {"00000": ["00001.png"]}


def test_what_an_interrupted_run_left_half_is_made_anew(tmp_path: Path) -> None:
    cat, path = job("cat", [[None]], max_rounds=1), tmp_path / "a"
    (path / "jobs" / ".00000.part").mkdir(parents=True)
    (path / "jobs" / ".00000.part" / "t0_round7.png").touch()
    (path / "round_1" / ".00000.part" / "samples").mkdir(parents=True)
    (path / "run.json").write_text('{"format": 1, "id": "0", "settings": {}}')
    with opened(path, {"settings": {}}) as folder:
        assert not folder.has(line(0, "cat"))
        folder.keep(line(0, "cat"), cat)
        assert folder.has(line(0, "cat"))
    assert not list(path.rglob("*.part"))
    assert not list(path.rglob("t0_round7.png"))
    (path / "round_0" / "00000" / "samples" / "00000.png").unlink()
    (path / "round_0" / "00000" / "samples").rmdir()
    (path / "round_0" / "00000" / "metadata.jsonl").unlink()
    (path / "round_0" / "00000").rmdir()
    with opened(path, {"settings": {}}) as folder:
        folder.fill([line(0, "cat")])
    assert samples(path, 0) == {"00000": ["00000.png"]}


def test_a_prompt_that_failed_is_tried_under_another_key_and_one_under_way_under_the_same(tmp_path: Path) -> None:
    with opened(tmp_path / "a", {"settings": {}}) as folder:
        cat = line(0, "cat")
        before = folder.key(cat)
        assert folder.key(cat) == before
        folder.keep_failure(cat, "it broke", None)
        assert folder.key(cat) != before
        assert json.loads((tmp_path / "a" / "failed" / "00000" / "why.json").read_text())["why"] == "it broke"
        folder.keep(cat, job("cat", [[None]]))
        assert not list((tmp_path / "a" / "failed").iterdir())


def refused(path: Path, said: str, settings: dict[str, object] | None = None) -> None:
    with pytest.raises(Misconfigured, match=said), opened(path, {"settings": settings or {}}):
        pass


def test_a_folder_of_something_else_or_of_other_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused(tmp_path / "mine", "holds something else .thesis.tex.")
    path = run(tmp_path / "a", [job("cat", [[None]])])
    refused(path, r'made with settings \{\}, and this is \{"max_rounds": 4\}', {"max_rounds": 4})
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "cannot be written")
    (path / "run.json").write_text('{"format": 2}')
    refused(path, "this build reads 1")


def test_another_prompt_or_model_than_before_is_refused(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[None]])])
    with opened(path, {"settings": {}}) as folder:
        with pytest.raises(Misconfigured, match="made for another request than prompt 0 is now"):
            folder.has(line(0, "dog"))
        with pytest.raises(Misconfigured, match=r"made with fake \(0\), and fake \(1\) answers now"):
            folder.same_model({"name": "fake", "hash": "1"})


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with opened(tmp_path / "a", {"settings": {}}) as folder:
        assert isinstance(folder, BatchFolder)
        refused(tmp_path / "a", "is being written by another r3 batch")


def test_a_prompt_that_is_made_again_replaces_what_its_rounds_showed(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [job("cat", [[None]])])
    before = (path / "round_0" / "00000" / "samples" / "00000.png").read_bytes()
    shutil.rmtree(path / "jobs" / "00000")
    with opened(path, {"settings": {}}) as folder:
        assert folder.key(line(0, "dog")) != folder.key(line(0, "cat"))
        folder.keep(line(0, "dog"), job("dog", [[None]]))
        folder.fill([line(0, "dog")])
    assert json.loads((path / "round_0" / "00000" / "metadata.jsonl").read_text())["prompt"] == "dog"
    assert (path / "round_0" / "00000" / "samples" / "00000.png").read_bytes() != before
