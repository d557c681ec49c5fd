"""What memory may be taken: planned before the first request, and never exceeded by what is let in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import r3core.engine.runner
import r3core.memory_plan
import r3core.runtime
from r3core.bench.random_weights import TRUE_SIZE
from r3core.bench.random_weights import description as described
from r3core.checkpoint import DEFAULT_TRANSFORMS, Description, Transform
from r3core.config import EngineConfig
from r3core.engine.batch import MemoryPlan, Picture
from r3core.engine.drafting import MOST_ROWS
from r3core.engine.sight import Sight
from r3core.engine.state import State
from r3core.errors import DeviceError, OutOfCapacity, PromptTooLong
from r3core.events import Event, Failed, Finished
from r3core.judge import Counts
from r3core.memory_plan import plan_memory
from r3core.model.attention import choose
from r3core.model.sampling import Choice, choosing_bytes
from r3core.model.sampling import choose as sampled
from r3core.model.weights import Loaded
from r3core.runtime import Runtime, build
from r3core.types import EarlyStop, ImageSampling, Request, TextSampling, Trajectory
from tests.core.walking import drive, plain_picture

FLUX: Final = (128, 256, 512, 512)
LARGEST: Final = 128  # pixels on a side
PLACES: Final = 3
CONTEXT: Final = 1024
TEXT: Final = TextSampling(max_tokens=4, temperature=1, top_p=1, top_k=0)
DRAW: Final = ImageSampling(num_timesteps=3)
EDIT: Final = ImageSampling(num_timesteps=3, cfg_img_scale=1.5)
LONG: Final = " ".join(["a red apple"] * 200)


def planned(
    loaded: Loaded,
    description: Description,
    transform: Transform = DEFAULT_TRANSFORMS["vae"],
    vocab: int = 704,
    places: int = PLACES,
) -> MemoryPlan:
    """The plan of the small checkpoint with the VAE that BAGEL has."""
    sizes = loaded.model.config
    model = replace(sizes, vae=replace(sizes.vae, channels=FLUX), decoder=replace(sizes.decoder, vocab=vocab))
    described = replace(description, transforms={**description.transforms, "vae": transform})
    return plan_memory(
        EngineConfig(Path("here"), max_trajectories=places), model, described, "cpu", torch.float32, weights_bytes=0
    )


@pytest.mark.parametrize("side", [256, 512])
def test_the_plan_counts_the_largest_picture_as_often_as_it_is_decoded_at_once(
    side: int, loaded: Loaded, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    for times in (1, 2):
        monkeypatch.setattr(r3core.memory_plan, "decodings", lambda _, n=times: n)
        counted.append(planned(loaded, description, (side, 256, 16)).activation_bytes)
    # 256 channels come up at full resolution; the first block there norms and activates them, and halves their number.
    assert counted[1] - counted[0] == 3.5 * 256 * side * side * 4


@pytest.mark.parametrize(("places", "texts"), [(1, MOST_ROWS), (PLACES, MOST_ROWS), (MOST_ROWS + 100, MOST_ROWS + 100)])
def test_the_plan_counts_the_logits_of_every_text_that_is_written(
    places: int, texts: int, loaded: Loaded, description: Description
) -> None:
    few, many = (planned(loaded, description, vocab=vocab, places=places).activation_bytes for vocab in (704, 804))
    assert many - few == texts * 100 * 8  # few texts have drafts, whose logits are as many as those of many texts


CUT: Final = "the cache was cut from 80192 rows to what is free; fewer trajectories run at once"
NO_MORE: Final = "and no prompt may have more"


def on_a_gpu(gigabytes: float, places: int, side: int = 1024, cache_bytes: int | None = None) -> MemoryPlan:
    """The plan of BAGEL's true size for a device of which so much is left beside the weights."""
    config = EngineConfig(Path("here"), max_trajectories=places, kv_cache_bytes=cache_bytes)
    free = int(gigabytes * 10**9)
    return plan_memory(config, TRUE_SIZE, described(TRUE_SIZE, side), "cuda", torch.bfloat16, 0, free, free)


def test_where_memory_is_short_the_cache_is_cut_and_before_it_holds_less_than_a_few_forwards_are() -> None:
    plans = {left: on_a_gpu(left, places=8) for left in (100, 16, 12.5, 10.5)}
    plenty, less, little, least = plans.values()
    assert [plan.forward_rows for plan in plans.values()] == [32768, 32768, 16384, 3 * (64 * 64 + 2)]
    assert plenty.notes == ()
    assert plenty.kv_cache_rows > less.kv_cache_rows > little.kv_cache_rows > 4 * 10024 > least.kv_cache_rows > 10024
    assert less.notes == (CUT,)
    assert little.notes == (f"forwards were cut from 32768 rows to {little.forward_rows} for room, {NO_MORE}", CUT)
    for left, plan in plans.items():
        assert plan.batch_rows == plan.forward_rows
        assert plan.kv_cache_bytes + plan.activation_bytes + 2 * 2**30 <= left * 10**9


@pytest.mark.parametrize(("left", "places", "side", "cache"), [(50, 256, 512, None), (50, 8, 512, 45 * 10**9)])
def test_a_cache_that_is_wished_larger_than_the_device_takes_nothing_from_forwards(
    left: float, places: int, side: int, cache: int | None
) -> None:
    plan = on_a_gpu(left, places, side, cache)
    assert plan.forward_rows == 32768
    assert [note.partition(" from ")[0] for note in plan.notes] == ["the cache was cut"]


def test_forwards_are_as_large_as_they_may_be_where_the_cache_is_small_by_request() -> None:
    assert on_a_gpu(16, places=8, cache_bytes=10**9).forward_rows == 32768


@given(st.floats(6, 30), st.integers(1, 16), st.sampled_from([512, 1024]))
def test_a_plan_is_within_what_is_free(gigabytes: float, places: int, side: int) -> None:
    with suppress(DeviceError):
        plan = on_a_gpu(gigabytes, places, side)
        assert plan.kv_cache_bytes + plan.activation_bytes + 2 * 2**30 <= gigabytes * 10**9
        assert plan.batch_rows <= plan.forward_rows


def test_where_not_even_the_smallest_forwards_leave_room_for_one_it_is_said_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"needs 10024; free memory on it, .* lower R3_MAX_TRAJECTORIES, or raise"):
        on_a_gpu(9, places=8)
    assert on_a_gpu(9, places=1).kv_cache_rows >= 10024


def test_the_small_checkpoints_plan_stays_small(loaded: Loaded, description: Description) -> None:
    plan = plan_memory(EngineConfig(Path("here")), loaded.model.config, description, "cpu", torch.float32, 0)
    assert plan.activation_bytes < 2**28


# --- what is let in


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed beside the turns: the profiler sees the tensors of one thread."""
    monkeypatch.setattr(r3core.engine.runner, "helps", lambda _: False)
    monkeypatch.setattr(r3core.memory_plan, "decodings", lambda _: 1)


def runtime_of(loaded: Loaded, description: Description, max_batch_rows: int, context: int = CONTEXT) -> Runtime:
    """An engine of short contexts, for with long ones nothing would come near the plan."""
    config = EngineConfig(Path("here"), max_trajectories=PLACES, max_batch_rows=max_batch_rows)
    attention = choose(torch.device("cpu"), torch.float32)
    return build(config, loaded, replace(description, max_context_tokens=context), attention)


def ask(prompt: str = "a red apple", **changes: Any) -> Request:
    plain = Request(
        prompt, LARGEST, LARGEST, seed=0, max_rounds=1, reason=TEXT, reflect=TEXT, generate=DRAW, refine=EDIT
    )
    return replace(plain, **{"early_stop": EarlyStop(on_satisfied=False), "previews": 1, **changes})


JUDGED: Final = ask(LONG, scorers=("gvu", "lift", "vqa", "verdict"), think=False, max_rounds=0)
CACHED: Final = ImageSampling(num_timesteps=6, step_cache=2)
CHOSEN: Final = ask(candidates=Counts(8, 1), scorers=("lift", "verdict"), generate=CACHED)
# The longest context, the rows that a forward should have, and what is asked for at once.
LOADS: Final = {
    "many candidates": (CONTEXT, 2 * CONTEXT, [CHOSEN] * PLACES),
    "long prompts, judged": (CONTEXT, 4 * CONTEXT, [JUDGED] * PLACES),
    "more than a forward should hold, alone": (3 * CONTEXT, 1, [JUDGED, ask(LONG, given_image=True), ask(width=64)]),
}


def most_bytes(act: Callable[[], object]) -> int:
    """Bytes of tensors at their fullest while this runs, beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        act()
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    memory = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(max(accumulate(event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns()))))


def most_taken(runtime: Runtime, requests: Sequence[Request], pictures: int = 1) -> int:
    """Bytes of tensors at their fullest, beyond those that were there before; `pictures` are given where one is."""
    log: list[tuple[str, Event]] = []
    for i, request in enumerate(requests):
        given = (plain_picture(request.width, request.height),) * pictures if request.given_image else ()
        given = tuple(replace(one, image=replace(one.image, id=f"img_{j}")) for j, one in enumerate(given))
        runtime.engine.add(str(i), Trajectory(replace(request, seed=i)), given)
    taken = most_bytes(lambda: log.extend(drive(runtime.engine)))
    assert sum(isinstance(event, Finished) for _, event in log) == len(requests), [
        event for _, event in log if isinstance(event, Failed)
    ]
    return taken


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("load", LOADS)
def test_nothing_that_is_let_in_takes_more_than_was_planned(
    load: str, loaded: Loaded, description: Description
) -> None:
    context, max_batch_rows, requests = LOADS[load]
    runtime = runtime_of(loaded, description, max_batch_rows, context)
    taken, most = most_taken(runtime, requests), runtime.runner.plan().activation_bytes
    assert most / 2 < taken <= most


@pytest.mark.usefixtures("one_thread")
def test_what_is_asked_of_pictures_takes_no_more_however_many_are_judged_at_once(
    loaded: Loaded, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made before it is computed, and takes no cache rows that would bound it."""
    asked = ask(LONG, kind="score", scorers=("lift", "vqa"), given_image=True, think=False, max_rounds=0)
    taken = {}
    for places in (2, 8):
        monkeypatch.setattr("tests.core.test_memory_plan.PLACES", places)
        runtime = runtime_of(loaded, description, 3 * CONTEXT, 3 * CONTEXT)
        taken[places] = most_taken(runtime, [asked] * places, pictures=9)
        assert taken[places] <= runtime.runner.plan().activation_bytes
    a_turn = 2500 * loaded.model.config.decoder.hidden * 4

    assert taken[8] - taken[2] < 3 * a_turn, "which what six more ask would exceed"


@pytest.mark.parametrize("at_once", [1, 8, 64], ids=lambda rows: f"{rows} rows at once")
@pytest.mark.parametrize("sampling", [TEXT, replace(TEXT, top_p=0.9), replace(TEXT, temperature=0)], ids=str)
def test_choosing_tokens_takes_no_more_than_is_said(
    sampling: TextSampling, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, vocabulary = 20, 20_000
    monkeypatch.setattr("r3core.model.sampling._AT_ONCE", at_once * vocabulary)
    monkeypatch.setattr("r3core.model.sampling._waits", lambda _: True)
    logits = torch.randn(rows, vocabulary)
    taken = most_bytes(lambda: sampled(logits, [Choice(sampling, 0.5)] * rows))
    most = choosing_bytes(vocabulary, rows)
    assert taken <= most
    assert sampling != TEXT or taken > most / 3


def test_what_would_not_fit_into_the_largest_forward_is_not_let_in(loaded: Loaded, description: Description) -> None:
    runtime = runtime_of(loaded, description, max_batch_rows=1)
    runtime.engine.add("0", Trajectory(ask(LONG)))
    with pytest.raises(
        PromptTooLong, match=r"judging a picture by gvu, vqa would take \d+ tokens at once and 1024 fit"
    ):
        runtime.engine.add("1", Trajectory(ask(LONG, scorers=("gvu", "vqa"))))


@pytest.mark.usefixtures("one_thread")
def test_what_is_let_in_fits_forwards_that_were_cut_for_room(
    loaded: Loaded, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a plan holds, too, and whatever would not fit is refused with what to do about it."""
    free = 40_000_000 + 2 * 2**30
    monkeypatch.setattr(r3core.runtime, "_memory", lambda _: (free, free))
    runtime = runtime_of(loaded, description, 4 * CONTEXT, 4 * CONTEXT)
    plan = runtime.runner.plan()
    assert plan.forward_rows == 2 * CONTEXT
    assert runtime.runner.max_batch_rows == plan.forward_rows
    requests = [CHOSEN] * PLACES
    assert plan.activation_bytes / 3 < most_taken(runtime, requests) <= plan.activation_bytes
    with pytest.raises(
        PromptTooLong, match=rf"with its plan would take \d+ tokens at once and {plan.forward_rows} fit"
    ):
        runtime.engine.add("long", Trajectory(ask(" ".join([LONG] * 4))))
    with pytest.raises(OutOfCapacity, match=rf"\d+ rows at once and {plan.forward_rows} were planned; ask for"):
        runtime.engine.add("wordy", Trajectory(ask(reflect=replace(TEXT, max_tokens=1000))))


@pytest.mark.usefixtures("one_thread")
def test_pictures_are_looked_at_anew_where_more_are_held_than_was_planned(
    loaded: Loaded, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    rows_of = Sight.rows

    def watched(self: Sight, state: State, picture: Picture) -> Tensor:
        rows = rows_of(self, state, picture)
        held.append(sum(one.shape[0] for own in self._states.values() for one in own.vit_rows.values()))
        return rows

    monkeypatch.setattr(Sight, "rows", watched)
    runtime = runtime_of(loaded, description, 4 * CONTEXT)
    asked = ask(candidates=Counts(4, 1), scorers=("lift", "verdict"))
    for key in "abc":
        runtime.engine.add(key, Trajectory(asked))
    ended = [event for _, event in drive(runtime.engine) if isinstance(event, Finished)]
    assert [event.trajectory.usage.images for event in ended] == [5, 5, 5]
    assert max(held) == runtime.runner.plan().kept_rows == PLACES * 2 * 64
