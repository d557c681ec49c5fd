"""Steps that are not computed: which they are, what their velocities come to, and what a picture costs then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from r3core.engine.drawing import Computed, Drawing, Moved, moved
from r3core.engine.engine import Engine
from r3core.engine.packing import Cursor
from r3core.engine.runner import ModelRunner
from r3core.events import Finished, Preview, Progress
from r3core.fake import FakeRunner
from r3core.judge import Counts
from r3core.model.flow import clean, euler, extrapolate, guide
from r3core.schedule import branches, branches_per_step, preview_steps, timesteps
from r3core.types import GENERATE_DEFAULTS, REFINE_DEFAULTS, ImageSampling, Request, Trajectory
from server.cost import drawn_cost, job_cost
from tests.core.conftest import MakeRuntime
from tests.core.strategies import image_samplings
from tests.core.test_engine_model import CAT, GENERATE, MIX, REFINE, ask, assert_same, run_together
from tests.core.walking import alone, by_key, drive, end_of, pictures


def counts(*, edit: bool = False, **changes: Any) -> list[int]:
    return branches_per_step(replace(REFINE if edit else GENERATE, **changes), edit=edit)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"step_cache": 1, "num_timesteps": 6}, [2, 2, 2, 2, 2]),
        ({"step_cache": 2, "num_timesteps": 11}, [2, 2, 0, 2, 0, 2, 0, 2, 0, 2]),
        ({"step_cache": 3, "num_timesteps": 11}, [2, 2, 0, 0, 2, 0, 0, 2, 0, 2]),
        ({"step_cache": 4, "num_timesteps": 4}, [2, 2, 2]),
        ({"step_cache": 4, "num_timesteps": 2}, [2]),
    ],
)
def test_the_first_two_the_last_and_one_of_so_many_are_computed(changes: dict[str, Any], expected: list[int]) -> None:
    assert counts(cfg_interval=(0.0, 1.0), **changes) == expected


def test_where_guidance_begins_later_each_of_its_branches_is_computed_twice_first() -> None:
    late = counts(cfg_interval=(0.0, 0.7), timestep_shift=1.0, num_timesteps=11, step_cache=4)
    assert late == [1, 1, 0, 2, 2, 0, 0, 0, 2, 2]  # t is 0.7 at the fourth
    early = counts(edit=True, cfg_interval=(0.4, 1.0), timestep_shift=1.0, num_timesteps=11, step_cache=3)
    assert early == [3, 3, 0, 0, 3, 0, 0, 1, 0, 1]


def test_reference_settings_take_about_half_the_forwards() -> None:
    halved = [replace(one, step_cache=2) for one in (GENERATE_DEFAULTS, REFINE_DEFAULTS)]
    assert [sum(branches_per_step(one, edit=bool(i))) for i, one in enumerate(halved)] == [47, 68]


@given(image_samplings)
def test_what_is_not_computed_can_go_on_from_two_steps_that_are(settings: ImageSampling) -> None:
    times = timesteps(settings.num_timesteps, settings.timestep_shift)
    found = branches_per_step(settings, edit=True)
    assert found[-1] > 0
    for i, count in enumerate(found):
        wanted = branches(times[i], settings, edit=True)
        if count:
            assert count == wanted
            continue
        before = [known for known in found[:i] if known][-2:]
        assert len(before) == 2
        assert min(before) >= wanted
        assert any(found[max(0, i - settings.step_cache + 1) : i])


# --- what they come to


def test_a_velocity_that_is_linear_in_time_goes_on_as_it_is() -> None:
    a, b = torch.randn(2, 5, 8)
    at = [a + t * b for t in (0.9, 0.7, 0.55)]
    assert torch.allclose(extrapolate(at[0], at[1], 0.9, 0.7, 0.55), at[2], atol=1e-6)
    assert torch.equal(extrapolate(at[0], at[1], 0.7, 0.7, 0.7), at[1])


def drawing(settings: ImageSampling, previews: frozenset[int]) -> Drawing:
    times = timesteps(settings.num_timesteps, settings.timestep_shift)
    return Drawing(
        x=torch.randn(6, 4),
        grid=(2, 3),
        places=torch.empty(0),
        times=times,
        clock=torch.empty(0),
        settings=settings,
        edit=True,
        views=(Cursor(0),) * 3,
        counts=branches_per_step(settings, edit=True),
        previews=previews,
    )


@pytest.mark.parametrize("step_cache", [1, 2, 3, 4])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.4, 1.0), (0.1, 0.7)])
def test_pictures_of_linear_velocities_are_those_of_every_step(step_cache: int, interval: tuple[float, float]) -> None:
    """Each branch by itself, and guidance over them: renorm is not linear, and is done in every step."""
    torch.manual_seed(0)
    settings = replace(REFINE_DEFAULTS, num_timesteps=15, cfg_interval=interval, step_cache=step_cache)
    lines = torch.randn(3, 2, 6, 4)

    def velocities(t: float, count: int) -> tuple[Tensor, ...]:
        return tuple(a + t * b for a, b in lines[:count])

    one = drawing(settings, preview_steps(14, 4))
    x = one.x
    shown: list[tuple[int, Tensor]] = []
    expected: list[tuple[int, Tensor]] = []
    for step, (t, t_next) in enumerate(zip(one.times, one.times[1:], strict=False)):
        v = guide(settings, *velocities(t, branches(t, settings, edit=True)))
        if step + 1 in one.previews:
            expected.append((step + 1, clean(x, v, t)))
        x = euler(x, v, t, t_next)
    while one.step < one.steps:
        own = velocities(one.times[one.step], len(one.views_now()))
        before = one.x.clone()
        after = moved(one, own)
        assert torch.equal(one.x, before)
        one.x, one.step, one.computed = after.x, after.step, after.computed
        one.forwards += after.forwards
        shown += after.clean
    assert torch.allclose(one.x, x, atol=1e-5)
    assert one.forwards == sum(one.counts)
    assert [step for step, _ in shown] == [step for step, _ in expected] == sorted(one.previews)
    assert all(torch.allclose(a, b, atol=1e-5) for (_, a), (_, b) in zip(shown, expected, strict=True))


def test_velocities_are_kept_only_where_a_later_step_goes_on_from_them() -> None:
    def after_one(step_cache: int) -> Moved:
        one = drawing(replace(REFINE_DEFAULTS, step_cache=step_cache), frozenset())
        return moved(one, tuple(torch.randn(6, 4) for _ in range(3)))

    assert after_one(1).computed is None
    assert isinstance(after_one(2).computed, Computed)
    one = drawing(replace(REFINE_DEFAULTS, num_timesteps=7, step_cache=2), frozenset())
    kept = []
    while one.step < one.steps:
        after = moved(one, tuple(torch.randn(6, 4) for _ in one.views_now()))
        one.x, one.step, one.computed = after.x, after.step, after.computed
        kept.append(after.computed is not None)
    assert one.counts == [3, 3, 0, 3, 0, 1]
    assert kept == [True, True, False, False]  # behind the last that is served nothing goes on


# --- in the engine


def test_a_picture_with_a_step_cache_takes_fewer_forwards_and_all_its_steps(make_runtime: MakeRuntime) -> None:
    engine = make_runtime().engine
    generate = replace(GENERATE, num_timesteps=24, step_cache=2)
    exact, halved = (
        ask(max_rounds=0, think=False, previews=3, generate=replace(generate, step_cache=k), seed=4) for k in (1, 2)
    )
    fewer = replace(exact, generate=replace(generate, num_timesteps=14, step_cache=1))
    drawn = {}
    for name, asked in (("exact", exact), ("halved", halved), ("fewer", fewer)):
        engine.add(name, Trajectory(asked))
        events = by_key(drive(engine))[name]
        drawn[name] = pictures(events)[0].astype(float)
        usage = end_of(events).usage
        assert usage.forwards == sum(branches_per_step(asked.generate, edit=False))
        assert usage.denoise_steps == asked.generate.num_timesteps - 1
        steps = [event.step for event in events if isinstance(event, Progress)]
        assert steps == sorted(set(steps))
        assert steps[-1] == asked.generate.num_timesteps - 1
        told = [event.step for event in events if isinstance(event, Preview)]
        assert told == sorted(preview_steps(asked.generate.num_timesteps - 1, 3))
    apart = {name: float(np.abs(drawn[name] - drawn["exact"]).mean()) for name in ("halved", "fewer")}
    assert apart["halved"] < apart["fewer"] / 2  # as many forwards, and nearer to what all of them give


def test_the_fake_model_counts_as_the_real_one_does() -> None:
    engine = Engine(FakeRunner())
    asked = replace(Request("a cat", 64, 64, 1), max_rounds=0, generate=replace(GENERATE_DEFAULTS, step_cache=2))
    engine.add("a", Trajectory(replace(asked, previews=4)))
    events = by_key(drive(engine))["a"]
    ended = events[-1]
    assert isinstance(ended, Finished)
    computed = [i for i, count in enumerate(branches_per_step(asked.generate, edit=False)) if count]
    assert [event.step for event in events if isinstance(event, Progress)] == [*computed[1:], 49]
    assert [event.step for event in events if isinstance(event, Preview)] == sorted(preview_steps(49, 4))
    assert sum(took.branches > 0 for took in engine.took()) == len(computed)
    assert (ended.trajectory.usage.forwards, ended.trajectory.usage.denoise_steps) == (47, 49)


def test_previews_of_one_forward_do_not_line_up_where_they_are_decoded(make_runtime: MakeRuntime) -> None:
    """All but the first of them are decoded at once."""
    runtime = make_runtime()
    asked = ask(max_rounds=0, think=False, previews=20, generate=replace(GENERATE, num_timesteps=17, step_cache=4))
    runtime.engine.add("a", Trajectory(asked))
    waiting = []
    while runtime.engine.has_work:
        runtime.engine.step()
        states = runtime.runner._states.values()
        waiting += [sum(not p.pixels.done() for p in d.decoding) for state in states for d in state.drawings]
    assert max(waiting) <= 1


def test_a_step_that_failed_in_the_middle_is_done_again_from_where_it_was(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(
        max_rounds=0,
        think=False,
        previews=3,
        generate=replace(GENERATE, num_timesteps=12, step_cache=3),
        candidates=Counts(2, 1),
        scorers=("gvu",),
    )
    expected = alone(make_runtime().engine, asked)
    left = [torch.OutOfMemoryError("CUDA out of memory")]
    real = ModelRunner._moved

    def cramped(self: ModelRunner, one: Drawing, own: tuple[Tensor, ...]) -> Moved:
        after = real(self, one, own)
        is_second = one is self._states["a"].drawings[1]  # when the first has come so far already
        if left and is_second and after.step > one.step + 1:
            raise left.pop()
        return after

    monkeypatch.setattr(ModelRunner, "_moved", cramped)
    runtime = make_runtime()
    runtime.engine.add("a", Trajectory(asked))
    assert_same(by_key(drive(runtime.engine))["a"], expected)
    assert not left


def test_a_job_is_charged_what_was_estimated_where_it_goes_to_its_end() -> None:
    cached = replace(GENERATE_DEFAULTS, step_cache=3, cfg_interval=(0.0, 1.0))
    edits = replace(REFINE_DEFAULTS, num_timesteps=20, step_cache=2, cfg_interval=(0.0, 1.0))
    asked = Request("a cat", 512, 512, 1, max_rounds=2, generate=cached, refine=edits, candidates=Counts(3, 2))
    assert drawn_cost(asked, 3 * 49 + 2 * 2 * 19) == pytest.approx(job_cost(asked))
    given = replace(asked, given_image=True)
    assert drawn_cost(given, 2 * 2 * 19) == pytest.approx(job_cost(given))


def test_a_jobs_cost_is_of_what_is_computed() -> None:
    asked = Request("a cat", 512, 512, 1, max_rounds=0, generate=replace(GENERATE_DEFAULTS, cfg_interval=(0.0, 1.0)))
    assert job_cost(asked) == pytest.approx(1)
    for step_cache in (1, 2, 3, 4):
        cached = replace(asked.generate, step_cache=step_cache)
        computed = sum(count > 0 for count in branches_per_step(cached, edit=False))
        assert job_cost(replace(asked, generate=cached)) == pytest.approx(computed / 49)


def test_a_step_cache_changes_nothing_for_those_beside_it(make_runtime: MakeRuntime) -> None:
    cached = replace(GENERATE, num_timesteps=12, step_cache=3)
    edited = replace(REFINE, num_timesteps=9, step_cache=2)
    asked = {
        "cached": ask(CAT, previews=3, generate=cached, refine=edited, seed=3),
        "of several": ask(CAT, generate=replace(cached, step_cache=2), candidates=Counts(2, 1), scorers=("gvu",)),
        "plain": MIX["plain"],
        "no plan, previews": MIX["no plan, previews"],
    }
    expected = {name: alone(make_runtime().engine, request) for name, request in asked.items()}
    events = run_together(make_runtime(), asked)
    for name, own in events.items():
        assert_same(own, expected[name])
