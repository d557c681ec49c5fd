"""A worker played by hand: it leases, writes and draws exactly when a test says so, through the real queue and image
store.
"""

from __future__ import annotations

import io
import secrets
from dataclasses import replace
from typing import Any

from PIL import Image as PILImage

from r3core.checkpoint import Defaults, Description
from r3core.loop import ended
from r3core.prompts import read_reflection
from r3core.types import Image, Round, StopReason, Trajectory, request_from_json
from r3core.versions import version_of
from server.images import ImageStore
from server.queue_records import Checkpoint, Ending, Lease, picture
from server.queue_worker import WorkerQueue

AT = "2026-01-01T00:00:00.000Z"
TINY = Description(
    name="tiny",
    description="A model for tests",
    licence="Apache-2.0",
    hash="0123456789abcdef",
    transforms={"vae": (512, 256, 16), "vit": (504, 252, 14)},
    latent_stride=16,
    latent_side=64,
    vit_side=70,
    default_size=(256, 256),
    defaults=Defaults(),
    example_prompts=("a cat",),
    max_context_tokens=32768,
)


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (256, 256)) -> bytes:
    """A plain picture."""
    out = io.BytesIO()
    PILImage.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


class Hand:
    """One job in the hands of a worker."""

    def __init__(self, queue: WorkerQueue, images: ImageStore, lease: Lease) -> None:
        self.queue, self.images, self.lease = queue, images, lease
        self.checkpoints = lease.checkpoint
        self.records: dict[str, Any] = dict(lease.job.images)
        request = request_from_json(lease.job.request["request"], version_of(lease.job.request))
        self.trajectories = [Trajectory(request, i) for i in range(request.n)]
        for i, stored in enumerate(lease.job.trajectories):
            if stored is not None:
                self.trajectories[i] = Trajectory.from_json(stored)

    def says(self, name: str, index: int | None = 0, **fields: Any) -> None:
        """Append a numbered event."""
        assert self.queue.publish(self.lease.id, self.lease.token, [self._event(name, index, **fields)]) == "ok"

    def shows(self, name: str, index: int = 0, **fields: Any) -> None:
        """Send a live event."""
        self.queue.live(self.lease.id, self.lease.token, self._event(name, index, **fields))

    def reasons(self, text: str = "<think>A plan.</think>", index: int = 0) -> None:
        """Write the reasoning text."""
        self.trajectories[index] = replace(self.trajectories[index], reasoning=text)
        self.says("reason.delta", index, text=text)
        self.says("reason.done", index, text=text)

    def draws(self, index: int = 0, instruction: str | None = None, *, ends: bool = False) -> str:
        """Finish the next picture of a trajectory; returns its id."""
        trajectory = self.trajectories[index]
        number, request = len(trajectory.rounds), trajectory.request
        content = png((20 * number, 40, 60), (request.width, request.height))
        digest = self.images.put(self.lease.job.tenant, self.lease.id, content)
        image_id = f"img_{secrets.token_hex(16)}"
        record = {
            "tenant": self.lease.job.tenant,
            "job": self.lease.id,
            "trajectory": index,
            "round": number,
            "preview": False,
            "width": request.width,
            "height": request.height,
            "format": "png",
            "sha256": digest,
            "master_sha256": digest,
        }
        made = Round(number, Image(image_id, request.width, request.height), instruction)
        self.trajectories[index] = replace(trajectory, rounds=(*trajectory.rounds, made))
        shown = picture(image_id, record)
        event = self._event("image", index, round=number, image=shown, instruction=instruction)
        usage = {"denoise_steps": 49, "forwards": 90, "text_tokens": 7, "compute_s": 0.25}
        self._checkpoint(index, events=[event], images={image_id: record}, usage=usage)
        return image_id

    def reflects(self, text: str, index: int = 0) -> None:
        """Say something of the newest picture."""
        said = read_reflection(text)
        trajectory = self.trajectories[index]
        last = replace(trajectory.rounds[-1], reflections=(*trajectory.rounds[-1].reflections, said))
        self.trajectories[index] = replace(trajectory, rounds=(*trajectory.rounds[:-1], last))
        fields = {"text": said.text, "thought": said.thought, "verdict": said.verdict, "instruction": said.instruction}
        self.says("reflect.delta", index, round=last.index, text=text)
        self.says("reflect.done", index, round=last.index, **fields)

    def ends(self, reason: StopReason = "satisfied", index: int = 0, *, job: bool = True) -> None:
        """End a trajectory, and with it the job unless told otherwise."""
        self.trajectories[index] = ended(self.trajectories[index], reason)
        image = self.trajectories[index].newest
        shown = None if image is None else picture(image.id, self.records[image.id])
        event = self._event("trajectory.done", index, stop_reason=reason, image=shown)
        self._checkpoint(index, events=[event], ending=Ending("succeeded") if job else None)

    def fails(self, code: str, message: str = "it could not be done") -> None:
        """End the job as failed."""
        self._checkpoint(None, ending=Ending("failed", {"code": code, "message": message}))

    def is_cancelled(self) -> None:
        """End the job as cancelled."""
        self._checkpoint(None, ending=Ending("cancelled"))

    def whole_run(self) -> None:
        """A plan, a picture, an edit, and the model is satisfied."""
        self.reasons()
        self.draws()
        self.reflects("<think>A cat is missing.</think> Add a cat.")
        self.draws(instruction="Add a cat.")
        self.reflects("<think>It is right.</think> No further edit needed.")
        self.ends("satisfied")

    def _checkpoint(self, index: int | None, **fields: Any) -> None:
        self.checkpoints += 1
        self.records.update(fields.get("images", {}))
        stored = None if index is None else self.trajectories[index].to_json()
        checkpoint = Checkpoint(self.checkpoints, index, stored, **fields)
        assert self.queue.checkpoint(self.lease.id, self.lease.token, checkpoint) == "ok"

    def _event(self, name: str, index: int | None, **fields: Any) -> tuple[str, dict[str, Any]]:
        return name, {"job_id": self.lease.id, "trajectory": index, "at": AT, **fields}


class HandWorker:
    """A worker that takes jobs when it is told to."""

    def __init__(self, queue: WorkerQueue, images: ImageStore) -> None:
        self.queue, self.images = queue, images
        queue.register(TINY.to_json())

    def lives(self) -> None:
        """Be heard from."""
        self.queue.heartbeat({"model": TINY.name, "draining": False, "room": 8})

    def takes(self) -> Hand:
        """Lease the next job, which must be there."""
        [lease] = self.queue.lease(TINY.name, 1, 0)
        return Hand(self.queue, self.images, lease)
