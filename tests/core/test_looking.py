"""What a prompt is scored by: its words, and those of a long one."""

from __future__ import annotations

import pytest

from r3core.engine.looking import Prompt, said_of
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import PromptStrings


@pytest.mark.parametrize(("words", "told"), [(1, 1), (200, 200), (201, 101), (2000, 200)])
def test_no_more_than_two_hundred_words_are_told_of_a_prompt_and_none_is_left_out(
    tokenizer: Tokenizer, words: int, told: int
) -> None:
    text = " ".join("abc"[number % 3] for number in range(words))
    prompt = Prompt.of(text, tokenizer, PromptStrings())
    likelihoods = [-float(number % 7) for number in range(len(prompt.ids))]
    score = said_of(prompt, likelihoods, [0.0] * len(prompt.ids))["lift"]
    assert len(score.words) == told
    assert " ".join(word.text for word in score.words) == text
    assert sum(word.lift for word in score.words) == pytest.approx(sum(likelihoods))
