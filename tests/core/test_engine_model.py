"""The engine over the golden checkpoint: company changes nothing, only what is needed runs, and failures stay alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch

from r3core.engine.batch import Batch, Begin, Picture
from r3core.engine.feeds import Feeder
from r3core.engine.runner import ModelRunner
from r3core.engine.threads import Threads
from r3core.errors import DeviceError, InvalidRequest, OutOfCapacity, OutOfMemory, PromptTooLong, R3Error, StepFailed
from r3core.events import Cancelled, Event, Failed, Finished, ImageReady, Preview, Progress
from r3core.model.attention import Packing
from r3core.model.padding import PieceRows
from r3core.model.product import why_not
from r3core.runtime import Runtime
from r3core.schedule import branches_per_step
from r3core.steps import Reconstruct, Refine, Step
from r3core.types import EarlyStop, ImageSampling, Request, TextSampling, Trajectory
from tests.core.conftest import MakeRuntime
from tests.core.walking import Alone, alone, by_key, check_order, drive, end_of, pictures, plain_picture

APPLES = "a photo of three red apples on a wooden table"
CAT = "a small blue cat sitting under a green umbrella, watercolor style"
VASE = "a glass vase left of a silver spoon; soft light"
BUS = "a yellow bus"
GREEDY = TextSampling(max_tokens=64, temperature=0)
SAMPLED = TextSampling(max_tokens=24, temperature=1.2, top_p=0.95)
WILD = TextSampling(max_tokens=24, temperature=2, top_p=1, top_k=0)  # the model is sure of itself otherwise
GENERATE = ImageSampling(num_timesteps=6)
REFINE = ImageSampling(num_timesteps=8, cfg_img_scale=1.5, cfg_renorm_type="text_channel")


def ask(prompt: str = APPLES, **changes: Any) -> Request:
    plain = Request(
        prompt, 64, 64, seed=3, max_rounds=2, reason=GREEDY, reflect=GREEDY, generate=GENERATE, refine=REFINE
    )
    return replace(plain, **changes)


MIX = {
    "plain": ask(),
    "wide, sampled, another renorm": ask(
        CAT,
        width=112,
        reason=WILD,
        reflect=SAMPLED,
        generate=replace(GENERATE, cfg_renorm_type="channel", cfg_img_scale=3),
        seed=8,
    ),
    "tall, no guidance": ask(
        VASE,
        height=96,
        generate=ImageSampling(num_timesteps=11, cfg_text_scale=1),
        refine=replace(REFINE, cfg_text_scale=1),
    ),
    "no plan, previews": ask(BUS, think=False, previews=2, generate=replace(GENERATE, cfg_renorm_type="text_channel")),
    "given, told what to do": ask(CAT, given_image=True, instruction="Add one more red apple on the table."),
    "given, looked at first": ask(
        given_image=True, refine=replace(REFINE, cfg_img_scale=1, cfg_renorm_type="global", num_timesteps=5)
    ),
    "top_k, confirmed, guided late": ask(
        BUS,
        early_stop=EarlyStop(confirmations=3),
        reflect=TextSampling(max_tokens=20, temperature=0.7, top_p=1, top_k=5),
        refine=replace(REFINE, cfg_interval=(0.0, 0.6), cfg_renorm_min=0.3, timestep_shift=1.0),
    ),
    "every round, short texts": ask(
        VASE,
        early_stop=EarlyStop(on_satisfied=False),
        reason=replace(GREEDY, max_tokens=5),
        reflect=replace(GREEDY, max_tokens=1),
        generate=ImageSampling(num_timesteps=2),
    ),
}


def given_picture(request: Request) -> tuple[Picture, ...]:
    return (plain_picture(request.width, request.height),) if request.given_image else ()


@pytest.fixture(scope="module")
def by_themselves(make_runtime: MakeRuntime) -> dict[str, Alone]:
    """What each request of the mix gives with nobody beside it."""
    return {name: alone(make_runtime().engine, asked, given_picture(asked)) for name, asked in MIX.items()}


def run_together(runtime: Runtime, requests: dict[str, Request]) -> dict[str, list[Event]]:
    for name, asked in requests.items():
        runtime.engine.add(name, Trajectory(asked), given_picture(asked))
    return by_key(drive(runtime.engine))


def assert_same(events: list[Event], expected: Alone) -> None:
    """Texts and decisions are equal, pictures equal within rounding (truncation can flip a value by one, and a later
    round sees it).
    """
    ended = end_of(events)
    assert ended.reasoning == expected.trajectory.reasoning
    assert ended.stop_reason == expected.trajectory.stop_reason
    assert ended.usage == expected.trajectory.usage
    for ours, theirs in zip(ended.rounds, expected.trajectory.rounds, strict=True):
        assert (ours.index, ours.instruction, ours.reflections) == (
            theirs.index,
            theirs.instruction,
            theirs.reflections,
        )
    drawn = pictures(events)
    assert drawn.keys() == expected.pictures.keys()
    for index, pixels in expected.pictures.items():
        assert np.abs(drawn[index].astype(int) - pixels.astype(int)).max() <= 2


@dataclass
class Forwards:
    """What went through the model's transformer, one entry a forward: the packing of its pieces."""

    packings: list[Packing] = field(default_factory=list)

    @property
    def texts(self) -> list[tuple[PieceRows, ...]]:
        """Of each forward that has any, the contexts that it stores and the texts that it decodes or asks."""
        return self._that(lambda piece: piece.stored or piece.causal)

    @property
    def denoising(self) -> list[tuple[PieceRows, ...]]:
        """Of each forward that has any, the noisy latents, which see their own rows whole and leave no trace."""
        return self._that(lambda piece: not piece.stored and not piece.causal)

    def _that(self, is_it: Callable[[PieceRows], bool]) -> list[tuple[PieceRows, ...]]:
        found = (tuple(filter(is_it, packing.pieces)) for packing in self.packings)
        return [pieces for pieces in found if pieces]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Forwards:
    """Every forward of every model in this test."""
    from r3core.model.bagel import Bagel

    seen, forward = Forwards(), Bagel.forward

    def watched(self: Bagel, hidden: Any, rows: Any, positions: Any, cache: Any, packing: Packing, attend: Any) -> Any:
        seen.packings.append(packing)
        return forward(self, hidden, rows, positions, cache, packing, attend)

    monkeypatch.setattr(Bagel, "forward", watched)
    return seen


def test_eight_requests_at_once_give_what_each_gives_alone(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone]
) -> None:
    together = run_together(make_runtime(), MIX)
    for name, expected in by_themselves.items():
        check_order(together[name])
        assert_same(together[name], expected)
    texts = {a.trajectory.reasoning for a in by_themselves.values()}
    assert len(texts) > 4, "the mix must not be eight times the same"
    assert {a.trajectory.stop_reason for a in by_themselves.values()} > {"max_rounds"}


def test_so_they_do_where_cache_and_batch_are_tight(
    make_runtime: MakeRuntime, loaded: Any, by_themselves: dict[str, Alone]
) -> None:
    decoder = loaded.model.config.decoder
    row_bytes = decoder.layers * 2 * decoder.kv_heads * decoder.head_dim * 4
    runtime = make_runtime(kv_cache_bytes=1160 * row_bytes, max_batch_rows=64)
    together = run_together(runtime, MIX)
    for name, expected in by_themselves.items():
        assert_same(together[name], expected)


def test_a_step_runs_one_forward_over_texts_and_pictures(make_runtime: MakeRuntime, forwards: Forwards) -> None:
    engine = make_runtime().engine
    forwards.packings.clear()  # the two system prompts
    for name, asked in MIX.items():
        engine.add(name, Trajectory(asked), given_picture(asked))
    while engine.has_work:
        before = len(forwards.packings)
        engine.step()
        assert len(forwards.packings) - before <= 1
    both = len(forwards.texts) + len(forwards.denoising) - len(forwards.packings)
    assert both > 10, "texts and pictures must have shared forwards"


def test_a_forward_that_would_hold_too_much_is_parted(make_runtime: MakeRuntime, forwards: Forwards) -> None:
    engine = make_runtime(max_batch_rows=60).engine
    forwards.packings.clear()
    for name, asked in MIX.items():
        engine.add(name, Trajectory(asked), given_picture(asked))
    drive(engine)
    both = [p for p in forwards.packings if p.stored_to is not None and not all(piece.stored for piece in p.pieces)]
    assert both
    assert max(sum(piece.rows for piece in packing.pieces) for packing in both) <= 60
    assert max(sum(piece.rows for piece in packing.pieces) for packing in forwards.packings) > 60  # a context alone


def test_usage_counts_the_branches_that_ran(make_runtime: MakeRuntime, forwards: Forwards) -> None:
    for asked in MIX.values():
        engine = make_runtime().engine
        forwards.packings.clear()
        ran = alone(engine, asked, given_picture(asked)).trajectory
        drawn = [branches_per_step(asked.generate, edit=False)] if not asked.given_image else []
        drawn += [branches_per_step(asked.refine, edit=True)] * (len(ran.rounds) - 1)
        expected = [count for one in drawn for count in one]
        assert [len(pieces) for pieces in forwards.denoising] == expected
        assert (ran.usage.forwards, ran.usage.denoise_steps) == (sum(expected), len(expected))


def test_what_the_engine_says_it_took_is_what_the_trajectory_used(make_runtime: MakeRuntime) -> None:
    engine = make_runtime().engine
    engine.add("a", Trajectory(ask(previews=1)))
    held = 0
    took, ended = [], None
    while engine.has_work:
        for _, event in engine.step():
            ended = event
        took += engine.took()
        held = max(held, engine.kv_cache_used_bytes)
    assert isinstance(ended, Finished)
    used, drawn = ended.trajectory.usage, len(ended.trajectory.rounds)
    assert sum(one.size for one in took if one.part == "text") == used.text_tokens
    assert sum(one.size for one in took if one.part == "denoise") == used.denoise_steps
    assert sum(one.branches for one in took) == used.forwards
    assert sum(one.size for one in took if one.part == "decode") == 2 * drawn  # each with one preview
    assert all(one.seconds > 0 for one in took)
    assert 0 < held <= engine.plan().kv_cache_bytes
    assert engine.kv_cache_used_bytes == 0
    assert engine.memory_used_bytes() is None  # a CPU's memory is everybody's


def test_a_first_picture_takes_90_branches_and_an_edit_131_at_r3s_settings(
    make_runtime: MakeRuntime, forwards: Forwards
) -> None:
    request = Request(BUS, 64, 64, seed=1, max_rounds=1, early_stop=EarlyStop(on_satisfied=False))
    engine = make_runtime().engine
    ran = alone(engine, request).trajectory
    assert ran.usage.forwards == 90 + 131
    counts = [len(pieces) for pieces in forwards.denoising]
    assert (sum(counts[:49]), max(counts[:49])) == (90, 2)
    assert (sum(counts[49:]), max(counts[49:])) == (131, 3)


def test_a_context_begins_once_and_its_branches_share_it(make_runtime: MakeRuntime, forwards: Forwards) -> None:
    """An edit's picture is read once: both branches that see it begin at the same cache rows."""
    engine = make_runtime().engine
    forwards.packings.clear()
    alone(engine, MIX["given, told what to do"], (plain_picture(),))
    with_text, without_text, without_picture = next(p for p in forwards.denoising if len(p) == 3)
    assert with_text.start == without_text.start
    assert with_text.past > without_text.past
    assert without_picture.past == with_text.past - without_text.past
    assert [piece.causal for piece in forwards.texts[0]] == [False, False, True, True]


def test_the_eye_looks_once_at_each_picture(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []
    look = Feeder.look

    def watched(self: Feeder, pixels: Any) -> Any:
        looked.append(pixels.shape)
        return look(self, pixels)

    monkeypatch.setattr(Feeder, "look", watched)
    ran = alone(make_runtime().engine, ask(early_stop=EarlyStop(on_satisfied=False))).trajectory
    assert len(ran.rounds) == 3
    assert len(looked) == 2  # nothing follows the last picture


def test_the_same_seed_gives_the_same_bytes(make_runtime: MakeRuntime, by_themselves: dict[str, Alone]) -> None:
    for name in ("plain", "wide, sampled, another renorm", "given, looked at first"):
        again = alone(make_runtime().engine, MIX[name], given_picture(MIX[name]))
        assert again.trajectory.reasoning == by_themselves[name].trajectory.reasoning
        for index, pixels in by_themselves[name].pictures.items():
            assert np.array_equal(again.pictures[index], pixels)


@pytest.mark.parametrize("name", list(MIX))
def test_how_many_threads_a_forward_had_shows_nowhere(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch was built without oneDNN: their number does not vary here")
    assert why_not(torch.device("cpu"), torch.float32) is None
    counts, given = cycle((2, 1, 3, 1, 1, 2, 4)), set()

    def count(_threads: Threads, rows: int | None, _beside: int) -> int:
        number = 1 if rows == 0 else next(counts)  # without rows come small products, which would show it
        given.add(number)
        return number

    monkeypatch.setattr(Threads, "count", count)
    monkeypatch.setattr("r3core.engine.aside.usable_cores", lambda: 2)
    again = alone(make_runtime().engine, MIX[name], given_picture(MIX[name]))
    assert given == {1, 2, 3, 4}
    assert again.trajectory.reasoning == by_themselves[name].trajectory.reasoning
    for index, pixels in by_themselves[name].pictures.items():
        assert np.array_equal(again.pictures[index], pixels)


def test_another_seed_gives_another_picture_and_another_sampled_text(make_runtime: MakeRuntime) -> None:
    asked = MIX["wide, sampled, another renorm"]
    runs = [alone(make_runtime().engine, replace(asked, seed=seed)) for seed in (1, 2)]
    assert runs[0].trajectory.reasoning != runs[1].trajectory.reasoning
    assert not np.array_equal(runs[0].pictures[0], runs[1].pictures[0])


def test_trajectory_i_of_n_is_a_request_of_one_with_its_seed_raised_by_i(make_runtime: MakeRuntime) -> None:
    asked = ask(n=3, reason=WILD)
    for index in range(1, asked.n):
        one = alone(make_runtime().engine, asked, index=index)
        other = alone(make_runtime().engine, replace(asked, n=1, seed=asked.seed + index))
        assert one.trajectory.reasoning == other.trajectory.reasoning
        assert all(np.array_equal(one.pictures[r], other.pictures[r]) for r in other.pictures)


@pytest.mark.parametrize("name", ["plain", "top_k, confirmed, guided late", "given, looked at first"])
def test_a_trajectory_resumed_after_any_round_comes_to_the_same_bytes(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone], name: str
) -> None:
    whole = by_themselves[name]
    for kept in [event for event in whole.events if isinstance(event, ImageReady)]:
        stored = Trajectory.from_json(json.loads(json.dumps(kept.trajectory.to_json())))
        engine = make_runtime().engine
        engine.add("again", stored, (Picture(kept.image, kept.pixels),))
        events = by_key(drive(engine))["again"]
        assert end_of(events).usage == whole.trajectory.usage
        assert [r.reflections for r in end_of(events).rounds] == [r.reflections for r in whole.trajectory.rounds]
        assert sorted(pictures(events)) == [r.index for r in whole.trajectory.rounds if r.index > kept.round]
        assert all(np.array_equal(p, whole.pictures[r]) for r, p in pictures(events).items())


def test_a_question_asked_again_is_answered_anew_and_from_the_same_context(make_runtime: MakeRuntime) -> None:
    """Each try draws with a key of its own; whether the context of the first was still there makes no difference."""
    asked = ask(reflect=replace(WILD, max_tokens=7), max_rounds=1, early_stop=EarlyStop(confirmations=3))
    whole = alone(make_runtime().engine, asked)
    texts = [reflection.text for reflection in whole.trajectory.rounds[0].reflections]
    assert len(texts) == len(set(texts)) == 3
    shown = next(event for event in whole.events if isinstance(event, ImageReady))
    first = replace(whole.trajectory.rounds[0], reflections=whole.trajectory.rounds[0].reflections[:1])
    engine = make_runtime().engine
    engine.add("again", replace(shown.trajectory, rounds=(first,)), (Picture(shown.image, shown.pixels),))
    again = end_of(by_key(drive(engine))["again"])
    assert [reflection.text for reflection in again.rounds[0].reflections] == texts


def test_previews_are_made_where_they_were_asked_for_and_change_nothing(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone]
) -> None:
    name = "no plan, previews"
    previews = [event for event in by_themselves[name].events if isinstance(event, Preview)]
    assert [p.step for p in previews if p.round == 0] == [2, 3]
    assert all(p.pixels.shape == (64, 64, 3) and p.pixels.dtype == np.uint8 for p in previews)
    without = alone(make_runtime().engine, replace(MIX[name], previews=0))
    assert all(np.array_equal(p, by_themselves[name].pictures[r]) for r, p in without.pictures.items())


def test_progress_counts_every_step(by_themselves: dict[str, Alone]) -> None:
    steps = [(e.step, e.steps) for e in by_themselves["plain"].events if isinstance(e, Progress) and e.round == 0]
    assert steps == [(step, 5) for step in range(1, 6)]


def break_begin(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = ModelRunner._begin

    def broken(self: ModelRunner, what: Begin) -> None:
        if what.key == "bad":
            raise RuntimeError("it would not begin")
        begin(self, what)

    monkeypatch.setattr(ModelRunner, "_begin", broken)


def break_when(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Any], None]) -> None:
    """Do harm to the state of `bad` as soon as it has what is harmed."""
    run = runtime.runner.run

    def harmed(batch: Batch) -> Any:
        state = runtime.runner._states.get("bad")
        if state is not None:
            harm(state)
        return run(batch)

    monkeypatch.setattr(runtime.runner, "run", harmed)


def break_picture(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(state: Any) -> None:
        if state.drawings and state.drawings[0].step == 2:
            state.drawings[0].x = torch.zeros(3, 3)

    break_when(runtime, monkeypatch, harm)


def break_text(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(state: Any) -> None:
        if state.writing is not None and state.writing.tokens == 3:
            state.writing.ids[-1] = 10**9

    break_when(runtime, monkeypatch, harm)


def break_sampling(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(state: Any) -> None:
        if state.writing is not None and state.writing.tokens == 3:
            state.writing.sampling = None

    break_when(runtime, monkeypatch, harm)


def break_numbers(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(state: Any) -> None:
        if state.writing is not None and state.writing.tokens == 3:
            with torch.inference_mode():
                runtime.runner._cache[0].values[state.writing.cursor.start] = float("nan")

    break_when(runtime, monkeypatch, harm)


def break_decoding(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(state: Any) -> None:
        for drawing in state.drawings:
            drawing.grid = (5, 7)

    break_when(runtime, monkeypatch, harm)


@pytest.mark.parametrize(
    "fault", [break_begin, break_picture, break_text, break_sampling, break_numbers, break_decoding]
)
def test_a_failing_request_fails_alone_and_the_others_pictures_are_unchanged(
    fault: Callable[[Runtime, pytest.MonkeyPatch], None],
    make_runtime: MakeRuntime,
    by_themselves: dict[str, Alone],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("plain", "wide, sampled, another renorm", "given, looked at first")
    runtime = make_runtime()
    fault(runtime, monkeypatch)
    events = run_together(runtime, {names[0]: MIX[names[0]], "bad": ask(BUS), **{n: MIX[n] for n in names[1:]}})
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, StepFailed)
    assert not isinstance(failed.error, OutOfMemory)
    for name in names:
        assert_same(events[name], by_themselves[name])
    assert runtime.engine.room == runtime.engine.max_trajectories
    assert runtime.runner._states == {}


def test_a_picture_that_is_no_numbers_fails_and_shows_in_no_other(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its context holds the first row of the cache, and what draws from that would be black."""
    latent = Feeder.latent
    monkeypatch.setattr(Feeder, "latent", lambda feeder, pixels: latent(feeder, pixels) * float("nan"))
    runtime = make_runtime()
    names = ("plain", "no plan, previews", "every round, short texts")
    requests = {name: replace(MIX[name], max_rounds=0) for name in names}  # only an edit has latents to look at
    events = run_together(runtime, {"bad": MIX["given, told what to do"], **requests})
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, StepFailed)
    assert "no finite numbers" in str(failed.error)
    assert [event.round for event in events["bad"] if isinstance(event, ImageReady)] in ([], [0]), "the one given"
    for name in names:
        [drawn] = pictures(events[name]).values()
        assert np.abs(drawn.astype(int) - by_themselves[name].pictures[0].astype(int)).max() <= 1


def test_what_stood_in_lent_rows_before_makes_no_difference(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone]
) -> None:
    """Not even what is no number, which times nothing is none either."""
    runtime = make_runtime()
    with torch.inference_mode():
        for layer in runtime.runner._cache:
            layer.keys[: runtime.runner.cache_rows] = layer.values[: runtime.runner.cache_rows] = float("nan")
    for name, events in run_together(runtime, dict(MIX)).items():
        assert_same(events, by_themselves[name])


class OutOfMemoryFor:
    """Attention that runs out of memory where a trajectory's rows, or too many rows, are in the forward."""

    def __init__(self, runtime: Runtime, key: str) -> None:
        self.name = runtime.attention.attention.name
        self._attend, self._running, self._key = runtime.attention.attention, runtime.engine._scheduler, key

    def __call__(self, q: Any, k: Any, v: Any, cache: Any, packing: Packing) -> Any:
        spans = self._running[self._key].spans if self._key in self._running else ()
        starts = {piece.start for piece in packing.pieces}
        if starts & {span.start for span in spans if span.rows}:
            raise torch.OutOfMemoryError("out of memory")
        return self._attend(q, k, v, cache, packing)


def test_a_request_that_runs_out_of_memory_fails_with_its_own_code(
    make_runtime: MakeRuntime, by_themselves: dict[str, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime()
    monkeypatch.setattr(runtime.runner, "_attention", OutOfMemoryFor(runtime, "bad"))
    events = run_together(runtime, {"plain": MIX["plain"], "bad": ask(BUS)})
    failed = events["bad"][-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "out_of_memory"
    assert_same(events["plain"], by_themselves["plain"])


def test_a_lost_device_is_raised_for_the_jobs_must_be_given_back(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime()

    def lost(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runtime.runner, "_attention", lost)
    runtime.engine.add("a", Trajectory(ask()))
    with pytest.raises(DeviceError, match="the device stopped answering: CUDA error"):
        runtime.engine.step()


def test_a_device_that_is_lost_in_a_retry_is_nobodys_failure(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime()
    attend = runtime.attention.attention

    def cramped(q: Any, k: Any, v: Any, cache: Any, packing: Packing) -> Any:
        if len(packing.pieces) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return attend(q, k, v, cache, packing)

    def lost(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runtime.runner, "_attention", cramped)
    monkeypatch.setattr(runtime.runner, "_wrote", lost)
    for key in "ab":
        runtime.engine.add(key, Trajectory(ask()))
    with pytest.raises(DeviceError, match=r"^the device stopped answering: CUDA error"):
        runtime.engine.step()


@pytest.mark.parametrize("turns", [0, 5, 22, 30, 60])
def test_a_cancelled_request_computes_nothing_more(make_runtime: MakeRuntime, forwards: Forwards, turns: int) -> None:
    runtime = make_runtime()
    runtime.engine.add("a", Trajectory(ask(early_stop=EarlyStop(on_satisfied=False))))
    for _ in range(turns):
        runtime.engine.step()
    forwards.packings.clear()
    runtime.engine.abort("a")
    assert [type(event) for _, event in runtime.engine.step()] == [Cancelled]
    assert forwards.packings == []
    assert runtime.runner._states == {}
    assert not runtime.engine.has_work


def test_no_row_is_written_that_was_not_lent(
    make_runtime: MakeRuntime, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of every forward lie in the spans that the trajectories of its own batch were lent."""
    runtime = make_runtime()
    lent: dict[str, set[int]] = {}
    run, checked = runtime.runner.run, 0

    def watched(batch: Batch) -> Any:
        nonlocal checked
        for begin in batch.begin:
            lent[begin.key] = {row for span in begin.spans for row in range(span.start, span.start + span.rows)}
        allowed = {row for key in batch.text for row in lent[key]}
        forwards.packings.clear()
        outputs = run(batch)
        for stored in (packing.stored_to for packing in forwards.packings if packing.stored_to is not None):
            assert set(stored.tolist()) <= allowed
            checked += 1
        return outputs

    monkeypatch.setattr(runtime.runner, "run", watched)
    run_together(runtime, MIX)
    assert checked > 50
    assert runtime.engine._scheduler._spans.free_rows == runtime.runner.cache_rows


def test_what_could_never_be_served_is_refused_with_its_size(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(max_trajectories=1)
    refusals: list[tuple[Request, type[R3Error], str]] = [
        (ask("long " * 20_000), PromptTooLong, r"the prompt with its plan would take \d{5} tokens and \d+ fit"),
        (ask("long " * 20_000, think=False, max_rounds=0), PromptTooLong, r"the prompt would take \d{5} tokens"),
        (
            ask("x", instruction="long " * 20_000, given_image=True),
            PromptTooLong,
            r"the instruction would take \d{6} tokens",
        ),
        (ask(reflect=replace(GREEDY, max_tokens=10_000)), InvalidRequest, "the reflection on a picture would take"),
        (ask(reflect=replace(GREEDY, max_tokens=8_000)), OutOfCapacity, "refining a picture of 64x64 takes"),
    ]
    for request, error, message in refusals:
        with pytest.raises(error, match=message):
            runtime.engine.add("a", Trajectory(request), given_picture(request))
    assert runtime.engine.step() == []


@pytest.mark.parametrize(
    ("asked", "transforms", "message"),
    [
        (ask(width=1040), {}, "1040x64 has 65 x 4 latent tokens to draw, and the model's table has 1 x 1 to 64 x 64"),
        (ask(height=10**6), {}, "64x1000000 has 4 x 62500 latent tokens to draw"),
        (ask(width=8), {}, "8x64 has 0 x 4 latent tokens to draw"),
        (ask(), {"vae": (2048, 1040, 16)}, "64x64 has 65 x 65 latent tokens to look at.*1 x 1 to 64 x 64"),
        (ask(), {"vit": (1400, 994, 14)}, "64x64 has 71 x 71 patches, and the model's table has 1 x 1 to 70 x 70"),
    ],
)
def test_a_picture_beyond_the_position_tables_is_refused_with_its_numbers(
    make_runtime: MakeRuntime, asked: Request, transforms: dict[str, tuple[int, int, int]], message: str
) -> None:
    """On a GPU a position outside its table would end the process."""
    runtime = make_runtime()
    described = runtime.runner._counter._description
    described = replace(described, transforms={**described.transforms, **transforms})
    runtime.runner._counter._description = described
    with pytest.raises(InvalidRequest, match=message):
        runtime.engine.add("a", Trajectory(asked))
    if transforms:  # a picture that nobody looks at goes through no transform
        runtime.engine.check(Trajectory(replace(asked, max_rounds=0)))


MOST = 512  # positions


@pytest.fixture
def of_few_positions(make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Beyond its table a position is none: on a GPU that would end the process."""
    runtime = make_runtime()
    counter, bagel = runtime.runner._counter, runtime.runner._bagel
    assert bagel._turns is not None
    assert bagel._turns[0].shape[0] == counter._description.max_context_tokens
    monkeypatch.setattr(bagel, "_turns", (bagel._turns[0][:MOST], bagel._turns[1][:MOST]))  # others share the model
    counter._description = replace(counter._description, max_context_tokens=MOST)
    return runtime


@pytest.mark.parametrize("think", [False, True])
def test_the_longest_context_leaves_a_position_for_its_picture(of_few_positions: Runtime, *, think: bool) -> None:
    counter = of_few_positions.runner._counter
    asked = ask(
        think=think,
        max_rounds=0,
        reason=replace(GREEDY, max_tokens=3, temperature=2),  # which ends by its length
        generate=ImageSampling(num_timesteps=2),
    )
    before = counter._generate_system + 3 + 1 if think else 0
    prompts = {before + len(counter._tokenizer.segment("☃" * n)): "☃" * n for n in range(1, MOST)}
    longest = max(rows for rows in prompts if rows < MOST)
    of_few_positions.engine.add("a", Trajectory(replace(asked, prompt=prompts[longest])))
    assert isinstance(by_key(drive(of_few_positions.engine))["a"][-1], Finished)
    prompt = prompts[longest] + "x" * (MOST - longest)
    with pytest.raises(PromptTooLong, match=f"would take {MOST} tokens and {MOST - 1} fit"):
        of_few_positions.engine.add("a", Trajectory(replace(asked, prompt=prompt)))


@pytest.mark.parametrize("step", [Reconstruct(), Refine(1, "", 0)])
def test_what_the_model_wrote_leaves_a_position_for_its_picture(of_few_positions: Runtime, step: Step) -> None:
    """A token that is no whole character is three when its text is read again."""
    counter = of_few_positions.runner._counter
    written = next(text for n in range(MOST) if counter._end(*of(step, text := "\ufffd" * n)) > MOST - 3)
    while counter._end(*of(step, written)) < MOST:
        written += "x"
    counter.need(*of(step, written), keeps=False)
    with pytest.raises(OutOfCapacity, match=rf"takes {MOST + 1} positions with the picture of it"):
        counter.need(*of(step, written + "x"), keeps=False)


def of(step: Step, written: str) -> tuple[Step, Trajectory]:
    """The step after the model has written that."""
    if isinstance(step, Refine):
        return replace(step, instruction=written), Trajectory(ask())
    return step, Trajectory(ask(kind="roundtrip", given_image=True), description=written)


def test_only_what_will_be_done_counts_against_the_limits(make_runtime: MakeRuntime) -> None:
    far_too_many = replace(GREEDY, max_tokens=10_000)
    runtime = make_runtime(max_trajectories=1)
    for request in (
        ask(reflect=far_too_many, max_rounds=0),
        ask(reason=far_too_many, think=False, max_rounds=0),
        ask(reason=far_too_many, reflect=far_too_many, max_rounds=1, given_image=True, instruction="Add a hat."),
    ):
        ran = alone(runtime.engine, request, given_picture(request))
        assert isinstance(ran.events[-1], Finished)
