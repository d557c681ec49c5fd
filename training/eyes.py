"""Stage 0 of the small model: its ViT learns to say what stands in each cell, as SigLIP's training did for the real
one.

The classifier's head is thrown away; without this stage the joint run spends its first half blind.
"""

from __future__ import annotations

from random import Random
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from r3core.checkpoint import Transform
from r3core.model.bagel import Bagel
from r3core.model.image_processing import preprocess
from r3core.model.vit import grid_ids, patchify
from training.batches import look
from training.progress import Report
from training.render import render
from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, in_reading_order, place

# What a cell can be: empty, a shape of a colour, or a blob of a colour.
KINDS: Final = [("", ""), *((c, s) for c in COLOURS for s in (*SHAPES, BLOB))]


def random_scene(rng: Random, most: int = 7) -> Scene:
    """Up to `most` things of any kind, blobs among them."""
    cells = rng.sample(range(len(CELLS)), rng.randint(0, most))
    shapes = [BLOB if rng.random() < 0.06 else rng.choice(SHAPES) for _ in cells]
    return in_reading_order(
        place(rng.choice(list(COLOURS)), shape, cell, rng) for shape, cell in zip(shapes, cells, strict=True)
    )


def random_pictures(count: int, draws: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures of random scenes, uint8 [count, 96, 96, 3]."""
    rng = Random(int(draws.integers(2**62)))
    return render([random_scene(rng) for _ in range(count)])


def train_eyes(bagel: Bagel, transform: Transform, *, steps: int, batch: int, seed: int, report: Report) -> float:
    """Train `bagel.vit_model` in place, float32 masters under bf16 products; the accuracy of the last hundred cells'
    steps.

    Pictures are given as the server gives them: through the transform, and a little noisy, as decoded ones are.
    """
    torch.manual_seed(seed)
    device = bagel.device
    rng, noise = Random(seed), np.random.default_rng(seed)
    side = bagel.config.vit.side
    head = nn.Linear(bagel.config.vit.hidden, len(KINDS)).to(device)
    vit = bagel.vit_model.requires_grad_(True)
    optimiser = torch.optim.AdamW([*vit.parameters(), *head.parameters()], lr=1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps, pct_start=0.1)
    ids = grid_ids(side, side, side, device)
    recent: list[float] = []
    for step in range(steps):
        scenes = [random_scene(rng) for _ in range(batch)]
        pixels = np.stack([preprocess(p, transform) for p in _grainy(render(scenes), noise)])
        patches = torch.stack([patchify(p, bagel.config.vit.patch) for p in torch.from_numpy(pixels).to(device)])
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features = look(bagel, patches, ids)
            logits = head(_by_cell(features, side)).float()
        wanted = torch.tensor([_kinds(scene) for scene in scenes], device=device)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        recent = [*recent[-99:], float((logits.detach().argmax(-1) == wanted).all(1).float().mean())]
        line = f"step {step + 1}/{steps} loss {loss.item():.4f} whole scenes right {np.mean(recent[-20:]):.3f}"
        report("ViT", step + 1, steps, line if (step + 1) % 100 == 0 else None)
    vit.requires_grad_(False)
    return float(np.mean(recent))


def _grainy(pictures: NDArray[np.uint8], noise: np.random.Generator) -> NDArray[np.uint8]:
    grain = noise.normal(0, noise.uniform(0, 6, (len(pictures), 1, 1, 1)), pictures.shape)
    return np.clip(pictures + grain, 0, 255).astype(np.uint8)


def _by_cell(features: Tensor, side: int) -> Tensor:
    """The mean of each cell's patches: [B, side * side, Hv] -> [B, 9, Hv]."""
    a = side // 3
    grid = features.view(len(features), 3, a, 3, a, -1)
    out: Tensor = grid.mean(dim=(2, 4)).flatten(1, 2)
    return out


def _kinds(scene: Scene) -> list[int]:
    kinds = [0] * len(CELLS)
    for thing in scene:
        kinds[thing.cell] = KINDS.index(thing.kind)
    return kinds
