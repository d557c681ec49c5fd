"""What the language says it means: every text is read back to the thing it was said of."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.prompts import is_reflection_format, is_think_format, read_reflection
from r3core.types import Verdict
from tests.training.drawing import ALL_CATEGORIES, random_scene, scenes, seeds, specs
from training.corrupt import corrupt
from training.edits import NO_EDIT, Add, Change, Inexecutable, Move, Op, Remove, apply, read_ops, say_ops
from training.language import (
    answer,
    describe,
    match_question,
    read_reflection_text,
    reason,
    reflect,
    training_description,
)
from training.phrasing import PHRASES, canonical, form_of, say, wordings
from training.prompt_reading import read_prompt
from training.sampler import Sampler, any_spec
from training.spec import CATEGORIES, Category, Group, Spec, coloured_in, draw_scene, satisfies, uncoloured
from training.world import BLOB, COLOURS, SHAPES, Scene, in_reading_order, layout, place

kinds = st.tuples(st.sampled_from(list(COLOURS)), st.sampled_from(SHAPES))
seen_kinds = st.tuples(st.sampled_from(list(COLOURS)), st.sampled_from((*SHAPES, BLOB)))
cells = st.integers(0, 8)
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(lambda kind, cell: Add(kind[0], kind[1], cell), kinds, cells),
    st.builds(lambda kind, cell: Remove(kind[0], kind[1], cell), seen_kinds, cells),
    st.builds(lambda kind, cell, to: Change(kind[0], kind[1], cell, to), seen_kinds, cells, kinds),
    st.builds(lambda kind, cell, to: Move(kind[0], kind[1], cell, to), seen_kinds, cells, cells),
)
RED_CIRCLE, BLUE_SQUARE = Group(1, "red", "circle"), Group(1, "blue", "square")
LEFT_OF = Spec((RED_CIRCLE, BLUE_SQUARE), "left")
BESIDE = Spec((RED_CIRCLE, BLUE_SQUARE, Group(1, "red", "star")), "above")


def scene_of(**things: str) -> Scene:
    """A scene from cell=colour_shape, with cells named by their words joined by underscores."""
    names = ("top_left", "top", "top_right", "left", "middle", "right", "bottom_left", "bottom", "bottom_right")
    named = [(names.index(cell), kind.partition("_")) for cell, kind in things.items()]
    return in_reading_order(place(colour, shape, cell) for cell, (colour, _, shape) in named)


@given(specs)
def test_every_wording_of_a_prompt_is_read_back_to_its_spec_and_itself(spec: Spec) -> None:
    for wording in wordings(spec):
        prompt = read_prompt(say(spec, wording))
        assert prompt is not None, say(spec, wording)
        assert (prompt.spec, prompt.wording) == (spec, wording)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_has_many_wordings_to_train_on(category: Category) -> None:
    spec = any_spec(category, Random(1))
    assert len([wording for wording in wordings(spec) if wording.splits == {"train"}]) >= 60


@pytest.mark.parametrize(
    ("prompt", "groups"),
    [
        ("a photo of three red circles", (Group(3, "red", "circle"),)),
        ("two yellow stars and one red circle", (Group(2, "yellow", "star"), Group(1, "red", "circle"))),
        ("A picture of an orange heart.", (Group(1, "orange", "heart"),)),
        ("one circle placed to the left of one square", None),
        ("six green stars", (Group(6, "green", "star"),)),
        ("a red circle above a blue square, and a red star", BESIDE.groups),
        ("a red circle, a blue square and a green star", (RED_CIRCLE, BLUE_SQUARE, Group(1, "green", "star"))),
    ],
)
def test_prompts_mean_what_they_say(prompt: str, groups: tuple[Group, ...] | None) -> None:
    read = read_prompt(prompt)
    assert (read.spec.groups if read else None) == groups


@pytest.mark.parametrize(
    "prompt",
    ["a photo of four cats", "", "one stars", "seven red circles", "a red circle and a red circle", "a star in"],
)
def test_other_prompts_are_not_understood(prompt: str) -> None:
    assert read_prompt(prompt) is None


@given(specs, seeds)
def test_a_plan_has_r3s_format_and_names_what_the_scene_shows(spec: Spec, seed: int) -> None:
    chosen = coloured_in(spec, Random(seed))
    plan = reason(chosen)
    assert is_think_format(plan)
    said = read_prompt(plan.removeprefix("<think>I will draw ").removesuffix(".</think>"))
    assert said is not None
    assert said.spec == chosen
    assert satisfies(spec, draw_scene(chosen, Random(seed)))


@given(specs, scenes)
def test_a_reflection_is_read_back_to_what_was_there_and_what_to_do(spec: Spec, scene: Scene) -> None:
    reflection = reflect(spec, scene)
    assert is_reflection_format(reflection.text)
    reading = read_reflection_text(reflection.text)
    assert reading is not None, reflection.text
    assert reading.seen == layout(scene)
    assert reading.ops == reflection.ops
    verdict = read_reflection(reflection.text).verdict
    assert (verdict is Verdict.SATISFIED) == satisfies(spec, scene) == (reflection.ops == ())


@pytest.mark.parametrize(
    ("spec", "scene", "sees", "thinks", "does"),
    [
        (
            LEFT_OF,
            scene_of(top_left="red_circle", right="blue_square"),
            "a red circle at the top left and a blue square on the right",
            (
                "a red circle left of a blue square. The circle is in the left column and the square in the right "
                "column, so the circle is left of the square, as asked"
            ),
            "No further edit needed.",
        ),
        (
            LEFT_OF,
            scene_of(middle="blue_square", bottom="red_circle"),
            "a blue square in the middle and a red circle at the bottom",
            (
                "a red circle left of a blue square. The circle is in the middle column and the square in the middle "
                "column, but the circle should be left of the square"
            ),
            "Move the red circle at the bottom to the bottom left.",
        ),
        (
            LEFT_OF,
            scene_of(left="blue_square", right="red_circle"),
            "a blue square on the left and a red circle on the right",
            (
                "a red circle left of a blue square. The circle is in the right column and the square in the left "
                "column, but the circle should be left of the square"
            ),
            "Move the red circle on the right to the left and move the blue square on the left to the right.",
        ),
        (
            LEFT_OF,
            scene_of(left="blue_star", right="blue_square"),
            "a blue star on the left and a blue square on the right",
            "a red circle left of a blue square, so the blue star should be a red circle",
            "Change the blue star on the left to a red circle.",
        ),
        (
            Spec((Group(2, "blue", "square"),)),
            scene_of(top_left="red_circle", middle="blue_square", right="red_circle"),
            (
                "a red circle at the top left, a blue square in the middle and a red circle on the right. "
                "Count: red circle two, blue square one"
            ),
            "two blue squares, so one red circle should be a blue square and one red circle is too many",
            "Change the red circle at the top left to a blue square and remove the red circle on the right.",
        ),
        (
            Spec((Group(3, "blue", "square"),)),
            scene_of(middle="blue_square"),
            "a blue square in the middle. Count: blue square one",
            "three blue squares, so two blue squares are missing",
            "Add a blue square on the left and add a blue square on the right.",
        ),
        (
            Spec((Group(2, None, "star"), Group(1, None, "heart"))),
            scene_of(top="red_star", right="blue_star", bottom="red_blob"),
            ("a red star at the top, a blue star on the right and a red blob at the bottom. Count: star two, blob one"),
            "two stars and one heart, so the red blob should be a heart",
            "Change the red blob at the bottom to a red heart.",
        ),
        (
            Spec((RED_CIRCLE, BLUE_SQUARE, Group(1, "green", "star"))),
            scene_of(top="blue_square", left="red_circle", right="blue_square"),
            (
                "a blue square at the top, a red circle on the left and a blue square on the right. "
                "Count: blue square two, red circle one"
            ),
            "a red circle, a blue square and a green star, so one blue square should be a green star",
            "Change the blue square on the right to a green star.",
        ),
        (
            BESIDE,
            scene_of(top="red_star", left="blue_square", bottom_right="red_circle"),
            "a red star at the top, a blue square on the left and a red circle at the bottom right",
            (
                "a red circle above a blue square, and a red star. The circle is in the bottom row and the square in "
                "the middle row, but the circle should be above the square"
            ),
            "Move the red circle at the bottom right to the top left.",
        ),
        (
            BESIDE,
            scene_of(top="red_circle", bottom="blue_square"),
            "a red circle at the top and a blue square at the bottom",
            "a red circle above a blue square, and a red star, so one red star is missing",
            "Add a red star in the middle.",
        ),
        (
            Spec((Group(1, None, "star"),)),
            (),
            "nothing",
            "a star, so one star is missing",
            "Add a red star in the middle.",
        ),
        (
            Spec((Group(1, "red", "circle"),)),
            scene_of(top="red_blob"),
            "a red blob at the top",
            "a red circle, so the red blob should be a circle",
            "Change the red blob at the top to a red circle.",
        ),
    ],
)
def test_reflections_read_as_a_person_would_write_them(
    spec: Spec, scene: Scene, sees: str, thinks: str, does: str
) -> None:
    assert reflect(spec, scene).text == f"<think>I see {sees}. The prompt asks for {thinks}.</think> {does}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see a red circle.",
        "<think>I see a cat on the left. The prompt asks for a cat.</think> No further edit needed.",
    ],
)
def test_other_texts_are_no_reflection_of_ours(text: str) -> None:
    assert read_reflection_text(text) is None


@given(st.lists(ops, min_size=1, max_size=2))
def test_every_instruction_is_read_back_to_its_operations(some: list[Op]) -> None:
    assert read_ops(say_ops(some)) == tuple(some)


def test_no_operation_is_no_further_edit() -> None:
    assert say_ops(()) == NO_EDIT
    assert read_ops(NO_EDIT) == ()


@pytest.mark.parametrize(
    "text", ["Add a hat.", "Add a red circle", "Remove the red circle at the left.", "Change the red star on the left."]
)
def test_an_instruction_in_other_words_is_not_read(text: str) -> None:
    assert read_ops(text) is None


def test_two_moves_of_one_sentence_swap_things() -> None:
    scene = scene_of(left="red_circle", right="blue_square")
    swapped = apply((Move("red", "circle", 3, 5), Move("blue", "square", 5, 3)), scene)
    assert layout(swapped) == (("blue", "square", 3), ("red", "circle", 5))


@pytest.mark.parametrize(
    "impossible",
    [
        (Remove("red", "star", 3),),
        (Remove("red", "circle", 4),),
        (Add("red", "star", 3),),
        (Move("red", "circle", 3, 5),),
        (Remove("red", "circle", 3), Change("red", "circle", 3, ("blue", "star"))),
    ],
)
def test_what_cannot_be_carried_out_is_refused(impossible: tuple[Op, ...]) -> None:
    with pytest.raises(Inexecutable):
        apply(impossible, scene_of(left="red_circle", right="blue_square"))


@given(specs, scenes, seeds)
def test_yes_and_no_are_true(spec: Spec, scene: Scene, seed: int) -> None:
    right = draw_scene(spec, Random(seed))
    assert answer(spec, right) == "yes"
    assert answer(spec, corrupt(spec, right, Random(seed))) == "no"
    assert (answer(spec, scene) == "yes") == (reflect(spec, scene).ops == ())


def test_the_yes_no_question_is_the_judges() -> None:
    assert match_question("{prompt}s") == 'Does this figure show "{prompt}s"? Please answer yes or no.'


@given(seeds)
def test_a_description_is_a_prompt_that_the_scene_is_a_right_picture_of(seed: int) -> None:
    scene = random_scene(Random(seed))
    for text in (describe(scene), training_description(scene, Random(seed))):
        if text is not None:
            read = read_prompt(text)
            assert read is not None, text
            assert satisfies(read.spec, scene)


@given(specs)
def test_descriptions_can_be_drawn(spec: Spec) -> None:
    assert describe(draw_scene(spec, Random(0))) is not None


def test_judgements_of_the_sampler_are_true_and_balanced() -> None:
    sampler = Sampler(3)
    some = [sampler.judgement() for _ in range(600)]
    for judged in some:
        read = read_prompt(judged.prompt)
        assert read is not None
        assert judged.answer == answer(read.spec, judged.scene)
    assert 0.4 < sum(judged.answer == "yes" for judged in some) / len(some) < 0.6


@given(specs)
def test_the_category_of_a_spec_follows_from_its_form(spec: Spec) -> None:
    assert spec.category in ALL_CATEGORIES
    assert form_of(spec) in PHRASES
    bare = uncoloured(spec)
    assert bare is None or bare.coloured is False
    assert canonical(spec) == canonical(Spec(spec.groups, spec.relation))


@pytest.mark.parametrize(
    ("groups", "relation"),
    [
        ((), None),
        ((Group(7, "red", "star"),), None),
        ((Group(4, "red", "star"), Group(3, "red", "heart")), None),
        ((RED_CIRCLE, RED_CIRCLE), None),
        ((RED_CIRCLE, Group(1, None, "square")), None),
        ((Group(2, "red", "circle"), BLUE_SQUARE), "left"),
        ((RED_CIRCLE, BLUE_SQUARE, Group(1, "red", "star"), Group(1, "red", "heart")), "left"),
        ((Group(1, "pink", "circle"),), None),
    ],
)
def test_what_nobody_can_ask_for_is_refused(groups: tuple[Group, ...], relation: str | None) -> None:
    with pytest.raises(ValueError, match="is no spec"):
        Spec(groups, relation)  # type: ignore[arg-type]
