"""Make the small checkpoint from nothing: `make train-small`.

    words   the tokenizer                                     seconds
    paper   the VAE                                           on one core, beside
    eyes    the ViT, as a reader of cells                     the other core
    joint   everything in one set of weights, on both cores   most of the time
    write   the checkpoint folder

Each stage writes what it made into the work folder and is skipped where that is there already, so a run that was
stopped goes on. Seeds are fixed; every rank has one thread, for two that share cores wait for each other more than
they work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from r3core.checkpoint import read_header
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE, diffusers_name
from training.corpus import texts
from training.eyes import random_pictures, train_eyes
from training.joint import Recipe, Run
from training.small import TRANSFORMS, config, untrained
from training.teacher import SERVED_DRAW, SERVED_EDIT, Teacher
from training.tokenizer import add_sentences, save, train
from training.vae_train import save_vae, train_vae

Log = Callable[[str], None]

EXAMPLES: Final = (
    "a photo of three red circles",
    "a blue square to the left of a green triangle",
    "two yellow stars and one red circle",
    "a purple heart",
    "a star above a circle",
)


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults took the time that the model card names, on two cores."""

    seed: int = 1
    vae_steps: int = 900
    vae_batch: int = 24
    eyes_steps: int = 1500
    eyes_batch: int = 96
    pool: int = 4000
    ranks: int = 2
    joint: Recipe = field(default_factory=Recipe)


def main() -> int:
    """Run all stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/small"), help="where stages leave what they made")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/small"), help="the checkpoint folder")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of the joint run")
    parser.add_argument("--ranks", type=int, default=Plan.ranks, help="processes, one thread each")
    parser.add_argument(
        "--own", type=int, default=Recipe.dagger_pictures, help="own pictures a rank learns from, each time"
    )
    parser.add_argument("--pool", type=int, default=Plan.pool, help="samples of each kind that a rank keeps")
    asked = parser.parse_args()
    plan = Plan(
        ranks=asked.ranks, pool=asked.pool, joint=replace(Recipe(), steps=asked.steps, dagger_pictures=asked.own)
    )
    asked.work.mkdir(parents=True, exist_ok=True)
    log = logger(asked.work / "train.log")
    log(f"plan {json.dumps(asdict(plan))}")
    words(asked.work)
    _together([partial(paper, plan, asked.work), partial(eyes, plan, asked.work)])
    if not (asked.work / "averaged.safetensors").is_file():
        _together([partial(joint, rank, plan, asked.work) for rank in range(plan.ranks)])
    write(asked.work, asked.out)
    log(f"wrote {asked.out}")
    return 0


def logger(path: Path) -> Log:
    """Lines with the time, to a file and to the terminal."""
    started = time.monotonic()

    def log(line: str) -> None:
        text = f"{(time.monotonic() - started) / 60:7.2f} min  {line}"
        print(text, flush=True)
        with path.open("a") as file:
            file.write(text + "\n")

    return log


def words(work: Path) -> None:
    """The tokenizer's files."""
    if not (work / "tokenizer.json").is_file():
        tokenizer = train(texts())
        add_sentences(tokenizer)
        save(tokenizer, work)


def paper(plan: Plan, work: Path) -> None:
    """The VAE."""
    path = work / "ae.safetensors"
    if path.is_file():
        return
    torch.set_num_threads(1)
    vae = train_vae(
        config(1).vae,
        random_pictures,
        steps=plan.vae_steps,
        batch=plan.vae_batch,
        seed=plan.seed,
        log=logger(work / "vae.log"),
    )
    unfinished = path.with_suffix(".partial")
    save_vae(vae, unfinished)
    unfinished.replace(path)


def eyes(plan: Plan, work: Path) -> None:
    """The ViT."""
    path = work / "vit.safetensors"
    if path.is_file():
        return
    torch.set_num_threads(1)
    bagel = untrained(config(_vocabulary(work)), plan.seed, torch.float32)
    train_eyes(
        bagel,
        TRANSFORMS["vit"],
        steps=plan.eyes_steps,
        batch=plan.eyes_batch,
        seed=plan.seed,
        log=logger(work / "eyes.log"),
    )
    unfinished = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in bagel.vit_model.state_dict().items()}, unfinished)
    unfinished.replace(path)


def joint(rank: int, plan: Plan, work: Path) -> None:
    """One rank of the joint run."""
    torch.set_num_threads(1)
    meeting = work / "meeting"
    address = f"file://{meeting.absolute()}.{os.getppid()}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.ranks)
    log = logger(work / "train.log")
    tokenizer = Tokenizer(work / "tokenizer.json")
    bagel = untrained(config(_vocabulary(work)), plan.seed, torch.float32)
    bagel.vit_model.load_state_dict(load_file(work / "vit.safetensors"))
    bagel.to(torch.bfloat16)
    bagel.ready()
    teacher = Teacher(tokenizer, load_vae(work / "ae.safetensors"), f"{plan.seed}/{rank}", plan.pool)
    teacher.fill()
    if rank == 0:
        log(f"pools of {plan.pool} filled")
    run = Run(plan.joint, bagel, teacher, tokenizer, work, log)
    run.resume()
    averaged = run.train()
    if rank == 0:
        unfinished = work / "averaged.partial"
        save_file({k: v.contiguous() for k, v in averaged.items()}, unfinished)
        unfinished.replace(work / "averaged.safetensors")
    dist.destroy_process_group()


def load_vae(path: Path) -> VAE:
    """The VAE of ae.safetensors, in float32."""
    sizes = config(1).vae
    vae = VAE(sizes, torch.float32)
    levels = len(sizes.channels)
    own = vae.model.state_dict()
    stored = load_file(path)
    assert set(read_header(path)) == set(stored)
    vae.model.load_state_dict({(n := diffusers_name(k, levels)): v.reshape(own[n].shape) for k, v in stored.items()})
    vae.eval().requires_grad_(False)
    return vae


def write(work: Path, out: Path) -> None:
    """The checkpoint folder, in the BAGEL layout."""
    out.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = load_file(work / "averaged.safetensors")
    save_file({k: v.bfloat16().contiguous() for k, v in weights.items()}, out / "ema.safetensors")
    for name in ("ae.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (out / name).write_bytes((work / name).read_bytes())
    sizes = config(_vocabulary(work))
    decoder, vit = sizes.decoder, sizes.vit
    llm = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.intermediate,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "max_position_embeddings": decoder.max_positions,
        "rms_norm_eps": decoder.rms_norm_eps,
        "rope_theta": decoder.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": decoder.vocab,
    }
    eye = {
        "model_type": "siglip_vision_model",
        "num_channels": 3,
        "hidden_size": vit.hidden,
        "intermediate_size": vit.intermediate,
        "num_hidden_layers": vit.layers + 1,  # the loader drops the last one, as the reference does
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch,
        "image_size": vit.patch * vit.side,
    }
    about = {
        "name": "r3-small",
        "description": "A small trained model that knows coloured shapes and nothing else: circles, squares, "
        "triangles, stars and hearts in six colours, up to six of them, of one kind or of several, left of, right "
        "of, above or below each other.",
        "licence": "Apache-2.0",
        "transforms": TRANSFORMS,
        "size": {"default": "96x96"},
        "defaults": {
            "max_rounds": 3,
            "reason": {"max_tokens": 64, "temperature": 0.0},
            "reflect": {"max_tokens": 160, "temperature": 0.0},
            "generate": {k: v for k, v in asdict(SERVED_DRAW).items() if k != "cfg_img_scale"},
            "refine": asdict(SERVED_EDIT),
        },
        "example_prompts": EXAMPLES,
    }
    if not (out / "README.md").is_file():
        (out / "README.md").write_bytes((Path(__file__).parent / "card.md").read_bytes())
    for name, value in (("llm_config.json", llm), ("vit_config.json", eye), ("r3.json", about)):
        (out / name).write_text(json.dumps(value, indent=2) + "\n")


def _vocabulary(work: Path) -> int:
    """Rows of the embedding: every id, rounded up to a multiple of 32."""
    vocab = json.loads((work / "tokenizer.json").read_text())
    highest = max([*vocab["model"]["vocab"].values(), *(t["id"] for t in vocab["added_tokens"])])
    return (int(highest) // 32 + 1) * 32


def _together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run stages side by side, a process each; a stage that fails ends the run."""
    context = mp.get_context("spawn")
    processes = [context.Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a stage ended with code {process.exitcode}; its message stands above")


if __name__ == "__main__":
    raise SystemExit(main())
