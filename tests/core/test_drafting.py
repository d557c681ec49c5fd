"""Drafts make texts come in fewer forwards and change nothing of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from r3core.engine.batch import Picture
from r3core.engine.drafting import Drafts, Phrases
from r3core.events import ImageReady
from r3core.model.tokenizer import Tokenizer
from r3core.types import EarlyStop, Request, TextSampling, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import APPLES, MIX, Forwards, ask, forwards
from tests.core.walking import Alone, alone, drive

__all__ = ["forwards"]

TALKING = ask(APPLES, early_stop=EarlyStop(on_satisfied=False), think=True)
SAMPLED = TextSampling(max_tokens=24, temperature=0.8, top_p=0.95)


def test_what_followed_the_longest_stretch_is_drafted() -> None:
    phrases = Phrases()
    phrases.learn([1, 2, 3, 4, 5])
    phrases.learn([9, 3, 7])
    assert phrases.draft([1, 2, 3], 4) == [4, 5]  # not 7, which followed a 3 later
    assert phrases.draft([8, 3], 1) == [7]
    assert phrases.draft([6], 4) == []
    assert phrases.draft([1], 3) == [2, 3, 4]


def test_what_a_text_says_itself_counts_before_what_others_said() -> None:
    others = Phrases()
    others.learn([1, 2, 3])
    own = Phrases(others)
    assert own.draft([1], 2) == [2, 3]
    own.follow([1], 5)
    assert own.draft([1], 2) == [5]
    assert others.draft([1], 2) == [2, 3]


def test_a_text_that_takes_no_drafts_goes_on_without() -> None:
    phrases = Phrases()
    phrases.learn([1, 2, 3, 4, 5, 6])
    drafts = Drafts(phrases)
    assert drafts.next([1], texts=1, left=9) == [2, 3, 4, 5]
    drafts.drafted = 1000
    assert drafts.next([1], texts=1, left=9) == []
    drafts.taken = 500
    assert drafts.next([1], texts=1, left=9) == [2, 3, 4, 5]


def test_many_texts_draft_less_and_no_text_beyond_its_end() -> None:
    phrases = Phrases()
    phrases.learn([1, 2, 3, 4, 5, 6])
    drafts = Drafts(phrases)
    assert len(drafts.next([1], texts=10, left=9)) == 2
    assert drafts.next([1], texts=40, left=9) == []
    assert len(drafts.next([1], texts=1, left=1)) == 1
    assert drafts.next([1], texts=1, left=0) == []


def drafting(monkeypatch: pytest.MonkeyPatch, drafted: Any) -> None:
    monkeypatch.setattr(Phrases, "draft", drafted)


def nothing(_self: Phrases, _ids: Sequence[int], _most: int) -> list[int]:
    return []


def nonsense(_self: Phrases, ids: Sequence[int], most: int) -> list[int]:
    return [(ids[-1] * 7 + i) % 500 for i in range(most)]


def said(ran: Alone) -> Any:
    trajectory = ran.trajectory
    return trajectory.reasoning, [round_.reflections for round_ in trajectory.rounds], trajectory.usage.text_tokens


@pytest.mark.parametrize("drafted", [None, nonsense], ids=["what was said before", "nonsense"])
@pytest.mark.parametrize(
    "asked",
    [
        TALKING,
        replace(TALKING, reason=SAMPLED, reflect=SAMPLED, seed=5),
        MIX["every round, short texts"],
        replace(TALKING, reason=replace(SAMPLED, max_tokens=2), reflect=replace(SAMPLED, max_tokens=3)),
    ],
    ids=["greedy", "sampled", "one token", "two or three tokens"],
)
def test_texts_are_the_same_whatever_is_drafted(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, asked: Request, drafted: Any
) -> None:
    with monkeypatch.context() as without:
        drafting(without, nothing)
        expected = alone(make_runtime().engine, asked)
    if drafted is not None:
        drafting(monkeypatch, drafted)
    assert said(alone(make_runtime().engine, asked)) == said(expected)


def test_drafts_save_forwards(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, forwards: Forwards) -> None:
    alone(make_runtime().engine, TALKING)
    drafted = len(forwards.texts)
    drafting(monkeypatch, nothing)
    alone(make_runtime().engine, TALKING)
    assert drafted < len(forwards.texts) - drafted


def test_who_goes_on_with_a_trajectory_drafts_from_its_texts(
    make_runtime: MakeRuntime, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_runtime().engine
    engine.add("first", Trajectory(TALKING))
    drawn = next(event for _, event in drive(engine) if isinstance(event, ImageReady))
    assert drawn.trajectory.reasoning
    learnt: list[list[int]] = []
    monkeypatch.setattr(Phrases, "learn", lambda _self, ids: learnt.append(list(ids)))
    other = make_runtime().engine
    other.add("again", drawn.trajectory, (Picture(drawn.image, drawn.pixels),))
    drive(other)
    assert learnt == [tokenizer.encode(APPLES), tokenizer.encode(drawn.trajectory.reasoning)]


def test_the_model_keeps_the_phrases_of_what_it_is_told_to_remember(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    ran = alone(runtime.engine, TALKING)
    for trajectory in (replace(ran.trajectory, reasoning="a b c d"), ran.trajectory):
        runtime.runner.remember(trajectory)
    tokenizer = Tokenizer(runtime.loaded.files.tokenizer)
    ids = [*tokenizer.encode("a b c d"), tokenizer.im_end]
    assert runtime.runner.phrases.draft(ids[:2], 1) == ids[2:3]
