"""What a folder of `r3 batch` holds, as `r3 compare` reads it; one that is broken or of other prompts is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3client import Image, Job, Round
from r3client.models import Scorer
from server.misconfigured import Misconfigured
from server.out_folder import pictures_of
from server.research.delivered import delivered, drawn, rounds_of
from server.research.folder import read_about, read_job, read_json

Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A prompt of a run, and the job that was made of it."""

    number: int
    prompt: str
    tag: str | None
    job: Job
    folder: Path

    @property
    def name(self) -> str:
        """The name of its folders."""
        return f"{self.number:05}"

    @property
    def samples(self) -> range:
        """The numbers of its tries."""
        return range(len(self.job.trajectories))

    def made(self, sample: int, round_: int) -> Round | None:
        """The round whose picture a try had come to by then; None where there was none yet."""
        return delivered(self.job, self.job.trajectories[sample], round_)

    def score(self, scorer: Scorer, round_: int) -> float | None:
        """The mean of what its pictures were given by then; None where none was given anything."""
        made = [self.made(sample, round_) for sample in self.samples]
        values = [value for one in made if one is not None and (value := one.score(scorer)) is not None]
        return sum(values) / len(values) if values else None

    def drawn(self, round_: int) -> int:
        """How many pictures had been drawn for it by then."""
        return sum(drawn(self.job, trajectory, round_) for trajectory in self.job.trajectories)

    def file(self, image: Image) -> Path:
        """Where a picture of its lies."""
        return next(self.folder / f"{name}.png" for name, one in pictures_of(self.job) if one.id == image.id)


@dataclass(frozen=True)
class Run:
    """A folder of `r3 batch`."""

    path: Path
    about: Mapping[str, Any]
    entries: Mapping[int, Entry]
    failed: Sequence[str]

    @property
    def most_rounds(self) -> int:
        """How many edits any of its jobs was allowed."""
        return max((rounds_of(entry.job) for entry in self.entries.values()), default=0)

    @property
    def scorers(self) -> list[Scorer]:
        """The scorers that were asked for, the deciding one first."""
        judges = [entry.job.params.get("judge") or {} for entry in self.entries.values()]
        return list(dict.fromkeys(scorer for judge in judges for scorer in judge.get("scorers") or ()))


def read_run(path: Path) -> Run:
    """A run. Raises Misconfigured where it cannot be read."""
    about = read_about(path)
    entries = [_entry(folder) for folder in sorted((path / "jobs").glob("[0-9]*")) if folder.name.isdigit()]
    if not entries:
        raise Misconfigured(f"{path} has no finished prompt yet; run r3 batch until it has")
    failed = sorted(folder.name for folder in (path / "failed").glob("[0-9]*"))
    return Run(path, about, {entry.number: entry for entry in entries}, failed)


def same_prompts(first: Run, second: Run) -> list[int]:
    """The numbers of the prompts that both have. Raises Misconfigured where they are not runs of the same prompts."""
    both = sorted(set(first.entries) & set(second.entries))
    others = [n for n in both if first.entries[n].prompt != second.entries[n].prompt]
    if others:
        a, b = first.entries[others[0]], second.entries[others[0]]
        told = f"prompt {a.name} is {a.prompt!r} in {first.path} and {b.prompt!r} in {second.path}"
        raise Misconfigured(f"{told}, and so are {len(others)} of {len(both)}: compare runs of one file of prompts")
    if not both:
        raise Misconfigured(f"{first.path} and {second.path} have no finished prompt in common; finish them first")
    return both


def _entry(folder: Path) -> Entry:
    asked, job = read_json(folder / "request.json"), read_job(folder)
    if job.prompt != asked.get("prompt"):
        raise Misconfigured(f"{folder}: job.json and request.json are of two prompts; delete it and run r3 batch again")
    kept = asked.get("kept")
    tag = kept.get("tag") if isinstance(kept, dict) else None
    return Entry(int(folder.name), job.prompt, None if tag is None else str(tag), job, folder)
