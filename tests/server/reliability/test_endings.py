"""Cancel and stop, of jobs that wait, run or are over (S6): soon, the place is free, and twice does no harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.recorded import Record
from tests.server.api.by_hand import Hand, HandWorker
from tests.server.api.events import check_whole, events_of, names, parsed
from tests.server.api.test_api_generate import problem
from tests.server.processes import ApiProcess, StartWorker
from tests.server.promises import held_to
from tests.server.waiting import until

pytestmark = pytest.mark.row("S6")

STEP_S: Final = 0.1
SOON_S: Final = 0.5
ENDLESS: Final = {
    "size": "256x256",
    "max_rounds": 8,
    "generate": {"num_timesteps": 5},
    "refine": {"num_timesteps": 200},
    "prompt": "a cat edits=8",
}


@pytest.fixture
def narrow(api: ApiProcess, start_worker: StartWorker) -> ApiProcess:
    """A service with room for one trajectory, whose steps take a tenth of a second."""
    start_worker(fake_step_s=STEP_S, max_trajectories=1, lease_s=15)
    until(lambda: api.status("/readyz?workers=1") == 200, 60)
    return api


def submitted(api: ApiProcess, **fields: Any) -> dict[str, Any]:
    answer = api.client.post("/generate", json={**ENDLESS, **fields}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def status(api: ApiProcess, job: dict[str, Any]) -> str:
    return str(api.client.get(job["links"]["self"]).json()["status"])


@pytest.mark.parametrize(("act", "last"), [("cancel", "job.cancelled"), ("stop", "job.succeeded")])
def test_a_running_job_ends_within_a_step_and_the_next_one_has_its_place(
    narrow: ApiProcess, record: Record, act: str, last: str
) -> None:
    job = submitted(narrow)
    with narrow.client.stream("GET", job["links"]["events"]) as answer:
        events = parsed(answer.iter_lines())
        seen = [next(events)]
        while seen[-1].name != "image.progress" or seen[-1].data["round"] < 1:
            seen.append(next(events))
        following = submitted(narrow)
        assert status(narrow, following) == "queued"
        began = time.monotonic()
        assert narrow.client.post(job["links"][act]).status_code == 202
        seen += list(events)
        took_s = time.monotonic() - began
    check_whole(seen)
    assert seen[-1].name == last
    until(lambda: status(narrow, following) == "running")
    free_after_s = time.monotonic() - began
    assert narrow.client.post(job["links"][act]).status_code == 202
    ended = narrow.client.get(job["links"]["self"]).json()
    assert [made["index"] for made in ended["trajectories"][0]["rounds"]][:1] == [0], "what is finished stays"
    assert narrow.client.post(following["links"]["cancel"]).status_code == 202
    limit_s = max(STEP_S, SOON_S)
    figure = f"{act}, running: over after {took_s * 1000:.0f} ms, the next job ran after {free_after_s * 1000:.0f} ms"
    record("S6", figure, kept=took_s <= limit_s)
    held_to(took_s, limit_s)


def test_a_waiting_job_that_is_cancelled_leaves_its_place_at_once(
    api: ApiProcess, by_hand: HandWorker, record: Record
) -> None:
    first, second, third = (submitted(api) for _ in range(3))
    for _ in range(2):
        assert api.client.post(second["links"]["cancel"]).status_code == 202
    assert status(api, second) == "cancelled"
    assert api.client.get(third["links"]["self"]).json()["queue_position"] == 2
    problem(api.client.post(third["links"]["stop"]), 409, "no_image_yet")
    assert [by_hand.takes().lease.id for _ in range(2)] == [first["id"], third["id"]]
    assert names(events_of(api.client.get(second["links"]["events"]))) == ["job.queued", "job.cancelled"]
    record("S6", "cancel, waiting: at once, by the call itself; the job behind it moves up")


@pytest.mark.parametrize(("act", "last"), [("cancel", "job.cancelled"), ("stop", "job.succeeded")])
def test_a_job_that_waits_again_with_a_picture_ends_at_once(
    api: ApiProcess, by_hand: HandWorker, act: str, last: str
) -> None:
    """As after its worker left."""
    job = submitted(api)
    hand = by_hand.takes()
    image = hand.draws()
    assert by_hand.queue.release(hand.lease.id, hand.lease.token) == "ok"
    for _ in range(2):
        assert api.client.post(job["links"][act]).status_code == 202
    events = events_of(api.client.get(job["links"]["events"]))
    check_whole(events)
    assert events[-1].name == last
    [kept] = api.client.get(job["links"]["self"]).json()["trajectories"][0]["rounds"]
    assert kept["image"]["id"] == image
    assert by_hand.queue.lease("tiny", 1, 0) == []


def test_a_finished_job_stays_as_it_is(api: ApiProcess, by_hand: HandWorker, record: Record) -> None:
    outcomes: dict[str, Callable[[Hand], None]] = {
        "succeeded": Hand.whole_run,
        "failed": lambda hand: hand.fails("step_failed"),
        "cancelled": Hand.is_cancelled,
    }
    for outcome, act in outcomes.items():
        job = submitted(api)
        act(by_hand.takes())
        before = api.client.get(job["links"]["self"]).json()
        assert before["status"] == outcome
        for _ in range(2):
            if outcome == "cancelled":
                assert api.client.post(job["links"]["cancel"]).status_code == 202
            else:
                problem(api.client.post(job["links"]["cancel"]), 409, "already_finished")
            problem(api.client.post(job["links"]["stop"]), 409, "already_finished")
        assert api.client.get(job["links"]["self"]).json() == before
    record("S6", "finished: told so, twice, and the job stays as it is")
    record.not_run("S6", "a GPU whose host runs ahead, where two steps are promised")
