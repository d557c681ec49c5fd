"""Every step of the training keeps to the device that its model is on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE
from tests.training.elsewhere import THERE, Elsewhere
from training.eyes import random_pictures, train_eyes
from training.joint import Recipe, Run
from training.small import TRANSFORMS, config, untrained
from training.teacher import Teacher
from training.vae_train import train_vae

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "small"

FEW = Recipe(steps=1, draws=4, looks=4, edits=4, warm_up=1)


def silent(part: str, done: int, total: int, line: str | None = None) -> None: ...


def model_there(there: Elsewhere) -> Bagel:
    vocab = json.loads((CHECKPOINT / "llm_config.json").read_text())["vocab_size"]
    bagel = untrained(config(vocab), 1, torch.float32)
    there.move(bagel)
    bagel.ready()
    return bagel


def test_a_stray_tensor_is_found() -> None:
    with Elsewhere() as there:
        x = torch.ones(2, device="cuda")
        assert x.device == THERE
        assert (x + 1).device == THERE
        with pytest.raises(AssertionError, match="mixes devices"):
            x + torch.ones(2)
        with pytest.raises(AssertionError, match="no numpy"):
            x.numpy()
        assert (x.cpu() + torch.ones(2)).device.type == "cpu"
    assert there.calls >= 2


def test_lessons_own_pictures_and_a_step_keep_to_the_device(alone: None, tmp_path: Path) -> None:
    tokenizer = Tokenizer(CHECKPOINT / "tokenizer.json")
    with Elsewhere() as there:
        painter = VAE(config(1).vae, torch.float32).eval().requires_grad_(False)
        there.move(painter)
        teacher = Teacher(tokenizer, painter, "a test", pool=8)
        teacher.fill(silent)
        bagel = model_there(there)
        run = Run(FEW, bagel, teacher, tokenizer, tmp_path, silent)
        teacher.learn_from_own_pictures(bagel, 2)
        assert run._optimiser.gradients().device == THERE  # before there are any
        run._backward()
        gradients = run._optimiser.gradients()
        assert gradients.device == THERE
        run._optimiser.step(gradients, 1.0)
        assert all(there.is_there(master) for master in run._optimiser.averaged.values())


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # autocast says it; everything is float32 then
def test_eyes_learn_on_the_device() -> None:
    with Elsewhere() as there:
        before = there.calls
        train_eyes(model_there(there), TRANSFORMS["vit"], steps=2, batch=2, seed=1, report=silent)
        assert there.calls > before


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_vae_learns_on_the_device() -> None:
    with Elsewhere() as there:
        vae = train_vae(config(1).vae, random_pictures, THERE, steps=1, batch=2, seed=1, report=silent)
        assert all(there.is_there(weight) for weight in vae.parameters())
