"""The intake: one thread that leases jobs for the room that the engine has, and makes their trajectories ready.

Pictures of jobs that are resumed, or that start from one, are read from the store here, beside the engine's steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from r3core.engine.batch import Picture
from r3core.loop import needed
from r3core.types import Image, Request, Trajectory, request_from_json
from r3core.versions import STORED_VERSION, NewerVersion, version_of
from server.encoding import pixels_of
from server.given_pictures import given_pictures
from server.held import Leases, Ready
from server.images import ImageMissing, ImageStore, StoreAway, tried_again
from server.publications import End, GiveBack
from server.publisher import Publisher, Unpublished
from server.queue_errors import QueueUnavailable
from server.queue_records import Ending, Json, Lease
from server.queue_worker import WorkerQueue
from server.worker_thread import WorkerThread

log = structlog.get_logger("r3.worker")

LOOK_EVERY_S: Final = 1.0  # also how soon a dead worker's lease is taken after it has run out
AFTER_TROUBLE_S: Final = 0.5
REST_S: Final = 10.0  # the job that was given back stands at the queue's head, and would come again at once


class NotHere(Exception):
    """A job that cannot be begun here and now, but later, or by another worker. With `forgive` it costs no strike."""

    def __init__(self, reason: str, *, forgive: bool) -> None:
        super().__init__(reason)
        self.forgive = forgive


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
        self._traces = publisher.traces
        self._model, self._hand_over = model, hand_over
        self._look = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._room, self._under_way = 0, 0
        self._told: set[str] = set()
        self.thread = WorkerThread("intake", self._run)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def close(self) -> None:
        """Lease nothing more."""
        self._closing.set()
        self._look.set()

    @property
    def is_over(self) -> bool:
        """Whether no call is under way, and all that was leased has arrived."""
        return not self.thread.is_alive() and self._under_way == 0

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
                if not self._take():
                    self._closing.wait(REST_S)
            except QueueUnavailable as error:
                log.debug("no jobs: Redis is away", reason=str(error))
                self._closing.wait(AFTER_TROUBLE_S)
            except Exception:  # whatever it is, the jobs in the engine go on
                log.exception("leasing failed")
                self._closing.wait(LOOK_EVERY_S)
            self._look.wait(LOOK_EVERY_S)
            self._look.clear()

    def _take(self) -> bool:
        """Lease for the room there is; False where a job had to be given back."""
        with self._lock:
            room = self._room
            if room == 0:
                return True
            self._room, self._under_way = 0, 1  # the call itself
        taken: list[Lease] = []
        try:
            taken = self._work.lease(self._model, room, len(self._leases))
        finally:
            with self._lock:
                self._room, self._under_way = (0 if taken else room), len(taken)
        for lease in taken:
            self._leases.add(lease)
            self._traces.begun(lease)
        self._tell_of(self._work.left_to_newer)
        given_back = [lease for lease in taken if not self._prepare(lease)]
        return not given_back

    def _tell_of(self, newer: Sequence[str]) -> None:
        """Say once of each job that waits for a newer worker."""
        for job_id in newer:
            if job_id not in self._told:
                log.warning(
                    "job left to a worker of a newer build, which stored it", job_id=job_id, reads=STORED_VERSION
                )
        self._told = set(newer)

    def _prepare(self, lease: Lease) -> bool:
        """Hand a job over, fail it, or give it back; False for the last."""
        log.info("job leased", **lease.named, attempt=lease.attempt, alone=lease.alone)
        try:
            ready = self._ready(lease)
        except NotHere as fault:
            log.warning(
                "job given back, and no other taken for a while", **lease.named, reason=str(fault), rest_s=REST_S
            )
            self._put(GiveBack(lease, forgive=fault.forgive))
            return False
        except Exception as error:  # whatever is wrong with it, the other jobs go on
            log.exception("a job cannot be started", **lease.named)
            code = "storage_failed" if isinstance(error, OSError | ImageMissing) else "step_failed"
            what = {"code": code, "message": f"it cannot be started: {error}"}
            self._put(End(lease, None, {}, Ending("failed", what)))
        else:
            self._hand_over(ready)
        return True

    def _put(self, item: End | GiveBack) -> None:
        """Have the publisher see to a job that is not handed over."""
        try:
            self._publisher.put(item, waiting=self._or_leave)
        except Unpublished:
            log.warning("job neither begun nor given back; its lease runs out", **item.lease.named)
        self.received()

    def _or_leave(self) -> None:
        if self._closing.is_set():
            raise Unpublished

    def _ready(self, lease: Lease) -> Ready:
        try:
            asked = request_from_json(lease.job.request["request"], version_of(lease.job.request))
            trajectories = [_trajectory(asked, index, kept) for index, kept in enumerate(lease.job.trajectories)]
        except NewerVersion as error:
            raise NotHere(str(error), forgive=True) from error
        left = [trajectory for trajectory in trajectories if trajectory.stop_reason is None]
        return Ready(lease, asked, tuple((trajectory, self._pictures(lease, trajectory)) for trajectory in left))

    def _pictures(self, lease: Lease, trajectory: Trajectory) -> tuple[Picture, ...]:
        """What the steps to come may look at: pictures that are finished, or those that the job starts from."""
        given = given_pictures(lease.job.request) if trajectory.request.given_image else {}
        wanted = [image.id for image in needed(trajectory)] if trajectory.rounds else list(given)
        return tuple(self._load(name, lease.job.images.get(name) or given.get(name)) for name in wanted)

    def _record(self, image_id: str) -> Json:
        try:
            record = self._work.image(image_id)
        except QueueUnavailable as error:
            raise NotHere(str(error), forgive=False) from error
        if record is None:
            raise ImageMissing(f"the picture {image_id} that it goes on from is gone")
        return record

    def _load(self, image_id: str, known: Json | None) -> Picture:
        record = known or self._record(image_id)
        tenant, job_id, sha256 = record["tenant"], record["job"], record["master_sha256"]

        def ask() -> bytes:
            if self._closing.is_set():  # a store that hangs must not keep a worker that is to end
                raise NotHere("this worker ends", forgive=True)
            return self._store.get(tenant, job_id, sha256)

        try:
            master = tried_again(ask, job_id)
        except OSError as error:
            # While it is away that is no fault of the job's, however often it comes here.
            raise NotHere(f"the image store failed: {error}", forgive=isinstance(error, StoreAway)) from error
        pixels = pixels_of(master)
        height, width, _ = pixels.shape
        return Picture(Image(image_id, width, height), pixels)


def _trajectory(asked: Request, index: int, kept: Json | None) -> Trajectory:
    return Trajectory(asked, index) if kept is None else Trajectory.from_json(kept)
