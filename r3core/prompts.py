"""Every prompt string of R3, once, and the one reader of what the model answers.

The strings are the checkpoint's interface and stand here to the letter (r3: train/rollout_controller.py and
train/online_rl.py:295): each has a space before its newline, the first ends in a full stop, the second does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from r3core.types import Reflection, Verdict

GENERATE_SYSTEM: Final = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, "
    "i.e. <think> planning process here </think> image here."
)
REFLECT_SYSTEM: Final = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. \n"
    "The reasoning process is enclosed within <think> </think> tags, "
    "i.e. <think> reasoning process here </think> answer here"
)
_REFLECT_QUESTION: Final = (
    "The description of the target image is: {prompt}\n"
    "How to further edit the provided image to make it consistent with the target description? "
    "Please provide concrete editing instructions in a single sentence. "
    "If no editing operation is needed, answer: no further edit needed."
)
DESCRIBE_QUESTION: Final = "Describe the image in detail."
_YES_NO_QUESTION: Final = 'Does this figure show "{prompt}"? Please answer yes or no.'
YES: Final = "yes"
NO: Final = "no"
# What a satisfied reflection says after its thought, with the space that parts the two.
SATISFIED_ANSWER: Final = " No further edit needed."
THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
SATISFIED_MARK: Final = "no further edit"
# What the reference carries out for a reflection without </think> (rollout_controller.py, extraction).
MALFORMED_INSTRUCTION: Final = "No further edit needed"


@dataclass(frozen=True)
class PromptStrings:
    """What stands around the user's words. Every R3 checkpoint has these; a set of recorded numbers brings its own."""

    generate_system: str = GENERATE_SYSTEM
    reflect_system: str = REFLECT_SYSTEM
    reflect_template: str = _REFLECT_QUESTION
    describe_question: str = DESCRIBE_QUESTION
    yes_no_template: str = _YES_NO_QUESTION

    def reflect_question(self, prompt: str) -> str:
        """The question that is put after the picture; the user's prompt stands in it as it is, braces and all."""
        return self.reflect_template.replace("{prompt}", prompt, 1)

    def yes_no_question(self, prompt: str) -> str:
        """The question whether a picture shows the prompt, which stands in it as it is."""
        return self.yes_no_template.replace("{prompt}", prompt, 1)


def reflect_question(prompt: str) -> str:
    """The question in R3's own words."""
    return PromptStrings().reflect_question(prompt)


def read_reflection(text: str) -> Reflection:
    """What a reflection says: the instruction is what follows the LAST </think>, stripped.

    No </think> is malformed; "no further edit" anywhere in the instruction, in any case, is satisfied; anything else,
    the empty instruction included, is an edit (r3-model: section 8).
    """
    head, mark, tail = text.rpartition(THINK_CLOSE)
    if not mark:
        return Reflection(text=text, thought=text, verdict=Verdict.MALFORMED, instruction=None)
    instruction = tail.strip()
    satisfied = SATISFIED_MARK in instruction.lower()
    return Reflection(
        text=text,
        thought=head.strip().removeprefix(THINK_OPEN).strip(),
        verdict=Verdict.SATISFIED if satisfied else Verdict.EDIT,
        instruction=instruction,
    )


def is_think_format(text: str) -> bool:
    """Whether a reasoning text is <think>X</think> and nothing else (a score of the paper; nothing depends on it)."""
    body = text.strip()
    if not (body.startswith(THINK_OPEN) and body.endswith(THINK_CLOSE)):
        return False
    inner = body[len(THINK_OPEN) : len(body) - len(THINK_CLOSE)]
    return len(body) >= len(THINK_OPEN) + len(THINK_CLOSE) and not _has_tag(inner)


def is_reflection_format(text: str) -> bool:
    """Whether a reflection is <think>X</think>Y with a non-empty Y and no further tag."""
    body = text.strip()
    if not body.startswith(THINK_OPEN):
        return False
    thought, mark, answer = body[len(THINK_OPEN) :].partition(THINK_CLOSE)
    return bool(mark and answer) and not _has_tag(thought) and not _has_tag(answer)


def _has_tag(text: str) -> bool:
    return THINK_OPEN in text or THINK_CLOSE in text
