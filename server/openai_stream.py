"""A job's events in the words of OpenAI's Images API: pictures on the way, then the final one of each trajectory.

No event has an `id:`, and none but `error` has a field of that name: the clients raise on it. Of p partial images a
trajectory sends at most p: each picture that a reflection rejects, and, where there are fewer rounds than p, previews
of the first picture that is drawn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from r3core.types import Usage
from server.errors import openai_error
from server.faults import ApiError
from server.hub import Message
from server.job_end import failure
from server.job_view import trajectory_json
from server.openai_view import Kind, completed_event, partial_event
from server.present import Presenter
from server.queue import Event, LoggedEvent, Queue, StoredJob
from server.sse import HEARTBEAT, frame

Json = dict[str, Any]
CLOSED: Final = {
    "shutdown": ("shutting_down", "the server is about to end"),
    "slow_client": ("slow_client", "the client reads more slowly than there is to send"),
    "stuck_client": ("slow_client", "the client has stopped reading"),
    "queue_unavailable": ("queue_unavailable", "the queue cannot be reached"),
    "storage_unavailable": ("storage_unavailable", "the pictures cannot be reached"),
    "job_deleted": ("job_not_found", "the job was deleted"),
    "unauthorized": ("unauthorized", "the key was revoked"),
    "keys_unavailable": ("keys_unavailable", "the keys cannot be read, so that nobody can be let in"),
}


_Place = tuple[int, int, int]  # trajectory, round, candidate


class OpenAiWords:
    """The wording (wording.py) of one stream. `most` says how many partial images a trajectory sends, and how many of
    them are previews.
    """

    def __init__(self, queue: Queue, presenter: Presenter, job: StoredJob, kind: Kind, most: tuple[int, int]) -> None:
        self._queue = queue
        self._presenter = presenter
        self._job = job
        self._kind = kind
        self._partial_images, self._previews = most
        self._first_round = 1 if job.request["request"]["given_image"] else 0  # that is drawn here
        self._last_round = job.request["request"]["max_rounds"]  # whose picture is no step to another
        self._drawn: dict[_Place, Json] = {}
        self._chosen: dict[tuple[int, int], int] = {}
        """By trajectory and round, where that has several pictures."""
        self._rejected: set[_Place] = set()
        self._sent: Counter[int] = Counter()
        self._previewed: Counter[int] = Counter()
        self._completed: set[int] = set()
        self._is_silent = True
        self._has_erred = False

    async def logged(self, event: LoggedEvent, message: Message | None) -> bytes:  # noqa: ARG002 - the interface's
        """The picture that the event speaks of, or why there will be none."""
        data = event.data
        match event.name:
            case "image":
                self._drawn[_place(data)] = data["image"]
            case "reflect.done" if data["verdict"] == "edit":
                self._rejected.add(_place(data))
                return await self._superseded(data)
            case "chosen":
                self._chosen[data["trajectory"], data["round"]] = data["candidate"]
                return await self._superseded(data)
            case "trajectory.done":
                return await self._final([data["trajectory"]])
            case "job.succeeded":
                return await self._final(range(len(self._job.trajectories)))
            case "job.failed" | "job.cancelled":
                ended = await self._queue.job(self._job.id) or self._job
                return self._error(failure(ended, {}))
        return self._nothing()

    async def live(self, message: Message) -> bytes:
        """A preview of the first picture, where one is wanted still."""
        name, data = message.event
        if name != "image.preview" or data["round"] != self._first_round:
            return self._nothing()
        if self._previewed[data["trajectory"]] >= self._previews:  # of a worker that was lost there were some before
            return self._nothing()
        self._previewed[data["trajectory"]] += 1
        return await self._partial(data, data["image"])

    async def reset(self, job: StoredJob, covered: int) -> bytes:  # noqa: ARG002 - the interface's
        """Pictures on the way that are no longer told of were on the way; final ones are sent at the end."""
        return self._nothing()

    def closing(self, reason: str) -> bytes:
        """An error, which says that the job goes on."""
        code, why = CLOSED[reason]
        return self._error(self._fault(code, f"{why}; GET /jobs/{self._job.id} says what became of the job"))

    async def _superseded(self, data: Json) -> bytes:
        """A picture that stands for its round and was rejected, once."""
        place = _place(data)
        stands = "candidate" not in data or self._chosen.get(place[:2]) == place[2]
        if stands and place in self._rejected and place in self._drawn and data["round"] < self._last_round:
            return await self._partial(data, self._drawn.pop(place))
        return self._nothing()

    async def _partial(self, data: Json, image: Json) -> bytes:
        index = self._sent[data["trajectory"]]
        shown = await self._presenter.picture(self._job, image) if index < self._partial_images else {}
        if "b64_json" not in shown:
            return self._nothing()
        self._sent[data["trajectory"]] += 1
        where = {"job_id": self._job.id, "trajectory": data["trajectory"], "round": data["round"]}
        return self._frame(partial_event(self._kind, shown, where, index))

    async def _final(self, indexes: Any) -> bytes:
        """The final pictures of these trajectories that were not sent yet."""
        job = await self._queue.job(self._job.id)
        told = bytearray()
        for index in [index for index in indexes if job is not None and index not in self._completed]:
            assert job is not None
            trajectory = trajectory_json(job, index)
            if trajectory["image"] is None:  # stopped before its first picture
                continue
            shown = await self._presenter.picture(self._job, trajectory["image"])
            if "b64_json" not in shown:
                return self._error(self._fault("storage_failed", f"the picture {shown['id']} could not be read"))
            self._completed.add(index)
            spent = Usage(**(job.trajectories[index] or {}).get("usage", {}))
            told += self._frame(completed_event(self._kind, {**trajectory, "image": shown}, spent, job.id))
        return bytes(told) or self._nothing()

    def _frame(self, data: Json) -> bytes:
        """The event, unless one that is the last has been sent."""
        if self._has_erred:
            return b""
        self._is_silent = False
        return frame(Event(data["type"], data))

    def _fault(self, code: str, detail: str) -> ApiError:
        return ApiError(code, detail, extra={"job_id": self._job.id})

    def _error(self, error: ApiError) -> bytes:
        told = self._frame({"type": "error", "error": openai_error(error)})
        self._has_erred = True
        return told

    def _nothing(self) -> bytes:
        """Nothing, but for the first byte, which leaves at once."""
        told, self._is_silent = HEARTBEAT if self._is_silent else b"", False
        return told


def _place(data: Json) -> _Place:
    return data["trajectory"], data["round"], data.get("candidate", 0)
