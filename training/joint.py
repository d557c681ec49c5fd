"""The joint run of the small model: drawing, reflecting, editing, describing and judging in one set of weights.

Every rank (one process a core, one thread each) makes its own lessons and its own gradients; gradients are summed, so
the ranks' weights stay equal. Every so often a rank draws pictures with the weights as they are and learns from what
came of them (DAgger). The state is written as safetensors; a stopped run goes on from it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from training.batches import Sample, collate, losses, rows
from training.optim import Optimiser
from training.progress import Report
from training.teacher import Teacher


@dataclass(frozen=True)
class Recipe:
    """Numbers of the run; batches are per rank and step."""

    seed: int = 1
    steps: int = 2600
    draws: int = 40
    looks: int = 48
    edits: int = 40
    lr: float = 3e-3
    warm_up: int = 60
    flat_until: float = 0.45
    last: float = 0.03
    dagger_at: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7, 0.84)
    dagger_pictures: int = 500
    save_every: int = 200

    def scale(self, step: int) -> float:
        """The learning rate's factor: up, flat, then down in a line."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = step / self.steps
        if done < self.flat_until:
            return 1.0
        left = (1 - done) / (1 - self.flat_until)
        return self.last + (1 - self.last) * left


class Run:
    """One rank of the joint run."""

    def __init__(
        self, recipe: Recipe, bagel: Bagel, teacher: Teacher, tokenizer: Tokenizer, folder: Path, report: Report
    ) -> None:
        self._recipe, self._bagel, self._teacher, self._tokenizer = recipe, bagel, teacher, tokenizer
        self._folder, self._report = folder, report
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        bagel.requires_grad_(True)
        self._optimiser = Optimiser(bagel.named_parameters(), recipe.lr)
        self._step = 0
        self._seen = {"draw": 0.0, "reason": 0.0, "look": 0.0, "edit": 0.0}

    def resume(self) -> None:
        """Go on from the newest stored state, if there is one."""
        path = self._folder / "state.safetensors"
        if not path.is_file():
            return
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["about"])
        flat = load_file(path)
        parts: dict[str, Any] = {"masters": {}, "averaged": {}, "first": {}, "second": {}, "steps": about["steps"]}
        for name, value in flat.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        self._optimiser.load(parts)
        self._step = about["steps"]
        self._tell(f"going on from step {self._step}")

    def train(self) -> dict[str, Tensor]:
        """Run to the last step; the averaged weights."""
        recipe = self._recipe
        daggers = {round(recipe.steps * at) for at in recipe.dagger_at}
        if any(self._step > at for at in daggers):  # a resumed run, whose own pictures were not stored
            self._teacher.learn_from_own_pictures(self._bagel, recipe.dagger_pictures)
        started, first = time.monotonic(), self._step
        while self._step < recipe.steps:
            if self._step in daggers:
                self._dagger()
            torch.manual_seed(recipe.seed * 1_000_003 + self._step * self._world + self._rank)
            self._backward()
            gradients = self._optimiser.gradients()
            dist.all_reduce(gradients)
            self._optimiser.step(gradients / self._world, recipe.scale(self._step))
            self._step += 1
            self._tell(self._standing(started, first) if self._step % 20 == 0 else None)
            if self._step % recipe.save_every == 0 and self._rank == 0:
                self._save()
        return self._optimiser.averaged

    def _backward(self) -> None:
        recipe, teacher = self._recipe, self._teacher
        teacher.refresh()
        # Each task goes backward by itself: one graph at a time stays in the cache.
        self._learn("draw", teacher.draw_lessons(recipe.draws), text=0.3, flow=1.0)
        self._learn("look", teacher.look_lessons(recipe.looks), text=0.7, flow=0.0)
        self._learn("edit", teacher.edit_lessons(recipe.edits), text=0.0, flow=1.0)

    def _learn(self, task: str, samples: list[Sample], *, text: float, flow: float) -> None:
        # Short ones apart from long ones: less padding.
        samples = sorted(samples, key=rows)
        middle = len(samples) // 2
        device = self._bagel.device
        halves = [
            collate(half, self._tokenizer, self._teacher.vit_patches).to(device)
            for half in (samples[:middle], samples[middle:])
        ]
        texts, flows = sum(half.learnt for half in halves), sum(half.drawn_weight for half in halves)
        seen_text = seen_flow = 0.0
        for half in halves:
            noise = None if half.latents is None else torch.randn_like(half.latents)
            times = torch.sigmoid(torch.randn(len(half.ids), device=device) * 1.1 + 0.2)
            found = losses(self._bagel, half, times, noise)
            total = torch.zeros((), device=device)
            if found.text is not None:
                share = found.text * (half.learnt / texts)
                total, seen_text = total + text * share, seen_text + share.item()
            if found.flow is not None:
                share = found.flow * (half.drawn_weight / flows)
                total, seen_flow = total + flow * share, seen_flow + share.item()
            torch.autograd.backward(total)
        if texts:
            self._note("reason" if task == "draw" else task, seen_text)
        if flows:
            self._note(task, seen_flow)

    def _note(self, what: str, now: float) -> None:
        before = self._seen[what]
        self._seen[what] = now if before == 0 else 0.98 * before + 0.02 * now

    def _dagger(self) -> None:
        count = self._teacher.learn_from_own_pictures(self._bagel, self._recipe.dagger_pictures)
        self._tell(
            f"step {self._step}: own pictures right at once {count.right_at_once:.3f}, "
            f"after the right edit {count.right_after:.3f}"
        )

    def _tell(self, line: str | None) -> None:
        if self._rank == 0:  # the others' steps are the same
            self._report("joint", self._step, self._recipe.steps, line)

    def _standing(self, started: float, first: int) -> str:
        pace = (time.monotonic() - started) / (self._step - first)
        left = pace * (self._recipe.steps - self._step) / 60
        seen = " ".join(f"{k} {v:.4f}" for k, v in self._seen.items())
        return f"step {self._step}/{self._recipe.steps} {seen} {pace:.2f} s/step, {left:.0f} min left"

    def _save(self) -> None:
        state = self._optimiser.state()
        flat = {f"{part}/{n}": v for part in ("masters", "averaged", "first", "second") for n, v in state[part].items()}
        partial = self._folder / "state.partial"
        save_file(flat, partial, metadata={"about": json.dumps({"steps": state["steps"]})})
        partial.replace(self._folder / "state.safetensors")
