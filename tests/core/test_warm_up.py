"""A worker's first loops are nobody's: they leave phrases behind, and neither figures nor trajectories."""

from __future__ import annotations

from dataclasses import replace

import pytest

from r3core.checkpoint import Defaults
from r3core.runtime import Runtime
from r3core.types import TextSampling
from r3core.warm_up import warm_up
from tests.core.conftest import MakeRuntime
from tests.core.test_engine_model import GENERATE, REFINE

SHORT = TextSampling(max_tokens=8, temperature=0)
QUICK = Defaults(max_rounds=1, reason=SHORT, reflect=SHORT, generate=GENERATE, refine=REFINE)


def made(make_runtime: MakeRuntime, *examples: str) -> Runtime:
    runtime = make_runtime()
    return replace(runtime, description=replace(runtime.description, example_prompts=examples, defaults=QUICK))


def test_examples_run_and_leave_phrases(make_runtime: MakeRuntime) -> None:
    runtime = made(make_runtime, "a red apple", "a blue cat")
    said = warm_up(runtime, 60)
    assert said.endswith("2 of 2 example prompts")
    assert runtime.runner.phrases.draft([next(iter(runtime.runner.phrases.next))[-1]], 1)
    assert not runtime.engine.has_work
    assert runtime.engine.took() == []
    assert runtime.engine.kv_cache_used_bytes == 0


def test_time_ends_it(make_runtime: MakeRuntime) -> None:
    runtime = made(make_runtime, "a red apple", "a blue cat")
    assert warm_up(runtime, 0).endswith("0 of 2 example prompts")
    assert not runtime.engine.has_work


def test_an_example_that_does_not_fit_is_told(make_runtime: MakeRuntime) -> None:
    runtime = made(make_runtime, "a red apple " * 4000, "a blue cat")
    said = warm_up(runtime, 60)
    assert "1 of 2 example prompts; " in said
    assert "shorten the prompt" in said


def test_who_is_asked_to_leave_leaves(make_runtime: MakeRuntime) -> None:
    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        warm_up(made(make_runtime, "a red apple"), 60, leave)


def test_a_checkpoint_without_examples_is_warm(make_runtime: MakeRuntime) -> None:
    runtime = made(make_runtime)
    assert warm_up(runtime, 60).endswith("0 of 0 example prompts")
