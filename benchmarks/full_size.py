"""One refine loop at BAGEL-7B-MoT's true size, with random weights made on the device: memory and seconds by phase.

    python benchmarks/full_size.py                   a CUDA GPU with 80 GB or more; under eight minutes, the table last
    python benchmarks/full_size.py --sizes small     the same code with a small model, on any machine

No checkpoint is needed. Random weights write no sentences and never stop, so texts have their full length and every
round is run: the worst case. Results of the true size go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from r3core.checkpoint import Defaults, Description, find_files
from r3core.config import EngineConfig
from r3core.engine.engine import Engine
from r3core.events import Event, Failed, Finished, ImageReady, Reasoned, Reflected, TextDelta
from r3core.model.attention import choose
from r3core.model.bagel import Bagel, Model, ModelConfig
from r3core.model.layers import DecoderConfig, RMSNorm
from r3core.model.vae import VAE, VAEConfig
from r3core.model.vit import ViTConfig
from r3core.model.weights import Loaded
from r3core.runtime import build, pick_device, pick_dtype, set_up_torch
from r3core.types import EarlyStop, ImageSampling, Request, TextSampling, Trajectory

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a photo of three red apples on a wooden table"

TRUE_SIZE = ModelConfig(
    decoder=DecoderConfig(3584, 18944, 28, 28, 4, 152064, 1e-6, 1e6, 32768),
    vit=ViTConfig(1152, 4304, 26, 16, 14, 70, 1e-6),
    vae=VAEConfig((128, 256, 512, 512), 2, 16),
    latent_patch=2,
    latent_side=64,
    vit_side=70,
)
SMALL = ModelConfig(
    decoder=DecoderConfig(128, 256, 2, 4, 2, 2048, 1e-6, 1e6, 32768),
    vit=ViTConfig(64, 128, 2, 4, 14, 70, 1e-6),
    vae=VAEConfig((32, 32, 32, 64), 1, 16),
    latent_patch=2,
    latent_side=64,
    vit_side=70,
)


@dataclass
class Phase:
    """One stage of one trajectory: seconds, and how many turns of the engine it took (a token or a step each)."""

    name: str
    seconds: float
    turns: int


@dataclass
class Watch:
    """Turns the events of one trajectory into phases."""

    phases: list[Phase] = field(default_factory=list)
    turns: int = 0
    since: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None

    def see(self, event: Event) -> None:
        """Take in one event at the moment it arrives."""
        now = time.perf_counter()
        match event:
            case TextDelta() if self.first_token_s is None:
                self.first_token_s = now - self.since
            case Reasoned():
                self._end("reason", now)
            case Reflected(round=index):
                self._end(f"reflect {index}", now)
            case ImageReady(round=index):
                self._end("generate 0" if index == 0 else f"refine {index}", now)
            case Failed(error=error):
                raise error

    def _end(self, name: str, now: float) -> None:
        self.phases.append(Phase(name, now - self.since, self.turns))
        self.since, self.turns = now, 0


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Model:
    """A model of these sizes with random weights, made where it will run."""
    with torch.device("meta"):
        bagel, vae = Bagel(config), VAE(config.vae, compute=dtype)
    generator = torch.Generator(device=device).manual_seed(0)
    for module, wanted in ((bagel, dtype), (vae, torch.float32)):
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                value = torch.empty(parameter.shape, dtype=wanted, device=device)
                if isinstance(owner, RMSNorm | nn.LayerNorm | nn.GroupNorm):
                    value.fill_(1.0 if name == "weight" else 0.0)
                else:
                    value.normal_(0.0, 0.02, generator=generator)
                setattr(owner, name, nn.Parameter(value, requires_grad=False))
    bagel.ready()
    return Model(bagel, vae.eval(), config)


def description(config: ModelConfig, side: int) -> Description:
    """R3's own values for these sizes."""
    return Description(
        name="random weights",
        description="",
        licence="",
        hash="random",
        transforms={"vae": (512, 256, 16), "vit": (504, 252, 14)}
        if side >= 256
        else {"vae": (128, 32, 16), "vit": (112, 28, 14)},
        latent_stride=config.latent_stride,
        latent_side=config.latent_side,
        vit_side=config.vit_side,
        default_size=(side, side),
        defaults=Defaults(),
        example_prompts=(PROMPT,),
        max_context_tokens=32768,
    )


def trajectory(side: int, seed: int, timesteps: int, rounds: int) -> Trajectory:
    """Reason 196 tokens, draw, then `rounds` times reflect (150 tokens) and refine, whatever the texts say."""
    image = ImageSampling(num_timesteps=timesteps)
    return Trajectory(
        Request(
            PROMPT,
            side,
            side,
            seed,
            max_rounds=rounds,
            early_stop=EarlyStop(on_satisfied=False),
            reason=TextSampling(max_tokens=196, temperature=0.3),
            reflect=TextSampling(max_tokens=150, temperature=0.3),
            generate=image,
            refine=dataclasses.replace(image, cfg_img_scale=1.5, cfg_renorm_type="text_channel"),
        )
    )


def run(engine: Engine, trajectories: list[Trajectory]) -> tuple[list[Watch], float]:
    """Run trajectories together to their end; each one's phases, and the seconds in all."""
    watches = {str(i): Watch() for i in range(len(trajectories))}
    start = time.perf_counter()
    for key, value in zip(watches, trajectories, strict=True):
        engine.add(key, value)
    while engine.has_work:
        for watch in watches.values():
            watch.turns += 1
        for key, event in engine.step():
            watches[key].see(event)
            if isinstance(event, Finished):
                assert len(event.trajectory.rounds) == event.trajectory.request.max_rounds + 1
    return list(watches.values()), time.perf_counter() - start


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that tensors held on the device so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def main() -> int:
    """Build, warm up, run one loop alone and eight together, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=("true", "small"), default="true")
    parser.add_argument("--device")
    parser.add_argument("--dtype", choices=("bf16", "fp32"))
    parser.add_argument("--timesteps", type=int, default=50)
    parser.add_argument("--together", type=int, default=8, help="how many loops to run at once in the second part")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    dtype = pick_dtype(asked.dtype, device)
    config, side = (TRUE_SIZE, 512) if asked.sizes == "true" else (SMALL, 64)
    if asked.sizes == "true" and device.type != "cuda":
        parser.error("the true size needs a CUDA GPU; --sizes small checks the harness on this machine")
    files = find_files(ROOT / "tests" / "golden" / "checkpoint")
    setup = EngineConfig(files.llm_config.parent, max_trajectories=asked.together)
    set_up_torch(setup)
    made = time.perf_counter()
    model = random_model(config, device, dtype)
    weights = sum(p.numel() * p.element_size() for m in (model.bagel, model.vae) for p in m.parameters())
    attention = choose(device, dtype)
    runtime = build(setup, Loaded(model, files, (), weights), description(config, side), attention)
    print(f"{runtime.engine.plan()}\nattention: {attention.attention.name} ({attention.reason})")
    print(f"built in {time.perf_counter() - made:.1f} s", flush=True)
    run(runtime.engine, [trajectory(side, 0, 6, 1)])
    alone, alone_s = run(runtime.engine, [trajectory(side, 1, asked.timesteps, 2)])
    peak_alone = peak_bytes(device)
    print(f"one loop alone: {alone_s:.2f} s", flush=True)
    together = [trajectory(side, 2 + i, min(asked.timesteps, 20), 1) for i in range(asked.together)]
    _, together_s = run(runtime.engine, together)
    result = {
        "command": "python benchmarks/full_size.py" + ("" if asked.sizes == "true" else " --sizes small"),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": attention.attention.name,
        "size": f"{side}x{side}",
        "timesteps": asked.timesteps,
        "weights_bytes": weights,
        "planned_bytes": dataclasses.asdict(runtime.engine.plan()),
        "peak_bytes_alone": peak_alone,
        "peak_bytes_together": peak_bytes(device),
        "alone_s": alone_s,
        "first_token_s": alone[0].first_token_s,
        "phases": [dataclasses.asdict(p) for p in alone[0].phases],
        "together": asked.together,
        "together_s": together_s,
    }
    if asked.sizes == "true":
        _write(result)
    _table(result)
    return 0


def _write(result: dict[str, Any]) -> None:
    name = "".join(c if c.isalnum() else "_" for c in result["machine"].lower())
    path = ROOT / "benchmarks" / "results" / f"full_size_{name}_{result['dtype']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _table(result: dict[str, Any]) -> None:
    print(f"\n{result['machine']}, {result['dtype']}, {result['size']}, {result['timesteps']} timesteps")
    print(f"{'phase':<12}{'seconds':>9}{'turns':>7}{'ms a turn':>11}")
    for phase in result["phases"]:
        each = 1000 * phase["seconds"] / max(1, phase["turns"])
        print(f"{phase['name']:<12}{phase['seconds']:>9.3f}{phase['turns']:>7}{each:>11.2f}")
    print(f"{'whole loop':<12}{result['alone_s']:>9.3f}")
    print(f"{result['together']} loops together (20 timesteps, one refinement): {result['together_s']:.2f} s")
    if result["peak_bytes_together"]:
        print(
            f"peak {result['peak_bytes_alone'] / 2**30:.1f} GiB alone, "
            f"{result['peak_bytes_together'] / 2**30:.1f} GiB together"
        )


if __name__ == "__main__":
    raise SystemExit(main())
