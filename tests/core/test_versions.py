"""The stored form and its version: what older builds stored is read, what a newer one stored is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r3core import versions
from r3core.judge import Counts, Score, ScoreStop, WordLift
from r3core.types import (
    Candidate,
    EarlyStop,
    Image,
    Reflection,
    Request,
    Round,
    Trajectory,
    Usage,
    Verdict,
    request_from_json,
)
from r3core.versions import STORED_VERSION, NewerVersion, version_of

STORED = Path(__file__).parent / "stored"
REQUEST = Request(
    'a cat "version":9',
    64,
    48,
    seed=2**53 - 1,
    max_rounds=2,
    min_rounds=1,
    early_stop=EarlyStop(confirmations=2),
    n=2,
    previews=3,
)
ROUNDS = (
    Round(
        0,
        Image("img_0", 64, 48),
        reflections=(
            Reflection("<think>A hat is missing.</think> Add a hat.", "A hat is missing.", Verdict.EDIT, "Add a hat."),
        ),
    ),
    Round(
        1, Image("img_1", 64, 48), "Add a hat.", (Reflection("No hat.", "No hat.", Verdict.MALFORMED, None),), base=0
    ),
)
TRAJECTORY = Trajectory(REQUEST, 1, "<think>A plan.</think>", ROUNDS, "malformed", Usage(30, 98, 221, images=2))

SCORES = (Score("lift", 0.5, 0.5, (WordLift("a", 0.25), WordLift("cat", 0.75))), Score("verdict", None))
JUDGED = Trajectory(
    replace(
        REQUEST,
        early_stop=EarlyStop(score=ScoreStop("lift", at_least=0.5, min_gain=0.25, patience=2), all=True),
        scorers=("lift", "verdict"),
        choose="best",
        on_regression="backtrack",
        candidates=Counts(2, 1),
        max_images=4,
        question="What is it?",
    ),
    0,
    None,
    (
        Round(
            0,
            Image("img_3", 64, 48),
            scores=SCORES,
            candidates=(
                Candidate(Image("img_2", 64, 48), forwards=90),
                Candidate(Image("img_3", 64, 48), SCORES, ROUNDS[0].reflections, 90),
            ),
            reflections=ROUNDS[0].reflections,
            chosen=1,
            forwards=90,
        ),
    ),
    "score",
    Usage(30, 98, 180, 2, 1, 90),
    "A cat.",
    (("self", 0.75), ("latent", 0.5)),
)


def stored(version: int) -> dict[str, Any]:
    """What a build of that version stored of the values above."""
    found: dict[str, Any] = json.loads((STORED / f"version_{version}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("version", range(1, STORED_VERSION + 1))
def test_what_any_build_stored_is_read(version: int) -> None:
    of_old = stored(version)
    assert request_from_json(of_old["request"], version_of(of_old)) == REQUEST
    assert Trajectory.from_json(of_old["trajectory"]) == TRAJECTORY


def test_the_stored_form_does_not_change_without_a_new_version() -> None:
    """Where this fails: raise STORED_VERSION, say in versions.py how the form before becomes the new one, and store
    the new one beside version_1.json; an older worker could not read it, and must be told.
    """
    assert json.loads(json.dumps(TRAJECTORY.to_json())) == stored(STORED_VERSION)["trajectory"]
    assert json.loads(json.dumps(JUDGED.to_json())) == stored(STORED_VERSION)["judged"]


@pytest.mark.parametrize("version", range(2, STORED_VERSION + 1))
def test_a_judged_trajectory_of_any_build_that_knew_them_is_read(version: int) -> None:
    assert Trajectory.from_json(stored(version)["judged"]) == JUDGED


def test_the_version_stands_first_where_scripts_look_for_it() -> None:
    assert next(iter(TRAJECTORY.to_json())) == "version"


def test_what_is_older_is_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = STORED_VERSION
    monkeypatch.setattr(versions, "STORED_VERSION", ours + 2)
    # The version after ours called them tries, and ours looks.
    monkeypatch.setitem(versions.REQUEST_STEPS, ours, lambda old: renamed(old, "looks", "tries"))
    monkeypatch.setitem(versions.REQUEST_STEPS, ours + 1, lambda old: renamed(old, "tries", "previews"))
    monkeypatch.setitem(versions.TRAJECTORY_STEPS, ours + 1, lambda old: renamed(old, "plan", "reasoning"))
    forms = ((ours, "looks", "plan"), (ours + 1, "tries", "plan"), (ours + 2, "previews", "reasoning"))
    for version, looks, plan in forms:
        of_old = TRAJECTORY.to_json()
        request = renamed(of_old["request"], "previews", looks)
        assert request_from_json(request, version) == REQUEST
        of_old = renamed({**of_old, "request": request, "version": version}, "reasoning", plan)
        assert Trajectory.from_json(of_old) == TRAJECTORY


def renamed(value: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: part for name, part in value.items()}


def test_what_is_newer_is_refused_with_both_versions() -> None:
    with pytest.raises(NewerVersion, match="stored with version 99, and this build reads up to 3; keep a worker"):
        Trajectory.from_json({**TRAJECTORY.to_json(), "version": 99})


def test_what_was_stored_before_there_were_versions_is_of_the_first() -> None:
    of_old = stored(1)
    assert version_of({"request": of_old["request"]}) == 1


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match="whole number from 1 on"):
        version_of({"version": version})
