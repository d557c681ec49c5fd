"""Every measure works, and gives figures that can be read."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from r3core.bench.device_waits import idle
from r3core.bench.driving import drive
from r3core.bench.engine_alone import PARTS, measure, measure_ceiling
from r3core.bench.full_size import TRIAL, Budget, FullSize
from r3core.bench.line import Ceiling, Line, quantile
from r3core.bench.setting import Setting
from r3core.bench.targets import TARGETS, table
from r3core.runtime import Runtime
from r3core.types import ImageSampling

NAMES = {
    "phases": {"reason", "generate", "reflect", "refine", "decode", "whole loop", "time to first image"},
    "decode": {"tokens decoded"},
    "choosing": {"tokens, at once", "tokens, one after another"},
    "denoise": {"text-to-image steps", "edit steps"},
    "growth": {"whole loop by rounds", "whole loop by steps", "whole loop by side", "whole loop by batch"},
    "ways": {"one loop", "speed-up"},
    "together": {"one after another", "at once", "one after another over at once"},
    "load": {"throughput", "completion, p50", "completion, p99", "first image, p50", "first image, p99"},
    "memory": {"taken over planned"},
    "scoring": {"the picture itself", "gvu", "lift", "vqa", "verdict", "the reflection alone"},
}
NOT_COUNTED = {"memory", "choosing"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_gives_its_figures(part: str, random_engine: Runtime) -> None:
    lines = list(measure(random_engine, part, runs=2, quick=True, say=print))
    assert NAMES[part] <= {line.name for line in lines}
    for line in lines:
        assert line.part == part
        assert all(math.isfinite(value) and value >= 0 for value in line.values), line
        if line.gflop is not None:
            assert line.gflop > 0
            assert line.gbytes
    assert any(line.gflop for line in lines) == (part not in NOT_COUNTED)
    assert not random_engine.engine.has_work


def test_an_unknown_part_is_refused(random_engine: Runtime) -> None:
    with pytest.raises(KeyError, match="colour"):
        list(measure(random_engine, "colour", runs=1, quick=True, say=print))


def test_the_ceiling_is_the_best_of_what_was_measured(random_engine: Runtime) -> None:
    ceiling, lines = measure_ceiling(random_engine)
    product, copy = lines
    assert (ceiling.gflop_per_s, ceiling.gbytes_per_s) == (max(product.values), max(copy.values))
    assert (product.unit, copy.unit) == ("GFLOP/s", "GB/s")
    assert len(product.values) >= 5


def test_a_watched_loop_tells_every_phase_once_and_all_its_tokens(random_engine: Runtime) -> None:
    setting = Setting(random_engine, runs=1, quick=True, say=print)
    driven = drive(random_engine.engine, [setting.loop(0, max_rounds=2), setting.loop(1, max_rounds=0)])
    first, second = driven.seen
    assert [name for name, _ in first.phases] == ["reason", "generate", "reflect", "refine", "reflect", "refine"]
    assert first.texts == [12, 12, 12]
    assert first.trajectory.usage.text_tokens == 36
    assert sum(seconds for _, seconds in first.phases) == pytest.approx(first.seconds, rel=0.5)
    assert second.texts == [12]
    assert second.seconds <= first.seconds <= driven.seconds
    assert len(second.steps) == 3


@pytest.mark.parametrize("quick", [False, True])
def test_every_step_is_computed_whatever_the_checkpoint_asks_for(random_engine: Runtime, quick: bool) -> None:
    """The straightforward way knows no step cache, and a step of two forwards' worth is no step."""
    own = random_engine.description
    cached = replace(own.defaults, generate=ImageSampling(step_cache=2), refine=ImageSampling(step_cache=3))
    runtime = replace(random_engine, description=replace(own, defaults=cached))
    asked = Setting(runtime, runs=1, quick=quick, say=print).request()
    assert (asked.generate.step_cache, asked.refine.step_cache) == (1, 1)


def test_a_wider_engine_is_made_once_and_only_where_it_must_be(random_engine: Runtime) -> None:
    setting = Setting(random_engine, runs=1, quick=False, say=print)
    found = dict(setting.batches(1, 8, 16))
    assert found[1] is found[8] is random_engine.engine
    assert found[16].max_trajectories == 16
    assert setting.engine_for(12) is found[16]


@pytest.mark.parametrize(("share", "value"), [(0.5, 3.0), (0.99, 5.0), (0.2, 1.0), (0.0, 1.0)])
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([5.0, 1.0, 3.0, 2.0, 4.0], share) == value


def test_a_device_idles_where_nothing_runs_on_it() -> None:
    assert idle([(0, 4), (1, 3), (6, 8), (8, 10)]) == pytest.approx(0.2)
    assert idle([(5, 6)]) == 0


def test_a_budget_names_what_it_has_no_time_for() -> None:
    budget = Budget(100, time.perf_counter() - 40)
    assert budget.allows("a short part", 45)
    assert not budget.allows("a long part", 55)
    assert budget.left_out == ["left out: a long part, which would take 55 s of the 60 s left"]


def test_a_part_that_fails_is_named_and_the_others_are_measured(
    random_engine: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FullSize) -> Iterator[Line]:
        self.runtime.engine.add("0", Setting(self.runtime, runs=1, quick=True, say=print).loop())
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(FullSize, "_large", fail)
    budget = Budget(1000, time.perf_counter())
    lines = list(FullSize(random_engine, TRIAL, Ceiling(50.0, 10.0), print).measure(budget))
    assert budget.left_out == ["failed: a picture of 128 pixels: RuntimeError: no such kernel"]
    assert not random_engine.engine.has_work
    assert lines[-1].part == "denoise"


def test_targets_are_met_or_missed_by_the_figures_that_they_are_about() -> None:
    lines = [
        Line("pictures", "text-to-image", "s", (1.9, 2.1, 1.8), {"side": 512, "steps": 49}, 1.24e6, 100.0),
        Line("decode", "tokens decoded", "tokens/s", (250.0,), {"batch": 1}),
        Line("decode", "tokens decoded", "tokens/s", (3100.0,), {"batch": 16}),
        Line("memory", "taken by tensors at the most", "bytes", (39e9,), {"loops": 8}),
    ]
    told = [target.verdict(lines) for target in TARGETS]
    assert told[0] == "met: 1.9 s"
    assert told[1] == "not measured"
    assert "MISSED: 4 ms a token" in told
    assert "met: 3100 tokens/s" in told
    assert "met: 39 GB" in told
    printed = table(lines, Ceiling(780e3, 4800.0), is_true_size=True)
    assert "met: 1.9 s" in printed
    assert "met: 1.9 s" not in table(lines, Ceiling(780e3, 4800.0), is_true_size=False)
    assert "text-to-image (side 512, steps 49)" in printed
    assert "84 %" in printed
