"""What jobs take of a worker, in units of one 512² picture of 49 denoising steps: what the queue is fair by."""

from __future__ import annotations

from r3core.types import Request


def job_cost(request: Request) -> float:
    """What a job may take at most: its pictures, as many as its rounds, candidates and budget allow."""
    first = 0 if request.given_image else request.n * request.candidates.first
    edits = request.n * request.max_rounds * request.candidates.refine
    if request.max_images is not None:
        first = min(first, request.max_images)
        edits = min(edits, request.max_images - first)
    steps = first * (request.generate.num_timesteps - 1) + edits * (request.refine.num_timesteps - 1)
    return max(steps * step_cost(request.width, request.height), 0.01)


def step_cost(width: int, height: int) -> float:
    """What one denoising step of one picture takes."""
    return width * height / (512 * 512 * 49)
