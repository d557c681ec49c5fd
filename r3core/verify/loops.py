"""Whole loops, twice: each round from the recorded picture of the round before, and freely on their own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from r3core import prompts
from r3core.events import Finished, Reasoned, Reflected
from r3core.types import Image, Reflection, Request, Round, Trajectory
from r3core.verify.drawings import image_settings
from r3core.verify.golden import Missing, Record, is_informational
from r3core.verify.judging import FREE_LATENT_TOLERANCE, FREE_UINT8_TOLERANCE, UINT8_TOLERANCE, Judge, Ways
from r3core.verify.replaying import Replay
from r3core.verify.texts import check_ids, instruction, picture_of
from r3core.verify.traces import Job, Trace, greedy


@dataclass(frozen=True)
class Sample:
    """One recorded trajectory of a loop: its request, the noise of its rounds, and how far it went."""

    name: str
    record: Record
    request: Request
    noise: Mapping[int, Tensor]
    rounds: list[Record]
    last: int  # the last round that counts: the one it stopped in, or the last of all


@dataclass(frozen=True)
class Manner:
    """A way to replay a loop, and how near it must come. In bf16 a free loop draws other pictures: shown only."""

    suffix: str
    latent_tolerance: float | None
    uint8_tolerance: float
    judged_in_bf16: bool

    def traces(self, sample: Sample, round_: int, runs: Ways[dict[str, Trace]]) -> Ways[Trace]:
        """The traces in which a round was run."""
        key = _key(sample, round_ if self is FORCED else None)
        if any(key not in own for own in runs.values()):
            raise Missing(f"{key} could not be run")
        return {way: own[key] for way, own in runs.items()}


FORCED: Final = Manner("", None, UINT8_TOLERANCE, judged_in_bf16=True)
FREE: Final = Manner(" (free)", FREE_LATENT_TOLERANCE, FREE_UINT8_TOLERANCE, judged_in_bf16=False)


def check_loops(replay: Replay, judge: Judge) -> None:
    """All rows of this file."""
    loops: dict[str, tuple[Record, list[Sample]]] = {}
    for record in replay.golden.cases("loop"):
        if is_informational(record.name):
            record.plain()
            continue
        with judge.case(record.name):
            loops[record.name] = record, _samples(replay, record)
    jobs = []
    for sample in (sample for _, own in loops.values() for sample in own):
        with judge.case(sample.name):
            jobs += _jobs(replay, sample)
    runs = replay.both_ways(jobs)
    for name, (record, own) in loops.items():
        with judge.case(name):
            sure = [_check_sample(replay, judge, sample, FORCED, runs) for sample in own]
            _check_counts(judge, record, own, runs, judged=all(sure))
            for sample in own:
                _check_sample(replay, judge, sample, FREE, runs)


def _samples(replay: Replay, record: Record) -> list[Sample]:
    if record["static_cache"] or record["do_sample"]:
        raise Missing("only greedy loops of the reference's plain cache can be replayed")
    own, count = record["settings"], record["rounds"]
    height, width = record["size_hw"]
    request = Request(
        "",
        width,
        height,
        seed=0,
        max_rounds=count - 1,
        reason=greedy(record["max_output_token_n_gen"]),
        reflect=greedy(record["max_output_token_n_edit"]),
        generate=image_settings(own, own["num_timesteps_gen"], cfg_renorm_type=own["cfg_renorm_type_gen"]),
        refine=image_settings(
            own,
            own["num_timesteps_edit"],
            cfg_renorm_type=own["cfg_renorm_type_edit"],
            cfg_img_scale=own["cfg_img_scale"],
        ),
    )
    # A name of noise may be followed by a remark.
    noise = {i: replay.golden.tensor(said.split()[0]) for i, said in enumerate(record["noise"])}
    samples = []
    for i, said in enumerate(record["samples"]):
        rounds = sorted(said["rounds"], key=lambda r: int(r["round"]))
        last = said["finished_step"] if said["finished"] else count - 1
        asked = replace(request, prompt=said["prompt"])
        samples.append(Sample(f"{record.name}.s{i}", said, asked, noise, rounds, last))
        _excuse(replay, samples[-1])
    return samples


def _excuse(replay: Replay, sample: Sample) -> None:
    """The reference goes on after a stop, the edit of that very round included, and throws away what comes of it."""
    if not sample.record["finished"]:
        return
    for said in sample.rounds[sample.last :]:
        replay.golden.excuse(said["edited_image_before_no_edit_rule"])
        replay.golden.excuse(f"{sample.name}.r{said['round']}.final_latent")
        if said["round"] > sample.last:
            said.plain()


def _key(sample: Sample, round_: int | None) -> str:
    return f"{sample.name}/{'free' if round_ is None else round_}"


def _jobs(replay: Replay, sample: Sample) -> list[Job]:
    """The whole loop, and one job a round: each from the recorded picture of the round before."""
    jobs = [Job(_key(sample, None), Trajectory(sample.request), noise=sample.noise)]
    size = sample.request.width, sample.request.height
    for index in range(sample.last + 1):
        trajectory, before = Trajectory(replace(sample.request, max_rounds=index)), None
        if index:
            before = picture_of(_key(sample, index), replay.golden.tensor(_picture_name(sample, index - 1)))
            past = [Round(i, Image(f"recorded {i}", *size)) for i in range(index - 1)]
            trajectory = replace(trajectory, reasoning="", rounds=(*past, Round(index - 1, before.image)))
        jobs.append(Job(_key(sample, index), trajectory, before, sample.noise))
    return jobs


def _picture_name(sample: Sample, round_: int) -> str:
    name: str = sample.rounds[round_]["image" if round_ == 0 else "edited_image_before_no_edit_rule"]
    return name


# --- comparing


def _check_sample(replay: Replay, judge: Judge, sample: Sample, manner: Manner, runs: Ways[dict[str, Trace]]) -> bool:
    """Compare all rounds that count; whether every one of them could be judged.

    Rounds that are forced stand each for itself; a free loop that has parted goes on from another picture.
    """
    start = sure = judge.exact or manner.judged_in_bf16
    for round_ in range(sample.last + 1):
        name, judged = f"{sample.name}.r{round_}{manner.suffix}", sure if manner is FREE else start
        with judge.case(name, judged=judged):
            traces = manner.traces(sample, round_, runs)
            judged = _check_text(judge, sample, round_, traces, manner, judged=judged)
        sure = sure and judged
        if round_ < sample.last or not sample.record["finished"]:
            with judge.case(f"{name} picture", judged=judged):
                traces = manner.traces(sample, round_, runs)
                _check_picture(replay, judge, sample, round_, traces, manner, judged=judged)
    with judge.case(f"{sample.name}{manner.suffix}", judged=sure):
        _check_end(replay, judge, sample, manner, runs, judged=sure)
    return sure


def _check_text(
    judge: Judge, sample: Sample, round_: int, traces: Ways[Trace], manner: Manner, *, judged: bool
) -> bool:
    """The text of a round and what follows from it; whether what comes after can be judged."""
    said, name = sample.rounds[round_], f"{sample.name}.r{round_}"
    stage, kind = ("reason", "think") if round_ == 0 else (f"reflect {round_ - 1}", "reflection")
    texts = {way: trace.text(stage) for way, trace in traces.items()}
    agreed = check_ids(judge, f"{name} {kind}_ids{manner.suffix}", texts, said[f"{kind}_ids"], judged=judged)
    if round_ == 0:
        plans = {way: trace.event(Reasoned).text for way, trace in traces.items()}
        judge.same(f"{name} think_text{manner.suffix}", plans, said["think_text"], judged=agreed)
        return agreed
    read = {way: _reflection(trace, round_ - 1) for way, trace in traces.items()}
    seen: dict[str, Ways[object]] = {
        "reflection_text": {way: reflection.text for way, reflection in read.items()},
        "edit_operation": {way: instruction(reflection) for way, reflection in read.items()},
        "stop": {way: _stopped_in(trace) == round_ for way, trace in traces.items()},
        # Every round reads the newest picture and nothing else; there is no other that could be its input.
        "input_image_equals_previous_output": dict.fromkeys(traces, True),
    }
    for what, got in seen.items():
        judge.same(f"{name} {what}{manner.suffix}", got, said[what], judged=agreed)
    return agreed


def _check_picture(
    replay: Replay,
    judge: Judge,
    sample: Sample,
    round_: int,
    traces: Ways[Trace],
    manner: Manner,
    *,
    judged: bool,
) -> None:
    golden, name = replay.golden, _picture_name(sample, round_)
    drawn = {way: trace.pixels(round_) for way, trace in traces.items()}
    limit = manner.uint8_tolerance
    judge.pixels(f"{name}{manner.suffix}", drawn, golden.tensor(name), tolerance=limit, judged=judged)
    latent = f"{sample.name}.r{round_}.final_latent"
    if latent in golden:
        last = {way: trace.picture(round_).x[-1] for way, trace in traces.items()}
        want, limit_ = golden.tensor(latent), manner.latent_tolerance
        judge.close(f"{latent}{manner.suffix}", last, want, tolerance=limit_, judged=judged)


def _check_end(
    replay: Replay, judge: Judge, sample: Sample, manner: Manner, runs: Ways[dict[str, Trace]], *, judged: bool
) -> None:
    record, name, suffix = sample.record, sample.name, manner.suffix
    by_round = [manner.traces(sample, i, runs) for i in range(sample.last + 1)]
    stops = {way: _first_stop([traces[way] for traces in by_round]) for way in runs}
    finished = {way: stop is not None for way, stop in stops.items()}
    judge.same(f"{name} finished{suffix}", finished, record["finished"], judged=judged)
    steps = {way: len(sample.rounds) if stop is None else stop for way, stop in stops.items()}
    judge.same(f"{name} finished_step{suffix}", steps, record["finished_step"], judged=judged)
    scores = {way: [_score(traces[way], i) for i, traces in enumerate(by_round)] for way in runs}
    # The scores go on after a stop; a server does not.
    judge.same(f"{name} format_scores{suffix}", scores, record["format_scores"][: len(by_round)], judged=judged)
    judge.same(
        f"{name} n_per_sample_imgs{suffix}",
        {"with the first twice": len(sample.rounds) + 1},
        record["n_per_sample_imgs"],
    )
    kept = sample.last - 1 if record["finished"] else sample.last
    final = {way: trace.pixels(kept) for way, trace in by_round[kept].items()}
    want = replay.golden.tensor(record["final_image"])
    judge.pixels(f"{record['final_image']}{suffix}", final, want, tolerance=manner.uint8_tolerance, judged=judged)


def _check_counts(
    judge: Judge, record: Record, samples: list[Sample], runs: Ways[dict[str, Trace]], *, judged: bool
) -> None:
    """How many samples stopped in each round."""
    counts = {}
    for way in runs:
        counts[way] = [0] * record["rounds"]
        for sample in samples:
            stop = _first_stop([FORCED.traces(sample, i, runs)[way] for i in range(sample.last + 1)])
            if stop is not None:
                counts[way][stop] += 1
    judge.same(f"{record.name} no_edit_cnt", counts, record["no_edit_cnt"], judged=judged)


def _reflection(trace: Trace, round_: int) -> Reflection:
    """What was said of the picture of a round."""
    said = [e.reflection for e in trace.events if isinstance(e, Reflected) and e.round == round_]
    return said[0] if said else trace.event(Reflected, len(trace.events)).reflection  # raises with the job's own fault


def _stopped_in(trace: Trace) -> int | None:
    """The round in which the model said that it is satisfied, or said nothing legible; None where it never did."""
    end = trace.event(Finished).trajectory
    if end.stop_reason not in ("satisfied", "malformed"):
        return None
    return end.rounds[-1].index + 1


def _first_stop(traces: list[Trace]) -> int | None:
    return next((stop for trace in traces if (stop := _stopped_in(trace)) is not None), None)


def _score(trace: Trace, round_: int) -> float:
    if round_ == 0:
        return float(prompts.is_think_format(trace.event(Reasoned).text))
    return float(prompts.is_reflection_format(_reflection(trace, round_ - 1).text))
