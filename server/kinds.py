"""The kinds of job, and for each what its route takes and what becomes of it. Pure; submission.py goes by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic

from r3core.checkpoint import Description
from r3core.model.image_processing import Size
from r3core.types import Kind, Request
from server import resolve, resolve_tasks
from server.resolve import Body, Read, Together
from server.schemas import GenerationCreate
from server.task_schemas import DescribeCreate, ReflectCreate, RoundtripCreate, ScoreCreate

Json = dict[str, Any]


@dataclass(frozen=True)
class Ask(Generic[Body]):
    """One kind of job, from its body to what the worker is asked.

    `pictures` are those that the client gives, each with the pointer of its field; `resolved` takes the seed and the
    sizes of those pictures as the model sees them, `params` the ids under which they are kept.
    """

    kind: Kind
    body: type[Body]
    faults: Callable[[Body, Description], Together]
    pictures: Callable[[Body], Sequence[tuple[str, str]]]
    resolved: Callable[[Body, Description, int, Sequence[Size]], Request]
    params: Callable[[Request, Body, Sequence[str]], Json]

    def read(self, value: Any) -> Read[Body]:
        """The body from its JSON value."""
        return resolve.read_body(self.body, value)

    def known_by(self, value: Any) -> Any:
        """What a repeated request is known by: the same body asks another route for something else."""
        return value if self.kind == "generate" else [self.kind, value]


def _one(body: GenerationCreate | ReflectCreate | DescribeCreate | RoundtripCreate) -> Sequence[tuple[str, str]]:
    return () if body.image is None else (("/image", body.image),)


def _several(body: ScoreCreate) -> Sequence[tuple[str, str]]:
    if body.images is None:
        return () if body.image is None else (("/image", body.image),)
    return [(f"/images/{index}", image) for index, image in enumerate(body.images)]


def _generation(body: GenerationCreate, description: Description, seed: int, given: Sequence[Size]) -> Request:
    return resolve.resolved(body, description, seed, given[0] if given else None)


def _generation_params(request: Request, body: GenerationCreate, start_images: Sequence[str]) -> Json:
    return resolve.shown_params(request, body, start_images[0] if start_images else None)


GENERATE: Final = Ask("generate", GenerationCreate, resolve.faults_together, _one, _generation, _generation_params)
SCORE: Final = Ask(
    "score",
    ScoreCreate,
    resolve_tasks.score_faults,
    _several,
    resolve_tasks.score_request,
    resolve_tasks.task_params,
)
REFLECT: Final = Ask(
    "reflect",
    ReflectCreate,
    resolve_tasks.no_faults,
    _one,
    resolve_tasks.reflect_request,
    resolve_tasks.task_params,
)
DESCRIBE: Final = Ask(
    "describe",
    DescribeCreate,
    resolve_tasks.no_faults,
    _one,
    resolve_tasks.describe_request,
    resolve_tasks.task_params,
)
ROUNDTRIP: Final = Ask(
    "roundtrip",
    RoundtripCreate,
    resolve_tasks.roundtrip_faults,
    _one,
    resolve_tasks.roundtrip_request,
    resolve_tasks.task_params,
)
