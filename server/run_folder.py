"""What `r3 generate` leaves in its folder: pictures, trajectory.json, and a contact sheet.

    t0_round0.png …          every finished picture, lossless, with its prompt, seed and round as texts;
                             t0_round0_candidate1.png where there are several of a round
    t0_round0.webp           the same as it was asked to be delivered, where that is not PNG
    t0_round0_step08.png     previews
    trajectory.json          what was said and decided, as a job shows it, with paths in place of links
    contact_sheet.png        all of it to look at

A picture is written as soon as it is finished and trajectory.json after it, so that whatever ends the run leaves what
was done until then. Every file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from r3core.contact_sheet import contact_sheet
from r3core.loop import wanted
from r3core.types import Round, Trajectory, Usage
from server import __version__
from server.encoding import PictureTexts, lossy, png
from server.out_folder import name_of
from server.queue_records import JUDGED_USAGE

if TYPE_CHECKING:
    from r3core.events import ImageReady, Pixels

Json = dict[str, Any]
SUFFIX_OF: Final = {"webp": "webp", "jpeg": "jpeg"}


@dataclass(frozen=True)
class Delivery:
    """How pictures are asked to be delivered beside the lossless one."""

    output_format: str = "png"
    output_compression: int | None = None


@dataclass
class RunFolder:
    """The folder of one run. `about` goes into trajectory.json as it is: model, settings, metadata."""

    path: Path
    prompt: str
    about: Json
    delivery: Delivery = field(default_factory=Delivery)
    _pictures: dict[str, Pixels] = field(default_factory=dict)
    _images: dict[str, Json] = field(default_factory=dict)
    """Both by the pictures' ids."""

    def keep_picture(self, ready: ImageReady) -> None:
        """Write a picture of a round."""
        trajectory, pixels = ready.trajectory, ready.pixels
        candidate = ready.candidate if wanted(trajectory, ready.round) > 1 else None
        name = name_of(trajectory.index, ready.round, candidate)
        content = png(pixels, PictureTexts(self.prompt, trajectory.seed, ready.round, candidate))
        self._write(f"{name}.png", content)
        shown, chosen = f"{name}.png", self.delivery
        if chosen.output_format != "png":
            content = lossy(pixels, chosen.output_format, chosen.output_compression)
            shown = f"{name}.{SUFFIX_OF[chosen.output_format]}"
            self._write(shown, content)
        height, width, _ = pixels.shape
        self._pictures[ready.image.id] = pixels
        self._images[ready.image.id] = {
            "id": ready.image.id,
            "path": shown,
            **({"master": f"{name}.png"} if shown != f"{name}.png" else {}),
            "width": width,
            "height": height,
            "format": chosen.output_format,
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def keep_preview(self, trajectory: Trajectory, index: int, step: int, pixels: Pixels) -> None:
        """Write what the picture of a round was going to be after `step` steps."""
        content = png(pixels, PictureTexts(self.prompt, trajectory.seed, index))
        self._write(f"{name_of(trajectory.index, index)}_step{step:02d}.png", content)

    def keep_story(self, trajectories: Sequence[Trajectory], status: str, error: Json | None, compute_s: float) -> None:
        """Write trajectory.json: one trajectory as it is, several as a list, the settings beside them."""
        stories = [self._story(trajectory, ended=status != "running") for trajectory in trajectories]
        usage = asdict(sum((t.usage for t in trajectories), Usage()))
        if not any(trajectory.request.scorers for trajectory in trajectories):
            usage = {name: spent for name, spent in usage.items() if name not in JUDGED_USAGE}
        value = {
            "status": status,
            "error": error,
            **self.about,
            **(stories[0] if len(stories) == 1 else {"trajectories": stories}),
            "usage": {**usage, "compute_s": round(compute_s, 3)},
            "server": f"r3-server {__version__}",
        }
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        self._write("trajectory.json", f"{text}\n".encode("utf-8", "backslashreplace"))

    def keep_sheet(self, trajectories: Sequence[Trajectory], about: str) -> Path | None:
        """Draw the contact sheet; None where there is no picture yet."""
        if not self._pictures:
            return None
        path = self.path / "contact_sheet.png"
        temporary = path.with_name(f".{path.name}.part")
        rounds = [(t.index, r.index, r.image.id) for t in trajectories for r in t.rounds]
        shown = {(index, number): self._pictures[name] for index, number, name in rounds if name in self._pictures}
        contact_sheet(trajectories, shown, about).save(temporary, "PNG")
        temporary.replace(path)
        return path

    def _story(self, trajectory: Trajectory, *, ended: bool) -> Json:
        rounds = [self._round(trajectory, round_) for round_ in trajectory.rounds]
        return {
            "index": trajectory.index,
            "seed": trajectory.seed,
            "reasoning": trajectory.reasoning,
            "rounds": rounds,
            "stop_reason": trajectory.stop_reason,
            "image": self._images.get(trajectory.result.image.id) if trajectory.result and ended else None,
        }

    def _round(self, trajectory: Trajectory, round_: Round) -> Json:
        said = [asdict(reflection) for reflection in round_.reflections]
        return {
            "index": round_.index,
            "image": self._images.get(round_.image.id),
            "instruction": round_.instruction,
            "reflection": said[-1] if said else None,
            "reflections": [reflection["text"] for reflection in said],
            **(self._judged(round_) if trajectory.request.scorers else {}),
        }

    def _judged(self, round_: Round) -> Json:
        """What a round of a judged job shows besides, as job_view.py has it."""
        candidates = [
            {
                "image": self._images.get(one.image.id),
                "instruction": round_.instruction,
                "scores": [asdict(score) for score in one.scores],
                "reflection": asdict(one.reflections[-1]) if one.reflections else None,
            }
            for one in round_.candidates
        ]
        scores = [asdict(score) for score in round_.scores]
        return {"scores": scores, "candidates": candidates, "chosen": round_.chosen, "from_round": round_.base}

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.path / f".{name}.part"
        temporary.write_bytes(content)
        temporary.replace(self.path / name)
