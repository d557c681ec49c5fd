"""What `r3 submit` does: ask a running server for pictures, show what happens, and keep what comes of it in a folder.

    t0_round0.png …    every finished picture, as it was asked to be delivered; t0_round0_candidate1.png where there
                       are several of a round
    job.json           the job as the server tells it

Exit codes: 0 it succeeded; 1 the server refused it, or it failed; 2 the server cannot be reached, or the folder cannot
be written; 130 it was cancelled, or left with a second Ctrl-C.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from r3client import AsyncClient, Image, ImageDamaged, Job, NoAnswer, R3Error, Refused, UnexpectedAnswer, events
from r3client.errors import AlreadyFinished
from server.misconfigured import Misconfigured
from server.out_folder import clear_folder, name_of, pictures_of
from server.submit_view import View
from server.tables import plain
from server.terminal_pictures import Way

EXIT_FAILED: Final = 1
EXIT_CANCELLED: Final = 130  # as a shell reports an interrupted program
TRIES: Final = 3  # before a server that has not answered yet counts as away


@dataclass(frozen=True)
class Asked:
    """What was asked for, and what is to be done with it; `out` None names the folder after the job."""

    prompt: str
    settings: Mapping[str, Any]
    out: Path | None
    as_json: bool
    way: Way | None


@dataclass
class _Run:
    client: AsyncClient
    asked: Asked
    view: View
    job_id: str | None = None
    interrupts: int = 0
    unanswered: int = 0
    saved: dict[str, Path] = field(default_factory=dict)
    cancelling: asyncio.Task[None] | None = None

    async def whole(self) -> Job:
        """Show everything until the end, and keep it; the finished job. Raises R3Error, OSError."""
        last = await self.follow()
        assert self.job_id is not None
        job = last.job if isinstance(last, events.JobSucceeded) else await self.client.job(self.job_id)
        await self.keep_all(job)
        return job

    async def follow(self) -> events.Event | None:
        """Show what happens; the last event. Raises R3Error, OSError."""
        last: events.Event | None = None
        async with self.client.stream(self.asked.prompt, **self.asked.settings) as stream:
            async for event in stream:
                if self.job_id is None and event.job_id is not None and self.asked.out is not None:
                    clear_folder(self.asked.out)
                self.job_id = self.job_id or event.job_id
                if self.interrupts and self.cancelling is None:
                    self.cancel()
                self._refuse_silence(event)
                self.view.show(event, stream.live)
                if isinstance(event, events.ImageDone):
                    await self.keep(event.image, name_of(event.trajectory or 0, event.round, event.candidate))
                last = event
        return last

    def _refuse_silence(self, event: events.Event) -> None:
        """A server that is not there keeps nobody waiting; one that goes away later may come back."""
        if isinstance(event, events.Waiting) and self.job_id is None and not event.was_answered:
            self.unanswered += 1
            if self.unanswered == TRIES:
                raise NoAnswer(event.reason)

    async def keep(self, image: Image, name: str) -> None:
        """Save a picture and show it, once."""
        if image.id in self.saved:
            return
        path = self.folder() / f"{name}.{image.suffix}"
        content = await self.client.image(image)
        path.write_bytes(content)
        self.saved[image.id] = path
        self.view.picture(content, str(path))

    async def keep_all(self, job: Job) -> None:
        """Save what was not shown as it came, and the job."""
        for name, image in pictures_of(job):
            await self.keep(image, name)
        text = job.model_dump_json(indent=2, exclude_unset=True)
        (self.folder() / "job.json").write_text(text + "\n", encoding="utf-8")

    def folder(self) -> Path:
        """Where it is all kept."""
        assert self.job_id is not None
        path = self.asked.out or Path(f"r3-{self.job_id.removeprefix('job_')[:8]}")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def interrupt(self, leave: asyncio.Task[Any]) -> None:
        """Ctrl-C: the first asks the server to cancel, the second leaves."""
        self.interrupts += 1
        if self.interrupts > 1:
            leave.cancel()
        else:
            self.view.say("asking the server to cancel; Ctrl-C once more leaves at once")
            self.cancel()

    def cancel(self) -> None:
        """Have the server end the job, as soon as its id is known."""
        if self.job_id is not None:
            self.cancelling = asyncio.create_task(self._cancel(self.job_id))

    async def _cancel(self, job_id: str) -> None:
        with suppress(AlreadyFinished):
            try:
                await self.client.cancel(job_id)
            except R3Error as error:
                self.view.say(f"it could not be cancelled: {error}")


def run_submit(client: AsyncClient, asked: Asked, on: Console) -> int:
    """Submit, show, keep; the exit code. Raises Misconfigured where nothing of ours answers."""
    return asyncio.run(_submit(client, asked, on))


async def _submit(client: AsyncClient, asked: Asked, on: Console) -> int:
    run = _Run(client, asked, View(on, asked.way, many=asked.settings.get("n", 1) != 1))
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows: Ctrl-C ends the command there
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, run.interrupt, task)
    async with client:
        try:
            with run.view:
                job = await run.whole()
        except asyncio.CancelledError:
            on.print(
                f"left; {run.job_id} may go on" if run.job_id else "left; where the server took the job, it goes on"
            )
            return EXIT_CANCELLED
        except NoAnswer as error:
            remedy = (
                f"its end: curl {client.url}/jobs/{run.job_id}" if run.job_id else "name the server with --url/R3_URL"
            )
            raise Misconfigured(f"{error}; {remedy}") from error
        except UnexpectedAnswer as error:
            raise Misconfigured(f"{error}; name the server with --url/R3_URL") from error
        except ImageDamaged as error:
            raise Misconfigured(f"{error}; what {run.job_id} made is at {client.url}/jobs/{run.job_id}") from error
        except Refused as error:
            _complain(error)
            return EXIT_FAILED
        except OSError as error:
            with suppress(R3Error):
                await client.cancel(run.job_id or "")
            told = (
                f"{error.filename or asked.out} cannot be written ({error.strerror}); make room, or name another --out"
            )
            kept = f"{run.job_id} was ended; what it finished is at {client.url}/jobs/{run.job_id}"
            raise Misconfigured(f"{told}. {kept}") from error
    _print(job, run)
    return {"succeeded": 0, "cancelled": EXIT_CANCELLED}.get(job.status, EXIT_FAILED)


def _print(job: Job, run: _Run) -> None:
    if run.asked.as_json:
        typer.echo(job.model_dump_json(exclude_unset=True))
    else:
        for image in job.images:
            typer.echo(str(run.saved[image.id]))


def _complain(error: Refused) -> None:
    remedy = "; give a key with --key/R3_API_KEY" if error.status in (401, 403) else ""
    wait = "" if error.retry_after_s is None else f"; try again in {error.retry_after_s:.0f} s"
    typer.echo(f"r3: {plain(error.detail or str(error))}{remedy}{wait}", err=True)
