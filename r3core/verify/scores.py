"""Scores: the likelihoods behind gvu, lift and vqa of recorded pictures and prompts, and what is served of them.

judge.json says its own tolerance, absolute for a log-probability; a value that is made of them is judged as far as
that moves it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from r3core.events import Scored
from r3core.judge import LOOKING, SCORERS, Scorer, value_of
from r3core.types import Request, Trajectory
from r3core.verify.golden import Record
from r3core.verify.judging import Judge, Ways
from r3core.verify.replaying import Replay
from r3core.verify.texts import picture_of
from r3core.verify.traces import Job, Trace

_LOOKING = tuple(scorer for scorer in SCORERS if scorer in LOOKING)
_SERVED: Final[dict[str, Scorer]] = {"gvu": "gvu", "lift": "lift", "p_yes": "vqa"}
# In the order in which a Judge step of one picture asks.
_PROMPT, _YES, _NO, _PRIOR = range(4)


def check_scores(replay: Replay, judge: Judge) -> None:
    """All rows of judge.json, where the set has one: each pair alone, and all of them in one batch."""
    recorded = replay.golden.scores
    if recorded is None:
        return
    tolerance: float = recorded["tolerance"]["logprob_abs"]
    jobs, records = [], {}
    for record in recorded["cases"]:
        with judge.case(record.name):
            jobs.append(_job(replay, record))
            records[record.name] = record
    runs = {"single": replay.play(jobs, 1), "batched": replay.play(jobs, max(1, len(jobs)))}
    for name, record in records.items():
        with judge.case(name):
            _case(judge, record, {way: traces[name] for way, traces in runs.items()}, tolerance)


def _job(replay: Replay, record: Record) -> Job:
    picture = picture_of(record["image"], replay.golden.tensor(record["image"]))
    size = picture.image.width, picture.image.height
    request = Request(record["prompt"], *size, seed=0, kind="score", given_image=True, scorers=_LOOKING)
    return Job(record.name, Trajectory(request), picture)


def _case(judge: Judge, record: Record, traces: Ways[Trace], tolerance: float) -> None:
    def close(what: str, got: Ways[Tensor], want: Tensor, moved: float = tolerance) -> None:
        judge.close(f"{record.name}.{what}", got, want, tolerance=moved)

    asked = {way: trace.asked() for way, trace in traces.items()}
    judge.same(f"{record.name}.ids", {way: own[_PROMPT].ids for way, own in asked.items()}, record["ids"])
    for what, place in (("logprobs", _PROMPT), ("prior_logprobs", _PRIOR)):
        got = {way: torch.tensor(own[place].likelihoods) for way, own in asked.items()}
        close(what, got, torch.tensor(record[what]))
    for what, place in (("logp_yes", _YES), ("logp_no", _NO)):
        close(what, {way: torch.tensor(sum(own[place].likelihoods)) for way, own in asked.items()}, _one(record[what]))
    served = {
        way: [event.score for event in trace.events if isinstance(event, Scored)] for way, trace in traces.items()
    }
    for what, scorer in _SERVED.items():
        values = {way: value_of(scores, scorer) for way, scores in served.items()}
        got = {way: _one(float("nan") if value is None else value) for way, value in values.items()}
        # gvu is the exponential of a mean; of p_yes two log-probabilities decide.
        moved = {"gvu": tolerance * record[what], "p_yes": 2 * tolerance * record[what]}.get(what, tolerance)
        close(what, got, _one(record[what]), moved)


def _one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
