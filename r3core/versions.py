"""The version of the stored form of requests and trajectories: builds of two versions may share a queue.

Every change of that form raises STORED_VERSION, a new field with a default among them, for an older build would not
know it; and it says below how the form before becomes the new one. What is older is brought up step by step as it is
read; what is newer is refused, and left to a build that knows it. What has no version was stored before there were
any, in the form of version 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Json = dict[str, Any]
Steps = Mapping[int, Callable[[Json], Json]]

STORED_VERSION: Final = 3


def _request_unjudged(old: Json) -> Json:
    """Version 2 has scores, candidates and the tasks beside the loop; before it nothing was judged."""
    described = {"max_tokens": 384, "temperature": 0.0, "top_p": 0.9, "top_k": 50}
    return {
        **old,
        "early_stop": {**old["early_stop"], "score": None, "all": False},
        "scorers": [],
        "choose": "last",
        "on_regression": "keep",
        "candidates": {"first": 1, "refine": 1},
        "max_images": None,
        "kind": "generate",
        "question": None,
        "describe": described,
    }


def _trajectory_unjudged(old: Json) -> Json:
    given = bool(old["request"]["given_image"])
    return {
        **old,
        "rounds": [
            {
                **r,
                "scores": [],
                "candidates": [],
                "chosen": 0,
                "base": r["index"] - 1 if r["index"] else None,
                "forwards": 0,
            }
            for r in old["rounds"]
        ],
        "usage": {
            **old["usage"],
            "images": max(0, len(old["rounds"]) - given),
            "discarded_images": 0,
            "discarded_forwards": 0,
        },
        "description": None,
        "similarities": None,
    }


def _request_uncached(old: Json) -> Json:
    """Version 3 has the step cache; before it every step was computed."""
    return {**old, **{stage: {**old[stage], "step_cache": 1} for stage in ("generate", "refine")}}


# By version, how a request or a trajectory of it becomes one of the next; one that did not change is not named.
REQUEST_STEPS: Final[dict[int, Callable[[Json], Json]]] = {1: _request_unjudged, 2: _request_uncached}
TRAJECTORY_STEPS: Final[dict[int, Callable[[Json], Json]]] = {1: _trajectory_unjudged}


class NewerVersion(ValueError):
    """Stored by a newer build, which must be left to go on with it."""


def version_of(stored: Json) -> int:
    """The version of a stored trajectory, or of what a job holds its request in; at most ours.

    Raises NewerVersion, or ValueError for what is no version.
    """
    version = stored.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"the stored version is {version!r}; it must be a whole number from 1 on")
    if version > STORED_VERSION:
        raise NewerVersion(
            f"it was stored with version {version}, and this build reads up to {STORED_VERSION}; "
            "keep a worker of the build that wrote it until the job is done"
        )
    return version


def brought_up(stored: Json, version: int, steps: Steps) -> Json:
    """The same in today's form, without its version."""
    value = {name: part for name, part in stored.items() if name != "version"}
    for at in range(version, STORED_VERSION):
        value = steps[at](value) if at in steps else value
    return value
