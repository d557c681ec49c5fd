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
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from r3core.checkpoint import read_header
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE, diffusers_name
from training.corpus import texts
from training.eyes import random_pictures, train_eyes
from training.joint import Recipe, Run
from training.progress import Board, Report
from training.small import SIZES, TRANSFORMS, config, untrained
from training.teacher import SERVED_DRAW, SERVED_EDIT, Teacher
from training.tokenizer import add_sentences, save, train
from training.vae_train import save_vae, train_vae

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
    size: str = "small"
    device: str = "cpu"
    vae_steps: int = 900
    vae_batch: int = 24
    eyes_steps: int = 1500
    eyes_batch: int = 96
    pool: int = 4000
    ranks: int = 2
    joint: Recipe = field(default_factory=Recipe)


# One rank has the GPU to itself and takes what eight ranks of two cores would take; more steps, for a larger model.
ON_CUDA: Final = Plan(
    size="large",
    device="cuda",
    vae_steps=2000,
    vae_batch=96,
    eyes_steps=3000,
    pool=16000,
    ranks=1,
    joint=Recipe(steps=4000, draws=320, looks=384, edits=320, dagger_pictures=4000),
)


def main() -> int:
    """Run all stages that are not done yet."""
    plan, work, out = asked(sys.argv[1:])
    work.mkdir(parents=True, exist_ok=True)
    board = Board(work / "train.log")
    board.log(f"plan {json.dumps(asdict(plan))}")
    remember(plan, work)
    words(work)
    board.together({"VAE": partial(paper, plan, work), "ViT": partial(eyes, plan, work)})
    if not (work / "averaged.safetensors").is_file():
        board.together({f"joint, rank {rank}": partial(joint, rank, plan, work) for rank in range(plan.ranks)})
    write(plan, work, out)
    board.log(f"wrote {out}")
    return 0


def asked(arguments: list[str]) -> tuple[Plan, Path, Path]:
    """The plan that the command line asks for, the work folder and the checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=best, help="cuda where there is one")
    parser.add_argument("--size", choices=tuple(SIZES), help="small on a CPU, large on a GPU")
    parser.add_argument("--work", type=Path, help="where stages leave what they made; build/SIZE")
    parser.add_argument("--out", type=Path, help="the checkpoint folder; checkpoints/SIZE")
    parser.add_argument("--steps", type=int, help="steps of the joint run")
    parser.add_argument("--ranks", type=int, help="processes on a CPU, one thread each")
    parser.add_argument("--own", type=int, help="own pictures a rank learns from, each time")
    parser.add_argument("--pool", type=int, help="samples of each kind that a rank keeps")
    said = parser.parse_args(arguments)
    plan = Plan() if said.device == "cpu" else ON_CUDA
    if said.device == "cuda" and said.ranks not in {None, 1}:
        parser.error("--ranks is for a CPU: one rank has the GPU to itself")
    changes = {k: v for k, v in {"size": said.size, "ranks": said.ranks, "pool": said.pool}.items() if v is not None}
    recipe = {k: v for k, v in {"steps": said.steps, "dagger_pictures": said.own}.items() if v is not None}
    plan = replace(plan, **changes, joint=replace(plan.joint, **recipe))
    return plan, said.work or Path("build") / plan.size, said.out or Path("checkpoints") / plan.size


def remember(plan: Plan, work: Path) -> None:
    """Write the plan beside what it makes. Raises SystemExit where the folder holds another size's work."""
    path = work / "plan.json"
    if path.is_file() and (before := json.loads(path.read_text())["size"]) != plan.size:
        raise SystemExit(f"{work} holds the work of a {before} model; name another folder with --work, or empty it")
    path.write_text(json.dumps(asdict(plan), indent=2) + "\n")


def words(work: Path) -> None:
    """The tokenizer's files."""
    if not (work / "tokenizer.json").is_file():
        tokenizer = train(texts())
        add_sentences(tokenizer)
        save(tokenizer, work)


def paper(plan: Plan, work: Path, report: Report) -> None:
    """The VAE."""
    path = work / "ae.safetensors"
    if path.is_file():
        return
    torch.set_num_threads(1)
    vae = train_vae(
        config(1).vae,
        random_pictures,
        torch.device(plan.device),
        steps=plan.vae_steps,
        batch=plan.vae_batch,
        seed=plan.seed,
        report=report,
    )
    unfinished = path.with_suffix(".partial")
    save_vae(vae, unfinished)
    unfinished.replace(path)


def eyes(plan: Plan, work: Path, report: Report) -> None:
    """The ViT."""
    path = work / "vit.safetensors"
    if path.is_file():
        return
    torch.set_num_threads(1)
    bagel = untrained(config(_vocabulary(work), plan.size), plan.seed, torch.float32).to(plan.device)
    train_eyes(
        bagel,
        TRANSFORMS["vit"],
        steps=plan.eyes_steps,
        batch=plan.eyes_batch,
        seed=plan.seed,
        report=report,
    )
    unfinished = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in bagel.vit_model.state_dict().items()}, unfinished)
    unfinished.replace(path)


def joint(rank: int, plan: Plan, work: Path, report: Report) -> None:
    """One rank of the joint run."""
    torch.set_num_threads(1)
    meeting = work / "meeting"
    address = f"file://{meeting.absolute()}.{os.getppid()}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.ranks)
    tokenizer = Tokenizer(work / "tokenizer.json")
    bagel = untrained(config(_vocabulary(work), plan.size), plan.seed, torch.float32)
    bagel.vit_model.load_state_dict(load_file(work / "vit.safetensors"))
    bagel.to(plan.device, torch.bfloat16)
    bagel.ready()
    painter = load_vae(work / "ae.safetensors").to(plan.device)
    teacher = Teacher(tokenizer, painter, f"{plan.seed}/{rank}", plan.pool)
    teacher.fill(report if rank == 0 else _silent)
    run = Run(plan.joint, bagel, teacher, tokenizer, work, report)
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


def write(plan: Plan, work: Path, out: Path) -> None:
    """The checkpoint folder, in the BAGEL layout."""
    out.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = load_file(work / "averaged.safetensors")
    save_file({k: v.bfloat16().contiguous() for k, v in weights.items()}, out / "ema.safetensors")
    for name in ("ae.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (out / name).write_bytes((work / name).read_bytes())
    sizes = config(_vocabulary(work), plan.size)
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
        "name": f"r3-{plan.size}",
        "description": f"A {plan.size} trained model that knows coloured shapes and nothing else: circles, squares, "
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
    if plan.size == "small" and not (out / "README.md").is_file():  # the card tells of this size alone
        (out / "README.md").write_bytes((Path(__file__).parent / "card.md").read_bytes())
    for name, value in (("llm_config.json", llm), ("vit_config.json", eye), ("r3.json", about)):
        (out / name).write_text(json.dumps(value, indent=2) + "\n")


def _vocabulary(work: Path) -> int:
    """Rows of the embedding: every id, rounded up to a multiple of 32."""
    vocab = json.loads((work / "tokenizer.json").read_text())
    highest = max([*vocab["model"]["vocab"].values(), *(t["id"] for t in vocab["added_tokens"])])
    return (int(highest) // 32 + 1) * 32


def _silent(part: str, done: int, total: int, line: str | None = None) -> None:
    """For ranks whose standing is that of the first."""


if __name__ == "__main__":
    raise SystemExit(main())
