"""What `r3 submit` shows, with a terminal and without."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from r3client import Live, events
from r3client.events import read_event
from server.submit_view import View
from tests.client.test_terminal_pictures import picture

IMAGE = {"id": "img_1", "url": "/images/img_1", "width": 1, "height": 1, "format": "png", "sha256": "0"}
TOLD: list[tuple[str, int | None, dict[str, Any]]] = [
    ("job.queued", None, {"position": 2, "eta_s": 5.0}),
    ("job.started", None, {"attempt": 1, "resumed_from_round": None}),
    ("reason.delta", 0, {"text": "<think>A pl"}),
    ("reason.done", 0, {"text": "<think>A plan.</think>"}),
    ("image.progress", 0, {"round": 0, "step": 7, "steps": 49}),
    ("image", 0, {"round": 0, "image": IMAGE, "instruction": None}),
    ("reflect.delta", 0, {"round": 0, "text": "<think>A cat"}),
    (
        "reflect.done",
        0,
        {"round": 0, "text": "", "thought": "A cat \x1b]0;lacks\x07.", "verdict": "edit", "instruction": "Add a cat."},
    ),
    ("image", 0, {"round": 1, "image": {**IMAGE, "id": "img_2"}, "instruction": "Add a cat."}),
    ("reflect.done", 0, {"round": 1, "text": "", "thought": "Good.", "verdict": "satisfied", "instruction": "No."}),
    ("trajectory.done", 0, {"stop_reason": "satisfied", "image": None}),
    ("job.failed", None, {"error": {"code": "step_failed", "message": "it broke"}}),
]


def shown(console: Console, trajectories: int = 1) -> Iterator[events.Event]:
    """Show what was told, event after event."""
    live = Live()
    with View(console, "blocks", many=trajectories > 1) as view:
        for name, trajectory, data in TOLD:
            common = {"job_id": "job_1", "trajectory": trajectory, "at": "2026-01-01T00:00:00.000Z"}
            event = read_event(name, {**common, **data}, None)
            assert not isinstance(event, events.StreamClosing)
            live.take(event)
            view.show(event, live)
            if isinstance(event, events.ImageDone):
                view.picture(picture(), f"out/{event.round}.png")
            yield event


def test_where_there_is_no_terminal_what_is_finished_is_printed_and_nothing_moves() -> None:
    console = Console(record=True, file=io.StringIO(), width=60)
    list(shown(console))
    assert console.export_text().splitlines() == [
        "job_1",
        "Plan",
        "  A plan.",
        "Round 0",
        "  out/0.png",
        "  ✎ edit  A cat \\x1b]0;lacks\\x07. → Add a cat.",
        "Round 1  Add a cat.",
        "  out/1.png",
        "  ✔ satisfied  Good.",
        "Done  the model is satisfied",
        "Failed  it broke (step_failed)",
    ]


def test_scores_name_the_words_that_a_picture_fails_and_candidates_their_number() -> None:
    words = [{"text": "three", "lift": -0.2}, {"text": "red", "lift": 0.9}, {"text": "circles\x07", "lift": -0.5}]
    told: list[tuple[str, dict[str, Any]]] = [
        ("image", {"round": 0, "candidate": 1, "image": IMAGE, "instruction": None}),
        ("score", {"round": 0, "candidate": 1, "scorer": "lift", "value": 0.25, "lift": 0.25, "words": words}),
        ("score", {"round": 0, "candidate": 0, "scorer": "verdict", "value": None, "lift": None, "words": []}),
        ("chosen", {"round": 0, "candidate": 1, "score": 0.25}),
        ("trajectory.done", {"stop_reason": "budget", "image": IMAGE}),
    ]
    console, live = Console(record=True, file=io.StringIO(), width=80), Live()
    with View(console, None, many=False) as view:
        for name, data in told:
            event = read_event(
                name, {"job_id": "job_1", "trajectory": 0, "at": "2026-01-01T00:00:00.000Z", **data}, None
            )
            assert not isinstance(event, events.StreamClosing)
            live.take(event)
            view.show(event, live)
    assert console.export_text().splitlines()[1:] == [
        "Round 0, candidate 1",
        "  candidate 1: lift 0.250, least of all: circles\\x07, three",
        "  verdict unknown",
        "Round 0  goes on with candidate 1",
        "Done  its pictures are used up",
    ]


def test_on_a_terminal_texts_and_bars_move_below_and_pictures_are_drawn() -> None:
    out = io.StringIO()
    console = Console(file=out, width=60, height=24, force_terminal=True, color_system="truecolor", _environ={})
    moved: dict[str, str] = {}
    for event in shown(console):
        moved[event.name] = out.getvalue()
        out.truncate(0)
        out.seek(0)
    assert "number 2 in the queue, starts in about 5 s" in moved["job.queued"]
    assert "A pl" in moved["reason.delta"]
    assert "7/49" in moved["image.progress"]
    assert "looking at round 0" in moved["reflect.delta"]
    assert "▀" in moved["image"]
    assert "\x1b]0;" not in "".join(moved.values())


def test_what_belongs_to_one_of_several_trajectories_says_so() -> None:
    console = Console(record=True, file=io.StringIO(), width=60)
    list(shown(console, trajectories=2))
    lines = console.export_text().splitlines()
    assert "[0] Round 1  Add a cat." in lines
    assert "  [0] ✔ satisfied  Good." in lines
