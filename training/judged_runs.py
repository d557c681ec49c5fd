"""Scored pictures of a served model, through its public API, with the exact parser's truth beside every score.

Two runs say most: `forced`, loops that nothing stops, from which every rule of stopping follows exactly, for a rule
changes nothing before it fires; and `firsts`, eight first pictures each, from which best of n follows for any n. What
changes what is drawn (candidates of a refinement, going back) is run as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.eval_set import Case
from training.parse import parse
from training.served import Answer, Json, Tell, ask, fetch
from training.spec import satisfies

SCORERS: Final = ("gvu", "lift", "vqa", "verdict")
ROUNDS: Final = 4
FIRSTS: Final = 8


@dataclass(frozen=True)
class Picture:
    """Whether it is right, what the model said of it (None where it was not asked), and its scores."""

    is_right: bool
    said: str | None
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Round:
    """The pictures of a round, and which of them went on."""

    pictures: tuple[Picture, ...]
    chosen: int

    @property
    def picture(self) -> Picture:
        """The one that went on."""
        return self.pictures[self.chosen]


@dataclass(frozen=True)
class Told:
    """A trajectory: its rounds, which of them is the result, and why it ended."""

    category: str
    prompt: str
    rounds: tuple[Round, ...]
    result: int
    stop_reason: str

    @property
    def is_right(self) -> bool:
        """Whether what it came to is right."""
        return self.rounds[self.result].picture.is_right

    @property
    def images(self) -> int:
        """How many pictures were drawn."""
        return sum(len(r.pictures) for r in self.rounds)


def forced(rounds: int = ROUNDS) -> Json:
    """The request of loops that nothing stops."""
    return {"judge": {"scorers": list(SCORERS)}, "early_stop": False, "max_rounds": rounds}


def firsts() -> Json:
    """The request of several first pictures."""
    return {"judge": {"scorers": list(SCORERS)}, "candidates": {"first": FIRSTS}, "max_rounds": 0}


def searches(scorer: str) -> dict[str, Json]:
    """What is run as it is, by name: each stops by the text, and chooses by one scorer."""
    judge = {"judge": {"scorers": [scorer]}, "choose": "best", "max_rounds": ROUNDS}
    return {
        "two candidates a refinement": {**judge, "candidates": {"refine": 2}},
        "two candidates a round": {**judge, "candidates": {"first": 2, "refine": 2}},
        "two first pictures": {**judge, "candidates": {"first": 2}},
        "four first pictures": {**judge, "candidates": {"first": 4}},
        "going back after a fall": {**judge, "on_regression": "backtrack"},
    }


def run(url: str, cases: Sequence[Case], request: Json, tell: Tell) -> list[Told]:
    """One trajectory a case. Raises AskFailed where a job comes to nothing."""
    bodies = [{"prompt": case.prompt, "seed": case.seed, **request} for case in cases]
    answers = ask(url, bodies, tell=tell)
    ids = [picture["image"]["id"] for answer in answers for r in _rounds(answer) for picture in _pictures(r)]
    pixels = fetch(url, ids)
    scenes = dict(zip(ids, parse(np.stack([pixels[i] for i in ids])), strict=True))
    return [_told(case, answer, scenes) for case, answer in zip(cases, answers, strict=True)]


def keep(path: Path, told: Sequence[Told]) -> None:
    """Write trajectories, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in told))


def kept(path: Path) -> list[Told]:
    """What `keep` wrote."""
    return [_from_json(json.loads(line)) for line in path.read_text().splitlines()]


def _told(case: Case, answer: Answer, scenes: dict[str, Any]) -> Told:
    (trajectory,) = answer.job["trajectories"]
    rounds = tuple(
        Round(
            tuple(
                Picture(
                    satisfies(case.spec, scenes[p["image"]["id"]]),
                    p["reflection"]["verdict"] if p["reflection"] else None,
                    {score["scorer"]: score["value"] for score in p["scores"]},
                )
                for p in _pictures(r)
            ),
            r["chosen"],
        )
        for r in trajectory["rounds"]
    )
    result = next(
        index for index, r in enumerate(trajectory["rounds"]) if r["image"]["id"] == trajectory["image"]["id"]
    )
    return Told(case.category, case.prompt, rounds, result, trajectory["stop_reason"])


def _rounds(answer: Answer) -> Iterator[Json]:
    for trajectory in answer.job["trajectories"]:
        yield from trajectory["rounds"]


def _pictures(round_: Json) -> list[Json]:
    return round_["candidates"] or [round_]


def _from_json(value: Json) -> Told:
    rounds = tuple(Round(tuple(Picture(**p) for p in r["pictures"]), r["chosen"]) for r in value["rounds"])
    return Told(**{**value, "rounds": rounds})
