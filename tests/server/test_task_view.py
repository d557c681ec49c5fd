"""What a job beside /generate came to, from what is stored of it. No server."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from r3core.judge import Score
from r3core.loop import start_from
from r3core.prompts import read_reflection
from r3core.types import Image, Kind, Request, Round, Trajectory
from server.given_pictures import given_pictures, stored_as
from server.job_view import job_json
from server.queue import StoredJob
from server.views import JobView
from tests.server.jobs import record

JOB = f"job_{'0' * 32}"
FIRST, SECOND = (Image(f"img_{digit * 32}", 64, 64) for digit in "12")


def asked(kind: Kind, **fields: Any) -> Request:
    return Request("a cat", 64, 64, 7, kind=kind, given_image=True, think=False, max_rounds=0, **fields)


def stored(trajectory: Trajectory, own: list[Image], given: list[Image] | None = None) -> StoredJob:
    """A finished job whose own pictures are these."""
    request = {"request": asdict(trajectory.request)}
    starts = stored_as({image.id: record(JOB, 0, 0) for image in given or []})
    fields: dict[str, Any] = dict.fromkeys(StoredJob.__dataclass_fields__)
    fields |= {
        "id": JOB,
        "tenant": "local",
        "model": "tiny",
        "status": "succeeded",
        "attempt": 1,
        "created_ms": 1,
        "request": {**request, **starts},
        "params": {},
        "metadata": {},
        "trajectories": [trajectory.to_json()],
        "usage": {"text_tokens": 0, "denoise_steps": 0, "forwards": 0, "compute_s": 0.0},
        "last_event": 1,
        "images": {image.id: record(JOB, 0, 0) for image in own},
    }
    return StoredJob(**fields)


def shown(job: StoredJob) -> dict[str, Any]:
    value = job_json(job)
    JobView.model_validate(value)
    return value


def test_a_picture_that_no_worker_announced_is_shown_all_the_same() -> None:
    trajectory = start_from(Trajectory(asked("score", scorers=("vqa",))), FIRST, SECOND)
    first = trajectory.rounds[0]
    seen = [replace(picture, scores=(Score("vqa", 0.5),)) for picture in first.pictures]
    trajectory = replace(trajectory, rounds=(replace(first, candidates=tuple(seen)),))
    value = shown(stored(trajectory, own=[FIRST], given=[FIRST, SECOND]))
    assert [one["image"]["id"] for one in value["result"]["images"]] == [FIRST.id, SECOND.id]
    assert [one["scores"][0]["value"] for one in value["result"]["images"]] == [0.5, 0.5]
    assert [one["image"]["id"] for one in value["trajectories"][0]["rounds"][0]["candidates"]] == [FIRST.id, SECOND.id]


@pytest.mark.parametrize(
    ("trajectory", "result"),
    [
        (Trajectory(asked("score", scorers=("vqa",))), {"images": []}),
        (Trajectory(asked("reflect")), {"reflection": None}),
        (Trajectory(asked("describe")), {"text": None}),
        (
            Trajectory(asked("roundtrip"), rounds=(Round(0, FIRST),), description="a cat"),
            {"description": "a cat", "reconstruction": None, "similarities": None},
        ),
        (
            Trajectory(asked("roundtrip"), rounds=(Round(0, FIRST),), similarities=(("self", 0.5), ("psnr", 9.0))),
            {"similarities": {"self": 0.5, "psnr": 9.0}},
        ),
    ],
)
def test_the_result_is_shown_as_far_as_it_has_come(trajectory: Trajectory, result: dict[str, Any]) -> None:
    value = shown(stored(trajectory, own=[FIRST]))
    assert value["kind"] == trajectory.request.kind
    assert result.items() <= value["result"].items()


def test_a_reflection_is_the_last_thing_said() -> None:
    said = read_reflection("<think>It is red.</think> Make it blue.")
    value = shown(stored(Trajectory(asked("reflect"), rounds=(Round(0, FIRST, reflections=(said,)),)), own=[FIRST]))
    assert value["result"]["reflection"] == asdict(said)


def test_a_job_of_before_there_were_kinds_is_a_generation() -> None:
    job = stored(Trajectory(Request("a cat", 64, 64, 7), rounds=(Round(0, FIRST),)), own=[FIRST])
    del job.request["request"]["kind"]
    assert not {"kind", "result"} & set(job_json(job))


def test_given_pictures_are_read_as_they_were_stored() -> None:
    for count in range(4):
        pictures = {f"img_{number}": {"number": number} for number in range(count)}
        assert given_pictures(stored_as(pictures)) == pictures
        assert list(given_pictures(stored_as(pictures))) == list(pictures)
    assert given_pictures({"start_image": "img_1"}) == {"img_1": None}
