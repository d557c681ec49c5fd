"""What jobs take of a worker, in units of one 512² picture of 49 denoising steps: what the queue is fair by."""

from __future__ import annotations

from typing import Final

from r3core.types import ImageSampling, Request

# A token by itself, where a picture takes 90 forwards of six times that (docs/scaling.md's device).
TOKEN_COST: Final = 1 / 600
LEAST: Final = 0.01


def job_cost(request: Request, given: int = 0) -> float:
    """What a job may take at most: its pictures, as many as its rounds, candidates and budget allow.

    Of a job of another kind what is read and written counts too; `given` pictures are the caller's.
    """
    if request.kind != "generate":
        return max(_task_cost(request, given), LEAST)
    first = 0 if request.given_image else request.n * request.candidates.first
    edits = request.n * request.max_rounds * request.candidates.refine
    if request.max_images is not None:
        first = min(first, request.max_images)
        edits = min(edits, request.max_images - first)
    steps = first * _computed(request.generate) + edits * _computed(request.refine)
    return max(steps * step_cost(request.width, request.height), LEAST)


def _task_cost(request: Request, given: int) -> float:
    """What the model reads and writes of pictures, beside what it draws: here nothing else may be asked for."""
    drawn = 0 if request.kind != "roundtrip" else 1 if request.given_image else 2
    steps = drawn * _computed(request.generate)
    looks, tokens = 1, 0
    match request.kind:
        case "score":
            looks = given * len(request.scorers)
            tokens = given * request.reflect.max_tokens if "verdict" in request.scorers else 0
        case "reflect":
            tokens = request.reflect.max_tokens
        case _:
            tokens = request.describe.max_tokens + (request.reason.max_tokens if request.think else 0)
    return (steps + looks) * step_cost(request.width, request.height) + tokens * TOKEN_COST


def drawn_cost(request: Request, steps: int) -> float:
    """What so many denoising steps of one trajectory of the loop took, of which its first pictures' come first."""
    own = 0 if request.given_image else request.candidates.first * (request.generate.num_timesteps - 1)
    of_first = min(steps, own)
    computed = of_first * _share(request.generate) + (steps - of_first) * _share(request.refine)
    return computed * step_cost(request.width, request.height)


def _share(settings: ImageSampling) -> float:
    """Of a picture's steps, how many are computed."""
    return _computed(settings) / (settings.num_timesteps - 1)


def _computed(settings: ImageSampling) -> int:
    """Steps of a picture that the transformer computes, where guidance begins with the first."""
    steps = settings.num_timesteps - 1
    return min(steps, 3 + max(0, steps - 3) // settings.step_cache)


def step_cost(width: int, height: int) -> float:
    """What one denoising step of one picture takes."""
    return width * height / (512 * 512 * 49)
