"""Texts: plans of pictures and reflections on pictures, greedy, with the logits behind them."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from r3core import prompts
from r3core.engine.batch import Picture
from r3core.events import Reasoned, Reflected
from r3core.types import Image, ImageSampling, Reflection, Request, Trajectory
from r3core.verify.golden import GoldenSet, Missing, Record
from r3core.verify.judging import Judge, Ways
from r3core.verify.replaying import Replay
from r3core.verify.traces import Job, Trace, Written, greedy

NEAR_TIE = 1.0  # texts may part in bf16 where the first choice is ahead by no more than this
Runs = Ways[dict[str, Trace]]


def check_texts(replay: Replay, judge: Judge) -> None:
    """All rows of this file."""
    plans = replay.golden.cases("greedy_think")
    contexts = _contexts(replay.golden)
    jobs = []
    for record in plans:
        with judge.case(record.name):
            jobs.append(_plan_job(replay, record.name, record["prompt"], record["max_length"]))
    for name, record in contexts.items():
        with judge.case(name):
            jobs.append(_plan_job(replay, name, record["segments"][-1], record["max_length"], draw=True))
    runs = replay.both_ways(jobs)
    for record in plans:
        with judge.case(_plan_name(record)):
            _plan(replay, judge, record, {way: traces[record.name] for way, traces in runs.items()})
    for name, record in contexts.items():
        with judge.case(name):
            _context(replay, judge, record, {way: traces[name] for way, traces in runs.items()})
    _prefills(replay, judge, runs)
    _reflections(replay, judge)


# --- plans


def _plan_job(replay: Replay, key: str, prompt: str, max_length: int, *, draw: bool = False) -> Job:
    """A plan; with `draw` the smallest picture after it, in one step, so that its context is complete."""
    side = replay.description.latent_stride
    request = Request(
        prompt,
        side,
        side,
        seed=0,
        max_rounds=0,
        reason=greedy(max_length),
        reflect=greedy(1),
        generate=ImageSampling(num_timesteps=2),
    )
    return Job(key, Trajectory(request), until=None if draw else Reasoned, keep=True)


def _plan_name(record: Record) -> str:
    match = re.fullmatch(r"text\.(.*)\.last_step_logits", record.get("last_step_logits", ""))
    return f"{record.name} {match[1]}" if match else record.name


def _plan(replay: Replay, judge: Judge, record: Record, traces: Ways[Trace]) -> None:
    case, texts = _plan_name(record), {way: trace.text("reason") for way, trace in traces.items()}
    agreed = check_ids(judge, f"{case} ids", texts, record["ids"], margin=record.get("min_top2_margin"))
    said = {way: trace.event(Reasoned).text for way, trace in traces.items()}
    judge.same(f"{case} text", said, record["text"], judged=agreed)
    form = {way: float(prompts.is_think_format(text)) for way, text in said.items()}
    judge.same(f"{case} format_ok_think", form, record["format_ok_think"], judged=agreed)
    forced = {way: _was_forced(replay, text, record) for way, text in texts.items()}
    judge.same(f"{case} forced_end", forced, record["forced_end"], judged=agreed)
    last = {way: text.logits[-1][None] for way, text in texts.items()}
    judge.close(record["last_step_logits"], last, replay.golden.tensor(record["last_step_logits"]), judged=agreed)


def _was_forced(replay: Replay, text: Written, record: Record) -> bool:
    """Whether the end was put in place of another choice; where it was the choice too, either may be said."""
    if len(text.logits) < record["max_length"]:
        return False
    return int(text.logits[-1].argmax()) != replay.tokenizer.im_end or bool(record["forced_end"])


def check_ids(
    judge: Judge,
    case: str,
    texts: Ways[Written],
    want: list[int],
    *,
    margin: float | None = None,
    logits: Tensor | None = None,
    judged: bool = True,
) -> bool:
    """Judge the ids of a greedy text, and say whether what follows from them can be judged.

    In bf16 a text may part from the recorded one at a near tie: where the recorded `margin` of the whole text, or that
    of the step in the recorded `logits`, or where neither is known our own, is no more than 1.
    """
    parted = {way: text for way, text in texts.items() if text.ids != want}
    excused = bool(parted) and not judge.exact and all(_near_tie(t, want, margin, logits) for t in parted.values())
    judged = judged and not excused
    judge.same(case, {way: text.ids for way, text in texts.items()}, want, judged=judged)
    return judged


def _near_tie(text: Written, want: list[int], margin: float | None, logits: Tensor | None) -> bool:
    if margin is not None:
        return margin <= NEAR_TIE
    at = next((i for i, (a, b) in enumerate(zip(text.ids, want, strict=False)) if a != b), None)
    if at is None or at == 0:
        return False
    if logits is not None and len(logits) >= at:
        best = logits[at - 1].topk(2).values
        return float(best[0] - best[1]) <= NEAR_TIE
    own = text.logits[at - 1]
    return float(own.max() - own[want[at]]) <= NEAR_TIE


# --- the logits and the cache behind a plan


def _contexts(golden: GoldenSet) -> dict[str, Record]:
    """The cases that record a whole context, text.p0 and its like; any other kind is left unread, and so fails."""
    if "cases" not in golden.root:
        return {}
    cases = golden.root["cases"]
    return {name: cases[name] for name in cases if re.fullmatch(r"text\.p\d+", name)}


def _context(replay: Replay, judge: Judge, record: Record, traces: Ways[Trace]) -> None:
    case, strings = record.name.removeprefix("cases."), replay.strings
    judge.same(f"{case} segments", {"serving": [strings.generate_system, record["segments"][-1]]}, record["segments"])
    texts = {way: trace.text("reason") for way, trace in traces.items()}
    agreed = check_ids(judge, f"{case} generated_ids", texts, record["generated_ids"])
    chances = {way: _chances(text) for way, text in texts.items()}
    judge.close(f"{case} generated_probs", chances, torch.tensor(record["generated_probs"]), judged=agreed)
    asked = {way: trace.prefill()[0] for way, trace in traces.items()}
    judge.same(
        f"{case} context_len", {w: p.past + len(p.positions) - 1 for w, p in asked.items()}, record["context_len"]
    )
    judge.same(f"{case} first_position", {w: p.positions[-1] for w, p in asked.items()}, record["first_position"])
    held = {way: trace.context for way, trace in traces.items()}
    judge.same(
        f"{case} kv_len_after", {w: len(c[0][0]) for w, c in held.items()}, record["kv_len_after"], judged=agreed
    )
    for match in replay.golden.names(rf"{re.escape(case)}\.(.+)"):
        with judge.case(match[0]):
            _context_tensor(replay, judge, match, traces, judged=agreed)


def _chances(text: Written) -> Tensor:
    """The untempered probability of every id that was chosen or forced."""
    return torch.stack([row.softmax(-1)[id_] for row, id_ in zip(text.logits, text.ids[1:], strict=True)])


def _context_tensor(replay: Replay, judge: Judge, match: re.Match[str], traces: Ways[Trace], *, judged: bool) -> None:
    name, golden = match[0], replay.golden
    compute = _step_logits if re.fullmatch(r"greedy\d*_step_logits", match[1]) else _prompt_logits(replay, match[1])
    if compute is None and (cached := re.fullmatch(r"([kv])_(lastlayer|layer(\d+))(_tail)?", match[1])):
        compute = _cached(cached, golden.form(name))
    if compute is None:
        return  # another case's, or nobody's: then it fails as unused
    got = {way: compute(trace) for way, trace in traces.items()}
    judge.close(name, got, golden.tensor(name), judged=judged)


def _step_logits(trace: Trace) -> Tensor:
    return torch.stack(trace.text("reason").logits)


def _prompt_logits(replay: Replay, which: str) -> Callable[[Trace], Tensor] | None:
    # The last fed row is the start of the answer, which follows the prompt's segment.
    if which == "prefill_logits_prompt":
        return lambda trace: replay.logits(trace.prefill()[0].hidden[:-1])
    if which == "prefill_logits_system_last":
        return lambda _: replay.logits(replay.runner.system[0].hidden[-1:])
    return None


def _cached(match: re.Match[str], form: tuple[str, list[int]] | None) -> Callable[[Trace], Tensor]:
    """The first rows of a layer's keys or values, or with _tail the last."""
    count = form[1][0] if form else 0
    layer = -1 if match[2] == "lastlayer" else int(match[3])
    rows = slice(-count, None) if match[4] else slice(0, count)
    return lambda trace: trace.context[layer][0 if match[1] == "k" else 1][rows].float().cpu()


def _prefills(replay: Replay, judge: Judge, runs: Runs) -> None:
    """The logits after system prompt and prompt, for every prompt that a plan was written for."""
    keys = {}
    for record in replay.golden.cases("greedy_think"):
        if match := re.match(r"text\.(p\d+)\.", record.get("last_step_logits", "")):
            keys[match[1]] = record.name
    for match in replay.golden.names(r"text\.(p\d+)\.prefill_last_logits"):
        with judge.case(match[0]):
            key = keys.get(match[1]) or (f"text.{match[1]}" if f"text.{match[1]}" in runs["single"] else None)
            if key is None:
                raise Missing(f"no case says which prompt {match[1]} is")
            got = {way: replay.logits(traces[key].prefill()[0].hidden[-2:-1]) for way, traces in runs.items()}
            judge.close(match[0], got, replay.golden.tensor(match[0]))


# --- reflections


def picture_of(name: str, pixels: Tensor) -> Picture:
    """A recorded picture as the engine takes it."""
    height, width, _ = pixels.shape
    return Picture(Image(name, width, height), pixels.numpy())


def look_job(key: str, picture: Picture, prompt: str, max_length: int) -> Job:
    """Ask the model about a picture."""
    image = picture.image
    request = Request(
        prompt,
        image.width,
        image.height,
        seed=0,
        max_rounds=1,
        given_image=True,
        reason=greedy(1),
        reflect=greedy(max_length),
    )
    return Job(key, Trajectory(request), picture, until=Reflected, keep=True)


def _reflections(replay: Replay, judge: Judge) -> None:
    jobs, records = [], {}
    for record in replay.golden.cases("reflect"):
        with judge.case(record.name):
            name = f"image.{record['image']}_u8"
            picture = picture_of(name, replay.golden.tensor(name))
            jobs.append(look_job(record.name, picture, record["prompt"], record["max_length"]))
            records[record.name] = record
    runs = replay.both_ways(jobs)
    for name, record in records.items():
        with judge.case(_reflection_name(record)):
            _reflection(replay, judge, record, {way: traces[name] for way, traces in runs.items()})


def _reflection_name(record: Record) -> str:
    named: str = record.get("last_prefill_logits", record.name)
    return named.removesuffix(".last_prefill_logits")


def _reflection(replay: Replay, judge: Judge, record: Record, traces: Ways[Trace]) -> None:
    case, golden = _reflection_name(record), replay.golden
    texts = {way: trace.text("reflect 0") for way, trace in traces.items()}
    recorded = golden.tensor(record["step_logits"])
    agreed = check_ids(judge, f"{case} ids", texts, record["ids"], logits=recorded)
    said = {way: trace.event(Reflected).reflection for way, trace in traces.items()}
    judge.same(f"{case} text", {way: s.text for way, s in said.items()}, record["text"], judged=agreed)
    read = {way: instruction(s) for way, s in said.items()}
    judge.same(f"{case} edit_operation", read, record["edit_operation"], judged=agreed)
    form = {way: float(prompts.is_reflection_format(s.text)) for way, s in said.items()}
    judge.same(f"{case} format_ok_reflect", form, record["format_ok_reflect"], judged=agreed)
    asked = {way: trace.prefill()[-1] for way, trace in traces.items()}
    # The last fed row is the start of the answer, which is not of the context.
    judge.same(f"{case} kv_len", {w: p.past + len(p.positions) - 1 for w, p in asked.items()}, record["kv_len"])
    judge.same(f"{case} rope_next", {w: p.positions[-1] for w, p in asked.items()}, record["rope_next"])
    last = {way: replay.logits(segment.hidden[-2:-1]) for way, segment in asked.items()}
    judge.close(record["last_prefill_logits"], last, golden.tensor(record["last_prefill_logits"]))
    steps = {way: torch.stack(text.logits[: len(recorded)]) for way, text in texts.items()}
    judge.close(record["step_logits"], steps, recorded, judged=agreed)


def instruction(said: Reflection) -> str:
    """The edit that the reference reads from a reflection."""
    return prompts.MALFORMED_INSTRUCTION if said.instruction is None else said.instruction
