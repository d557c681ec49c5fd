"""The prompt strings to the letter, and the one reader of what the model answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.prompts import (
    GENERATE_SYSTEM,
    MALFORMED_INSTRUCTION,
    REFLECT_SYSTEM,
    SATISFIED_MARK,
    PromptStrings,
    is_reflection_format,
    is_think_format,
    read_reflection,
    reflect_question,
)
from r3core.types import Verdict


def test_the_strings_are_those_that_the_checkpoint_was_trained_with(golden: dict[str, Any]) -> None:
    strings = golden["prompt_strings"]
    assert strings["GEN_THINK_SYSTEM_PROMPT"] == GENERATE_SYSTEM
    assert strings["VLM_THINK_SYSTEM_PROMPT"] == REFLECT_SYSTEM
    for prompt in ("a yellow bus", "", "{prompt} {0} {} }{", "line\nline", r"\1 \g<0>"):
        assert strings["REFLECTION_TEMPLATE"].replace("{prompt}", prompt, 1) == reflect_question(prompt)


def test_the_questions_behind_scores_are_those_of_the_recorded_ones() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "judge.json").read_text(encoding="utf-8"))
    strings = PromptStrings()
    assert strings.describe_question == recorded["question"]
    for prompt in ("a yellow bus", "{prompt} {0}", 'a "quoted" word'):
        assert strings.yes_no_question(prompt) == recorded["yes_no_question"].replace("{prompt}", prompt, 1)


def test_what_the_reference_read_from_its_reflections(golden: dict[str, Any]) -> None:
    assert golden["reflect"]
    for recorded in golden["reflect"]:
        said = read_reflection(recorded["text"])
        carried_out = MALFORMED_INSTRUCTION if said.instruction is None else said.instruction
        assert carried_out == recorded["edit_operation"]
        assert float(is_reflection_format(recorded["text"])) == recorded["format_ok_reflect"]


def test_what_the_reference_thought_of_the_form_of_its_plans(golden: dict[str, Any]) -> None:
    assert golden["greedy_think"]
    for recorded in golden["greedy_think"]:
        assert float(is_think_format(recorded["text"])) == recorded["format_ok_think"]


@pytest.mark.parametrize(
    ("text", "verdict", "thought", "instruction"),
    [
        ("<think>a</think> b", Verdict.EDIT, "a", "b"),
        ("<think> a </think>\n b \n", Verdict.EDIT, "a", "b"),
        ("<think>a</think>", Verdict.EDIT, "a", ""),
        ("<think>a</think> \n ", Verdict.EDIT, "a", ""),
        ("</think>b", Verdict.EDIT, "", "b"),
        ("a</think>b", Verdict.EDIT, "a", "b"),
        ("<think>a</think>b</think>c", Verdict.EDIT, "a</think>b", "c"),
        ("<think>a</think> No further edit needed.", Verdict.SATISFIED, "a", "No further edit needed."),
        ("<think>a</think> nO FuRtHeR eDiTs", Verdict.SATISFIED, "a", "nO FuRtHeR eDiTs"),
        (
            "<think>a</think> There is no further edit needed because it is right.",
            Verdict.SATISFIED,
            "a",
            "There is no further edit needed because it is right.",
        ),
        ("<think>no further edit</think> add a hat", Verdict.EDIT, "no further edit", "add a hat"),
        ("<think>a</think> no  further edit", Verdict.EDIT, "a", "no  further edit"),
        ("No further edit needed.", Verdict.MALFORMED, "No further edit needed.", None),
        ("<think>cut off", Verdict.MALFORMED, "<think>cut off", None),
        ("", Verdict.MALFORMED, "", None),
        ("<THINK>a</THINK> b", Verdict.MALFORMED, "<THINK>a</THINK> b", None),
    ],
)
def test_reading_a_reflection(text: str, verdict: Verdict, thought: str, instruction: str | None) -> None:
    said = read_reflection(text)
    assert (said.verdict, said.thought, said.instruction, said.text) == (verdict, thought, instruction, text)


@given(st.lists(st.sampled_from(["<think>", "</think>", "no further edit", " ", "A", "b\n"]), max_size=8).map("".join))
def test_any_text_has_one_verdict_and_keeps_its_words(text: str) -> None:
    said = read_reflection(text)
    if "</think>" not in text:
        assert (said.verdict, said.thought, said.instruction) == (Verdict.MALFORMED, text, None)
        return
    assert said.instruction == text.rpartition("</think>")[2].strip()
    satisfied = SATISFIED_MARK in said.instruction.lower()
    assert said.verdict is (Verdict.SATISFIED if satisfied else Verdict.EDIT)


@pytest.mark.parametrize(
    ("text", "plan", "reflection"),
    [
        ("<think>a</think>", True, False),
        ("<think></think>", True, False),
        ("  <think>a\nb</think>\n", True, False),
        ("<think>a</think> b", False, True),
        ("<think></think>b", False, True),
        ("<think>a</think> ", True, False),
        ("<think>a<think></think>", False, False),
        ("<think>a</think>b</think>", False, False),
        ("x<think>a</think>b", False, False),
        ("<think>", False, False),
        ("</think>", False, False),
        ("a", False, False),
    ],
)
def test_the_two_forms_that_the_paper_scores(text: str, plan: bool, reflection: bool) -> None:
    assert is_think_format(text) is plan
    assert is_reflection_format(text) is reflection
