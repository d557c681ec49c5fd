"""`r3 worker` whose fake runner writes a line for each denoising step before it is done, to the file named by JOURNAL:
what was computed, also by workers that were killed before they could tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r3core.engine.batch import Batch, Output
from r3core.fake import FakeRunner
from r3core.steps import Refine


@dataclass(frozen=True)
class Drawn:
    """One denoising step of a job's picture, under one of its leases."""

    job_id: str
    token: int
    round: int


def read(journal: Path) -> Iterable[Drawn]:
    """Every step that was begun."""
    for line in journal.read_text().splitlines():
        job_id, token, round_ = line.split()
        yield Drawn(job_id, int(token), int(round_))


class JournalRunner(FakeRunner):
    """A fake runner that keeps the journal."""

    def run(self, batch: Batch) -> dict[str, Output]:
        """Write down what is about to be drawn; one write, so that lines of several workers stay whole."""
        begun = {begin.key: begin for begin in batch.begin}
        lines = ""
        for key in batch.draw:
            begin = begun[key] if key in begun else self._states[key].begin
            job_id, token, _ = key.split("/")
            lines += f"{job_id} {token} {begin.step.round if isinstance(begin.step, Refine) else 0}\n"
        if lines:
            journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(journal, lines.encode())
            os.close(journal)
        return super().run(batch)


if __name__ == "__main__":
    from server import engines
    from server.cli import main

    vars(engines)["FakeRunner"] = JournalRunner
    main()
