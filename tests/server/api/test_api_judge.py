"""Judged jobs through the public door: what is scored, chosen and kept, and that all of it can be fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from PIL import Image as PILImage

from server.embedded import EmbeddedServer
from server.event_views import EVENTS
from server.views import JobView
from tests.server.api.events import Sse, check_whole, events_of, names
from tests.server.api.test_api_generate import problem
from tests.server.api.unjudged import FEW, PIXEL, serving

LIFT: dict[str, Any] = {"judge": {"scorers": ["lift"]}, **FEW}
FAN: dict[str, Any] = {**LIFT, "candidates": {"first": 3, "refine": 2}}


@pytest.fixture(scope="module")
def client(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API with a worker that draws in no time."""
    with redis.Redis.from_url(valkey.url, protocol=2) as database:
        database.flushall()
    with serving(valkey.url, tmp_path_factory.mktemp("judged")) as client:
        yield client


def made(client: httpx.Client, prompt: str = "a cat edits=9", **body: Any) -> dict[str, Any]:
    """A finished job, as the contract has it."""
    answer = client.post("/generate", json={"prompt": prompt, "seed": 7, **body})
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    JobView.model_validate(job)
    return job


def told(client: httpx.Client, job: dict[str, Any]) -> list[Sse]:
    """All that was logged of a job."""
    events = events_of(client.get(job["links"]["events"]))
    check_whole(events)
    return events


def only(job: dict[str, Any]) -> dict[str, Any]:
    """The one trajectory."""
    [trajectory] = job["trajectories"]
    assert isinstance(trajectory, dict)
    return trajectory


def values(rounds: list[dict[str, Any]]) -> list[float | None]:
    """What the first scorer gave each round."""
    return [round_["scores"][0]["value"] for round_ in rounds]


def pixels(client: httpx.Client, image: dict[str, Any]) -> bytes:
    """Those of a picture, without what its file says beside them."""
    return PILImage.open(io.BytesIO(client.get(image["url"]).content)).tobytes()


def test_a_round_shows_its_scores_word_by_word(client: httpx.Client) -> None:
    job = made(client, "a red cat scores=37 edits=1", judge={"scorers": ["vqa", "lift"]}, **FEW)
    rounds = only(job)["rounds"]
    assert [[score["scorer"] for score in round_["scores"]] for round_ in rounds] == [["vqa", "lift"]] * 2
    assert values(rounds) == [3.0, 7.0]
    vqa, lift = rounds[0]["scores"]
    assert (vqa["lift"], vqa["words"]) == (None, [])
    assert lift["lift"] == 3.0
    assert [word["text"] for word in lift["words"]] == job["prompt"].split()
    assert [(r["candidates"], r["chosen"], r["from_round"]) for r in rounds] == [([], 0, None), ([], 0, 0)]
    scored = [event.data for event in told(client, job) if event.name == "score"]
    assert [(said["round"], said["candidate"], said["scorer"]) for said in scored] == [
        (0, 0, "vqa"),
        (0, 0, "lift"),
        (1, 0, "vqa"),
        (1, 0, "lift"),
    ]
    assert {name: scored[1][name] for name in ("scorer", "value", "lift", "words")} == lift
    pictured = [event.data for event in told(client, job) if event.name in ("image", "reflect.done")]
    assert not any("candidate" in data for data in pictured), "of one picture nobody need say which"
    assert "chosen" not in names(told(client, job))


def test_candidates_are_drawn_scored_and_kept_and_the_best_goes_on(client: httpx.Client) -> None:
    job = made(client, "a cat best=1 edits=1 scores=34", **FAN)
    first, second = only(job)["rounds"]
    assert (first["chosen"], second["chosen"]) == (1, 1)
    assert (first["from_round"], second["from_round"]) == (None, 0)
    assert [one["scores"][0]["value"] for one in first["candidates"]] == [3.0, 3.5, 3.0]
    for round_, count in ((first, 3), (second, 2)):
        assert len(round_["candidates"]) == count
        assert len({one["image"]["sha256"] for one in round_["candidates"]}) == count
        best = round_["candidates"][1]
        assert (round_["image"], round_["scores"]) == (best["image"], best["scores"])
        assert [one["reflection"] for one in round_["candidates"]] == [
            None,
            round_["reflection"],
            *[None] * (count - 2),
        ]
        assert {one["instruction"] for one in round_["candidates"]} == {round_["instruction"]}
    assert only(job)["image"] == second["image"]
    spent = job["usage"]
    assert (spent["images"], spent["discarded_images"]) == (5, 3)
    assert 0 < spent["discarded_forwards"] < spent["forwards"]


def test_events_name_the_candidate_and_then_the_choice(client: httpx.Client) -> None:
    job = made(client, "a cat best=2 edits=1 scores=34", **FAN)
    events = [event for event in told(client, job) if not event.name.endswith("delta")]
    assert names(events) == [
        *("job.queued", "job.started", "reason.done"),
        *(["image"] * 3 + ["score"] * 3 + ["chosen", "reflect.done"]),
        *(["image"] * 2 + ["score"] * 2 + ["chosen", "reflect.done"]),
        *("trajectory.done", "job.succeeded"),
    ]
    assert [(e.data["round"], e.data["candidate"]) for e in events if e.name == "image"] == [
        *((0, candidate) for candidate in range(3)),
        *((1, candidate) for candidate in range(2)),
    ]
    chosen = [event.data for event in events if event.name == "chosen"]
    assert [(data["round"], data["candidate"], data["score"]) for data in chosen] == [(0, 2, 3.5), (1, 0, 4.0)]
    assert [e.data["candidate"] for e in events if e.name == "reflect.done"] == [2, 0]
    assert events[-1].data["job"] == client.get(job["links"]["self"]).json()
    assert {"score", "chosen"} <= set(EVENTS)


def test_every_candidate_can_be_fetched_and_says_which_it_is(client: httpx.Client) -> None:
    job = made(client, **FAN, max_rounds=1, n=2)
    for trajectory in job["trajectories"]:
        for round_ in trajectory["rounds"]:
            for number, one in enumerate(round_["candidates"]):
                content = client.get(one["image"]["url"]).content
                assert hashlib.sha256(content).hexdigest() == one["image"]["sha256"]
                texts = PILImage.open(io.BytesIO(content)).info
                assert (texts["round"], texts["candidate"]) == (str(round_["index"]), str(number))
    plain = made(client, **LIFT, max_rounds=0)
    assert "candidate" not in PILImage.open(io.BytesIO(client.get(only(plain)["image"]["url"]).content)).info


def test_bytes_are_there_for_every_candidate_where_they_were_asked_for(client: httpx.Client) -> None:
    job = made(client, **FAN, max_rounds=1, response_format="b64_json", output_format="webp")
    shown = [only(job)["image"], *(one["image"] for r in only(job)["rounds"] for one in r["candidates"])]
    shown += [event.data["image"] for event in told(client, job) if event.name == "image"]
    assert len(shown) == 1 + 5 + 5
    for image in shown:
        assert hashlib.sha256(base64.b64decode(image["b64_json"])).hexdigest() == image["sha256"]


def test_another_candidate_can_be_gone_on_from(client: httpx.Client) -> None:
    job = made(client, "a cat best=0 edits=9", **FAN, max_rounds=1)
    other = only(job)["rounds"][1]["candidates"][1]["image"]
    onward = made(client, image=other["id"], max_rounds=1, candidates={"first": 3, "refine": 2}, **LIFT)
    assert onward["parent"] == {"job": job["id"], "trajectory": 0, "round": 1}
    given, edited = only(onward)["rounds"]
    assert given["candidates"] == [], "a given picture stands alone"
    assert pixels(client, given["image"]) == pixels(client, other)
    assert len(edited["candidates"]) == 2
    assert onward["usage"]["images"] == 2
    assert client.delete(job["links"]["self"]).status_code == 204
    assert client.get(other["url"]).status_code == 404
    assert client.get(given["image"]["url"]).status_code == 200


def test_after_a_fall_the_loop_goes_back_to_the_best_picture(client: httpx.Client) -> None:
    asked = {**LIFT, "max_rounds": 3, "on_regression": "backtrack", "choose": "best"}
    job = made(client, "a cat scores=5264 edits=9", **asked)
    rounds = only(job)["rounds"]
    assert values(rounds) == [5.0, 2.0, 6.0, 4.0]
    assert [round_["from_round"] for round_ in rounds] == [None, 0, 0, 2]
    assert rounds[2]["instruction"] == rounds[1]["instruction"], "by what was already said of that picture"
    assert rounds[2]["image"]["sha256"] != rounds[1]["image"]["sha256"], "and with noise of its own"
    assert (only(job)["stop_reason"], only(job)["image"]) == ("max_rounds", rounds[2]["image"])
    done = next(event for event in told(client, job) if event.name == "trajectory.done")
    assert done.data["image"] == rounds[2]["image"]
    kept = made(client, "a cat scores=5264 edits=9", **{**asked, "on_regression": "keep", "choose": "last"})
    assert [round_["from_round"] for round_ in only(kept)["rounds"]] == [None, 0, 1, 2]
    assert only(kept)["image"] == only(kept)["rounds"][-1]["image"]


@pytest.mark.parametrize(
    ("rules", "prompt", "rounds", "reason"),
    [
        ({"score": {"scorer": "lift", "at_least": 4}}, "a cat scores=1348 edits=9", 3, "score"),
        ({"score": {"scorer": "lift"}}, "a cat scores=1332 edits=9", 3, "score"),
        ({"score": {"scorer": "lift", "patience": 2}}, "a cat scores=13329 edits=9", 4, "score"),
        ({"score": {"scorer": "lift", "min_gain": 3}}, "a cat scores=1358 edits=9", 2, "score"),
        ({"score": {"scorer": "lift", "at_least": 4}}, "a cat scores=1348 edits=1", 2, "satisfied"),
        ({"score": {"scorer": "lift", "at_least": 4}, "all": True}, "a cat scores=1348 edits=1", 3, "satisfied"),
        ({"score": {"scorer": "lift", "at_least": 4}, "all": True}, "a cat scores=4448 edits=2", 3, "satisfied"),
    ],
)
def test_scores_end_the_loop_by_their_rule(
    client: httpx.Client, rules: dict[str, Any], prompt: str, rounds: int, reason: str
) -> None:
    job = made(client, prompt, **LIFT, max_rounds=4, early_stop=rules)
    assert (len(only(job)["rounds"]), only(job)["stop_reason"]) == (rounds, reason)


def test_a_budget_is_spent_and_no_more(client: httpx.Client) -> None:
    job = made(client, **FAN, n=2, max_images=9, max_rounds=4)
    assert [t["stop_reason"] for t in job["trajectories"]] == ["budget", "budget"]
    drawn = [[len(r["candidates"]) or 1 for r in t["rounds"]] for t in job["trajectories"]]
    assert drawn == [[3, 2], [3, 1]]
    assert job["usage"]["images"] == 9
    plain = made(client, max_images=2, max_rounds=4, **FEW)
    assert (len(only(plain)["rounds"]), only(plain)["stop_reason"]) == (2, "budget")
    assert "images" not in plain["usage"], "only a judged job tells what it threw away"
    assert "scores" not in only(plain)["rounds"][0]


def test_a_verdict_is_asked_of_every_candidate_the_last_round_included(client: httpx.Client) -> None:
    job = made(client, "a cat edits=9 scores=3", **{**FAN, "judge": {"scorers": ["verdict"]}}, max_rounds=1)
    for round_ in only(job)["rounds"]:
        assert all(one["reflection"] is not None and len(one["scores"]) == 1 for one in round_["candidates"])
    unread = made(client, "a cat malformed=0 scores=3", judge={"scorers": ["verdict"]}, max_rounds=1, **FEW)
    assert values(only(unread)["rounds"])[0] is None


def test_the_same_key_gives_the_same_judged_job(client: httpx.Client) -> None:
    body = {"prompt": "a cat", **FAN, "max_rounds": 0}
    answers = [client.post("/generate", json=body, headers={"Idempotency-Key": "fan"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    other = {**body, "candidates": {"first": 2}}
    problem(client.post("/generate", json=other, headers={"Idempotency-Key": "fan"}), 422, "idempotency_mismatch")


def test_a_scoring_that_fails_fails_its_job_and_no_other(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "a cat raise=judge", **FAN})
    failed = client.get(f"/jobs/{problem(answer, 500, 'step_failed')['job_id']}").json()
    assert len(only(failed)["rounds"][0]["candidates"]) == 3, "what was finished stays"
    assert made(client, **LIFT, max_rounds=0)["status"] == "succeeded"


def test_refusals_point_into_the_body(client: httpx.Client) -> None:
    body = {"prompt": "a cat", "choose": "best", "early_stop": {"score": {"scorer": "lift"}}}
    refused = problem(client.post("/generate", json=body), 422, "invalid_request")
    assert {fault["pointer"] for fault in refused["errors"]} == {"/choose", "/early_stop/score"}
    told_there = problem(
        client.post("/v1/images/generations", json={"prompt": "a", "r3": {"choose": "best"}}), 400, "invalid_request"
    )
    assert [fault["pointer"] for fault in told_there["errors"]] == ["/r3/choose"]


def test_openai_pictures_are_the_results(client: httpx.Client) -> None:
    settings = {**FAN, "seed": 7, "max_rounds": 2, "choose": "best"}
    body = {"prompt": "a cat scores=394 best=1 edits=9", "n": 2, "response_format": "url", "r3": settings}
    answer = client.post("/v1/images/generations", json=body).json()
    job = client.get(f"/jobs/{answer['r3']['job_id']}").json()
    results = [trajectory["rounds"][1]["image"]["url"] for trajectory in job["trajectories"]]
    assert [str(client.base_url).rstrip("/") + url for url in results] == [data["url"] for data in answer["data"]]


@pytest.mark.parametrize("most", [0, 1, 2, 3])
@pytest.mark.parametrize("scorers", [["lift"], ["verdict", "lift"]])
def test_openai_partial_images_are_the_rejected_ones_that_stood_and_never_too_many(
    client: httpx.Client, most: int, scorers: list[str]
) -> None:
    settings = {**FAN, "judge": {"scorers": scorers}, "seed": 7, "max_rounds": 2, "choose": "best"}
    body = {"prompt": "a cat scores=394 best=1 edits=9", "stream": True, "partial_images": most, "r3": settings}
    answer = client.post("/v1/images/generations", json=body)
    events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    sent = [json.loads(line[6:]) for line in events]
    job = client.get(f"/jobs/{sent[-1]['r3']['job_id']}").json()
    rounds = only(job)["rounds"]
    stood = [round_["image"]["sha256"] for round_ in rounds]
    partial = [hashlib.sha256(base64.b64decode(one["b64_json"])).hexdigest() for one in sent[:-1]]
    assert [one for one in partial if one in stood] == stood[: min(most, 2)], "the others are previews"
    assert len(partial) <= most
    assert hashlib.sha256(base64.b64decode(sent[-1]["b64_json"])).hexdigest() == stood[1]
    assert (sent[-1]["type"], sent[-1]["r3"]["round"]) == ("image_generation.completed", 1)


def test_an_openai_edit_takes_candidates_as_form_fields(client: httpx.Client) -> None:
    form = {"prompt": "Make it red. edits=9", "response_format": "url", "r3[judge][scorers][]": "lift"}
    form |= {"r3[candidates][refine]": "3", "r3[refine][num_timesteps]": "5"}
    answer = client.post(
        "/v1/images/edits", data=form, files={"image": ("a.png", base64.b64decode(PIXEL), "image/png")}
    )
    assert answer.status_code == 200, answer.text
    job = client.get(f"/jobs/{answer.json()['r3']['job_id']}").json()
    assert [len(round_["candidates"]) for round_ in only(job)["rounds"]] == [0, 3]
