"""Counted arithmetic: against the floors derived for BAGEL-7B's sizes, and against what torch itself counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from r3core.bench.counting import Counter, Forward, drawn, seen, text, total
from r3core.bench.driving import drive
from r3core.bench.line import Ceiling, Line
from r3core.bench.loop_work import LoopCounter
from r3core.bench.random_weights import TRUE_SIZE, description
from r3core.bench.rates import a_picture
from r3core.bench.setting import Setting
from r3core.engine.feeds import Feeder
from r3core.model.tokenizer import Tokenizer
from r3core.model.weights import Loaded
from r3core.runtime import Runtime
from r3core.schedule import branches_per_step
from r3core.types import REFINE_DEFAULTS, Image, ImageSampling, Reflection, Request, Round, Trajectory, Verdict

TRUE = Counter(TRUE_SIZE, torch.bfloat16)
PATCHES = {512: 36 * 36, 1024: 70 * 70}
H200 = Ceiling(gflop_per_s=780e3, gbytes_per_s=4800.0)


def torch_counts(act: Callable[[], object]) -> int:
    """Operations by torch's own count, attention split into its two products."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        act()
    return int(counted.get_total_flops())


def test_a_latent_token_takes_13_gflop_of_its_expert() -> None:
    assert 2 * TRUE.expert_weights / 1e9 == pytest.approx(13.05, abs=0.005)


@pytest.mark.parametrize(
    ("side", "timesteps", "edit", "pflop"),
    [
        (512, 50, False, 1.24),
        (512, 50, True, 1.90),
        (512, 20, False, 0.48),
        (512, 20, True, 0.74),
        (1024, 50, False, 5.42),
        (1024, 50, True, 9.23),
    ],
)
def test_a_picture_takes_what_its_shapes_say(side: int, timesteps: int, edit: bool, pflop: float) -> None:
    settings = ImageSampling(num_timesteps=timesteps, cfg_img_scale=REFINE_DEFAULTS.cfg_img_scale)
    latents = (side // 16) ** 2
    whole = latents + PATCHES[side] + 4
    contexts = (whole + 20, whole, 20) if edit else (40, 20)
    steps = (TRUE.denoise([(latents, contexts[:n])]) for n in branches_per_step(settings, edit=edit))
    assert total(steps).flop / 1e15 == pytest.approx(pflop, abs=0.006)


@pytest.mark.parametrize(("side", "pflop"), [(512, 0.032), (1024, 0.142)])
def test_so_does_the_context_of_a_picture(side: int, pflop: float) -> None:
    latents = (side // 16) ** 2
    whole = TRUE.forward(drawn(0, latents) + seen(latents + 2, PATCHES[side]))
    assert whole.flop / 1e15 == pytest.approx(pflop, abs=0.0006)


def test_a_token_alone_reads_one_expert_and_the_head() -> None:
    token = TRUE.forward(text(past=0, rows=1, logits=1))
    assert token.gbytes == pytest.approx(14.1, abs=0.06)
    line = Line("", "", "ms", (3.7,), gflop=token.gflop, gbytes=token.gbytes)
    assert H200.floor_s(line) == pytest.approx(0.00295, abs=0.00001)


def test_cached_keys_are_read_by_every_sequence_and_weights_once() -> None:
    one, two = (TRUE.forward(sum([text(1000, 1, logits=1)] * n, Forward())) for n in (1, 2))
    assert two.flop == 2 * one.flop
    assert two.nbytes - one.nbytes == 1000 * 56 * 1024  # 56 KiB a token, and no weight again


def test_the_whole_loop_at_512_takes_eight_seconds(tokenizer: Tokenizer) -> None:
    count = LoopCounter(TRUE, tokenizer, description(TRUE_SIZE, 512))
    said = (Reflection("", "", Verdict.EDIT, "add a hat"),)
    image = Image("one", 512, 512)
    rounds = (Round(0, image, reflections=said), Round(1, image, "a hat", said, base=0), Round(2, image, "two", base=1))
    found = count.phases(Trajectory(Request("a cat", 512, 512, seed=0), rounds=rounds), (196, 150, 150))
    assert [name for name, _ in found] == ["reason", "generate", "reflect", "refine", "reflect", "refine"]
    floors = [H200.floor_s(Line("", "", "s", (1.0,), gflop=own.gflop, gbytes=own.gbytes)) for _, own in found]
    assert sum(floor for floor in floors if floor is not None) == pytest.approx(8.0, abs=0.25)


def test_a_row_meets_every_weight_of_its_expert_that_multiplies_once(loaded: Loaded) -> None:
    bagel, count = loaded.model.bagel, Counter(loaded.model.config, torch.float32)
    held = {
        name: weight.numel()
        for name, weight in bagel.language_model.model.layers.named_parameters()
        if name.endswith(("_proj.weight", "_proj_moe_gen.weight"))
    }
    drawing = sum(size for name, size in held.items() if "moe_gen" in name)
    understanding = sum(held.values()) - drawing
    assert count.forward(Forward(und=3, gen=5)).flop == 2 * (3 * understanding + 5 * drawing)
    assert count.forward(Forward(und=1)).nbytes == 4 * understanding
    head = bagel.language_model.lm_head.weight.numel()
    assert count.forward(Forward(logits=3)).flop == 2 * 3 * head


def test_attention_takes_two_products_of_queries_and_keys(loaded: Loaded) -> None:
    decoder = loaded.model.config.decoder
    q, k, v = (torch.zeros(1, decoder.heads, rows, decoder.head_dim) for rows in (5, 9, 9))
    layer = torch_counts(lambda: nn.functional.scaled_dot_product_attention(q, k, v))
    count = Counter(loaded.model.config, torch.float32)
    assert count.forward(Forward(pairs=5 * 9)).flop == decoder.layers * layer


@pytest.fixture
def make_feeder(loaded: Loaded, tokenizer: Tokenizer) -> Feeder:
    return Feeder(loaded.model, tokenizer, {"vae": (64, 32, 16), "vit": (56, 28, 14)})


def test_the_eye_takes_what_torch_counts(loaded: Loaded, make_feeder: Feeder) -> None:
    took = torch_counts(lambda: make_feeder.look(np.zeros((64, 64, 3), np.uint8)))
    assert took == Counter(loaded.model.config, torch.float32).look(16).flop


def test_the_vae_takes_its_convolutions_and_one_attention(random_engine: Runtime) -> None:
    model = random_engine.loaded.model
    done = 0

    def see(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal done
        assert isinstance(module, nn.Conv2d | nn.Linear)
        each = module.weight.numel() // module.weight.shape[0]
        done += 2 * made.numel() * each

    layers = [m for m in model.vae.model.decoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(see) for layer in layers]
    with torch.inference_mode():
        model.vae.decode(torch.zeros(1, model.config.vae.latent_channels, 8, 4))
    for hook in hooks:
        hook.remove()
    took = Counter(model.config, torch.float32).decode((32, 64))
    assert took.flop == done + 4 * (8 * 4) ** 2 * model.config.vae.channels[-1]
    assert took.nbytes == 4 * sum(p.numel() for p in model.vae.model.decoder.parameters())


def test_a_refinement_at_the_callers_word_looks_at_the_picture_itself(tokenizer: Tokenizer, checkpoint: Path) -> None:
    count = LoopCounter(TRUE, tokenizer, description(TRUE_SIZE, 512))
    made = Round(1, Image("one", 512, 512), "a hat", base=0)
    request = Request("a cat", 512, 512, seed=0)
    own = count.refine(request, made).flop
    given = count.refine(Request("a cat", 512, 512, seed=0, given_image=True, instruction="a hat"), made).flop
    assert given - own == TRUE.look(36 * 36).flop


def test_scores_of_a_picture_take_the_rows_that_the_engine_asks_for(random_engine: Runtime) -> None:
    setting = Setting(random_engine, runs=1, quick=True, say=print)
    picture = a_picture(setting)
    for scorers in (("gvu",), ("vqa",), ("gvu", "lift", "vqa")):
        asked = setting.loop(kind="score", scorers=scorers, given_image=True, max_rounds=0)
        rows: list[int] = []
        bagel = random_engine.loaded.model.bagel
        hook = bagel.register_forward_hook(lambda _, given, made, rows=rows: rows.append(given[0].shape[0]))
        drive(random_engine.engine, [asked], [picture])
        hook.remove()
        assert sum(rows) == setting.count.asked_for(asked.request, scorers).und
