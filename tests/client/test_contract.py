"""What the client knows of the server is what the server says of itself: one that drifts fails here."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from r3client import errors, models, settings, task_settings
from r3client import events as ev
from r3core.judge import SCORERS
from r3core.types import StopReason
from server import schemas, task_schemas, views
from server.errors import CODES
from server.event_views import EVENTS
from tests.client.test_parts import IMAGE, JOB

SHAPES: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (models.Image, views.ImageView),
    (models.Reflection, views.ReflectionView),
    (models.WordLift, views.WordView),
    (models.Score, views.ScoreView),
    (models.Candidate, views.CandidateView),
    (models.Round, views.RoundView),
    (models.Trajectory, views.TrajectoryView),
    (models.ScoredImage, views.ScoredImage),
    (models.ScoreResult, views.ScoreResult),
    (models.ReflectResult, views.ReflectResult),
    (models.DescribeResult, views.DescribeResult),
    (models.RoundtripResult, views.RoundtripResult),
    (models.JobError, views.JobError),
    (models.Usage, views.Usage),
    (models.Parent, views.Parent),
    (models.Links, views.Links),
    (models.Job, views.JobView),
    (models.JobPage, views.JobList),
    (models.Share, views.ShareView),
]
DECIDED_BY_THE_CLIENT = {"prompt", "stream", "cancel_on_disconnect"}


@pytest.mark.parametrize(("ours", "theirs"), SHAPES, ids=[ours.__name__ for ours, _ in SHAPES])
def test_shapes_have_the_servers_fields(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert set(ours.model_fields) - {"content"} == set(theirs.model_fields) - {"b64_json"}


def test_words_that_stand_for_themselves_are_the_servers() -> None:
    assert get_args(models.StopReason) == get_args(StopReason)
    assert get_args(models.Scorer) == SCORERS
    assert get_args(models.JobStatus) == get_args(schemas.JobStatus)


def test_every_event_has_a_type_with_its_fields() -> None:
    assert set(ev.EVENTS) == set(EVENTS)
    for name, theirs in EVENTS.items():
        assert set(ev.EVENTS[name].model_fields) - {"id"} == set(theirs.model_fields), name
    told = {kind for kind in get_args(ev.Event) if kind not in (ev.Waiting, ev.Other)}
    assert told | {ev.StreamClosing} == set(ev.EVENTS.values())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (settings.Generation, schemas.GenerationCreate),
        (settings.TextSampling, schemas.TextSamplingCreate),
        (settings.ImageSampling, schemas.RefineSamplingCreate),
        (settings.ScoreStop, schemas.ScoreStopCreate),
        (settings.EarlyStop, schemas.EarlyStopCreate),
        (settings.Judge, schemas.JudgeCreate),
        (settings.Candidates, schemas.CandidatesCreate),
        (settings.Webhook, schemas.WebhookCreate),
    ],
)
def test_whatever_can_be_asked_for_has_a_keyword(ours: Any, theirs: type[BaseModel]) -> None:
    assert set(ours.__annotations__) == set(theirs.model_fields) - DECIDED_BY_THE_CLIENT


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (task_settings.Scoring, task_schemas.ScoreCreate),
        (task_settings.Reflecting, task_schemas.ReflectCreate),
        (task_settings.Describing, task_schemas.DescribeCreate),
        (task_settings.RoundTrip, task_schemas.RoundtripCreate),
    ],
)
def test_what_the_jobs_beside_can_be_asked_for_has_a_keyword(ours: Any, theirs: type[BaseModel]) -> None:
    arguments = DECIDED_BY_THE_CLIENT | {"image", "images"}
    assert set(ours.__annotations__) == set(theirs.model_fields) - arguments


@pytest.mark.parametrize(("code", "status"), [(code, status) for code, (status, _) in CODES.items()])
def test_every_code_is_an_exception_of_its_kind(code: str, status: int) -> None:
    kind = {401: errors.Unauthorized, 403: errors.Forbidden, 404: errors.NotFound, 409: errors.Conflict}.get(status)
    if kind is None and status in (429, 503, 504):
        kind = errors.Busy
    if kind is None:
        kind = errors.InvalidRequest if status < 500 else errors.ServerFault
    refused = errors.refusal(status, {"code": code, "detail": "why", "errors": [{"pointer": "/a", "detail": "b"}]}, 3.0)
    assert isinstance(refused, kind)
    assert (refused.code, refused.status, refused.detail, refused.retry_after_s) == (code, status, "why", 3.0)
    assert refused.errors == (errors.Fault("/a", "b"),)


def test_codes_that_have_an_exception_of_their_own_are_the_servers() -> None:
    named = set(errors._OF_CODE) | set(errors._OF_FAILURE)
    assert named <= set(CODES)


def test_a_code_of_a_newer_server_is_known_by_its_status() -> None:
    assert type(errors.refusal(409, {"code": "made_up"})) is errors.Conflict
    assert type(errors.refusal(418, {})) is errors.InvalidRequest
    assert type(errors.failure("job_1", {"code": "made_up", "message": "why"})) is errors.GenerationFailed


def test_what_a_newer_server_adds_is_kept() -> None:
    at = "2026-01-01T00:00:00.000Z"
    event = ev.read_event("image.depth", {"job_id": "job_1", "trajectory": 0, "at": at, "metres": 3}, 4)
    assert isinstance(event, ev.Other)
    assert (event.event, event.id, event.model_extra) == ("image.depth", 4, {"metres": 3})
    error = models.JobError.model_validate({"code": "a", "message": "b", "hint": "c"})
    assert error.model_extra == {"hint": "c"}


def test_words_of_a_newer_server_make_no_page_of_jobs_unreadable() -> None:
    """A kind, a result, a stop reason, a verdict, a scorer and a format that nobody here has heard of."""
    image = {**IMAGE, "format": "avif"}
    said = {"text": "a", "thought": "b", "verdict": "unsure", "instruction": None}
    scores = [{"scorer": "taste", "value": 0.5}]
    drawn = {"index": 0, "image": image, "instruction": None, "reflection": said, "reflections": [said]}
    told = {"index": 0, "seed": 1, "reasoning": None, "rounds": [{**drawn, "scores": scores}], "image": image}
    new = {**JOB, "kind": "animate", "result": {"frames": 3}, "trajectories": [{**told, "stop_reason": "bored"}]}
    known = {**JOB, "kind": "describe", "result": {"text": "a cat"}, "trajectories": []}
    alike = {**known, "kind": "narrate"}
    page = models.JobPage.model_validate({"jobs": [new, known, alike], "next_cursor": None})
    first, second, third = page.jobs
    assert isinstance(third.result, models.OtherResult)
    assert isinstance(first.result, models.OtherResult)
    assert (first.kind, first.result.model_extra) == ("animate", {"frames": 3})
    assert (first.trajectories[0].stop_reason, first.trajectories[0].rounds[0].score("taste")) == ("bored", 0.5)
    assert second.result == models.DescribeResult(text="a cat")
