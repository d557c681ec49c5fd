"""What `r3 submit` shows: what is finished stays on the screen, below it what is under way moves.

    Round 1  Add one more star.
    [the picture]  r3-0a1b2c3d/t0_round1.png
      ✎ edit  The circle is blue. → Make the circle red.
    ━━━━━━━━━━━━━━━╸━━━━━━━━  round 2: refine  23/49

What came from the model or from other people is printed without its control characters, which would be orders to the
terminal. Where there is no terminal, lines alone are printed and nothing moves.
"""

from __future__ import annotations

import re
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as Moving
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r3client import Live, events
from r3client.live import LiveRound, LiveTrajectory
from server.tables import age, plain
from server.terminal_pictures import Way, show

_TAIL_LINES: Final = 4
_BAR_COLUMNS: Final = 30
_MISSED: Final = 3
_CHIP_OF: Final = {
    "edit": ("✎ edit", "yellow"),
    "satisfied": ("✔ satisfied", "green"),
    "malformed": ("? malformed", "red"),
}
_ENDS: Final = {
    "satisfied": "the model is satisfied",
    "max_rounds": "its rounds are used up",
    "malformed": "the model said nothing that can be read",
    "score": "its score says so",
    "budget": "its pictures are used up",
    "deadline": "its deadline passed",
    "stopped": "it was stopped",
}


class View:
    """One job on a console; `way` is how pictures are drawn there, None for not at all."""

    def __init__(self, on: Console, way: Way | None, *, many: bool) -> None:
        self._console, self._many, self._way = on, many, way
        self._moving = (
            Moving(console=on, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
            if on.is_terminal
            else None
        )
        self._named = False

    def __enter__(self) -> Self:
        if self._moving is not None:
            self._moving.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._moving is not None:
            self._moving.update(Text(""), refresh=True)
            self._moving.stop()

    def show(self, event: events.Event, live: Live) -> None:
        """What an event tells, and how the job stands after it."""
        if not self._named and live.job_id is not None:
            self._named = True
            self.say(live.job_id)
        self._tell(event)
        if self._moving is not None:
            self._moving.update(self._under_way(live), refresh=True)

    def picture(self, content: bytes, saved: str) -> None:
        """A picture, and where it lies."""
        if self._way is not None and self._moving is not None:
            self._moving.stop()  # what a picture covers is unknown to it
            show(self._console, content, self._way)
            self._moving.start()
        self.say(f"  {saved}")

    def say(self, line: str) -> None:
        """A remark."""
        self._console.print(Text(plain(line), "dim"), soft_wrap=True)

    def _tell(self, event: events.Event) -> None:
        match event:
            case events.JobStarted() if event.attempt > 1:
                self.say("  its worker was lost; another one goes on from the last finished picture")
            case events.StreamReset():
                self.say("  what happened before is no longer kept")
            case events.Waiting() if self._moving is None:
                self.say(f"  {event.reason}; trying again in {age(event.seconds)}")
            case events.ReasonDone():
                self._head(event.trajectory, "Plan")
                self._body(_tidied(event.text))
            case events.ImageDone() | events.ReflectDone() | events.Scored() | events.Chosen():
                self._tell_of_round(event)
            case events.TrajectoryDone():
                self._head(event.trajectory, "Done", _ENDS.get(event.stop_reason, event.stop_reason))
            case events.JobFailed():
                self._console.print(Text(f"Failed  {plain(event.error.message)} ({plain(event.error.code)})", "red"))
            case events.JobCancelled():
                self._console.print(Text("Cancelled", "yellow"))
            case _:
                pass

    def _tell_of_round(self, event: events.ImageDone | events.ReflectDone | events.Scored | events.Chosen) -> None:
        match event:
            case events.ImageDone():
                several = "" if event.candidate is None else f", candidate {event.candidate}"
                self._head(event.trajectory, f"Round {event.round}{several}", event.instruction)
            case events.ReflectDone():
                self._reflection(event)
            case events.Scored():
                self._body(f"{self._whose(event.trajectory)}{_scored(event)}")
            case events.Chosen():
                self._head(event.trajectory, f"Round {event.round}", f"goes on with candidate {event.candidate}")

    def _head(self, trajectory: int | None, what: str, caption: str | None = None) -> None:
        line = Text.assemble((f"{self._whose(trajectory)}{what}", "bold"))
        if caption:
            line.append(f"  {plain(caption)}", "cyan")
        self._console.print(line, soft_wrap=self._moving is None)

    def _reflection(self, said: events.ReflectDone) -> None:
        chip, colour = _CHIP_OF.get(said.verdict, (plain(said.verdict), "cyan"))  # of a newer server
        thought = _tidied(said.thought)
        line = Text.assemble(self._whose(said.trajectory), (chip, f"bold {colour}"), "  ", thought)
        if said.verdict == "edit" and said.instruction:
            line.append(f" → {_tidied(said.instruction)}", "cyan")
        self._body(line)

    def _body(self, text: str | Text) -> None:
        shown = text if isinstance(text, Text) else Text(text)
        if self._moving is None:
            self._console.print(Text("  ") + shown, soft_wrap=True)
        else:
            self._console.print(Padding(shown, (0, 0, 0, 2)))

    def _whose(self, trajectory: int | None) -> str:
        return f"[{trajectory}] " if self._many and trajectory is not None else ""

    def _under_way(self, live: Live) -> RenderableType:
        """What moves."""
        if live.waiting is not None:
            return _now(f"{live.waiting.reason}; trying again in {age(live.waiting.seconds)}")
        if live.status == "queued":
            return _now(_queued(live))
        if live.status != "running":
            return Text("")
        parts = [self._stage(one) for one in live.trajectories.values() if one.stop_reason is None]
        return Group(*parts) if parts else _now("begun")

    def _stage(self, trajectory: LiveTrajectory) -> RenderableType:
        newest, whose = trajectory.newest, self._whose(trajectory.index)
        if newest is None:
            return self._written(f"{whose}plan", trajectory.reasoning.text)
        if newest.image is None:
            return _bar(whose, newest)
        if not newest.reflection.is_done:
            return self._written(f"{whose}looking at round {newest.index}", newest.reflection.text)
        return _now(f"{whose}round {newest.index + 1}")

    def _written(self, what: str, text: str) -> RenderableType:
        """The end of a text that is being written, with what it is."""
        lines = Text(_tidied(text), "italic").wrap(self._console, max(20, self._console.width - 4))[-_TAIL_LINES:]
        return Group(Padding(Text("\n").join(lines), (0, 0, 0, 2)), _now(what)) if text else _now(what)


def _now(what: str) -> RenderableType:
    return Text(f"· {plain(what)}", "dim")


def _bar(whose: str, round_: LiveRound) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    what = f"{whose}round {round_.index}: {'draw' if round_.index == 0 else 'refine'}"
    bar = ProgressBar(total=round_.steps or None, completed=round_.step, width=_BAR_COLUMNS)
    row.add_row(bar, Text(f"{what}  {round_.step}/{round_.steps}", "dim"))
    return row


def _queued(live: Live) -> str:
    if live.position is None:
        return "asking the server"
    place = "next in the queue" if live.position <= 1 else f"number {live.position} in the queue"
    return place if live.eta_s is None else f"{place}, starts in about {age(live.eta_s)}"


def _scored(said: events.Scored) -> str:
    """A score, and the words that the picture fails most."""
    value = "unknown" if said.value is None else f"{said.value:.3f}"
    missed = [word.text for word in sorted(said.words, key=lambda word: word.lift)[:_MISSED] if word.lift < 0]
    of = "" if said.candidate == 0 else f"candidate {said.candidate}: "
    return f"{of}{plain(said.scorer)} {value}" + (f", least of all: {', '.join(map(plain, missed))}" if missed else "")


def _tidied(text: str) -> str:
    """A text of the model's as people read it: without its tags, on one line."""
    return plain(" ".join(re.sub(r"</?think>", " ", text).split()))
