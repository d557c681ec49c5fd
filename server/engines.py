"""The engine that the settings ask for: the model's, or the fake one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from r3core.checkpoint import DEFAULT_TRANSFORMS, Defaults, Description, describe
from r3core.config import EngineConfig
from r3core.engine.engine import Engine
from r3core.errors import CheckpointError
from r3core.fake import FakeRunner
from server.named_models import named_models
from server.settings import Settings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ready:
    """An engine that runs, and what was decided for it: lines for people."""

    engine: Engine
    description: Description
    decided: tuple[str, ...]


def make_engine(
    settings: Settings,
    max_trajectories: int | None = None,
    progress: Progress | None = None,
    between: Callable[[], None] | None = None,
) -> Ready:
    """Load what the settings name; `progress(done, total)` is told bytes of weights.

    Where `between` is given the engine is warmed up, and it is called after every turn of that.
    Raises CheckpointError or DeviceError with the remedy.
    """
    places = settings.max_trajectories if max_trajectories is None else max_trajectories
    if settings.runner == "fake":
        engine = Engine(FakeRunner(step_s=settings.fake_step_s), places)
        return Ready(engine, _fake_description(settings), (str(engine.plan()),))
    from r3core.runtime import load_engine  # torch and all that comes with it
    from r3core.warm_up import warm_up

    runtime = load_engine(engine_config(settings, places), progress)
    decided = (
        f"{runtime.description.name} from {runtime.loaded.files.choice}",
        f"attention {runtime.attention.attention.name} ({runtime.attention.reason})",
        str(runtime.engine.plan()),
        *runtime.loaded.warnings,
    )
    if between is not None and settings.warm_up_s:
        decided = (*decided, warm_up(runtime, settings.warm_up_s, between))
    return Ready(runtime.engine, runtime.description, decided)


FAKE: Final = Description(
    name="fake",
    description="No model: texts and pictures made from the prompt's hash, to try the service.",
    licence="none",
    hash="0" * 16,
    transforms=DEFAULT_TRANSFORMS,
    latent_stride=16,
    latent_side=64,
    vit_side=70,
    default_size=(512, 512),
    defaults=Defaults(),
    example_prompts=("a red circle",),
    max_context_tokens=4000,
)


def _fake_description(settings: Settings) -> Description:
    """That of the checkpoint where there is one, so that the service around the fake runner is the same."""
    try:
        return describe(settings.checkpoint, settings.base_checkpoint)
    except CheckpointError:
        return FAKE


def engine_config(settings: Settings, max_trajectories: int) -> EngineConfig:
    """The engine's part of the settings."""
    cache_gb = settings.kv_cache_gb
    return EngineConfig(
        checkpoint=settings.checkpoint,
        base_checkpoint=settings.base_checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        attention=settings.attention,
        allow_unexpected=settings.allow_unexpected,
        max_trajectories=max_trajectories,
        kv_cache_bytes=None if cache_gb is None else int(cache_gb * 10**9),
        torch_threads=settings.torch_threads,
        similarity_models=named_models(settings.similarity_models),
    )
