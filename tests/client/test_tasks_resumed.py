"""Workers that die in the midst of the jobs beside a generation: another goes on, and nothing is told twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r3client import Client, Job, events
from r3client.errors import DeadlineExceeded
from r3client.models import RoundtripResult, ScoreResult
from server.embedded import EmbeddedServer
from tests.client.service import Service, running_service
from tests.client.test_terminal_pictures import picture

SLOW: dict[str, Any] = {"fake_step_s": 0.03, "lease_s": 2.0}


@pytest.fixture
def own(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[Service]:
    """An API and a slow worker, whose leases run out soon after it is gone."""
    with running_service(f"{valkey.url}?db=1", tmp_path, worker=SLOW) as running:
        yield running


def killed_at(own: Service, client: Client, job: Job, kind: type[events.Event]) -> list[events.Event]:
    """All that is told of a job whose first worker is killed at the first event of that kind."""
    told: list[events.Event] = []
    with client.follow(job) as stream:
        for event in stream:
            told.append(event)
            if isinstance(event, kind) and len(own.workers) == 1:
                own.workers[0].kill()
                own.start_worker(**SLOW)
    numbers = [event.id for event in told if event.id is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event.attempt for event in told if isinstance(event, events.JobStarted)] == [1, 2]
    assert not any(isinstance(event, events.TrajectoryDone) for event in told)
    return told


def test_a_score_goes_on_with_all_pictures(own: Service) -> None:
    with Client(own.url) as client:
        images = [picture((256, 256 + 16 * number)) for number in range(3)]
        prompt = "a cat words=20"
        job = client.ask("score", prompt=prompt, images=images, scorers=["lift", "verdict"], seed=5)
        told = killed_at(own, client, job, events.ReflectDelta)
        assert isinstance(told[-1], events.JobSucceeded)
        result = told[-1].job.result
        assert isinstance(result, ScoreResult)
        assert [one.image.height for one in result.images if one.image] == [256, 272, 288]
        assert all(len(one.scores) == 2 for one in result.images)
        shown = [event.image.id for event in told if isinstance(event, events.ImageDone)]
        assert len(shown) == len(set(shown)) == 3
        again = client.score(prompt, images, scorers=["lift", "verdict"], seed=5)
        assert [one.scores for one in again.images] == [one.scores for one in result.images]


@pytest.mark.parametrize("kind", [events.DescribeDelta, events.ImageProgress])
def test_a_round_trip_goes_on_from_its_first_picture(own: Service, kind: type[events.Event]) -> None:
    with Client(own.url) as client:
        job = client.ask("roundtrip", image=picture((256, 256)), generate={"num_timesteps": 20})
        told = killed_at(own, client, job, kind)
        assert isinstance(told[-1], events.JobSucceeded)
        result = told[-1].job.result
        assert isinstance(result, RoundtripResult)
        assert result.similarities
        assert [event.round for event in told if isinstance(event, events.ImageDone)] == [0, 1]
        done = [event.text for event in told if isinstance(event, events.DescribeDone)]
        assert set(done) == {result.description}


def test_a_deadline_fails_a_job_that_has_not_come_to_its_end(own: Service) -> None:
    with Client(own.url) as client:
        with pytest.raises(DeadlineExceeded, match="its deadline passed before it was finished") as caught:
            client.roundtrip(picture((256, 256)), generate={"num_timesteps": 200}, deadline_s=2)
        job = client.job(caught.value.job_id or "")
        assert isinstance(job.result, RoundtripResult)
        assert job.result.source is not None
        assert job.result.reconstruction is None


def test_a_job_is_cancelled_and_another_stopped_with_what_it_has(own: Service) -> None:
    with Client(own.url) as client:
        long: Any = {"image": picture((256, 256)), "generate": {"num_timesteps": 200}}
        first, second = client.ask("roundtrip", **long), client.ask("roundtrip", **long)
        for job in (first, second):
            with client.follow(job) as stream:
                next(event for event in stream if isinstance(event, events.DescribeDone))
        client.cancel(first)
        client.stop(second)
        ended = [list(client.follow(job))[-1] for job in (first, second)]
        assert [event.name for event in ended] == ["job.cancelled", "job.succeeded"]
        stopped = client.job(second)
        assert stopped.trajectories[0].stop_reason == "stopped"
        assert isinstance(stopped.result, RoundtripResult)
        assert stopped.result.description
        assert stopped.result.reconstruction is None
