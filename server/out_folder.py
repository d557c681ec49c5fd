"""The folder that `r3 generate` and `r3 submit` write a run into, and the names of pictures in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from server.misconfigured import Misconfigured

if TYPE_CHECKING:
    from r3client import Image, Job

OURS: Final = re.compile(
    r"t\d+_round\d+(_candidate\d+)?(_step\d+)?\.(png|webp|jpe?g)|(trajectory|job)\.json|contact_sheet\.png"
)


def name_of(trajectory: int, round_: int, candidate: int | None = None) -> str:
    """What a picture's file is called, without its ending; `candidate` where its round has several."""
    return f"t{trajectory}_round{round_}" + ("" if candidate is None else f"_candidate{candidate}")


def pictures_of(job: Job) -> Iterator[tuple[str, Image]]:
    """Every picture of a job with that name."""
    for trajectory in job.trajectories:
        for round_ in trajectory.rounds:
            for number, candidate in enumerate(round_.candidates):
                if candidate.image is not None:
                    yield name_of(trajectory.index, round_.index, number), candidate.image
            if not round_.candidates and round_.image is not None:
                yield name_of(trajectory.index, round_.index), round_.image


def open_folder(path: Path, *, overwrite: bool) -> Path:
    """Make the folder, or take one that holds no run yet, or one that may be overwritten. Raises Misconfigured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        earlier = _earlier(path)
        if earlier and not overwrite:
            raise Misconfigured(
                f"--out {path} holds an earlier run ({earlier[0].name}); name another folder, or say --overwrite"
            )
        _probe(path)
    except OSError as error:
        raise Misconfigured(
            f"--out {path} cannot be written ({error.strerror}); name another folder, or mend its permissions"
        ) from error
    return path


def clear_folder(path: Path) -> None:
    """Remove an earlier run's files, lest its pictures stand among those of this one; nothing else is touched. Not
    before this one has begun. Raises OSError.
    """
    for file in _earlier(path):
        file.unlink()


def _earlier(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if OURS.fullmatch(file.name)) if path.exists() else []


def check_here() -> None:
    """Raises Misconfigured where nothing can be written in this folder: better before there is a job than after."""
    try:
        _probe(Path())
    except OSError as error:
        raise Misconfigured(
            f"this folder cannot be written ({error.strerror}); go to another, or name one with --out"
        ) from error


def _probe(folder: Path) -> None:
    probe = folder / ".r3.part"
    probe.touch()
    probe.unlink()
