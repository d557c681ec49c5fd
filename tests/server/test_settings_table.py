"""Every setting stands in one table, made from settings.py; the table, and what other pages name, does not drift."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server import cli_options, settings_table
from server.settings import Settings
from server.settings_table import BEGIN, END, PAGE, main, table, with_table

PROJECT = PAGE.parent.parent
# Read by r3client and the commands that talk to a server, or by our own tests.
ELSEWHERE = {"R3_URL", "R3_KEY", "R3_API_KEY", "R3_RECORD", "R3_SCREENS", "R3_TEST_ALL", "R3_TEST_TIMES"}


def rows() -> dict[str, tuple[str, str]]:
    """Default and meaning, by name."""
    return {row[0]: row[1:] for row in re.findall(r"^\| `(R3_\w+)` \| (.*?) \| (.+) \|$", table(), re.MULTILINE)}


def test_every_setting_is_a_row_with_its_default_and_its_meaning() -> None:
    told = rows()
    assert list(told) == [f"R3_{name.upper()}" for name in Settings.model_fields]
    assert told["R3_LEASE_S"][0] == "`15`"
    assert told["R3_INSECURE"][0] == "`false`"
    assert told["R3_PUBLIC_URL"][0] == ""
    assert told["R3_MAX_BODY_BYTES"][0] == "`33554432`"
    assert told["R3_CHECKPOINT"][0].startswith("`checkpoints/small`")
    assert told["R3_LOG_FORMAT"][1].endswith("(`json`, `console`)")
    for name, (_, means) in told.items():
        assert len(means) > 15, name


def test_the_page_has_the_table_of_today() -> None:
    assert main(["--check"]) == 0


def test_a_table_that_is_not_what_the_settings_say_is_seen_and_mended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "operations.md"
    page.write_text(PAGE.read_text().replace("| `R3_LEASE_S` | `15` |", "| `R3_LEASE_S` | `16` |"))
    monkeypatch.setattr(settings_table, "PAGE", page)
    assert main(["--check"]) == 1
    assert "make settings" in capsys.readouterr().err
    assert main([]) == 0
    assert page.read_text() == PAGE.read_text()
    with pytest.raises(ValueError, match="has no place"):
        with_table("no marks")


def test_the_table_is_the_only_place_that_tells_defaults() -> None:
    """A second list of them would be the one that is wrong."""
    for page in (PROJECT / "docs").glob("*.md"):
        text = page.read_text()
        if page == PAGE:
            text = text.partition(BEGIN)[0] + text.partition(END)[2]
        for line in text.splitlines():
            assert not re.match(r"\| `R3_\w+`.* \| `?\d[\d,]*`? \|", line), f"{page.name}: {line}"


def test_every_variable_that_a_page_names_is_there() -> None:
    known = set(rows()) | ELSEWHERE
    for page in (*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"):
        named = set(re.findall(r"\bR3_[A-Z][A-Z_]+\b", page.read_text()))
        assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_the_help_of_an_option_tells_the_settings_own_default() -> None:
    """Help is written by hand, for it must not import the settings."""
    told = re.findall(r"\[R3_(\w+); ([^\]]+)\]", Path(cli_options.__file__).read_text())
    literal = {name: default for name, default in told if re.fullmatch(r"[\d.]+", default)}
    assert {"HOST", "PORT", "WORKER_HOST", "WORKER_PORT"} <= set(literal)
    for name, default in literal.items():
        assert default == str(Settings.model_fields[name.lower()].default), name
