"""One request on an engine of its own, here and now: no queue, no service, no files.

    run = Run(engine, request, picture, deadline_s=60)
    for index, event in run:      # the trajectory's index, and what the engine says of it
        ...

`cancel` may be called at any time, from a signal handler too: the step in hand is the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

from r3core.engine.batch import Picture
from r3core.engine.engine import Engine
from r3core.errors import R3Error
from r3core.events import Cancelled, Event, Failed, Finished, ImageReady
from r3core.loop import ended
from r3core.types import Request, Trajectory


class Run:
    """All trajectories of a request, from the first step to the last."""

    def __init__(
        self, engine: Engine, request: Request, picture: Picture | None = None, deadline_s: float | None = None
    ) -> None:
        """`picture` is the caller's where the request starts from one; `deadline_s` counts from here, in seconds.

        Raises InvalidRequest, PromptTooLong or OutOfCapacity.
        """
        self.trajectories = [Trajectory(request, index) for index in range(request.n)]
        self.errors: dict[int, R3Error] = {}
        self.ended_by: Literal["cancel", "deadline"] | None = None
        self._engine = engine
        self._cancelled = False
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        for trajectory in self.trajectories:
            engine.add(str(trajectory.index), trajectory, () if picture is None else (picture,))

    def cancel(self) -> None:
        """End after the step in hand; what is finished is kept."""
        self._cancelled = True

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        """Run it. Raises DeviceError where the device is lost; every other failure is a Failed of its trajectory."""
        while self._engine.has_work:
            self._end_where_asked()
            for key, event in self._engine.step():
                index = int(key)
                yield index, self._noted(index, event)

    def _end_where_asked(self) -> None:
        if self.ended_by is not None:
            return
        if self._cancelled:
            self.ended_by = "cancel"
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.ended_by = "deadline"
        else:
            return
        for trajectory in self.trajectories:
            self._engine.abort(str(trajectory.index))

    def _noted(self, index: int, event: Event) -> Event:
        """Keep what is finished; at a deadline a picture that exists is the result."""
        if isinstance(event, Cancelled) and self.ended_by == "deadline" and event.trajectory.rounds:
            event = Finished(ended(event.trajectory, "deadline"))
        if isinstance(event, ImageReady | Finished | Failed | Cancelled):
            self.trajectories[index] = event.trajectory
        if isinstance(event, Failed):
            self.errors[index] = event.error
        return event
