"""Runs made by hand, through the folder's own writing: jobs of coloured squares, with what scorers said of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from r3client import Job
from server.research.folder import opened
from server.research.prompts import Line

Json = dict[str, Any]
AT = "2026-01-01T00:00:00.000Z"
SIDE = 64


def image(name: str) -> Json:
    """A picture in a colour of its own, with its bytes."""
    digest = hashlib.sha256(name.encode())
    return {"id": f"img_{digest.hexdigest()[:32]}", "url": "/", "width": SIDE, "height": SIDE, "format": "png"} | {
        "sha256": digest.hexdigest(),
    }


def png(name: str) -> bytes:
    """The bytes of the picture of that name."""
    red, green, blue = hashlib.sha256(name.encode()).digest()[:3]
    out = io.BytesIO()
    PILImage.new("RGB", (SIDE, SIDE), (red, green, blue)).save(out, "PNG")
    return out.getvalue()


def scores(value: float | None) -> list[Json]:
    """What `lift` says."""
    return [] if value is None else [{"scorer": "lift", "value": value, "lift": value, "words": []}]


def job(
    prompt: str,
    lifts: Sequence[Sequence[float | None]],
    *,
    name: str = "run",
    stop: str = "max_rounds",
    candidates: int = 1,
    **params: Any,
) -> Job:
    """A job whose trajectories' rounds were given these lifts; of several candidates the last is chosen."""
    judged = any(value is not None for rounds in lifts for value in rounds)
    asked = {"max_rounds": 3, "choose": "last", "image": None, **({"judge": {"scorers": ["lift"]}} if judged else {})}
    contents: dict[str, bytes] = {}

    def picture(*place: int) -> Json:
        told = f"{name} {prompt} {place}"
        contents[image(told)["id"]] = png(told)
        return image(told)

    def round_(trajectory: int, index: int, value: float | None) -> Json:
        made = [
            {"image": picture(trajectory, index, c), "instruction": None, "scores": scores(value), "reflection": None}
            for c in range(candidates)
        ]
        judged_round = {"scores": scores(value), "chosen": candidates - 1, "from_round": None} if judged else {}
        drawn = {"candidates": made if candidates > 1 else []} if judged else {}
        common = {"index": index, "image": made[-1]["image"], "instruction": None, "reflection": None}
        return {**common, "reflections": [], **judged_round, **drawn}

    trajectories = [
        {
            "index": t,
            "seed": t,
            "reasoning": None,
            "rounds": [round_(t, index, value) for index, value in enumerate(rounds)],
            "stop_reason": stop,
            "image": None,
        }
        for t, rounds in enumerate(lifts)
    ]
    drawn = {"images": 1, "discarded_images": 2, "discarded_forwards": 3} if judged else {}
    made = Job.model_validate(
        {
            "id": "job_" + hashlib.sha256(f"{name} {prompt}".encode()).hexdigest()[:32],
            "status": "succeeded",
            "created_at": AT,
            "started_at": AT,
            "finished_at": AT,
            "model": "fake",
            "prompt": prompt,
            "params": {**asked, **params},
            "queue_position": None,
            "eta_s": None,
            "trajectories": trajectories,
            "error": None,
            "attempt": 1,
            "usage": {"text_tokens": 0, "denoise_steps": 0, "forwards": 0, "compute_s": 0.5, **drawn},
            "metadata": {},
            "links": {"self": "/", "events": "/", "cancel": "/", "stop": "/"},
        }
    )
    return made.with_contents(contents)


def line(number: int, prompt: str, tag: str | None = "counting") -> Line:
    """A prompt as GenEval has it."""
    kept = {"prompt": prompt, **({} if tag is None else {"tag": tag, "include": []})}
    return Line(number, prompt, {"seed": 0}, kept)


def run(path: Path, jobs: Sequence[Job], tags: Sequence[str | None] | None = None) -> Path:
    """A folder with these jobs."""
    lines = [line(n, one.prompt, "counting" if tags is None else tags[n]) for n, one in enumerate(jobs)]
    with opened(path, {"settings": {}}) as folder:
        folder.same_model({"name": "fake", "hash": "0"})
        for prompt, made in zip(lines, jobs, strict=True):
            folder.keep(prompt, made)
        folder.fill(lines)
    return path


def samples(path: Path, round_: int) -> dict[str, list[str]]:
    """What GenEval's scorer takes of a round: the pictures by prompt, whatever else lies there."""
    folder = path / f"round_{round_}"
    prompts = [p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()]
    return {p.name: sorted(file.name for file in (p / "samples").iterdir()) for p in prompts}
