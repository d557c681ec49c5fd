"""Figures of loops, controls and the report: each number from loops whose outcome is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.training.telling import answer, case_of, mended, right, story, wrong
from training import controls, evaluate, figures, report
from training.eval_set import cases
from training.figures import ROUNDS, Share
from training.language import reflect
from training.loops import Loop, loops_of
from training.measured import Measured, Seconds, sample
from training.plot import accuracy_plot
from training.sheet import chosen_loops, sheet
from training.spec import CATEGORIES


@pytest.fixture(scope="module")
def loops() -> list[Loop]:
    """Of each category: right at once; mended by one edit; edited in vain and left wrong; edited to the limit."""
    found = []
    for seed, category in enumerate(CATEGORIES):
        case = case_of(category, seed)
        good, bad = right(case.spec, seed), wrong(case.spec, seed)
        blind = (
            "<think>I see nothing. The prompt asks for a star, so everything matches.</think> No further edit needed."
        )
        found.append(story(case, [good]))
        found.append(story(case, [bad, mended(case.spec, bad)]))
        found.append(story(case, [bad, bad], texts=[reflect(case.spec, bad).text, blind]))
        found.append(story(case, [bad] * (ROUNDS + 1), "max_rounds"))
    return found


@pytest.fixture(scope="module")
def measured(loops: list[Loop]) -> Measured:
    fresh = [loop for loop in loops for _ in range(controls.FRESH)]
    asked = controls.swaps(loops)
    edited = [story(swap.loop.case, [wrong(swap.loop.case.spec)] * 2, "max_rounds") for swap in asked]
    sights = {"blank": controls.first_sight(loops)}
    seconds = Seconds(60.0, tuple(1.0 for _ in loops), (1.0, 2.0, 3.0), 120.0)
    return Measured(loops, controls.chance(loops, fresh), controls.shuffled(asked, edited), sights, seconds)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (95, 100, 0.8882, 0.9785)]
)
def test_a_share_has_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    assert Share(hits, of).interval == pytest.approx((low, high), abs=1e-4)


def test_a_stopped_loop_keeps_its_last_picture(loops: list[Loop]) -> None:
    shares = figures.accuracy(loops)
    assert [one.value for one in shares["all"]] == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert [one.value for one in shares["position"]] == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert [one.of for one in shares["all"]] == [len(loops)] * (ROUNDS + 1)


def test_finished_counts_loops_that_the_model_ended(loops: list[Loop]) -> None:
    assert [one.value for one in figures.finished(loops)] == [0.25, 0.75, 0.75, 0.75]


def test_changes_count_every_loop_in_every_round(loops: list[Loop]) -> None:
    first, second, *_ = figures.changes(loops)
    assert (first.edited.value, first.improved.value, first.worse.value) == (0.75, 0.25, 0.0)
    assert first.improved.hits + first.worse.hits + first.unchanged.hits == len(loops)
    assert (second.edited.value, second.improved.value) == (0.25, 0.0)


def test_a_verdict_and_a_reading_are_held_against_the_picture(loops: list[Loop]) -> None:
    sight = figures.sight(figures.reflected(loops))
    asked = (1 + 2 + 2 + ROUNDS) * len(CATEGORIES)
    assert sight["verdict"] == Share(asked - len(CATEGORIES), asked)
    assert sight["reading"] == sight["verdict"]
    assert sight["verdict of a right picture"].value == 1.0


def test_the_anatomy_says_what_came_of_every_picture(loops: list[Loop]) -> None:
    each = len(CATEGORIES)
    assert figures.anatomy(loops) == {
        "right picture: let be, reading right": 2 * each,
        "wrong picture: let be, reading wrong": each,
        "wrong picture: edited, instruction right, carried out": each,
        "wrong picture: edited, instruction right, not carried out": (1 + ROUNDS) * each,
    }


def test_a_malformed_reflection_is_no_right_verdict_and_out_of_format() -> None:
    case = case_of("colour", 1)
    loop = story(case, [right(case.spec)], "malformed", ["a fine picture"])
    assert figures.sight(figures.reflected([loop]))["verdict"].value == 0.0
    assert figures.formats([loop])["reflection"].value == 0.0
    assert figures.formats([loop])["plan"].value == 1.0
    assert figures.finished([loop])[-1].value == 0.0


def test_a_picture_picked_blindly_is_as_good_as_their_mean() -> None:
    case = case_of("single", 2)
    good, bad = story(case, [right(case.spec)]), story(case, [wrong(case.spec)], "max_rounds")
    found = controls.chance([bad], [good, bad, bad, good])
    assert [one.picked.value for one in found] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert [one.any_right.value for one in found] == [0, 1, 1, 1, 1]


def test_a_job_of_several_trajectories_is_several_loops() -> None:
    case = case_of("two", 3)
    one = answer(case, [right(case.spec)], "satisfied", ["x"])
    both = type(one)({"trajectories": one.job["trajectories"] * 2}, one.pictures * 2, 1.0)
    assert [loop.rounds[0].is_right for loop in loops_of([case], [both])] == [True, True]


def test_no_loop_is_given_its_own_instruction_or_picture(loops: list[Loop]) -> None:
    edited = [loop for loop in loops if len(loop.rounds) > 1]
    swaps = controls.swaps(loops)
    assert [swap.loop for swap in swaps] == edited
    order = controls._others(len(edited))
    assert sorted(order) == list(range(len(edited)))
    assert all(index != other for index, other in enumerate(order))
    for same in (True, False):
        others = controls._pictures_elsewhere(loops, same_category=same)
        assert all(other is not loop for loop, other in zip(loops, others, strict=True))
        assert all(
            (other.case.category == loop.case.category) == same for loop, other in zip(loops, others, strict=True)
        )


def test_fresh_seeds_are_no_ones_else() -> None:
    test, validation = cases("test"), cases("validation")
    fresh = {controls.fresh_seed(case) + i for case in (*test, *validation) for i in range(controls.FRESH)}
    assert len(fresh) == controls.FRESH * (len(test) + len(validation))
    assert not fresh & {case.seed for case in (*test, *validation)}


def test_a_sample_has_as_many_of_each_category() -> None:
    some = sample(cases("validation"), 2 * len(CATEGORIES) + 1)
    assert [sum(case.category == c for case in some) for c in CATEGORIES] == [3] * len(CATEGORIES)
    assert sample(cases("validation"), None) == list(cases("validation"))


def test_the_table_the_record_and_the_pictures_of_a_measurement_can_be_made(measured: Measured) -> None:
    model = {"name": "small", "hash": "0123", "defaults": {}, "versions": {"server": "0"}}
    about = report.about([loop.case for loop in measured.loops], "validation", "abcd", model)
    words = report.table(measured, about)
    assert "| **all** (32) | 25.0 % (13.3–42.1) | 50.0 %" in words
    assert json.loads(json.dumps(report.record(measured, about), allow_nan=False))["accuracy"]["all"][0]["of"] == 32
    assert accuracy_plot(measured).size == (1240, 620)
    assert sheet(measured.loops) is not None
    assert [kind for kind, _ in chosen_loops(measured.loops)] == ["one"] * len(CATEGORIES) + ["never"]


def test_figures_stand_between_their_markers_and_nowhere_else() -> None:
    card = f"before\n{report.BEGIN}\nold\n{report.END}\nafter"
    once = report.put_between(card, "new")
    assert once == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter"
    with pytest.raises(ValueError, match="lacks"):
        report.put_between("no markers", "new")


@pytest.mark.parametrize(
    "given",
    [
        ["--split", "test"],
        ["--split", "validation", "--publish"],
        ["--publish", "--limit", "6"],
        ["--publish", "--checkpoint", "x"],
        ["--publish", "--url", "http://127.0.0.1:1"],
    ],
)
def test_the_test_prompts_serve_nothing_but_published_figures(
    given: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(given)
    assert ended.value.code == 2
    assert "publish" in capsys.readouterr().err


def test_a_publication_goes_into_card_record_and_pictures(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "CHECKPOINT", tmp_path)
    monkeypatch.setattr(evaluate, "RESULT", tmp_path / "results" / "small.json")
    monkeypatch.setattr(evaluate, "IMAGES", tmp_path)
    (tmp_path / "README.md").write_text(f"# Card\n{report.BEGIN}\n{report.END}\nLimits\n")
    evaluate._publish(measured, {"prompts": 24}, "the table")
    assert (tmp_path / "README.md").read_text() == f"# Card\n{report.BEGIN}\nthe table\n{report.END}\nLimits\n"
    assert json.loads((tmp_path / "results" / "small.json").read_text()) == {"prompts": 24}
    assert {path.name for path in tmp_path.glob("*.png")} == {"small_accuracy.png", "small_sheet.png"}


def test_the_card_of_the_small_model_has_a_place_for_figures() -> None:
    report.put_between((evaluate.PROJECT / "training" / "card.md").read_text(), "")


def test_every_use_of_the_test_prompts_is_counted_and_the_figures_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results" / "small.json"
    about = {"at": "now", "checkpoint": {"hash": "0123"}}
    assert len(evaluate.count_use(path, about)) == 1
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": 1}))
    assert len(evaluate.count_use(path, about)) == 2
    assert json.loads(path.read_text())["accuracy"] == 1
