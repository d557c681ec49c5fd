"""What memory may be taken: planned before the first request, and never exceeded by what is let in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import r3core.engine.runner
import r3core.memory_plan
from r3core.checkpoint import DEFAULT_TRANSFORMS, Description, Transform
from r3core.config import EngineConfig
from r3core.engine.batch import MemoryPlan, Picture
from r3core.engine.drafting import MOST_ROWS
from r3core.engine.sight import Sight
from r3core.engine.state import State
from r3core.errors import PromptTooLong
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


def most_taken(runtime: Runtime, requests: Sequence[Request]) -> int:
    """Bytes of tensors at their fullest, beyond those that were there before."""
    log: list[tuple[str, Event]] = []
    for i, request in enumerate(requests):
        given = (plain_picture(request.width, request.height),) if request.given_image else ()
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
    assert sampling != TEXT or taken > most / 2


def test_what_would_not_fit_into_the_largest_forward_is_not_let_in(loaded: Loaded, description: Description) -> None:
    runtime = runtime_of(loaded, description, max_batch_rows=1)
    runtime.engine.add("0", Trajectory(ask(LONG)))
    with pytest.raises(
        PromptTooLong, match=r"judging a picture by gvu, vqa would take \d+ tokens at once and 1024 fit"
    ):
        runtime.engine.add("1", Trajectory(ask(LONG, scorers=("gvu", "vqa"))))


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
