"""What the settings say of the engine, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from r3core.config import EngineConfig
from server.engines import Ready, engine_config, make_engine
from server.settings import Settings

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "checkpoint"


def test_all_that_is_set_of_an_engine_reaches_it(tmp_path: Path) -> None:
    settings = Settings(
        checkpoint=tmp_path / "weights",
        base_checkpoint=tmp_path / "base",
        device="cuda:1",
        dtype="fp32",
        attention="sdpa",
        allow_unexpected=True,
        kv_cache_gb=1.5,
        torch_threads=3,
        similarity_models=(f"clip={tmp_path}",),
    )
    assert engine_config(settings, 5) == EngineConfig(
        checkpoint=tmp_path / "weights",
        base_checkpoint=tmp_path / "base",
        device="cuda:1",
        dtype="fp32",
        attention="sdpa",
        allow_unexpected=True,
        max_trajectories=5,
        kv_cache_bytes=1_500_000_000,
        torch_threads=3,
        similarity_models=(("clip", tmp_path),),
    )


def test_what_is_not_set_is_the_engines_own_default(tmp_path: Path) -> None:
    assert engine_config(Settings(checkpoint=tmp_path), 8) == EngineConfig(tmp_path)


def test_an_engine_takes_as_many_trajectories_as_are_set_unless_its_caller_says_otherwise() -> None:
    settings = Settings(runner="fake", max_trajectories=3)
    assert make_engine(settings).engine.room == 3
    assert make_engine(settings, 1).engine.room == 1


def loaded(warm_up_s: float, turns: list[int]) -> Ready:
    """The golden checkpoint's engine as a worker loads it; `turns` has one more for each turn of its warm-up."""
    settings = Settings(
        checkpoint=GOLDEN, device="cpu", torch_threads=1, similarity_models=(), warm_up_s=warm_up_s, max_trajectories=4
    )
    return make_engine(settings, between=lambda: turns.append(len(turns)))


def test_a_worker_warms_up_for_as_long_as_it_is_told() -> None:
    turns: list[int] = []
    ready = loaded(1e-6, turns)
    assert turns
    assert ready.decided[-1].startswith("warm after ")
    assert ready.decided[-1].endswith(" 0 of 4 example prompts"), "its time was over with the first turn"
    assert not ready.engine.has_work


def test_a_worker_that_is_told_not_to_warm_up_does_not() -> None:
    turns: list[int] = []
    ready = loaded(0, turns)
    assert not turns
    assert ready.decided
    assert not any(line.startswith("warm") for line in ready.decided)


def test_who_waits_for_one_job_alone_has_no_engine_warmed_up() -> None:
    """`r3 generate`, which has nothing to do between the turns of it."""
    settings = Settings(checkpoint=GOLDEN, device="cpu", torch_threads=1, similarity_models=(), warm_up_s=20)
    assert not any(line.startswith("warm") for line in make_engine(settings, 1).decided)
