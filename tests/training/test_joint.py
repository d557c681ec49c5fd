"""The joint run: its gradients do not depend on how a batch is laid out, and a stopped run goes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r3core.model.bagel import Bagel
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE
from training.batches import collate, losses
from training.joint import Recipe, Run
from training.small import VIT_PATCHES, config, untrained
from training.teacher import Teacher

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "small"
TOKENIZER = CHECKPOINT / "tokenizer.json"
FEW = Recipe(steps=4, draws=3, looks=4, edits=3, warm_up=1, dagger_at=(0.5,), dagger_pictures=2, save_every=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a rank has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Teacher:
    torch.manual_seed(0)
    painter = VAE(config(1).vae, torch.float32)
    painter.eval().requires_grad_(False)
    one = Teacher(tokenizer, painter, "a test", pool=8)
    one.fill(lambda *told: None)
    return one


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Bagel:
    vocab = json.loads((CHECKPOINT / "llm_config.json").read_text())["vocab_size"]
    return untrained(config(vocab), 1, torch.float32)


def begun(recipe: Recipe, model: Bagel, teacher: Teacher, folder: Path) -> tuple[Run, list[str]]:
    said: list[str] = []

    def report(part: str, done: int, total: int, line: str | None = None) -> None:
        if line is not None:
            said.append(line)

    own = copy.deepcopy(model)
    own.ready()
    return Run(recipe, own, teacher, Tokenizer(TOKENIZER), folder, report), said


def test_a_batch_in_halves_has_the_gradients_of_the_whole(
    alone: None, model: Bagel, teacher: Teacher, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run, _ = begun(FEW, model, teacher, tmp_path)
    looks = teacher.look_lessons(7)
    run._learn("look", looks, text=1.0, flow=0.0)
    halves = run._optimiser.gradients()
    whole = copy.deepcopy(model)
    whole.ready()
    whole.requires_grad_(True)
    found = losses(whole, collate(looks, tokenizer, VIT_PATCHES), torch.zeros(7), None)
    assert found.text is not None
    torch.autograd.backward(found.text)
    by_name = {n: p.grad for n, p in whole.named_parameters() if p.grad is not None}
    own = {n: p.grad for n, p in run._bagel.named_parameters() if p.grad is not None}
    assert by_name.keys() == own.keys()
    assert halves.abs().max() > 0
    for name, gradient in by_name.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_run_that_was_stopped_goes_on_where_it_stood(
    alone: None, model: Bagel, teacher: Teacher, tmp_path: Path
) -> None:
    run, _ = begun(replace(FEW, steps=3), model, teacher, tmp_path)
    run.train()
    stood = copy.deepcopy(run._optimiser.state())
    again, said = begun(FEW, model, teacher, tmp_path)
    again.resume()
    assert "going on from step 3" in said
    there = again._optimiser.state()
    assert there.keys() == stood.keys()
    assert there.pop("steps") == stood["steps"] == 3
    for part, tensors in there.items():
        assert tensors, part
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, stood[part][name])
    averaged = again.train()
    assert again._step == FEW.steps
    assert all(bool(torch.isfinite(weight).all()) for weight in averaged.values())


def test_own_pictures_are_read_before_they_are_learnt(alone: None, model: Bagel, teacher: Teacher) -> None:
    count = teacher.learn_from_own_pictures(model, 3)
    assert 0.0 <= count.right_at_once <= 1.0
    assert teacher._own
    for pair, lesson, _ in teacher._own:
        assert (lesson is None) == (not pair.ops)
