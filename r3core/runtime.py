"""From a configuration to a running engine: device, weights, attention, memory plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from r3core.checkpoint import Description
from r3core.config import EngineConfig
from r3core.cores import usual_threads
from r3core.engine.batch import MemoryPlan
from r3core.engine.engine import Engine
from r3core.engine.runner import ModelRunner
from r3core.errors import CheckpointError, DeviceError
from r3core.memory_plan import plan_memory
from r3core.model.attention import Choice, choose
from r3core.model.bagel import ModelConfig
from r3core.model.image_processing import resize_to
from r3core.model.weights import Loaded, Prepared, prepare

if TYPE_CHECKING:
    from r3core.similarity import Similarity


@dataclass(frozen=True)
class Runtime:
    """A running engine and what was decided for it."""

    engine: Engine
    runner: ModelRunner
    loaded: Loaded
    description: Description
    attention: Choice


def pick_device(name: str | None) -> torch.device:
    """The device to serve on. Raises DeviceError where a named one is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not a device; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device {name!r} is not there: torch {torch.__version__} sees {count} CUDA devices; "
                "say --device cpu, or look at the driver and CUDA_VISIBLE_DEVICES"
            )
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """bf16 on CUDA and fp32 on a CPU unless named."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def set_up_torch(config: EngineConfig) -> None:
    """Threads, exact float32 on CUDA (no TF32), and no attention of cuDNN's: it plans anew for every length of a text,
    which takes parts of a second, and on some devices it was wrong with few kv heads (pytorch issue 193893).
    """
    torch.set_num_threads(config.torch_threads or usual_threads())
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def load_engine(config: EngineConfig, progress: Callable[[int, int], None] | None = None) -> Runtime:
    """Load a checkpoint and plan its memory. `progress(done, total)` is told bytes of weights.

    Raises CheckpointError or DeviceError with the remedy.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    set_up_torch(config)
    prepared = prepare(config.checkpoint, config.base_checkpoint, dtype=dtype, allow_unexpected=config.allow_unexpected)
    attention = choose(device, dtype, config.attention, prepared.model.config.decoder.attended)
    # What cannot be served is refused before the first of 29 GB is read.
    similarities = _similarities(config, device)  # before the plan, which takes what they leave
    plan = plan_prepared(config, prepared, device)
    loaded = prepared.fill(device, progress)
    return _running(config, loaded, prepared.description, attention, plan, similarities)


def plan_prepared(
    config: EngineConfig, prepared: Prepared, device: torch.device, *, is_empty: bool = False
) -> MemoryPlan:
    """The memory plan of a checkpoint that is not read yet; CheckpointError or DeviceError where it cannot be.

    `is_empty` asks what would hold if nothing else were on the device.
    """
    description = prepared.description
    _check_sizes(description, prepared.model.config)
    free, total = _memory(device)
    free = total if is_empty else free
    room = None if free is None else free - prepared.weights_bytes
    dtype = prepared.model.bagel.dtype
    return plan_memory(
        config, prepared.model.config, description, str(device), dtype, prepared.weights_bytes, room, total
    )


def build(config: EngineConfig, loaded: Loaded, description: Description, attention: Choice) -> Runtime:
    """An engine around weights that are on the device."""
    bagel = loaded.model.bagel
    _check_sizes(description, loaded.model.config)
    similarities = _similarities(config, bagel.device)
    plan = plan_memory(
        config,
        loaded.model.config,
        description,
        str(bagel.device),
        bagel.dtype,
        loaded.weights_bytes,
        *_memory(bagel.device),
    )
    return _running(config, loaded, description, attention, plan, similarities)


def _running(
    config: EngineConfig,
    loaded: Loaded,
    description: Description,
    attention: Choice,
    plan: MemoryPlan,
    similarities: Sequence[Similarity],
) -> Runtime:
    runner = ModelRunner(loaded.model, loaded.tokenizer, description, attention.attention, plan, similarities)
    return Runtime(Engine(runner, config.max_trajectories), runner, loaded, description, attention)


def _similarities(config: EngineConfig, device: torch.device) -> Sequence[Similarity]:
    if not config.similarity_models:
        return ()
    from r3core.similarity import load_similarities  # classes of transformers that nothing else needs

    return load_similarities(config.similarity_models, device)


def _memory(device: torch.device) -> tuple[int | None, int | None]:
    """Free and total bytes of the device; None for a CPU, whose memory is everybody's."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else (None, None)


def _check_sizes(description: Description, model: ModelConfig) -> None:
    """The default size must be one that the checkpoint can draw and see."""
    width, height = description.default_size
    stride, side = description.latent_stride, description.latent_side
    legal = resize_to((width, height), description.transforms["vae"]) == (width, height)
    if not legal or width % stride or height % stride or max(width, height) > stride * side:
        raise CheckpointError(
            f"default size {width}x{height} of {description.name} is not one that its VAE transform "
            f"{description.transforms['vae']} and its grid of {side} x {side} tokens allow; mend r3.json"
        )
    patches = max(resize_to((width, height), description.transforms["vit"])) // model.vit.patch
    if patches > min(model.vit.side, model.vit_side):
        raise CheckpointError(
            f"a picture of {width}x{height} has {patches} ViT patches on a side and the tables have "
            f"{min(model.vit.side, model.vit_side)}; mend transforms.vit in r3.json"
        )
