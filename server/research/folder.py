"""What `r3 batch` leaves in its folder, and finds there when it goes on.

    run.json                       what was asked for all prompts, and which model answered
    jobs/00000/job.json            the job as the server told it, every score and text in it
    jobs/00000/request.json        what was asked for this prompt
    jobs/00000/t0_round0.png …     every picture, of several candidates each
    round_0/00000/metadata.jsonl   GenEval's own layout: its scorer is run on round_0, on round_1 …
    round_0/00000/samples/00000.png
    failed/00000/why.json          why there are none yet, and how often it was tried; beside it what was finished

Folders of prompts are renamed into their places when they are whole, so that whatever ends a run leaves no half one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from r3client import Job
from server.asked_server import refuse_other_model
from server.folder_lock import held, made_in
from server.misconfigured import Misconfigured
from server.out_folder import pictures_of
from server.research.delivered import delivered, rounds_of
from server.research.prompts import Line

Json = dict[str, Any]
FORMAT: Final = 1


class BatchFolder:
    """A folder of many prompts. `about` is its run.json."""

    def __init__(self, path: Path, about: Json) -> None:
        self.path, self.about = path, about

    def same_model(self, model: Json) -> None:
        """Note the model that answers. Raises Misconfigured where another has answered before."""
        if made_in(self.path) == ["run.json"]:  # of which nothing has come
            self.about["model"] = model
        refuse_other_model(self.about.setdefault("model", model), model, self.path)
        _write_json(self.path / "run.json", self.about)

    def has(self, line: Line) -> bool:
        """Whether its pictures are there. Raises Misconfigured where they are of another request."""
        path = self._job(line.name) / "request.json"
        if not path.exists():
            return False
        if read_json(path) != _as_read(line.asked()):
            raise Misconfigured(
                f"{path.parent} was made for another request than prompt {line.number} is now; "
                "name another --out, or delete that folder to have it made again"
            )
        return True

    def key(self, line: Line) -> str:
        """The idempotency key: the same until the prompt has failed or is another, so that a job under way is found
        again.
        """
        asked = hashlib.sha256(json.dumps(line.asked(), sort_keys=True).encode()).hexdigest()[:12]
        return f"r3-batch-{self.about['id']}-{line.name}-{self._tries(line)}-{asked}"

    def keep(self, line: Line, job: Job) -> None:
        """Write a finished job with its pictures, and lay out its rounds."""
        with _whole(self._job(line.name)) as folder:
            for name, image in pictures_of(job):
                image.save(folder / f"{name}.png")
            _write_json(folder / "job.json", job.model_dump(mode="json", exclude_unset=True))
            _write_json(folder / "request.json", line.asked())
        shutil.rmtree(self._failed(line), ignore_errors=True)
        for before in self.path.glob(f"round_*/{line.name}"):  # of pictures that were here before, and are not now
            shutil.rmtree(before)
        self.lay_out(line, job, rounds_of(job))

    def keep_failure(self, line: Line, why: str, job: Job | None) -> None:
        """Note that it came to nothing, with the job as it stands and the pictures that were finished."""
        tries = self._tries(line) + 1
        told = None if job is None else job.model_dump(mode="json", exclude_unset=True)
        with _whole(self._failed(line)) as folder:
            for name, image in () if job is None else pictures_of(job):
                if image.content is not None:
                    image.save(folder / f"{name}.png")
            _write_json(folder / "why.json", {"prompt": line.prompt, "why": why, "tries": tries, "job": told})

    def lay_out(self, line: Line, job: Job, most_rounds: int) -> None:
        """Rounds as GenEval's scorer reads them; those that are there stay."""
        files = {image.id: self._job(line.name) / f"{name}.png" for name, image in pictures_of(job)}
        for round_ in range(most_rounds + 1):
            place = self.path / f"round_{round_}" / line.name
            if place.exists():
                continue
            with _whole(place) as folder:
                _write_json(folder / "metadata.jsonl", dict(line.kept), indent=None)
                (folder / "samples").mkdir()
                for trajectory in job.trajectories:
                    shown = delivered(job, trajectory, round_)
                    if shown is not None and shown.image is not None:
                        _link(files[shown.image.id], folder / "samples" / f"{trajectory.index:05}.png")

    def fill(self, lines: Sequence[Line]) -> list[Path]:
        """Give every prompt that is done as many rounds as the one with the most; the rounds' folders."""
        jobs = [(line, read_job(self._job(line.name))) for line in lines if self.has(line)]
        most = max((rounds_of(job) for _, job in jobs), default=-1)
        for line, job in jobs:
            self.lay_out(line, job, most)
        return [self.path / f"round_{round_}" for round_ in range(most + 1)]

    def _job(self, name: str) -> Path:
        return self.path / "jobs" / name

    def _failed(self, line: Line) -> Path:
        return self.path / "failed" / line.name

    def _tries(self, line: Line) -> int:
        path = self._failed(line) / "why.json"
        tries = read_json(path).get("tries") if path.exists() else 0
        return tries if isinstance(tries, int) else 1


@contextmanager
def opened(path: Path, asked: Mapping[str, Any]) -> Iterator[BatchFolder]:
    """The folder, new or of an earlier run of the same, held by this process alone. Raises Misconfigured.

    `asked` is what has to be the same for all of a run.
    """
    with held(path, "r3 batch"):
        yield BatchFolder(path, _about(path, _as_read(asked)))


def _about(path: Path, asked: Json) -> Json:
    there = made_in(path)
    if there and "run.json" not in there:
        raise Misconfigured(f"--out {path} holds something else ({there[0]}); name another folder")
    about = read_about(path) if there else None
    other = None if about is None else next((name for name, value in asked.items() if about.get(name) != value), None)
    if about is None or (other is not None and there == ["run.json"]):  # settings that were refused bind nobody
        about = {"format": FORMAT, "id": uuid.uuid4().hex, **asked}
        _write_json(path / "run.json", about)
    elif other is not None:
        told = f"--out {path} was made with {other} {_shown(about.get(other))}, and this is {_shown(asked[other])}"
        raise Misconfigured(f"{told}; give the same to go on, or name another folder")
    return about


def read_about(path: Path) -> Json:
    """A run's run.json. Raises Misconfigured where the folder is no run, or one of a newer build."""
    if not (path / "run.json").is_file():
        raise Misconfigured(f"{path} is no folder that r3 batch has written: it has no run.json")
    about = read_json(path / "run.json")
    if not isinstance(about.get("format"), int) or about["format"] > FORMAT:
        raise Misconfigured(f"{path}/run.json has format {about.get('format')!r}; this build reads {FORMAT} and older")
    model = about.get("model")
    if not (model is None or (isinstance(model, dict) and {"name", "hash"} <= set(model))):
        raise Misconfigured(f"{path}/run.json names the model {model!r}, without name and hash; it was changed by hand")
    return about


def read_job(folder: Path) -> Job:
    """A prompt's job. Raises Misconfigured where it cannot be read."""
    try:
        job = Job.model_validate_json((folder / "job.json").read_bytes())
        if not isinstance(job.params.get("max_rounds"), int) or not isinstance(job.params.get("judge") or {}, dict):
            raise ValueError("its params are not those of a job")
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        raise Misconfigured(_broken(folder / "job.json", error)) from error
    return job


def read_json(path: Path) -> Json:
    """A JSON object of ours. Raises Misconfigured where it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Misconfigured(_broken(path, error)) from error
    if not isinstance(value, dict):
        raise Misconfigured(_broken(path, ValueError("it is no object")))
    return value


def _broken(path: Path, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
    if path.name == "run.json":  # beside it lies all that was made
        return f"{path} cannot be read ({why}); mend it, or name another --out"
    return f"{path} cannot be read ({why}); delete {path.parent} and run r3 batch again to have it made anew"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _as_read(value: Any) -> Any:
    """As it is when it has been written and read."""
    return json.loads(json.dumps(value))


@contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """A folder that comes to its place when it is whole. GenEval's scorer takes no notice of its name before."""
    temporary = place.with_name(f".{place.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


def _write_json(path: Path, value: Json, indent: int | None = 2) -> None:
    temporary = path.with_name(f".{path.name}.part")
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    temporary.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    temporary.replace(path)


def _link(source: Path, to: Path) -> None:
    """The same file under a second name, a copy where the disk has no such thing."""
    try:
        to.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, to)
