"""`r3 doctor`: what this machine has, what the server would do with it, and what is broken and how to mend it.

Each check is a function from the settings to one finding; what it raises on purpose becomes a finding too. Nothing is
loaded onto a device, and all that is heavy is imported inside the check that needs it.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, Literal

from r3core import malloc
from r3core.errors import CheckpointError, DeviceError, R3Error
from server.image_errors import StoreAway
from server.misconfigured import Misconfigured, shown_url
from server.other_variables import Telemetry
from server.preflight import check_data_dir, check_redis_answers, check_redis_url, probe_image_store
from server.settings import Settings

if TYPE_CHECKING:
    import torch

    from r3core.model.weights import Prepared

NEEDED: Final = ("redis", "torch", "transformers", "diffusers", "tokenizers", "safetensors")
OF_AN_API: Final = ("fastapi", "uvicorn")  # which a worker's image has not
_HELD_BYTES: Final = 10**9  # of a device's memory, taken: more than a context of CUDA's


@dataclass(frozen=True)
class Finding:
    """One line of the report. Only `broken` makes the command fail."""

    state: Literal["ok", "note", "broken"]
    subject: str
    text: str


def run_doctor(settings: Settings) -> int:
    """Print the report; the exit code is 1 where something is broken."""
    is_broken = False
    for subject, check in CHECKS.items():
        finding = _look(subject, check, settings)
        is_broken |= finding.state == "broken"
        print(f"{finding.state:<8}{finding.subject:<12}{finding.text}", flush=True)
    return int(is_broken)


def _look(subject: str, check: Callable[[Settings], Finding | str], settings: Settings) -> Finding:
    try:
        found = check(settings)
    except (Misconfigured, R3Error, StoreAway) as fault:
        return Finding("broken", subject, str(fault))
    except Exception as fault:  # noqa: BLE001 -- an installation breaks in ways of its own; each is a finding
        return Finding("broken", subject, f"{type(fault).__name__}: {' '.join(str(fault).split())}")
    return found if isinstance(found, Finding) else Finding("ok", subject, found)


def _system(settings: Settings) -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages(settings: Settings) -> Finding | str:
    found = {name: _version(name) for name in ("r3-server", *NEEDED)}
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        return Finding("broken", "packages", f"{', '.join(missing)} missing; run `make install`")
    said = ", ".join(f"{name} {number}" for name, number in found.items())
    if lacks := [name for name in OF_AN_API if _version(name) is None]:
        return Finding("note", "packages", f"{said}; no {', '.join(lacks)}: enough for a worker, not for an API")
    return said


def _device(settings: Settings) -> str:
    import torch

    from r3core.runtime import set_up_torch
    from server.engines import engine_config

    device, dtype = _place(settings)
    set_up_torch(engine_config(settings, settings.max_trajectories))
    if device.type == "cpu":
        why = "no CUDA device is seen by torch" if settings.device is None else "asked for"
        return f"cpu ({why}), {torch.get_num_threads()} threads, {_short(dtype)}"
    has = torch.cuda.get_device_properties(device)
    return f"{device}: {has.name}, {has.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}, {_short(dtype)}"


def _malloc(settings: Settings) -> Finding | str:
    """That of a worker of `r3 serve`."""
    if os.environ.get(malloc.VARIABLE) is not None:
        return f"that of {malloc.in_use()}, for {malloc.VARIABLE} is set"
    if not malloc.is_for(settings.device):
        return "the C library's; another was not tried with a GPU, R3_DEVICE=cpu says that none is meant"
    if (found := malloc.quicker()) is not None:
        return f"{found}, where `r3 serve` starts the worker"
    return Finding("note", "malloc", f"the C library's; on Debian `apt install {malloc.PACKAGE}` makes loops quicker")


def _attention(settings: Settings) -> str:
    from r3core.model.attention import choose

    device, dtype = _place(settings)
    try:
        choice = choose(device, dtype, settings.attention, _prepared(settings, dtype).model.config.decoder.attended)
    except CheckpointError:  # told of with the checkpoint
        choice = choose(device, dtype, settings.attention)
    return f"{choice.attention.name} ({choice.reason})"


def _memory(settings: Settings) -> Finding | str:
    """The plan that a worker would make, from the headers of the files; nothing is loaded."""
    import torch

    from r3core.runtime import plan_prepared
    from server.engines import engine_config

    device, dtype = _place(settings)
    config, prepared = engine_config(settings, settings.max_trajectories), _prepared(settings, dtype)
    try:
        return str(plan_prepared(config, prepared, device))
    except DeviceError as fault:
        free, total = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
        if total - free < _HELD_BYTES:
            raise
        plan_prepared(config, prepared, device, is_empty=True)
        held = f"{(total - free) / 1e9:.0f} GB of {device} are taken, as by a worker that runs"
        return Finding("note", "memory", f"{held}; another beside it: {fault}")


def _checkpoint(settings: Settings) -> str:
    """Files, names and shapes: all that the worker looks at before it loads."""
    import torch

    prepared = _prepared(settings, torch.float32)  # names and shapes are the same in any
    told = prepared.description
    size = sum(path.stat().st_size for path in (*prepared.files.weights, prepared.files.vae))
    said = f"{told.name} ({told.hash}): {prepared.files.choice} in {settings.checkpoint}, {size / 1e9:.2f} GB"
    return "; ".join((said, *prepared.warnings))


def _prepared(settings: Settings, dtype: torch.dtype) -> Prepared:
    from r3core.model.weights import prepare

    return prepare(
        settings.checkpoint,
        settings.base_checkpoint,
        dtype=dtype,
        allow_unexpected=settings.allow_unexpected,
    )


def _queue(settings: Settings) -> str:
    if settings.redis_url is not None:
        check_redis_answers(check_redis_url(settings))
        return "the named one answers"
    from server.embedded import find_binary

    return f"`r3 serve` runs {find_binary()}"


def _data_dir(settings: Settings) -> str:
    check_data_dir(settings.data_dir)
    return f"{settings.data_dir}, {shutil.disk_usage(settings.data_dir).free / 1e9:.0f} GB free"


def _pictures(settings: Settings) -> str:
    began_s = time.perf_counter()
    probe_image_store(settings)
    took_ms = (time.perf_counter() - began_s) * 1000
    return f"{shown_url(settings.image_store_url)}: written, read and deleted in {took_ms:.0f} ms"


def _xformers(settings: Settings) -> Finding | str:
    found = _version("xformers")
    return found or Finding("note", "xformers", "not installed; on CUDA torch's own variable-length attention is used")


def _traces(settings: Settings) -> Finding | str:
    asked = Telemetry()
    if asked.endpoint is None or asked.is_off:
        return "off; OTEL_EXPORTER_OTLP_ENDPOINT names no collector, or they are switched off"
    if asked.fault is not None:
        return Finding("note", "traces", f"off: {asked.fault}")
    if _version("opentelemetry-exporter-otlp-proto-http") is None:
        return Finding("note", "traces", "off: a collector is named; install r3-server[otel]")
    return f"sent to {asked.shown_endpoint}"


CHECKS: Final[dict[str, Callable[[Settings], Finding | str]]] = {
    "system": _system,
    "packages": _packages,
    "xformers": _xformers,
    "device": _device,
    "malloc": _malloc,
    "attention": _attention,
    "checkpoint": _checkpoint,
    "memory": _memory,
    "queue": _queue,
    "data": _data_dir,
    "pictures": _pictures,
    "traces": _traces,
}


def _place(settings: Settings) -> tuple[torch.device, torch.dtype]:
    """Where a worker would run. Raises DeviceError where that is not there."""
    from r3core.runtime import pick_device, pick_dtype

    device = pick_device(settings.device)
    return device, pick_dtype(settings.dtype, device)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
