"""The baseline's ways: each comes to what the engine comes to, and each runs what its name says."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from r3core.bench.baseline import STRAIGHTFORWARD, WAYS, Baseline, Way
from r3core.bench.driving import drive
from r3core.bench.setting import FREELY, Setting
from r3core.runtime import Runtime
from r3core.types import GENERATE_DEFAULTS, REFINE_DEFAULTS, TextSampling, Trajectory

EVERY, _, SHARED, PACKED = WAYS


def few_steps(runtime: Runtime) -> Trajectory:
    """A loop that may stop, whose plan is sampled, of pictures in eight steps."""
    setting = Setting(runtime, runs=1, quick=False, say=print)
    own = setting.request()
    return setting.loop(
        early_stop=FREELY,
        max_rounds=1,
        reason=replace(own.reason, temperature=0.9),
        generate=replace(own.generate, num_timesteps=9),
        refine=replace(own.refine, num_timesteps=9, cfg_img_scale=1.5),
    )


def test_every_way_says_and_draws_what_the_engine_does(small_engine: Runtime) -> None:
    asked = few_steps(small_engine)
    by_engine = drive(small_engine.engine, [asked]).seen[0]
    end = by_engine.trajectory
    for way in WAYS:
        ran = Baseline(small_engine, way).run(asked)
        assert ran.trajectory.reasoning == end.reasoning, way.name
        assert ran.trajectory.stop_reason == end.stop_reason, way.name
        assert [r.reflections for r in ran.trajectory.rounds] == [r.reflections for r in end.rounds], way.name
        assert ran.texts == by_engine.texts, way.name
        for own, theirs in zip(ran.pictures, by_engine.pictures, strict=True):
            apart = np.abs(own.astype(int) - theirs.pixels.astype(int)).max()
            assert apart <= 2, f"{way.name}: {apart} levels"


@contextmanager
def calls(runtime: Runtime) -> Iterator[Tally[str]]:
    """How often the transformer, the eye and the VAE's encoder run."""
    model, counted = runtime.loaded.model, Tally[str]()
    parts = {"forwards": model.bagel, "looks": model.bagel.vit_model, "encodes": model.vae.model.encoder}
    hooks = [part.register_forward_hook(lambda *_, name=name: counted.update([name])) for name, part in parts.items()]
    yield counted
    for hook in hooks:
        hook.remove()


def ran(runtime: Runtime, way: Way) -> tuple[tuple[int, ...], Tally[str]]:
    """The branches of each picture and the calls of one loop at R3's settings, after one that is not counted."""
    setting = Setting(runtime, runs=1, quick=False, say=print)
    few = TextSampling(max_tokens=3, temperature=0.0)
    asked = setting.loop(max_rounds=1, reason=few, reflect=few, generate=GENERATE_DEFAULTS, refine=REFINE_DEFAULTS)
    baseline = Baseline(runtime, way)
    baseline.run(asked)
    with calls(runtime) as counted:
        end = baseline.run(asked).trajectory
    return tuple(round_.forwards for round_ in end.rounds), counted


def test_each_way_runs_what_its_name_says(random_engine: Runtime) -> None:
    branches, every = ran(random_engine, EVERY)
    assert branches == (147, 147)
    branches, plain = ran(random_engine, STRAIGHTFORWARD)
    assert branches == (90, 131)
    assert every["forwards"] - plain["forwards"] == 147 + 147 - 90 - 131
    # A picture is encoded for two branches, and looked at for the reflection and for each of them.
    assert (plain["encodes"], plain["looks"]) == (2, 3)
    branches, shared = ran(random_engine, SHARED)
    assert branches == (90, 131)
    assert (shared["encodes"], shared["looks"]) == (1, 1)
    assert plain["forwards"] - shared["forwards"] == 4  # two system prompts, and a picture's two segments once more
    branches, packed = ran(random_engine, PACKED)
    assert branches == (90, 131)
    assert shared["forwards"] - packed["forwards"] == 90 + 131 - 49 - 49


def test_what_the_loop_alone_does_not_have_is_refused(random_engine: Runtime) -> None:
    setting = Setting(random_engine, runs=1, quick=True, say=print)
    with pytest.raises(NotImplementedError, match="no Judge"):
        Baseline(random_engine, STRAIGHTFORWARD).run(setting.loop(scorers=("gvu",)))


def test_a_long_text_after_a_short_one_has_room(random_engine: Runtime) -> None:
    setting = Setting(random_engine, runs=1, quick=True, say=print)
    for way in (STRAIGHTFORWARD, PACKED):
        baseline = Baseline(random_engine, way)
        short = setting.loop(max_rounds=0)
        longer = setting.loop(max_rounds=0, reason=TextSampling(max_tokens=100, temperature=0.0))
        assert baseline.run(short).texts == [12]
        assert baseline.run(longer).texts == [100]
        assert (
            baseline.run(longer).trajectory.reasoning
            == drive(random_engine.engine, [longer]).seen[0].trajectory.reasoning
        )
