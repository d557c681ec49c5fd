"""What `r3 batch` does: every prompt of a file as a job, some at a time, and all that comes of them in a folder.

A prompt that is there already is not asked for again, so that a run can be left and gone on with. What is under way
when it is left is found again by its idempotency key. Exit codes: 0 every prompt has its pictures; 1 some have not, and
are named; 2 nothing could be asked, or kept; 130 it was left with Ctrl-C.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import typer
from rich.console import Console

from r3client import AsyncClient, GenerationCancelled, GenerationFailed, InvalidRequest, Job, NoAnswer, R3Error, Refused
from r3client.errors import Forbidden, ModelNotFound, Unauthorized, UnexpectedAnswer
from server.misconfigured import Misconfigured
from server.research.batch_view import BatchView, silenced_client
from server.research.folder import BatchFolder
from server.research.prompts import Line
from server.tables import plain

EXIT_FAILED: Final = 1
EXIT_LEFT: Final = 130  # as a shell reports an interrupted program
NAMED: Final = 5  # of the prompts that one sentence is about
SHOWN: Final = 60  # characters of a prompt
AGAIN: Final = "run the same command again to go on"


@dataclass
class Batch:
    """A run: what is still to be done, and what came to nothing."""

    client: AsyncClient
    folder: BatchFolder
    lines: Sequence[Line]
    common: Mapping[str, Any]
    concurrency: int
    view: BatchView
    failed: dict[int, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Ask for all that is missing. Raises Misconfigured where none of it can be had, and OSError."""
        missing = iter([line for line in self.lines if not self.folder.has(line)])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(self.lines))):
                    group.create_task(self._work(missing))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _work(self, missing: Iterator[Line]) -> None:
        for line in missing:
            self.view.begin(line)
            why = await self._one(line)
            if why is not None:
                self.failed[line.number] = why
            self.view.end(line, failed=why is not None)

    async def _one(self, line: Line) -> str | None:
        """Make and keep one prompt's pictures; why there are none. Raises OSError where they cannot be kept."""
        try:
            key = self.folder.key(line)
            job = await self.client.generate(line.prompt, idempotency_key=key, **line.settings)
            if without := [f"{t.index} ({t.stop_reason})" for t in job.trajectories if t.image is None]:
                why = f"no picture came of trajectory {', '.join(without)}"
                await self._note(line, why, job.id)
                return why
            await asyncio.to_thread(self.folder.keep, line, job)
        except (GenerationFailed, GenerationCancelled) as error:
            await self._note(line, str(error), error.job_id)
            return str(error)
        except Refused as error:
            self._refuse_for_all(error, line)
            await self._note(line, str(error), error.job_id)
            return str(error)
        except (NoAnswer, UnexpectedAnswer) as error:
            raise Misconfigured(f"{error}; {AGAIN}, or name the server with --url/R3_URL") from error
        except R3Error as error:
            await self._note(line, str(error), None)
            return str(error)
        return None

    def _refuse_for_all(self, error: Refused, line: Line) -> None:
        """What would be refused of every prompt ends the run."""
        if isinstance(error, Unauthorized | Forbidden):
            raise Misconfigured(f"{error.detail or error}; give a key with --key/R3_API_KEY") from error
        names = {fault.pointer.strip("/").partition("/")[0] for fault in error.errors}
        is_common = bool(names) and all(line.settings.get(n) == self.common.get(n, _NONE) for n in names)
        if isinstance(error, ModelNotFound) or (isinstance(error, InvalidRequest) and is_common):
            raise Misconfigured(f"the server refuses the settings of this run: {error.detail or error}") from error

    async def _note(self, line: Line, why: str, job_id: str | None) -> None:
        """Keep what can still be had of it."""
        job: Job | None = None
        if job_id is not None:
            with suppress(R3Error):
                job = await self.client.job(job_id)
                job = job.with_contents({image.id: await self.client.image(image) for image in job.every_image()})
        await asyncio.to_thread(self.folder.keep_failure, line, why, job)


_NONE: Final = object()


def run_batch(batch: Batch) -> None:
    """Do all that is missing. Raises Misconfigured, OSError, and KeyboardInterrupt where it was told to leave."""
    with silenced_client(batch.view), batch.view:
        asyncio.run(_whole(batch))


async def _whole(batch: Batch) -> None:
    with suppress(NotImplementedError):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: signal.raise_signal(signal.SIGINT))
    async with batch.client:
        await batch.run()


def finish(folder: BatchFolder, lines: Sequence[Line], failed: Mapping[int, str], on: Console) -> int:
    """Make all rounds whole, and say what is there and what is not; the exit code."""
    rounds = folder.fill([line for line in lines if line.number not in failed])
    on.print(f"{len(lines) - len(failed)} of {len(lines)} prompts are in {folder.path}", markup=False)
    for round_ in rounds:
        typer.echo(round_)  # what scorers are run on, for scripts
    for told in _failures(lines, failed):
        on.print(f"r3: {told}", markup=False, soft_wrap=True)
    if failed:
        on.print(f"r3: {len(failed)} came to nothing; the same command tries them again", markup=False)
    return EXIT_FAILED if failed else 0


def left(folder: BatchFolder, lines: Sequence[Line], on: Console) -> int:
    """Say how far it came; the exit code."""
    done = sum(folder.has(line) for line in lines)
    on.print(f"left with {done} of {len(lines)} prompts in {folder.path}; {AGAIN}", markup=False)
    return EXIT_LEFT


def _failures(lines: Sequence[Line], failed: Mapping[int, str]) -> Iterator[str]:
    """A line for each thing that went wrong, with the prompts that it went wrong for."""
    by_cause: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.number in failed:
            by_cause[_cause(failed[line.number])].append(line)
    for alike in by_cause.values():
        named = ", ".join(f"{line.name} ({plain(line.prompt[:SHOWN])})" for line in alike[:NAMED])
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        yield f"{named}{more}: {plain(failed[alike[0].number])}"


def _cause(why: str) -> str:
    """Without the job's id, which is another for each."""
    return re.sub(r"job_\w+", "", why)
