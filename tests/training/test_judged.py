"""What scores are worth, in numbers: the arithmetic, on trajectories made by hand, and the published page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training import judged_figures as figures
from training.judged import RESULT
from training.judged_page import PAGE, put
from training.judged_runs import SCORERS, Picture, Round, Told, keep, kept


def picture(right: bool, score: float | None, said: str = "edit") -> Picture:
    return Picture(right, said, dict.fromkeys(SCORERS, score))


def told(*pictures: Picture) -> Told:
    return Told("single", "a circle", tuple(Round((p,), 0) for p in pictures), len(pictures) - 1, "max_rounds")


def test_the_area_is_the_chance_that_the_right_one_scores_higher() -> None:
    assert figures.auc([3.0, 2.0], [1.0]) == 1.0
    assert figures.auc([1.0], [1.0]) == 0.5
    assert figures.auc([1.0, None], [2.0, 0.0]) == 0.25
    assert figures.auc([1.0], []) is None


def test_a_rule_ends_a_forced_loop_where_it_would_have_ended() -> None:
    loops = [
        told(picture(False, 0.1), picture(True, 0.9, "satisfied"), picture(False, 0.2)),
        told(picture(True, 0.3, "satisfied"), picture(True, 0.8), picture(True, 0.1)),
    ]
    text = figures.stopped("text", loops, figures.text, limit=2)
    assert (text.right.tolist(), text.images.tolist()) == ([1.0, 1.0], [2.0, 1.0])
    score = figures.stopped("score", loops, figures.reached("lift", 0.85), limit=2)
    assert (score.right.tolist(), score.images.tolist()) == ([1.0, 1.0], [2.0, 3.0])
    best = figures.stopped("best", loops, lambda _: False, limit=2, best="lift")
    assert (best.right.tolist(), best.images.tolist()) == ([1.0, 1.0], [3.0, 3.0])


def test_best_of_n_takes_the_first_among_equals() -> None:
    several = Told("single", "a circle", (Round((picture(False, 1.0), picture(True, 1.0)), 0),), 0, "max_rounds")
    assert figures.best_of("", [several], "lift", 2).right.tolist() == [0.0]
    higher = replace(several, rounds=(Round((picture(False, 1.0), picture(True, 1.5)), 1),))
    assert figures.best_of("", [higher], "lift", 2).right.tolist() == [1.0]


def test_equal_cost_is_a_mixture_of_the_round_limits_around_it() -> None:
    line = [
        figures.Outcome("0", np.array([0.0, 0.0]), np.array([1.0, 1.0])),
        figures.Outcome("1", np.array([1.0, 0.0]), np.array([2.0, 2.0])),
    ]
    between = figures.Outcome("x", np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    more = figures.against(line, between)
    assert more is not None
    assert more.value == pytest.approx(0.75)
    assert figures.against(line, figures.Outcome("y", np.ones(2), np.full(2, 5.0))) is None


def test_trajectories_are_kept_as_they_are(tmp_path: Path) -> None:
    loops = [told(picture(False, None), picture(True, 0.9, "satisfied"))]
    keep(tmp_path / "a" / "b.jsonl", loops)
    assert kept(tmp_path / "a" / "b.jsonl") == loops


def test_the_page_says_what_the_json_says() -> None:
    text = PAGE.read_text()
    assert put(text, json.loads(RESULT.read_text())) == text
