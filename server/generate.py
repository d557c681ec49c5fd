"""`r3 generate`: one request without a service. The same fields, checks and defaults as POST /generate."""

from __future__ import annotations

import io
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import typer
from PIL import Image as PILImage

from r3core.checkpoint import Description, describe
from r3core.engine.batch import Picture
from r3core.engine.engine import new_image_id
from r3core.errors import InvalidRequest, OutOfCapacity, R3Error
from r3core.events import ImageReady, Preview
from r3core.offline import Run
from r3core.types import Image, Request
from server.engines import Ready, make_engine
from server.faults import ApiError, Fault
from server.misconfigured import Misconfigured
from server.out_folder import clear_folder, open_folder
from server.pictures import start_picture
from server.preflight import check_model
from server.progress_bars import RunBars, console, loading_bar
from server.resolve import SEEDS_DRAWN_BELOW, faults_against, read_generation, resolved, shown_params
from server.run_folder import Delivery, RunFolder
from server.schemas import GenerationCreate
from server.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILED: Final = 1
EXIT_CANCELLED: Final = 130  # as a shell reports an interrupted program
# Of no meaning without a service, so neither options nor shown.
_SERVICE_ONLY: Final = ("response_format", "priority", "cancel_on_disconnect")


@dataclass(frozen=True)
class Job:
    """A request without open ends, and all that goes with it."""

    request: Request
    body: GenerationCreate
    picture: Picture | None


def run_generate(settings: Settings, fields: Mapping[str, Any], out: Path, *, overwrite: bool) -> int:
    """Run a request whose `fields` are those of POST /generate (`image` is a file's path) into the folder `out`.

    Returns the exit code. Raises Misconfigured, CheckpointError, DeviceError or InvalidRequest where nothing was begun.
    """
    check_model(settings)
    job = _read(fields, describe(settings.checkpoint, settings.base_checkpoint))
    folder_path = open_folder(out, overwrite=overwrite)
    on = console()
    try:
        ready = _load(settings, job.request.n, on)
    except KeyboardInterrupt:
        on.print("r3: cancelled before anything was begun")
        return EXIT_CANCELLED
    return _run(job, ready, _folder(folder_path, job, ready.description), on)


def _read(fields: Mapping[str, Any], description: Description) -> Job:
    asked = read_generation(dict(fields))
    if faults := faults_against(asked, description):
        raise Misconfigured("; ".join(_in_options(fault) for fault in faults))
    body = asked.body
    picture = None if body.image is None else _picture(Path(body.image), description)
    seed = secrets.randbelow(SEEDS_DRAWN_BELOW) if body.seed is None else body.seed
    size = None if picture is None else (picture.image.width, picture.image.height)
    return Job(resolved(body, description, seed, size), body, picture)


def _picture(path: Path, description: Description) -> Picture:
    """The caller's picture as round 0: judged as an upload is."""
    try:
        start = start_picture(path.read_bytes(), description)
    except OSError as error:
        raise Misconfigured(f"--image {path} cannot be read ({error.strerror})") from error
    except ApiError as error:
        raise Misconfigured(f"--image {path}: {error.detail}") from error
    with PILImage.open(io.BytesIO(start.png)) as opened:
        pixels = np.array(opened)
    return Picture(Image(new_image_id(), start.width, start.height), pixels)


def _load(settings: Settings, trajectories: int, on: Console) -> Ready:
    with loading_bar(on) as bar:
        task = bar.add_task("loading weights", total=None)
        ready = make_engine(settings, trajectories, lambda done, total: bar.update(task, completed=done, total=total))
    for line in ready.decided:
        on.print(f"r3: {line}", markup=False)
    return ready


def _folder(path: Path, job: Job, description: Description) -> RunFolder:
    params = shown_params(job.request, job.body, job.body.image)
    about = {
        "model": description.name,
        "model_hash": description.hash,
        "prompt": job.request.prompt,
        "params": {name: value for name, value in params.items() if name not in _SERVICE_ONLY},
        "metadata": job.body.metadata,
    }
    return RunFolder(path, job.request.prompt, about, Delivery(job.body.output_format, job.body.output_compression))


def _run(job: Job, ready: Ready, folder: RunFolder, on: Console) -> int:
    try:
        run = Run(ready.engine, job.request, job.picture, job.body.deadline_s)
    except (InvalidRequest, OutOfCapacity) as error:
        raise Misconfigured(str(error)) from error
    clear_folder(folder.path)
    began_s = time.monotonic()
    bars = RunBars(job.request, on)
    lost: R3Error | None = None
    with _cancelled_by_signals(run), bars.bars:
        try:
            for index, event in run:
                if isinstance(event, ImageReady):
                    folder.keep_picture(event)
                    folder.keep_story(run.trajectories, "running", None, time.monotonic() - began_s)
                elif isinstance(event, Preview):
                    folder.keep_preview(run.trajectories[index], event.round, event.step, event.pixels)
                bars.show(index, event)
        except R3Error as error:
            lost = error
    status, error_json = _outcome(run, lost)
    folder.keep_story(run.trajectories, status, error_json, time.monotonic() - began_s)
    sheet = folder.keep_sheet(run.trajectories, _about(job, ready.description))
    return _report(status, error_json, folder.path, sheet, on)


def _outcome(run: Run, lost: R3Error | None) -> tuple[str, dict[str, Any] | None]:
    """As a job ends: one failed trajectory fails it; a deadline does where it left no picture."""
    error = lost or next(iter(run.errors.values()), None)
    if error is not None:
        return "failed", {"code": error.code, "message": str(error)}
    if run.ended_by == "cancel" and any(trajectory.stop_reason is None for trajectory in run.trajectories):
        return "cancelled", None
    if run.ended_by == "deadline" and not any(trajectory.rounds for trajectory in run.trajectories):
        return "failed", {"code": "deadline_exceeded", "message": "the deadline passed before the first picture"}
    return "succeeded", None


def _report(status: str, error: Mapping[str, Any] | None, path: Path, sheet: Path | None, on: Console) -> int:
    if error is not None:
        on.print(f"r3: failed: {error['message']} ({error['code']}); what is finished is in {path}", markup=False)
        return EXIT_FAILED
    if status == "cancelled":
        on.print(f"r3: cancelled; what is finished is in {path}", markup=False)
        return EXIT_CANCELLED
    typer.echo(sheet)
    return 0


def _about(job: Job, description: Description) -> str:
    asked = job.request
    parts = [
        description.name,
        f"{asked.width}x{asked.height}",
        f"{asked.generate.num_timesteps} and {asked.refine.num_timesteps} timesteps",
        f"text guidance {asked.generate.cfg_text_scale:g} and {asked.refine.cfg_text_scale:g}",
        f"picture guidance {asked.refine.cfg_img_scale:g}",
        f"temperature {asked.reason.temperature:g} and {asked.reflect.temperature:g}",
    ]
    caches = asked.generate.step_cache, asked.refine.step_cache
    if max(caches) > 1:
        parts.append(f"step cache {caches[0]} and {caches[1]}")
    return " · ".join(parts)


@contextmanager
def _cancelled_by_signals(run: Run) -> Iterator[None]:
    """The first Ctrl-C ends the run after the step in hand; a second one does what it always does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: FrameType | None) -> None:
        run.cancel()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _in_options(fault: Fault) -> str:
    """A fault with its option's name in place of its JSON pointer."""
    return f"{_option_of(fault.pointer.strip('/').split('/'))} {fault.detail}"


def _option_of(place: Sequence[str]) -> str:
    match place:
        case ["prompt", *_]:
            return "PROMPT"
        case ["early_stop", "score"]:
            return "--stop-scorer"
        case ["early_stop", "score", name]:
            return f"--stop-{name.replace('_', '-')}"
        case ["early_stop", "all"]:
            return "--stop-all"
        case ["early_stop", "confirmations"]:
            return "--confirmations"
        case ["judge", *_]:
            return "--scorers"
        case ["generate" | "refine" | "reason" | "reflect" | "candidates" as stage, name, *_]:
            return f"--{stage}-{name.replace('_', '-')}"
        case ["metadata", key, *_]:
            return f"--metadata {key}"
        case [name, *_]:
            return f"--{name.replace('_', '-')}"
        case _:
            return "the request"
