"""The parts of the client that need no server: reading a stream, adding it up, and being patient."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3client import Live, events
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


def test_a_long_line_in_many_pieces_is_looked_through_once() -> None:
    decoder = Decoder()
    piece = b"x" * 65536
    assert list(decoder.feed(b"event: image\ndata: " + piece)) == []
    for _ in range(200):  # were it looked through with every piece, this would take minutes
        assert list(decoder.feed(piece)) == []
    [frame] = decoder.feed(b"\n\n")
    assert len(frame.data) == 201 * 65536


def event(name: str, number: int | None = None, trajectory: int | None = 0, **data: Any) -> events.Event:
    common = {"job_id": "job_1", "trajectory": trajectory, "at": "2026-01-01T00:00:00.000Z"}
    read = read_event(name, {**common, **data}, number)
    assert not isinstance(read, events.StreamClosing)
    return read


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
