"""What a line of a file of prompts asks for, and which lines are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.misconfigured import Misconfigured
from server.research.prompts import Line, read_prompts


def read(folder: Path, *rows: Any, common: dict[str, Any] | None = None) -> list[Line]:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return read_prompts(path, common or {})


def test_settings_are_taken_and_the_rest_is_kept_as_it_is(tmp_path: Path) -> None:
    geneval = {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [], "prompt": "two clocks"}
    plain, own = read(
        tmp_path,
        geneval,
        "  ",
        {"prompt": "a line\u2028apart", "seed": 3, "n": 2, "early_stop": False},
        common={"seed": 7, "max_rounds": 4, "n": 4},
    )
    assert (plain.number, plain.prompt, plain.kept) == (0, "two clocks", geneval)
    assert plain.settings == {"seed": 7, "max_rounds": 4, "n": 4}
    assert (own.number, own.name, own.kept) == (1, "00001", {"prompt": "a line\u2028apart"})
    assert own.settings == {"seed": 3, "max_rounds": 4, "n": 2, "early_stop": False}


def test_every_prompt_has_a_seed_so_that_runs_can_be_paired(tmp_path: Path) -> None:
    assert [line.settings["seed"] for line in read(tmp_path, {"prompt": "a"}, {"prompt": "b"})] == [0, 0]


def test_a_picture_is_found_beside_the_prompts_and_an_id_is_one(tmp_path: Path) -> None:
    (tmp_path / "start.png").write_bytes(b"bytes")
    file, named = read(tmp_path, {"prompt": "a", "image": "start.png"}, {"prompt": "a", "image": "img_0"})
    assert file.settings["image"] == tmp_path / "start.png"
    assert named.settings["image"] == "img_0"
    before = file.asked()
    json.dumps(before)
    (tmp_path / "start.png").write_bytes(b"others")
    assert file.asked() != before


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "prompt 0 is not JSON"),
        ('{"prompt": "a", "deadline_s": NaN}', "prompt 0 is not JSON .NaN is no number"),
        ('{"prompt": "a \\ud800"}', "prompt 0 is not JSON"),
        ('"a cat"', 'has no "prompt"'),
        ({"prompts": "a cat"}, 'has no "prompt"'),
        ({"prompt": 3}, 'has no "prompt"'),
        ({"prompt": "a", "max_round": 3}, "max_round is no setting; write max_rounds"),
        ({"prompt": "a", "candidate": {"first": 2}}, "write candidates"),
        ({"prompt": "a", "stream": True}, "stream cannot be set"),
        ({"prompt": "a", "output_format": "jpeg"}, "pictures are kept as PNG"),
        ({"prompt": "a", "image": "nowhere.png"}, "there is no picture"),
        ("", "has no prompt"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        read(tmp_path, row)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"nowhere\.jsonl cannot be read"):
        read_prompts(tmp_path / "nowhere.jsonl", {})
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(Misconfigured, match="is not UTF-8"):
        read_prompts(tmp_path / "latin.jsonl", {})
