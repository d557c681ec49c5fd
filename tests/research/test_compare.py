"""`r3 compare`: two runs of the same prompts, made by hand so that every figure is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner, Result

from server.cli import app
from server.misconfigured import Misconfigured
from tests.research.made import job, run

Json = dict[str, Any]
Compare = Callable[..., Result]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Runs the command in this process and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *given: CliRunner().invoke(app, ["compare", *map(str, given)])


def rows(path: Path, said: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


def geneval(path: Path, right: dict[int, list[bool]]) -> None:
    """What GenEval's scorer would write into each round: `right` is by prompt, the rounds in order."""
    for round_ in range(max(map(len, right.values()))):
        folder = path / f"round_{round_}"
        said = [
            {
                "filename": f"{folder}/{number:05}/samples/00000.png",
                "tag": "counting",
                "prompt": f"prompt {number}",
                "correct": by_round[round_],
                "reason": "",
            }
            for number, by_round in right.items()
        ]
        rows(folder / "results.jsonl", said)


def plain_runs(folder: Path, prompts: int = 4) -> tuple[Path, Path]:
    """Two runs without scores: the first stops at once, the second goes on for a round."""
    names = [f"prompt {number}" for number in range(prompts)]
    tags = ["counting", "colors"] * (prompts // 2)
    first = run(folder / "a", [job(p, [[None]], name="a", stop="satisfied", max_rounds=1) for p in names], tags)
    second = run(folder / "b", [job(p, [[None, None]], name="b", max_rounds=1) for p in names], tags)
    return first, second


def test_accuracy_is_taken_from_what_genevals_scorer_wrote(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    geneval(first, {0: [True, True], 1: [False, False], 2: [False, False], 3: [True, True]})
    geneval(second, {0: [True, True], 1: [False, True], 2: [False, True], 3: [True, False]})
    done = compare(first, second, "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    before, after = (row["accuracy"] for row in value["rounds"])
    assert (before["first"], before["second"], before["ties"], before["p"]) == (0.5, 0.5, 4, 1)
    assert (after["first"], after["second"], after["wins"], after["losses"], after["ties"]) == (0.5, 0.75, 2, 1, 1)
    assert after["low"] < after["difference"] == 0.25 < after["high"]
    assert [(one["index"], one["wins"]) for one in value["differences"]] == [(1, "second"), (2, "second"), (3, "first")]
    assert (value["tags"]["counting"]["second"], value["tags"]["colors"]["second"]) == (1, 0.5)
    assert [one["stops"] for one in value["runs"]] == [{"satisfied": 4}, {"max_rounds": 4}]
    assert [one["pictures"] for one in value["runs"]] == [4, 8]
    assert [one["pictures_a_loop"] for one in value["runs"]] == [[1, 1], [1, 2]]
    with PILImage.open(tmp_path / "differences.png") as sheet:
        assert sheet.height > 3 * 320


def test_the_tables_say_the_same(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    geneval(first, {0: [True, True], 1: [False, False], 2: [False, False], 3: [True, True]})
    geneval(second, {0: [True, True], 1: [False, True], 2: [False, True], 3: [True, False]})
    said = compare(first, second, "--no-sheet").stdout
    for wanted in (
        "satisfied 4",
        "accuracy by round",
        "50.0 %  75.0 %     +25.0 %",
        "mean over tags, as GenEval has it: 0.5000 and 0.7500",
        "won by the second",
        "won by the first",
        "00003",
    ):
        assert wanted in said, said
    assert not (tmp_path / "differences.png").exists()


def test_scores_are_compared_where_nothing_says_what_is_right(compare: Compare, tmp_path: Path) -> None:
    names = [f"prompt {number}" for number in range(3)]
    first = run(tmp_path / "a", [job(p, [[0.1, 0.2]], name="a", max_rounds=1) for p in names])
    best = [job(p, [[0.1, 0.5], [0.3, 0.1]], name="b", max_rounds=1, choose="best", candidates=2) for p in names]
    second = run(tmp_path / "b", best)
    value = json.loads(compare(first, second, "--json").stdout)
    assert value["by"] == "lift"
    assert [row["lift"]["second"] for row in value["rounds"]] == [0.2, 0.4]
    assert value["rounds"][1]["lift"]["wins"] == 3
    assert [one["pictures"] for one in value["runs"]] == [6, 24]
    assert value["runs"][1]["pictures_discarded"] == 6
    said = compare(first, second).stdout
    assert "lift by round" in said
    assert "+0.2000" in said


def test_runs_with_nothing_to_compare_by_are_told_apart_by_what_they_spent(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    done = compare(first, second)
    assert done.exit_code == 0
    assert "nothing to compare by" in done.stdout
    assert not (tmp_path / "differences.png").exists()


def test_what_is_known_of_one_run_alone_is_not_compared_and_said(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    geneval(second, {n: [True, True] for n in range(4)})
    said = compare(first, second).stdout
    assert "what is right is known of the second alone" in said
    assert "accuracy by round" not in said


def test_a_file_of_ones_own_says_what_is_right(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    # The first run's loops have stopped: what is said of round 0 holds for round 1.
    one = rows(tmp_path / "one", [{"index": n, "round": 0, "correct": n < 2} for n in range(4)])
    said = [{"prompt": f"prompt {n}", "round": r, "correct": r == 1} for n in range(4) for r in range(2)]
    other = rows(tmp_path / "other", said)
    value = json.loads(compare(first, second, "--truth", one, "--truth", other, "--json").stdout)
    assert [row["accuracy"]["first"] for row in value["rounds"]] == [0.5, 0.5]
    assert [row["accuracy"]["second"] for row in value["rounds"]] == [0, 1]
    both = [{"run": "a", "index": n, "round": 0, "correct": True} for n in range(4)]
    both += [{"run": str(second), "index": n, "round": r, "correct": False} for n in range(3) for r in range(2)]
    value = json.loads(compare(first, second, "--truth", rows(tmp_path / "both", both), "--json").stdout)
    assert (value["rounds"][1]["accuracy"]["losses"], value["rounds"][1]["accuracy"]["of"]) == (3, 3)


def test_loops_that_stopped_do_not_stand_for_those_that_nobody_has_judged(compare: Compare, tmp_path: Path) -> None:
    lifts = [[[None]], [[None, None]]]
    first, second = (
        run(tmp_path / name, [job(f"prompt {n}", own, name=name, max_rounds=1) for n, own in enumerate(lifts)])
        for name in "ab"
    )
    whole = [{"index": n, "round": r, "correct": True} for n, r in ((0, 0), (1, 0), (1, 1))]
    files = rows(tmp_path / "part", whole[:2]), rows(tmp_path / "whole", whole)
    value = json.loads(compare(first, second, "--truth", files[0], "--truth", files[1], "--json").stdout)
    assert [(row["accuracy"] or {}).get("of", 0) for row in value["rounds"]] == [2, 0]
    value = json.loads(compare(first, second, "--truth", files[1], "--truth", files[1], "--json").stdout)
    assert [row["accuracy"]["of"] for row in value["rounds"]] == [2, 2]


def test_results_of_the_other_run_are_refused(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    files = [
        rows(
            tmp_path / f"of {path.name}",
            [{"filename": f"{path.name}/round_0/00000/samples/00000.png", "correct": True}],
        )
        for path in (first, second)
    ]
    assert compare(first, second, "--truth", files[0], "--truth", files[1]).exit_code == 0
    done = compare(first, second, "--truth", files[1], "--truth", files[0])
    assert isinstance(done.exception, Misconfigured)
    assert f"is of a picture of {second}" in str(done.exception)


def test_several_tries_are_one_prompt_and_their_mean(compare: Compare, tmp_path: Path) -> None:
    first = run(tmp_path / "a", [job("prompt 0", [[None], [None]], name="a", max_rounds=0)])
    second = run(tmp_path / "b", [job("prompt 0", [[None], [None]], name="b", max_rounds=0)])
    one = rows(tmp_path / "one", [{"index": 0, "round": 0, "sample": s, "correct": s == 0} for s in range(2)])
    other = rows(tmp_path / "other", [{"index": 0, "round": 0, "sample": s, "correct": True} for s in range(2)])
    value = json.loads(compare(first, second, "--truth", one, "--truth", other, "--json").stdout)
    accuracy = value["rounds"][0]["accuracy"]
    assert (accuracy["first"], accuracy["second"], accuracy["of"]) == (0.5, 1, 1)


def test_prompts_that_one_run_has_not_are_left_out_and_named(compare: Compare, tmp_path: Path) -> None:
    first, _ = plain_runs(tmp_path)
    second = run(tmp_path / "c", [job(f"prompt {n}", [[None]], name="c") for n in range(2)])
    value = json.loads(compare(first, second, "--json").stdout)
    assert value["prompts"] == {"both": 2, "only_first": ["00002", "00003"], "only_second": []}
    assert value["runs"][0]["pictures"] == 2
    assert "left out, for they are in the first alone: 00002, 00003" in compare(first, second).stdout


def spoil(path: Path, name: str, text: str) -> None:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", '{"format": 9}', "format 9; this build reads 1"),
        ("jobs/00001/job.json", '{"id": "job_1"}', "job.json cannot be read"),
        ("run.json", '{"format": 1, "model": "small"}', "without name and hash"),
        ("jobs/00001/request.json", '{"prompt": "another"}', "are of two prompts"),
        ("round_0/results.jsonl", "{", "line 1 is not JSON"),
        ("round_0/results.jsonl", '{"filename": "x.png"}', 'has no "correct"'),
        ("round_0/results.jsonl", '{"filename": "x.png", "correct": true}', "is no picture of a round"),
        ("round_0/results.jsonl", '{"filename": "00009/samples/00000.png", "correct": true}', "does not have"),
        (
            "round_0/results.jsonl",
            '{"filename": "00001/samples/00000.png", "prompt": "a cat", "correct": true}',
            "results of another run",
        ),
        ("round_0/results.jsonl", '{"filename": "round_1/00001/samples/0.png", "correct": true}', "is of round 1"),
    ],
)
def test_a_folder_that_is_broken_is_named(compare: Compare, tmp_path: Path, name: str, text: str, said: str) -> None:
    first, second = plain_runs(tmp_path)
    spoil(second, name, text)
    done = compare(first, second)
    assert isinstance(done.exception, Misconfigured), done.output
    assert said in str(done.exception)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"index": -1, "round": 0}, '"index" is -1'),
        ({"index": 0}, '"round" is None'),
        ({"index": 0, "round": True}, '"round" is True'),
        ({"prompt": "a dog", "round": 0}, "does not have"),
        ({"index": 0, "prompt": "prompt 1", "round": 0}, "results of another run"),
        ({"index": 0, "round": 0, "correct": "yes"}, "true or false"),
    ],
)
def test_a_file_of_right_and_wrong_that_does_not_fit_is_named(
    compare: Compare, tmp_path: Path, row: Json, said: str
) -> None:
    first, second = plain_runs(tmp_path)
    file = rows(tmp_path / "truth", [{"correct": True, **row}])
    done = compare(first, second, "--truth", file, "--truth", file)
    assert isinstance(done.exception, Misconfigured), done.output
    assert said in str(done.exception)


def test_a_job_that_was_changed_by_hand_is_named(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    file = second / "jobs" / "00001" / "job.json"
    whole = json.loads(file.read_text())
    for params in ({}, {**whole["params"], "judge": ["lift"]}):
        file.write_text(json.dumps({**whole, "params": params}))
        assert "its params are not those of a job" in str(compare(first, second).exception)


def test_one_file_for_two_runs_has_to_say_which_it_means(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    row: Json = {"index": 0, "round": 0, "correct": True}
    for said, row_, times in (
        ('has no "run"', [row], 1),
        ("says nothing of", [{**row, "run": "a"}], 1),
        ("the opposite of", [row, {**row, "correct": False}], 2),
        ("was given 3 times", [row], 3),
        ("cannot be read", None, 1),
    ):
        file = tmp_path / "nowhere" if row_ is None else rows(tmp_path / "truth", row_)
        done = compare(first, second, *["--truth", file] * times)
        assert isinstance(done.exception, Misconfigured), done.output
        assert said in str(done.exception)


def test_runs_of_other_prompts_and_folders_of_something_else_are_refused(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    other = run(tmp_path / "c", [job(f"another {n}", [[None]]) for n in range(2)])
    (tmp_path / "empty").mkdir()
    for one, two, said in (
        (first, other, "prompt 00000 is 'prompt 0' in"),
        (first, tmp_path / "empty", "no folder that r3 batch has written"),
        (tmp_path / "nowhere", second, "no folder that r3 batch has written"),
    ):
        done = compare(one, two)
        assert isinstance(done.exception, Misconfigured), done.output
        assert said in str(done.exception)


def test_a_broken_picture_is_named_and_all_else_can_be_had_without_the_sheet(compare: Compare, tmp_path: Path) -> None:
    first, second = plain_runs(tmp_path)
    geneval(first, {n: [False, False] for n in range(4)})
    geneval(second, {n: [False, True] for n in range(4)})
    (second / "jobs" / "00002" / "t0_round1.png").write_bytes(b"no picture")
    done = compare(first, second)
    assert isinstance(done.exception, Misconfigured), done.output
    assert "t0_round1.png cannot be read" in str(done.exception)
    assert compare(first, second, "--no-sheet").exit_code == 0
    (second / "jobs" / "00002" / "t0_round1.png").unlink()
    assert "t0_round1.png cannot be read" in str(compare(first, second).exception)
    done = compare(first, first, "--sheet", tmp_path / "nowhere" / "sheet.png")
    assert done.exit_code == 0, "nothing differs, so that nothing is drawn"
