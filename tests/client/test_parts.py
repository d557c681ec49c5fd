"""The parts of the client that need no server: reading a stream, adding it up, and being patient."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3client import Job, Live, events, sse
from r3client.acts import Patience
from r3client.events import read_event
from r3client.sse import Decoder, Frame

STREAM = (
    "retry: 2000\r\nid: 1\r\nevent: job.queued\r\ndata: {}\r\n\r\n"
    ': hb\nid: 2\nevent: reason.delta\ndata: {"text":\ndata: "wörd\u2028"}\n\n: hb\n\n'
    "event:image\ndata:x\n\nevent: cut"
).encode()
FRAMES = [
    Frame("job.queued", "{}", "1", 2000),
    Frame("reason.delta", '{"text":\n"wörd\u2028"}', "2", None),
    Frame("image", "x", None, None),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_is_the_same_however_it_is_cut_up(cuts: list[int]) -> None:
    decoder, at, frames = Decoder(), 0, list[Frame]()
    for cut in [*sorted(cuts), len(STREAM)]:
        frames += decoder.feed(STREAM[at:cut])
        at = cut
    assert frames == FRAMES


def test_a_long_line_in_many_pieces_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_through: list[int] = []
    line_end = sse._LINE_END

    class LineEnd:
        def split(self, text: bytes) -> list[bytes]:
            looked_through.append(len(text))
            return line_end.split(text)

    monkeypatch.setattr(sse, "_LINE_END", LineEnd())
    decoder = Decoder()
    piece = b"x" * 65536
    assert list(decoder.feed(b"event: image\ndata: " + piece)) == []
    for _ in range(200):
        assert list(decoder.feed(piece)) == []
    [frame] = decoder.feed(b"\n\n")
    assert len(frame.data) == 201 * 65536
    assert sum(looked_through) < 202 * 65536


def event(name: str, number: int | None = None, trajectory: int | None = 0, **data: Any) -> events.Event:
    common = {"job_id": "job_1", "trajectory": trajectory, "at": "2026-01-01T00:00:00.000Z"}
    read = read_event(name, {**common, **data}, number)
    assert not isinstance(read, events.StreamClosing)
    return read


NOTHING_YET = dict.fromkeys(("started_at", "finished_at", "queue_position", "eta_s", "error"))
JOB: dict[str, Any] = NOTHING_YET | {
    "id": "job_1",
    "status": "running",
    "created_at": "2026-01-01T00:00:00.000Z",
    "model": "fake",
    "prompt": "a",
    "params": {},
    "attempt": 1,
    "usage": {"text_tokens": 0, "denoise_steps": 0, "forwards": 0, "compute_s": 0.0},
    "metadata": {},
    "links": {"self": "/", "events": "/", "cancel": "/", "stop": "/"},
}
IMAGE = {"id": "img_1", "url": "/images/img_1", "width": 1, "height": 1, "format": "png", "sha256": "0"}


def test_at_a_new_start_partial_texts_are_dropped_and_whole_ones_are_made_again() -> None:
    live = Live()
    live.take(event("job.started", 1, None, attempt=1, resumed_from_round=None))
    for text in ("a", "b"):
        live.take(event("reason.delta", text=text))
    live.take(event("reason.done", text="ab"))
    live.take(event("image", round=0, image=IMAGE, instruction=None))
    live.take(event("reflect.delta", round=0, text="half a "))
    live.take(event("reason.delta", trajectory=1, text="a pl"))
    live.take(event("image.progress", trajectory=2, round=0, step=3, steps=9))
    live.take(event("job.started", 2, None, attempt=2, resumed_from_round=[0, None, None]))
    first, second, third = (live.trajectories[index] for index in range(3))
    assert (first.reasoning.text, first.round(0).reflection.text, second.reasoning.text) == ("ab", "", "")
    assert (first.round(0).image is not None, third.round(0).step) == (True, 0)
    live.take(event("reason.delta", text="again"))  # the whole text is begun anew
    assert first.reasoning.text == "again"


def score(candidate: int, value: float, round_: int = 0, scorer: str = "lift") -> events.Event:
    words = [{"text": "three", "lift": value}]
    return event("score", round=round_, candidate=candidate, scorer=scorer, value=value, lift=value, words=words)


def test_scores_and_candidates_add_up_and_the_chosen_picture_is_the_rounds() -> None:
    live = Live()
    for number in range(2):
        live.take(event("image", round=0, candidate=number, image={**IMAGE, "id": f"img_{number}"}, instruction=None))
        live.take(score(number, 0.1 + number))
        live.take(event("reflect.delta", round=0, candidate=number, text=f"picture {number}"))
    first = live.trajectories[0].round(0)
    assert [picture.image and picture.image.id for picture in first.pictures.values()] == ["img_0", "img_1"]
    live.take(event("chosen", round=0, candidate=1, score=1.1))
    assert (first.chosen, first.image and first.image.id, first.reflection.text) == (1, "img_1", "picture 1")
    assert (first.scores["lift"].value, first.scores["lift"].words[0].text) == (1.1, "three")
    live.take(event("job.started", 2, None, attempt=2, resumed_from_round=[0]))
    live.take(score(1, 1.2))  # a lost worker's successor may say it again
    assert (first.scores["lift"].value, len(first.scores), first.reflection.text) == (1.2, 1, "")


def test_a_jobs_own_word_in_place_of_its_events_has_the_scores_too() -> None:
    told: dict[str, Any] = {"image": IMAGE, "instruction": None, "reflection": None}
    scored = [{"scorer": "vqa", "value": 0.5, "lift": None, "words": []}]
    candidates = [{**told, "scores": []}, {**told, "scores": scored}]
    several = {**told, "index": 0, "reflections": [], "scores": scored, "candidates": candidates, "chosen": 1}
    plain = {**told, "index": 1, "reflections": []}
    trajectory = {"index": 0, "seed": 1, "reasoning": None, "stop_reason": "budget", "image": IMAGE}
    job = {**JOB, "trajectories": [{**trajectory, "rounds": [several, plain]}]}
    live = Live()
    live.take(event("stream.reset", None, None, job=job))
    first, second = (live.trajectories[0].round(number) for number in range(2))
    assert (first.scores["vqa"].value, first.pictures[0].scores, first.chosen) == (0.5, {}, 1)
    assert (second.scores, second.image is not None) == ({}, True)


def test_every_picture_of_a_job_is_there_with_its_bytes() -> None:
    made = [{**IMAGE, "id": f"img_{number}"} for number in range(3)]
    said: dict[str, Any] = {"instruction": None, "reflection": None}
    candidates = [{**said, "image": image, "scores": []} for image in made[:2]]
    several = {**said, "index": 0, "image": made[1], "reflections": [], "candidates": candidates, "chosen": 1}
    plain = {**said, "index": 1, "image": made[2], "reflections": []}
    trajectory = {"index": 0, "seed": 1, "reasoning": None, "stop_reason": "score", "image": made[2]}
    job = Job.model_validate({**JOB, "trajectories": [{**trajectory, "rounds": [several, plain]}]})
    assert [image.id for image in job.every_image()] == ["img_0", "img_1", "img_2"]
    full = job.with_contents({image.id: image.id.encode() for image in job.every_image()})
    assert [image.content for image in full.every_image()] == [b"img_0", b"img_1", b"img_2"]
    assert full.trajectories[0].rounds[0].image == full.trajectories[0].rounds[0].candidates[1].image


def test_patience_grows_keeps_to_what_was_asked_and_ends() -> None:
    patience = Patience(60)
    pauses = [patience.pause(None) for _ in range(3)]
    assert all(low <= (pause or 0) <= 1.25 * low for pause, low in zip(pauses, (0.5, 1, 2), strict=True))
    assert 10 <= (patience.pause(10) or 0) <= 12.5
    assert patience.pause(61) is None
    patience.renew()
    assert (patience.pause(None) or 0) < 1


def test_without_pillow_all_works_but_pil_images_and_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["PIL"] = None
from r3client import Client, Image, PillowMissing
image = Image(id="img_1", url="/", width=1, height=1, format="png", sha256="0", content=b"bytes")
try:
    image.pil()
except PillowMissing as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install pillow" in done.stdout


def test_bytes_that_are_no_base64_are_refused() -> None:
    with pytest.raises(ValueError, match="no base64"):
        event("image", round=0, image={**IMAGE, "b64_json": "é"}, instruction=None)
