"""The tasks beside the loop, with the small checkpoint, which can read its own world: describe, score, round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from r3core.config import EngineConfig
from r3core.engine.batch import Picture
from r3core.engine.likeness import EQUAL_DB, psnr
from r3core.events import Described, Event, ImageReady, TextDelta
from r3core.judge import SCORERS, Scorer, best_of, value_of
from r3core.prompts import PromptStrings
from r3core.runtime import Runtime, load_engine
from r3core.types import Image, ImageSampling, Request, TextSampling, Trajectory, Verdict
from tests.core.test_similarity import write_clip, write_dinov2
from tests.core.walking import by_key, drive, end_of
from training.language import describe as said_of
from training.parse import parse
from training.phrasing import canonical
from training.render import render
from training.spec import Group, Spec, draw_scene, satisfies
from training.world import Scene

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "small"
SIDE = 96
GREEDY = TextSampling(max_tokens=196, temperature=0)
QUICK = ImageSampling(num_timesteps=12)
SEEN: tuple[Scorer, ...] = ("gvu", "vqa")
RANKED: tuple[Scorer, ...] = ("lift", "vqa", "verdict")
SPECS = (
    Spec((Group(1, "red", "circle"),)),
    Spec((Group(2, "blue", "star"),)),
    Spec((Group(1, "green", "triangle"), Group(1, "yellow", "square"))),
    Spec((Group(3, "purple", "heart"),)),
)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """An engine around the small checkpoint."""
    return load_engine(EngineConfig(CHECKPOINT, device="cpu"))


def drawn(scene: Scene, name: str = "img_0") -> Picture:
    return Picture(Image(name, SIDE, SIDE), render([scene])[0])


def scenes() -> list[Scene]:
    return [draw_scene(spec, Random(number)) for number, spec in enumerate(SPECS)]


def run(runtime: Runtime, jobs: Mapping[str, tuple[Request, tuple[Picture, ...]]]) -> dict[str, list[Event]]:
    for key, (request, pictures) in jobs.items():
        runtime.engine.add(key, Trajectory(request), pictures)
    return by_key(drive(runtime.engine))


def task(kind: Any, prompt: str = "", **changes: Any) -> Request:
    return replace(Request(prompt, SIDE, SIDE, seed=1, kind=kind, given_image=True), **changes)


def test_a_description_reads_what_a_scene_shows(runtime: Runtime) -> None:
    jobs = {str(n): (task("describe"), (drawn(scene),)) for n, scene in enumerate(scenes())}
    for key, events in run(runtime, jobs).items():
        said = [e.text for e in events if isinstance(e, Described)]
        assert said == [end_of(events).description]
        assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.stage == "describe") == said[0]
        assert said[0] == said_of(scenes()[int(key)])


def test_a_question_of_the_callers_is_answered_instead(runtime: Runtime) -> None:
    scene = scenes()[0]
    asked = {"a red circle": "yes", "a blue circle": "no", "two red circles": "no"}
    jobs = {
        prompt: (task("describe", question=PromptStrings().yes_no_question(prompt)), (drawn(scene),))
        for prompt in asked
    }
    assert {key: end_of(events).description for key, events in run(runtime, jobs).items()} == asked


def test_every_scorer_ranks_the_right_prompt_first(runtime: Runtime) -> None:
    """Of four prompts, each of which another picture is right for."""
    prompts = [canonical(spec) for spec in SPECS]
    for right, scene in enumerate(scenes()):
        jobs = {prompt: (task("score", prompt, scorers=SCORERS), (drawn(scene),)) for prompt in prompts}
        ended = {prompt: end_of(events).rounds[0] for prompt, events in run(runtime, jobs).items()}
        for scorer in RANKED:
            values = [value_of(ended[prompt].scores, scorer) for prompt in prompts]
            assert best_of(values) == right, (scorer, values)


def test_the_word_that_a_picture_fails_to_show_has_the_lowest_lift(runtime: Runtime) -> None:
    scene = scenes()[0]
    for prompt, wrong in (("a blue circle", "blue"), ("a red star", "star")):
        (events,) = run(runtime, {"a": (task("score", prompt, scorers=("lift",)), (drawn(scene),))}).values()
        words = end_of(events).rounds[0].scores[0].words
        assert [word.text for word in words] == prompt.split()
        assert min(words, key=lambda word: word.lift).text == wrong, words


def test_of_several_pictures_the_right_one_scores_best(runtime: Runtime) -> None:
    pictures = tuple(drawn(scene, f"img_{n}") for n, scene in enumerate(scenes()))
    prompts = [canonical(spec) for spec in SPECS]
    jobs = {prompt: (task("score", prompt, scorers=SEEN), pictures) for prompt in prompts}
    for prompt, events in run(runtime, jobs).items():
        judged = end_of(events).rounds[0]
        for scorer in SEEN:
            assert best_of([value_of(p.scores, scorer) for p in judged.pictures]) == prompts.index(prompt)
        assert end_of(events).stop_reason == "done"


def test_a_reflection_alone_says_how_to_edit(runtime: Runtime) -> None:
    (events,) = run(runtime, {"a": (task("reflect", "two blue stars", reflect=GREEDY), (drawn(scenes()[0]),))}).values()
    (said,) = end_of(events).rounds[0].reflections
    assert said.verdict is Verdict.EDIT
    assert "star" in (said.instruction or "")


# --- the round trip


def test_a_round_trip_draws_what_was_described_and_says_how_alike_they_are(runtime: Runtime) -> None:
    for spec, scene in zip(SPECS[:3], scenes(), strict=False):
        source = drawn(scene)
        events = run(runtime, {"a": (task("roundtrip", generate=QUICK), (source,))})["a"]
        ended = end_of(events)
        assert ended.description == said_of(scene)
        pixels = {e.round: e.pixels for e in events if isinstance(e, ImageReady)}
        assert satisfies(spec, parse(pixels[1][None])[0])
        assert ended.similarities is not None
        alike = dict(ended.similarities)
        assert list(alike) == ["self", "latent", "psnr"]
        assert -1 <= min(alike["self"], alike["latent"]) <= max(alike["self"], alike["latent"]) < 1
        assert alike["psnr"] == pytest.approx(psnr(source.pixels, pixels[1]))
        assert alike == dict(runtime.runner._likeness.of(source.pixels, pixels[1]))
        assert ended.usage.images == 1


def test_a_round_trip_of_a_prompt_draws_its_first_picture_as_ever(runtime: Runtime) -> None:
    asked = replace(task("roundtrip", "a red circle", generate=QUICK), given_image=False, reason=GREEDY)
    plain = replace(asked, kind="generate", max_rounds=0)
    both = run(runtime, {"trip": (asked, ()), "plain": (plain, ())})
    first = {key: next(e.pixels for e in events if isinstance(e, ImageReady)) for key, events in both.items()}
    assert np.abs(first["trip"].astype(int) - first["plain"].astype(int)).max() <= 2
    assert [r.index for r in end_of(both["trip"]).rounds] == [0, 1]


def test_equal_pictures_are_as_alike_as_can_be_and_others_less(runtime: Runtime) -> None:
    one, other = (drawn(scene).pixels for scene in scenes()[:2])
    same = dict(runtime.runner._likeness.of(one, one.copy()))
    assert same == {"self": pytest.approx(1), "latent": pytest.approx(1), "psnr": EQUAL_DB}
    differ = dict(runtime.runner._likeness.of(one, other))
    assert all(differ[name] < same[name] for name in same)
    assert psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)) == 0
    assert psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)) == pytest.approx(20 * math.log10(5))


def test_named_models_add_their_values_under_their_names(tmp_path: Path) -> None:
    named = (("clip", write_clip(tmp_path / "clip")), ("d2", write_dinov2(tmp_path / "dinov2")))
    runtime = load_engine(EngineConfig(CHECKPOINT, device="cpu", similarity_models=named))
    source = drawn(scenes()[0])
    ended = end_of(run(runtime, {"a": (task("roundtrip", generate=QUICK), (source,))})["a"])
    assert ended.similarities is not None
    alike = dict(ended.similarities)
    assert list(alike) == ["self", "latent", "psnr", "clip", "d2"]
    assert all(-1 <= alike[name] <= 1 for name in ("clip", "d2"))
    assert dict(runtime.runner._likeness.of(source.pixels, source.pixels))["d2"] == pytest.approx(1)
