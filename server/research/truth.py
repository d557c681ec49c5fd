"""Which pictures are right: what GenEval's scorer wrote, or any file that says so by prompt and round.

    DIR/round_2/results.jsonl      as GenEval's evaluate_images.py writes it; found by itself
    {"index": 3, "round": 2, "correct": true}                     a file of one's own, a line a picture: "prompt" may
    {"prompt": "a purple heart", "round": 2, "correct": false}    stand for "index", "sample" is 0 unless given
    {"filename": "round_2/00003/samples/00000.png", "correct": true}

A loop that has stopped keeps its picture: a round that no line tells of has what the round of its picture has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from server.misconfigured import Misconfigured
from server.research.runs import Entry, Run

Json = dict[str, Any]
Place = tuple[int, int, int]  # prompt, sample, round
RESULTS: Final = "results.jsonl"
_FILE: Final = re.compile(r"(?:(?:(?P<run>[^/]+)/)?round_(?P<round>\d+)/)?(?P<index>\d+)/samples/(?P<sample>\d+)\.\w+$")


class Truth:
    """Right or wrong, by prompt, sample and round."""

    def __init__(self, said: Mapping[Place, bool], run: Run) -> None:
        self._said, self._run = said, run
        self._whole: dict[int, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._said)

    def of(self, entry: Entry, sample: int, round_: int) -> bool | None:
        """Whether the picture that a trajectory had come to is right; None where nobody has said.

        What an earlier round says of a picture counts only where something is said of all that the round shows: those
        that stopped early are those that the model took for right.
        """
        said = self._said.get((entry.number, sample, round_))
        if said is None and self._is_whole(round_):
            return self._told(entry, sample, round_)
        return said

    def _told(self, entry: Entry, sample: int, round_: int) -> bool | None:
        said, made = self._said.get((entry.number, sample, round_)), entry.made(sample, round_)
        return said if said is not None or made is None else self._said.get((entry.number, sample, made.index))

    def _is_whole(self, round_: int) -> bool:
        if round_ not in self._whole:
            shown = ((entry, sample) for entry in self._run.entries.values() for sample in entry.samples)
            told = (self._told(*one, round_) for one in shown if one[0].made(one[1], round_) is not None)
            self._whole[round_] = all(said is not None for said in told)
        return self._whole[round_]

    def share(self, entry: Entry, round_: int) -> float | None:
        """How many of a prompt's pictures are right; None where it is not known of all of them."""
        said = [self.of(entry, sample, round_) for sample in entry.samples]
        return sum(map(bool, said)) / len(said) if said and None not in said else None


def found_truth(run: Run) -> Truth:
    """What GenEval's scorer has written into the run's rounds. Raises Misconfigured."""
    said: dict[Place, bool] = {}
    for path in sorted(run.path.glob(f"round_*/{RESULTS}")):
        number = path.parent.name.removeprefix("round_")
        if not number.isdecimal():  # a folder of somebody's own
            continue
        round_ = int(number)
        for where, row in _rows(path):
            _say(said, _place(row, run, where, round_), row, where)
    return Truth(said, run)


def read_truth(path: Path, run: Run, other: Run, *, is_shared: bool) -> Truth:
    """What a file says of a run; one for two runs names the run in each line. Raises Misconfigured, also where its
    files are those of the `other` run.
    """
    said: dict[Place, bool] = {}
    for where, row in _rows(path):
        if is_shared and "run" not in row:
            raise Misconfigured(
                f'{where} has no "run"; name its folder there, or give --truth twice, a file for each run'
            )
        named = _file_of(row)
        if "run" not in row and named and named["run"] == other.path.resolve().name != run.path.resolve().name:
            raise Misconfigured(f"{where} is of a picture of {other.path}, and {path} was given for {run.path}")
        if "run" not in row or _is_of(str(row["run"]), run):
            _say(said, _place(row, run, where, None), row, where)
    if not said:
        raise Misconfigured(f"{path} says nothing of {run.path}; its lines name other runs, or there are none")
    return Truth(said, run)


def _file_of(row: Json) -> re.Match[str] | None:
    """Run, round, prompt and sample of the picture that a line names, as far as its name has them."""
    return _FILE.search(str(row.get("filename", "")).replace("\\", "/"))


def _is_of(name: str, run: Run) -> bool:
    whole = run.path.resolve()
    return name == whole.name or Path(name).resolve() == whole


def _rows(path: Path) -> Iterator[tuple[str, Json]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Misconfigured(f"{path} cannot be read ({why}); name a file with a JSON object a line") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise Misconfigured(f"{where} is not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get("correct"), bool):
                raise Misconfigured(f'{where} has no "correct" that is true or false; write it for each picture')
            yield where, row


def _say(said: dict[Place, bool], place: Place, row: Json, where: str) -> None:
    if said.setdefault(place, row["correct"]) != row["correct"]:
        raise Misconfigured(
            f"{where} says of prompt {place[0]}, round {place[2]} the opposite of what a line above says"
        )


def _place(row: Json, run: Run, where: str, round_: int | None) -> Place:
    """Which picture a line is of. Raises Misconfigured."""
    index, sample, told = row.get("index"), row.get("sample", 0), row.get("round", round_)
    if "filename" in row:
        named = _file_of(row)
        if named is None:
            raise Misconfigured(
                f"{where}: {row['filename']!r} is no picture of a round; …/00003/samples/00000.png is one"
            )
        index, sample = int(named["index"]), int(named["sample"])
        if named["round"] is not None:
            if round_ not in (None, int(named["round"])):
                raise Misconfigured(
                    f"{where} is of round {named['round']}, and its file lies in that of round {round_}"
                )
            told = int(named["round"])
    if index is None:
        index = _number_of(row.get("prompt"), run, where)
    for name, value in (("index", index), ("sample", sample), ("round", told)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise Misconfigured(f'{where}: "{name}" is {value!r}; it must be a whole number, 0 or more')
    entry = run.entries.get(index)
    if entry is None and f"{index:05}" not in run.failed:
        raise Misconfigured(f"{where} is of prompt {index}, which {run.path} does not have")
    if entry is not None and row.get("prompt", entry.prompt) != entry.prompt:
        told_of = f"{where} is of {row['prompt']!r}, and prompt {index} of {run.path} is {entry.prompt!r}"
        raise Misconfigured(f"{told_of}: these are results of another run")
    assert isinstance(told, int)
    return index, sample, told


def _number_of(prompt: Any, run: Run, where: str) -> int:
    numbers = [entry.number for entry in run.entries.values() if entry.prompt == prompt]
    if len(numbers) == 1:
        return numbers[0]
    if not numbers:
        raise Misconfigured(f'{where} is of the prompt {prompt!r}, which {run.path} does not have; or give its "index"')
    raise Misconfigured(f'{where} is of {prompt!r}, which {run.path} has {len(numbers)} times; give its "index"')
