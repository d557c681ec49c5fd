"""The intake: one thread that leases jobs for the room that the engine has, and makes their trajectories ready.

Pictures of jobs that are resumed, or that start from one, are read from the store here, beside the engine's steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from r3core.engine.batch import Picture
from r3core.types import Image, Request, Trajectory, request_from_json
from server.encoding import pixels_of
from server.held import Leases, Ready
from server.images import ImageMissing, ImageStore
from server.publisher import End, Publisher
from server.queue_errors import QueueUnavailable
from server.queue_records import Ending, Json, Lease
from server.queue_worker import WorkerQueue

log = structlog.get_logger("r3.worker")

LOOK_EVERY_S: Final = 1.0  # also how soon a dead worker's lease is taken after it has run out
AFTER_TROUBLE_S: Final = 0.5


class Intake:
    """See above. `hand_over` is called with each job that is ready."""

    def __init__(
        self,
        work: WorkerQueue,
        store: ImageStore,
        leases: Leases,
        publisher: Publisher,
        *,
        model: str,
        hand_over: Callable[[Ready], None],
    ) -> None:
        self._work, self._store, self._leases, self._publisher = work, store, leases, publisher
        self._model, self._hand_over = model, hand_over
        self._look = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._room, self._under_way = 0, 0
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Lease nothing more."""
        self._closing.set()
        self._look.set()

    @property
    def is_over(self) -> bool:
        """Whether no call is under way, and all that was leased has arrived."""
        return not self._thread.is_alive() and self._under_way == 0

    def offer(self, room: int) -> None:
        """Say how many trajectories may come. Ignored while jobs are on their way, which will take of that room."""
        with self._lock:
            if self._under_way:
                return
            grew = room > self._room
            self._room = room
        if grew:
            self._look.set()

    def received(self) -> None:
        """A job that was handed over has arrived."""
        with self._lock:
            self._under_way -= 1

    def look(self) -> None:
        """There may be new work."""
        self._look.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._take()
            except QueueUnavailable as error:
                log.debug("no jobs: Redis is away", reason=str(error))
                self._closing.wait(AFTER_TROUBLE_S)
            except Exception:  # whatever it is, the jobs in the engine go on
                log.exception("leasing failed")
                self._closing.wait(LOOK_EVERY_S)
            self._look.wait(LOOK_EVERY_S)
            self._look.clear()

    def _take(self) -> None:
        with self._lock:
            room = self._room
            if room == 0:
                return
            self._room, self._under_way = 0, 1  # the call itself
        taken: list[Lease] = []
        try:
            taken = self._work.lease(self._model, room, len(self._leases))
        finally:
            with self._lock:
                self._room, self._under_way = (0 if taken else room), len(taken)
        for lease in taken:
            self._leases.add(lease)
        for lease in taken:
            log.info("job leased", job_id=lease.id, attempt=lease.attempt, alone=lease.alone)
            self._prepare(lease)

    def _prepare(self, lease: Lease) -> None:
        try:
            ready = self._ready(lease)
        except Exception as error:  # whatever is wrong with it, the other jobs go on
            log.exception("a job cannot be started", job_id=lease.id)
            code = "storage_failed" if isinstance(error, OSError | ImageMissing | QueueUnavailable) else "step_failed"
            what = {"code": code, "message": f"it cannot be started: {error}"}
            self._publisher.put(End(lease, None, {}, Ending("failed", what)))
            self.received()
        else:
            self._hand_over(ready)

    def _ready(self, lease: Lease) -> Ready:
        asked = request_from_json(lease.job.request["request"])
        trajectories = [_trajectory(asked, index, kept) for index, kept in enumerate(lease.job.trajectories)]
        left = [trajectory for trajectory in trajectories if trajectory.stop_reason is None]
        return Ready(lease, asked, tuple((trajectory, self._picture(lease, trajectory)) for trajectory in left))

    def _picture(self, lease: Lease, trajectory: Trajectory) -> Picture | None:
        """The newest finished picture, or the one that the job starts from, or None."""
        if trajectory.image is not None:
            return self._load(trajectory.image.id, lease.job.images[trajectory.image.id])
        if not trajectory.request.given_image:
            return None
        image_id = str(lease.job.request["start_image"])
        record = lease.job.request.get("start_record") or self._work.image(image_id)
        if record is None:
            raise ImageMissing(f"the picture {image_id} that it starts from is gone")
        return self._load(image_id, record)

    def _load(self, image_id: str, record: Json) -> Picture:
        pixels = pixels_of(self._store.get(record["tenant"], record["job"], record["master_sha256"]))
        height, width, _ = pixels.shape
        return Picture(Image(image_id, width, height), pixels)


def _trajectory(asked: Request, index: int, kept: Json | None) -> Trajectory:
    return Trajectory(asked, index) if kept is None else Trajectory.from_json(kept)
