"""The publisher: one thread that encodes and stores pictures and writes events and checkpoints, in the order they came.

The engine goes on meanwhile. The line of what is to be published is bounded: live things are left out when it is half
full, and the engine waits when it is full.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from r3core.types import StopReason, Trajectory
from server import encoding
from server.held import Leases
from server.images import ImageStore, StoreAway, tried_again
from server.publications import End, GiveBack, Item, Keep, Say, Show, Tell, event, record_of
from server.queue_errors import QueueUnavailable
from server.queue_records import Checkpoint, Ending, Event, Json, Lease, picture
from server.queue_worker import WorkerQueue, Written
from server.tally import since_submission_s
from server.traces import Traces
from server.worker_metrics import Outcome, Phase, WorkerMetrics
from server.worker_thread import WorkerThread

log = structlog.get_logger("r3.worker")

LINE: Final = 256


class Unpublished(Exception):
    """Raised by who waits for room in the line where it is time to leave: Redis or the store is away for too long."""


@dataclass
class _Written:
    """What was written under a lease so far."""

    checkpoint: int
    images: dict[str, Json] = field(default_factory=dict)


class Publisher:
    """See above. `drop` is told of leases that are lost, or whose job was failed here: it could not be written."""

    def __init__(
        self,
        work: WorkerQueue,
        store: ImageStore,
        leases: Leases,
        metrics: WorkerMetrics,
        traces: Traces,
        *,
        model_hash: str,
        drop: Callable[[Lease], None],
    ) -> None:
        self._work, self._store, self._leases, self._metrics = work, store, leases, metrics
        self.traces = traces
        self._model_hash, self._drop = model_hash, drop
        self._line: queue.Queue[Item | None] = queue.Queue(LINE)
        self._written: dict[tuple[str, int], _Written] = {}
        self._closing = threading.Event()
        self.thread = WorkerThread("publisher", self._run)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def put(self, item: Item, waiting: Callable[[], None]) -> None:
        """Have it published; while the line is full, `waiting` is called every second, and may raise Unpublished.

        Raises RuntimeError where the thread has ended.
        """
        if isinstance(item, Tell | Show) and self._line.qsize() > LINE // 2:
            return self._metrics.live_dropped.inc()
        while True:
            if not self.thread.is_alive():
                raise RuntimeError("the publisher has ended; nothing can be published any more")
            try:
                return self._line.put(item, timeout=1.0)
            except queue.Full:
                waiting()

    def finish(self, timeout_s: float) -> bool:
        """Publish what is in the line, then end; whether all was published in time.

        The store is not waited for: where it hangs, time must be left to give the jobs back.
        """
        self._closing.set()
        hangs = threading.Timer(timeout_s * 2 / 3, self._store.close)
        hangs.start()
        try:
            return self._finished(timeout_s)
        finally:
            hangs.cancel()

    def _finished(self, timeout_s: float) -> bool:
        if not self.thread.is_alive():
            return False
        until = time.monotonic() + timeout_s
        try:
            self._line.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self.thread.join(max(0.0, until - time.monotonic()))
        return not (self.thread.is_alive() or self.thread.has_failed)

    def _run(self) -> None:
        while (item := self._line.get()) is not None:
            if self._leases.holds(item.lease):
                self._publish(item)
            else:
                if isinstance(item, End) and item.ending is not None:  # done with too late
                    self._count(item.lease, "lost")
                self._forget(item.lease)

    def _publish(self, item: Item) -> None:
        try:
            if self._write(item) == "lost":
                log.warning("lease lost", **item.lease.named)
                self._let_go(item.lease)
        except QueueUnavailable:
            # The worker ends, or gives a job back, while Redis is away: another goes on when the lease has run out.
            log.warning("left unpublished: Redis is away", **item.lease.named, item=type(item).__name__)
            self._let_go(item.lease)
        except StoreAway as error:  # only when it is time to end: until then the store is waited for
            log.warning("given back: the image store is away", **item.lease.named, reason=str(error))
            self._release(item.lease)
        except Exception as error:  # one job's trouble must not end the others
            log.exception("a job cannot be published", **item.lease.named, item=type(item).__name__)
            if isinstance(item, GiveBack):
                self._let_go(item.lease)
            elif not isinstance(item, Tell | Show):  # what is not logged may be missing
                self._fail(item.lease, error)

    def _write(self, item: Item) -> Written:
        match item:
            case Say(lease, events):
                return self._work.publish(lease.id, lease.token, events)
            case Tell(lease, told):
                self._work.live(lease.id, lease.token, told)
            case Show():
                self._show(item)
            case Keep():
                return self._keep(item)
            case End():
                return self._end(item)
            case GiveBack(lease, forgive):
                written = self._work.release(lease.id, lease.token, forgive=forgive)
                self.traces.outcome(lease, "lost" if written == "lost" else "given_back")
                self._forget(lease)
                return written
        return "ok"

    def _keep(self, item: Keep) -> Written:
        record = self._stored(item)
        shown = picture(item.image.id, record)
        what = {"image": shown, "instruction": item.instruction}
        announced = event(item.lease, "image", item.trajectory.index, item.at_s, **item.place, **what)
        # Its stop reason is stored when its end is announced: until then another worker would have to announce it.
        kept = replace(item.trajectory, stop_reason=None)
        self._of(item.lease).images[item.image.id] = record
        return self._checkpoint(
            item.lease,
            Checkpoint(0, kept.index, kept.to_json(), (announced,), {item.image.id: record}, item.usage),
        )

    def _stored(self, item: Keep) -> Json:
        """The picture's record, once its bytes are in the store."""
        lease, asked = item.lease, item.lease.job.request
        with self._timing("encode", item):
            texts = encoding.PictureTexts(item.trajectory.request.prompt, item.trajectory.seed, **item.place)
            master = encoding.png(item.pixels, texts)
            name = asked.get("output_format") or "png"
            sent = master if name == "png" else encoding.lossy(item.pixels, name, asked.get("output_compression"))
        with self._timing("store", item):
            master_sha256 = self._put(lease, master)
            sha256 = master_sha256 if name == "png" else self._put(lease, sent)
        form = {"format": name, "sha256": sha256, "master_sha256": master_sha256, "model_hash": self._model_hash}
        size = (item.image.width, item.image.height)
        return record_of(lease, item.trajectory.index, item.place, size, preview=False, **form)

    @contextmanager
    def _timing(self, phase: Phase, item: Keep) -> Iterator[None]:
        about = {"trajectory": item.trajectory.index, **item.place}
        with self._metrics.timing(phase), self.traces.beside(item.lease, phase, **about):
            yield

    def _put(self, lease: Lease, content: bytes) -> str:
        def ask() -> str:
            return self._store.put(lease.job.tenant, lease.id, content)

        return tried_again(ask, lease.id, waits=lambda: self._leases.holds(lease) and not self._closing.is_set())

    def _show(self, item: Show) -> None:
        content, width, height = encoding.preview(item.pixels)
        try:
            sha256 = self._store.put(item.lease.job.tenant, item.lease.id, content)
        except OSError as error:  # the next preview, or the picture itself, is worth the wait
            self._metrics.live_dropped.inc()
            log.debug("a preview was left out: the image store failed", **item.lease.named, reason=str(error))
            return
        form = {"format": "webp", "sha256": sha256}
        record = record_of(item.lease, item.index, {"round": item.round}, (width, height), preview=True, **form)
        image_id = f"img_{secrets.token_hex(16)}"
        shown = Event(item.event.name, {**item.event.data, "image": picture(image_id, record)})
        self._work.preview(item.lease.id, item.lease.token, (image_id, record), shown)

    def _end(self, item: End) -> Written:
        lease, ended = item.lease, item.trajectory
        events: tuple[Event, ...] = ()
        if ended is not None and ended.stop_reason is not None and ended.request.kind == "generate":
            events = (self._done(item, ended, ended.stop_reason),)
        written = self._checkpoint(
            lease,
            Checkpoint(
                0,
                None if ended is None else ended.index,
                None if ended is None else ended.to_json(),
                events,
                usage=item.usage,
                ending=item.ending,
            ),
        )
        if item.ending is not None:
            code = None if item.ending.error is None else item.ending.error["code"]
            self._count(lease, "lost" if written == "lost" else item.ending.status, code)
            if ended is None and code is not None:  # it could not be begun
                self._metrics.failures.labels(code).inc()
            self._forget(lease)
        return written

    def _count(self, lease: Lease, outcome: Outcome, code: str | None = None) -> None:
        """A job ended, in truth: only what is written has."""
        self.traces.outcome(lease, outcome, code)
        self._metrics.jobs.labels(outcome).inc()
        if outcome != "lost":
            self._metrics.latency_s.observe(since_submission_s(lease))

    def _done(self, item: End, ended: Trajectory, reason: StopReason) -> Event:
        shown = None
        if ended.result is not None:
            name = ended.result.image.id
            shown = picture(name, self._of(item.lease).images[name])
        return event(item.lease, "trajectory.done", ended.index, item.at_s, stop_reason=reason, image=shown)

    def _checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> Written:
        written = self._of(lease)
        written.checkpoint += 1
        return self._work.checkpoint(lease.id, lease.token, replace(checkpoint, number=written.checkpoint))

    def _of(self, lease: Lease) -> _Written:
        fresh = _Written(lease.checkpoint, dict(lease.job.images))
        return self._written.setdefault((lease.id, lease.token), fresh)

    def _fail(self, lease: Lease, error: Exception) -> None:
        """End a job that could not be written, so that it does not wait for its strikes to run out."""
        code = "storage_failed" if isinstance(error, OSError) else "step_failed"
        self._metrics.failures.labels(code).inc()
        self._count(lease, "failed", code)
        what = {"code": code, "message": f"a picture or event could not be stored ({type(error).__name__})"}
        try:
            self._checkpoint(lease, Checkpoint(0, ending=Ending("failed", what)))
        except Exception:  # whatever it is, the other jobs go on
            log.exception("nor can it be failed; its lease runs out", **lease.named)
        self._let_go(lease)

    def _release(self, lease: Lease) -> None:
        """Give back a job that is no fault of its own, at the end of this worker."""
        try:
            written = self._work.release(lease.id, lease.token, forgive=True)
            self.traces.outcome(lease, "lost" if written == "lost" else "given_back")
        except QueueUnavailable as error:
            log.warning("not given back either; its lease runs out", **lease.named, reason=str(error))
        self._let_go(lease)

    def _let_go(self, lease: Lease) -> None:
        self._forget(lease)
        self._drop(lease)

    def _forget(self, lease: Lease) -> None:
        self._leases.drop(lease)
        self._written.pop((lease.id, lease.token), None)
        self._work.forget(lease.id, lease.token)
        self.traces.ended(lease)
