"""The shapes of what the service tells of itself: whether it lives, which models it serves, what they take."""

from __future__ import annotations

from typing import Literal

from server.views import Json, View


class Alive(View):
    """The process lives."""

    status: Literal["ok"]


class Ready(View):
    """Jobs can be taken."""

    status: Literal["ready"]
    workers: int
    models: list[str]


class Sizes(View):
    """Which pictures a model draws; pixels."""

    default: str
    multiple_of: int
    longest_edge: int
    shortest_edge: int


class ModelView(View):
    """What a model says of itself."""

    name: str
    description: str
    licence: str
    hash: str
    sizes: Sizes
    max_context_tokens: int
    defaults: Json
    example_prompts: list[str]


class Range(View):
    """What a number may be; both ends are allowed."""

    minimum: float
    maximum: float


class Info(View):
    """What this server serves."""

    default_model: str | None
    models: list[ModelView]
    limits: dict[str, int]
    ranges: dict[str, Range]
    versions: dict[str, str]
