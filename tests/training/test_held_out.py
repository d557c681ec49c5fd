"""Nothing that is measured by is ever trained on: wordings, combinations, and pictures of combinations."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from training.eval_set import DIGESTS, SIZES, HeldOutSplit, cases, digest, quick_cases
from training.held_out import (
    HeldOut,
    check_pictures,
    check_prompts,
    combination,
    is_held_out_picture,
    prompt_split,
    split_of,
)
from training.language import match_question
from training.phrasing import Wording
from training.prompt_reading import read_prompt
from training.sampler import Sampler, any_spec, relabel
from training.spec import CATEGORIES, OPPOSITE, Group, Spec, draw_scene
from training.world import place

SPLITS: tuple[HeldOutSplit, ...] = ("validation", "test")


def parts(split: HeldOutSplit) -> tuple[set[str], set[Wording]]:
    """The held-out combinations and the held-out frames and phrases of a set."""
    combinations: set[str] = set()
    wordings: set[Wording] = set()
    for case in cases(split):
        read = read_prompt(case.prompt)
        assert read is not None
        if split_of(case.spec) != "train":
            combinations.add(combination(case.spec))
        if split in read.wording.splits:
            wordings.add(read.wording)
    return combinations, wordings


@pytest.mark.parametrize("split", SPLITS)
def test_every_case_is_held_out_and_asks_what_it_says(split: HeldOutSplit) -> None:
    for case in cases(split):
        assert prompt_split(case.prompt) == split
        read = read_prompt(case.prompt)
        assert read is not None
        assert read.spec == case.spec
        assert case.spec.category == case.category
        assert case.category == "single" or split_of(case.spec) == split


@pytest.mark.parametrize("split", SPLITS)
def test_categories_are_balanced_and_nothing_occurs_twice(split: HeldOutSplit) -> None:
    some = cases(split)
    assert Counter(case.category for case in some) == dict.fromkeys(CATEGORIES, SIZES[split])
    assert len({case.prompt for case in some}) == len({case.seed for case in some}) == len(some)


def test_the_test_set_has_six_hundred_prompts() -> None:
    assert len(cases()) >= 600
    assert Counter(case.category for case in quick_cases()) == dict.fromkeys(CATEGORIES, 8)


@pytest.mark.parametrize("split", SPLITS)
def test_the_prompts_and_seeds_are_those_of_the_published_figures(split: HeldOutSplit) -> None:
    assert digest(split) == DIGESTS[split]


def test_validation_and_test_share_nothing_that_is_held_out() -> None:
    (combinations, wordings), (others, other_wordings) = parts("validation"), parts("test")
    assert not combinations & others
    assert not wordings & other_wordings
    assert not {case.seed for case in cases("test")} & {case.seed for case in cases("validation")}


def test_nothing_that_the_sampler_gives_is_held_out() -> None:
    sampler = Sampler(21)
    drawings = [sampler.drawing() for _ in range(2000)]
    pairs = [sampler.pair() for _ in range(1500)]
    edits = [sampler.edit() for _ in range(800)]
    judgements = [sampler.judgement() for _ in range(800)]
    descriptions = [sampler.description() for _ in range(800)]
    prompts = {d.prompt for d in drawings} | {p.prompt for p in pairs} | {j.prompt for j in judgements}
    prompts |= {d.text for d in descriptions}
    check_prompts(prompts)
    check_prompts(d.reason.removeprefix("<think>I will draw ").removesuffix(".</think>") for d in drawings)
    check_pictures(d.scene for d in drawings)
    check_pictures(scene for p in pairs for scene in (p.scene, p.target))
    check_pictures(scene for e in edits for scene in (e.scene, e.target))
    check_pictures(scene for scene in [*(j.scene for j in judgements), *(d.scene for d in descriptions)])
    asked = {case.prompt for split in SPLITS for case in cases(split)}
    assert not asked & {prompt.removesuffix(".")[0].lower() + prompt.removesuffix(".")[1:] for prompt in prompts}
    read = [read_prompt(prompt) for prompt in prompts]
    trained = {combination(prompt.spec) for prompt in read if prompt}
    assert not trained & {combination(case.spec) for case in cases() if case.category != "single"}


def test_every_word_of_a_held_out_prompt_is_trained_on() -> None:
    sampler = Sampler(22)
    known = {word for _ in range(3000) for word in sampler.drawing().prompt.lower().strip(".").split()}
    assert not {word for split in SPLITS for case in cases(split) for word in case.prompt.split()} - known


@pytest.mark.parametrize("split", SPLITS)
def test_a_pool_with_a_held_out_prompt_is_refused(split: HeldOutSplit) -> None:
    for case in cases(split):
        with pytest.raises(HeldOut, match="leave it out"):
            check_prompts(["a photo of a star", case.prompt])


def test_a_pool_with_a_prompt_of_another_language_is_refused() -> None:
    with pytest.raises(HeldOut, match="four cats"):
        check_prompts(["a photo of four cats"])
    with pytest.raises(HeldOut):
        check_prompts([match_question("a star")])


def test_a_pool_with_a_picture_of_a_held_out_combination_is_refused() -> None:
    held = next(case for case in cases() if case.category == "attribution")
    scene = draw_scene(held.spec, Random(0))
    assert is_held_out_picture(scene)
    with pytest.raises(HeldOut):
        check_pictures([scene])


def test_a_models_own_picture_of_a_held_out_combination_is_left_out() -> None:
    assert relabel("a photo of a star", [place("red", "triangle", 4)]) is None
    pair = relabel("a photo of a star", [place("red", "circle", 4)])
    assert pair is not None
    assert pair.instruction == "Change the red circle in the middle to a red star."


def test_own_pictures_are_relabelled_for_training_prompts_alone() -> None:
    with pytest.raises(ValueError, match="no training prompt"):
        relabel(cases()[0].prompt, [])


def test_a_combination_is_the_same_however_it_is_said() -> None:
    circle, square = Group(1, "red", "circle"), Group(1, "blue", "square")
    assert combination(Spec((circle, square))) == combination(Spec((square, circle)))
    for relation, opposite in OPPOSITE.items():
        assert combination(Spec((circle, square), relation)) == combination(Spec((square, circle), opposite))
        beside = Group(1, "green", "star")
        said, turned = Spec((circle, square, beside), relation), Spec((square, circle, beside), opposite)
        assert combination(said) == combination(turned)
        assert combination(said) != combination(Spec((circle, beside, square), relation))
    assert combination(Spec((circle, square), "left")) != combination(Spec((square, circle), "left"))


def test_three_things_in_a_relation_are_held_out_as_the_three_are() -> None:
    rng = Random(6)
    some = [spec for spec in (any_spec("position", rng) for _ in range(2000)) if len(spec.groups) == 3]
    assert {split_of(spec) for spec in some} == {"train", "validation", "test"}
    for spec in some:
        assert split_of(spec) == split_of(Spec(spec.groups))
        assert is_held_out_picture(draw_scene(spec, rng)) == (split_of(spec) != "train")
