"""The worker's parts by themselves: pace, encodings, how a job's ends are ranked, and the health port."""

from __future__ import annotations

import io
import json
import signal
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PILImage

from r3core.judge import Counts
from r3core.types import Image, ImageSampling, Request, Round, Trajectory, Usage
from server import encoding
from server.cost import job_cost
from server.held import DEADLINE_ERROR, HeldJob, Leases, Ready, Turn
from server.inbox import Inbox, Order
from server.pace import Pace
from server.queue_records import Ending, Lease, StoredJob
from server.worker_health import HealthPort, Vitals
from tests.server.waiting import until

ASKED = Request("a cat", 64, 48, seed=1, n=2)
STORED = StoredJob.from_hash(
    "job_1",
    {
        "tenant": "local",
        "model": "m",
        "priority": "normal",
        "cost": "1",
        "status": "running",
        "n": "2",
        "request": "{}",
        "params": "{}",
        "metadata": "{}",
        "created": "1",
    },
)
LEASE = Lease("job_1", token=1, attempt=1, alone=False, checkpoint=0, job=STORED)


class Clock:
    """A clock that a test turns."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def held(*trajectories: Trajectory) -> HeldJob:
    left = trajectories or (Trajectory(ASKED, 0), Trajectory(ASKED, 1))
    return HeldJob.begun(Ready(LEASE, ASKED, tuple((one, ()) for one in left)), now_s=0.0)


def test_pieces_of_a_text_are_joined_to_five_a_second() -> None:
    clock = Clock()
    pace = Pace(clock)
    said = []
    for _ in range(100):  # one piece every 10 ms
        said.append(pace.text("k", "x"))
        clock.now_s += 0.01
    said.append(pace.rest("k"))
    assert "".join(said) == "x" * 100
    assert sum(map(bool, said)) <= 6
    assert said[0] == "x"  # the first is not kept waiting


def test_progress_is_told_ten_times_a_second_for_each_trajectory() -> None:
    clock = Clock()
    pace = Pace(clock)
    told = {"a": 0, "b": 0}
    for _ in range(100):
        for key in told:
            told[key] += pace.may_tell_progress(key)
        clock.now_s += 0.01
    assert told == {"a": pytest.approx(10, abs=1), "b": pytest.approx(10, abs=1)}


def test_what_is_unsaid_of_an_ended_trajectory_is_forgotten() -> None:
    pace = Pace(Clock())
    pace.text("k", "a")
    pace.text("k", "b")
    pace.forget("k")
    assert pace.rest("k") == ""


def test_a_png_gives_its_pixels_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert np.array_equal(encoding.pixels_of(encoding.png(pixels, encoding.PictureTexts("\ud800", 1, 0))), pixels)


@pytest.mark.parametrize(("size", "expected"), [((512, 256), (256, 128)), ((64, 48), (64, 48)), ((1, 1000), (1, 256))])
def test_a_preview_is_at_most_256_pixels_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    content, width, height = encoding.preview(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    with PILImage.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.size) == ("WEBP", expected) == ("WEBP", (width, height))


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'gif'"):
        encoding.lossy(np.zeros((8, 8, 3), dtype=np.uint8), "gif", None)


def test_quality_makes_a_difference() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("webp", "jpeg"):
        assert len(encoding.lossy(pixels, name, 0)) < len(encoding.lossy(pixels, name, 100))


@pytest.mark.parametrize(
    ("turns", "ending"),
    [
        ([], Ending("succeeded")),
        (["stopped"], Ending("succeeded")),
        (["given_back"], Ending("succeeded")),
        (["stopped", "cancelled"], Ending("cancelled")),
        (["cancelled", "stopped", "deadline"], Ending("cancelled")),
        (["failed", "cancelled"], Ending("cancelled")),
        (["stopped", "failed"], Ending("failed")),
        (["deadline"], Ending("failed", DEADLINE_ERROR)),
    ],
)
def test_a_job_ends_for_the_strongest_reason(turns: list[Turn], ending: Ending) -> None:
    job = held()
    for turn in turns:
        job.turn_to(turn)
    assert job.ending() == ending


def test_a_job_with_a_trajectory_put_aside_is_given_back_unless_it_failed() -> None:
    job = held()
    job.is_unfinished = True
    assert job.ending() is None
    job.turn_to("failed", {"code": "x"})
    assert job.ending() == Ending("failed", {"code": "x"})


def test_a_deadline_keeps_a_job_in_which_any_trajectory_has_a_picture() -> None:
    drawn = Trajectory(ASKED, 1, rounds=(Round(0, Image("img_1", 64, 48)),))
    job = held(Trajectory(ASKED, 0), drawn)
    job.turn_to("deadline")
    assert job.ending() == Ending("succeeded")


def test_usage_is_told_once() -> None:
    job = held()
    job.compute_s = 0.5
    spent = replace(Trajectory(ASKED, 0), usage=Usage(text_tokens=3, denoise_steps=49, forwards=90))
    first, second = job.spent_on(spent), job.spent_on(spent)
    assert (first["text_tokens"], first["denoise_steps"], first["forwards"], first["compute_s"]) == (3, 49, 90, 0.5)
    assert first["cost"] == pytest.approx(64 * 48 / 512**2)
    assert set(second.values()) == {0}


def test_the_cost_of_a_job_counts_pictures_of_512_pixels_and_49_steps() -> None:
    asked = Request("a cat", 512, 512, seed=1, max_rounds=3)
    assert job_cost(asked) == pytest.approx(4.0)
    assert job_cost(replace(asked, n=2, width=256)) == pytest.approx(4.0)
    assert job_cost(replace(asked, given_image=True)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("first", "refine", "most", "pictures"),
    [(4, 1, None, 4 + 3), (4, 2, None, 4 + 6), (4, 2, 6, 6), (4, 2, 1, 1), (1, 1, 100, 4)],
)
def test_a_jobs_cost_is_that_of_all_its_candidates_within_its_budget(
    first: int, refine: int, most: int | None, pictures: int
) -> None:
    steps = ImageSampling(num_timesteps=50)
    asked = replace(ASKED, n=1, width=512, height=512, max_rounds=3, generate=steps, refine=steps)
    assert job_cost(replace(asked, candidates=Counts(first, refine), max_images=most)) == pytest.approx(pictures)
    given = replace(asked, candidates=Counts(first, refine), max_images=most, given_image=True)
    edits = 3 * refine
    assert job_cost(given) == pytest.approx(edits if most is None else min(edits, most))


@pytest.mark.timeout(30)
def test_signals_at_any_moment_never_block_the_thread_that_reads_the_inbox() -> None:
    """Hundreds of them, for the moments that matter are short: that thread may hold a lock of the inbox just then."""
    inbox = Inbox()
    before = signal.signal(signal.SIGVTALRM, lambda _number, _frame: inbox.leave())
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001, 0.0001)
    try:
        while inbox.asked_to_leave < 200:
            inbox.wait(0.0)
            assert not list(inbox.read())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_an_inbox_gives_all_that_was_said_in_order() -> None:
    inbox, said = Inbox(), [Order("cancel", f"job_{number}") for number in range(3)]
    inbox.wait(0.0)
    inbox.put(said[0])
    inbox.wait(10)
    inbox.put(said[1])
    inbox.leave()
    inbox.put(said[2])
    assert list(inbox.read()) == said
    assert list(inbox.read()) == []


def test_what_is_ordered_of_a_job_on_its_way_is_told_once_and_forgotten_with_its_lease() -> None:
    leases = Leases()
    leases.order("job_1", "cancelled")
    assert leases.ordered("job_1") is None  # not ours
    leases.add(LEASE)
    leases.order("job_1", "stopped")
    assert (leases.ordered("job_1"), leases.ordered("job_1")) == ("stopped", None)
    leases.order("job_1", "cancelled")
    leases.drop(LEASE)
    leases.add(LEASE)
    assert leases.ordered("job_1") is None


def test_a_lease_that_was_taken_anew_is_another() -> None:
    leases, again = Leases(), replace(LEASE, token=2)
    leases.add(LEASE)
    leases.add(again)
    assert (leases.holds(LEASE), leases.holds(again), len(leases)) == (False, True, 1)
    leases.drop(LEASE)
    assert leases.all() == [again]
    leases.drop(again)
    assert not leases.all()


@pytest.fixture
def vitals() -> Vitals:
    return Vitals()


@pytest.fixture
def port(vitals: Vitals) -> Iterator[int]:
    with HealthPort("127.0.0.1", 0, vitals) as health:
        yield health.port


def probe(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_probe_that_does_not_wait_for_its_answer_is_no_news(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    has_gone = threading.Event()
    monkeypatch.setattr(vitals, "startupz", lambda: (has_gone.wait(10), {}))
    with HealthPort("127.0.0.1", 0, vitals) as health:
        with socket.create_connection(("127.0.0.1", health.port)) as asking:
            asking.sendall(b"GET /startupz HTTP/1.0\r\n\r\n")
            until(lambda: bool(_answering()))
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
        has_gone.set()
        until(lambda: not _answering())
    assert capfd.readouterr().err == ""


def _answering() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "process_request" in thread.name]


def test_a_loading_worker_lives_but_is_neither_started_nor_ready(vitals: Vitals, port: int) -> None:
    vitals.load_progress(3, 10)
    assert probe(port, "/livez")[0] == 200
    assert probe(port, "/readyz") == (503, {"status": "unavailable", "reason": "the model is loading"})
    assert probe(port, "/startupz") == (503, {"status": "unavailable", "loaded_bytes": 3, "total_bytes": 10})


def test_a_loaded_worker_is_ready_while_redis_answers_and_it_is_not_leaving(vitals: Vitals, port: int) -> None:
    vitals.is_loaded = True
    assert probe(port, "/startupz")[0] == 200
    assert probe(port, "/readyz") == (503, {"status": "unavailable", "reason": "Redis does not answer"})
    vitals.redis_answered(True)
    assert probe(port, "/readyz") == (200, {"status": "ok"})
    vitals.is_draining = True
    assert probe(port, "/readyz")[1]["reason"] == "the worker is draining"


def test_a_worker_whose_loop_has_hung_is_not_alive(vitals: Vitals, port: int) -> None:
    vitals.is_loaded = True
    vitals.beat_at_s -= 61
    assert probe(port, "/livez")[0] == 503
    vitals.beat()
    assert probe(port, "/livez")[0] == 200


def test_what_the_port_does_not_do_is_said_in_json(port: int) -> None:
    assert probe(port, "/jobs") == (404, {"status": "not found"})
    for method in ("POST", "PUT", "DELETE"):
        status, said = probe(port, "/livez", method)
        assert (status, said["status"]) == (405, "method not allowed")
    head = urllib.request.Request(f"http://127.0.0.1:{port}/livez", method="HEAD")
    with urllib.request.urlopen(head, timeout=5) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_metrics_are_in_prometheus_form(vitals: Vitals, port: int) -> None:
    vitals.metrics.stops.labels("satisfied").inc()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'r3_stops_total{reason="satisfied"} 1.0' in text
    assert probe(port, "/else")[0] == 404
