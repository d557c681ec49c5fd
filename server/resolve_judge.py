"""What a body asks of the scores: its faults, what they are to the request, and how a job shows them. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from r3core.judge import Counts, ScoreStop
from r3core.types import EarlyStop, Request
from server.faults import Fault, Found
from server.schemas import EarlyStopCreate, GenerationCreate

Json = dict[str, Any]
# What only a judged job shows beside the scorers, and what no generation is asked with.
_JUDGED = ("choose", "on_regression", "candidates")
_NOT_SHOWN = ("scorers", "kind", "question", "describe")


def judge_faults(body: GenerationCreate) -> Found:
    """Each fault with the fields that it comes from."""
    yield from _rule_faults(body)
    yield from _unscored(body)
    yield from _budget_faults(body)


def early_stop_of(asked: EarlyStopCreate) -> EarlyStop:
    """When the trajectories end by themselves."""
    rule = None if asked.score is None else ScoreStop(**asked.score.model_dump())
    return EarlyStop(asked.on_satisfied, asked.confirmations, rule, asked.all)


def judged(body: GenerationCreate) -> Json:
    """The request's fields that scores and budget are about, by name."""
    return {
        "scorers": () if body.judge is None else tuple(body.judge.scorers),
        "choose": body.choose,
        "on_regression": body.on_regression,
        "candidates": Counts(**body.candidates.model_dump()),
        "max_images": body.max_images,
    }


def shown_settings(request: Request) -> Json:
    """Every setting of a request by the name that POST /generate knows; of scores and budget only what was asked."""
    settings = {name: value for name, value in asdict(request).items() if name not in _NOT_SHOWN}
    rules = settings["early_stop"]
    settings["early_stop"] = {name: rule for name, rule in rules.items() if rule or name not in ("score", "all")}
    kept = {name: settings.pop(name) for name in (*_JUDGED, "max_images")}
    if request.scorers:
        settings["judge"] = {"scorers": list(request.scorers)}
        settings |= {name: kept[name] for name in _JUDGED}
    return settings if request.max_images is None else {**settings, "max_images": request.max_images}


def _rule_faults(body: GenerationCreate) -> Found:
    rule = body.early_stop.score
    if rule is None:
        return
    at = "/early_stop/score"
    if body.judge is None:
        detail = f"goes by {rule.scorer}, but nothing is scored; ask for judge with that scorer, or remove it"
        yield frozenset({"early_stop", "judge"}), Fault(at, detail)
    elif rule.scorer not in body.judge.scorers:
        named = ", ".join(body.judge.scorers)
        detail = f"is {rule.scorer}, which is not one of judge.scorers ({named}); add it there or name one of them"
        yield frozenset({"early_stop", "judge"}), Fault(f"{at}/scorer", detail)
    if rule.scorer == "gvu" and rule.at_least is not None:
        detail = (
            f"is {rule.at_least:g}, but the level of gvu hangs on the prompt, so that no threshold means anything; "
            "use lift, or leave it out and stop by min_gain and patience"
        )
        yield frozenset({"early_stop"}), Fault(f"{at}/at_least", detail)


def _unscored(body: GenerationCreate) -> Found:
    """What chooses among pictures needs what says which is better."""
    if body.judge is not None:
        return
    needing = {
        "choose": ("/choose", "best", body.choose == "best"),
        "on_regression": ("/on_regression", "backtrack", body.on_regression == "backtrack"),
    }
    for field, (pointer, value, is_asked) in needing.items():
        if is_asked:
            detail = f"is {value}, but nothing is scored; ask for judge with a scorer, or remove it"
            yield frozenset({field, "judge"}), Fault(pointer, detail)
    for name, count in body.candidates.model_dump().items():
        if count > 1:
            detail = f"is {count}, but nothing says which is the best; ask for judge with a scorer, or make it 1"
            yield frozenset({"candidates", "judge"}), Fault(f"/candidates/{name}", detail)


def _budget_faults(body: GenerationCreate) -> Found:
    most = body.max_images
    if most is None:
        return
    if most < body.n:
        detail = f"is {most}, fewer than n, {body.n}, and each trajectory needs one; raise it or lower n"
        yield frozenset({"max_images", "n"}), Fault("/max_images", detail)
        return
    name, count = ("refine", body.candidates.refine) if body.image is not None else ("first", body.candidates.first)
    if count > most // body.n:
        told = f"is {count} for each of n, {body.n}" if body.n > 1 else f"is {count}"
        detail = f"{told}, which is more than max_images, {most}; lower it or raise max_images"
        yield frozenset({"candidates", "max_images", "n", "image"}), Fault(f"/candidates/{name}", detail)
