"""Which malloc a command gets by a shell, and the server that `r3 bench` starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from r3core import malloc
from server import preload
from server.bench import place

FOUND = "LD_PRELOAD=quick.so\n"


@pytest.mark.parametrize(
    ("device", "told"),
    [("cpu", FOUND), ("cuda", ""), *((unset, FOUND if malloc.is_for(None) else "") for unset in ("none", ""))],
)
def test_a_shell_is_told_what_a_worker_would_get(
    device: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(malloc, "quicker", lambda: "quick.so")
    monkeypatch.delenv(malloc.VARIABLE, raising=False)
    monkeypatch.setenv("R3_DEVICE", device)
    assert preload.main() == 0
    assert capsys.readouterr().out == told


def test_what_is_wrong_with_a_setting_is_left_to_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("R3_PORT", "abc")
    assert preload.main() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ours", "the_servers"),
    [(None, ""), ("", ""), ("quick.so", None), ("another.so", "another.so")],
)
def test_the_server_that_is_measured_has_the_malloc_of_the_engine_beside_it(
    ours: str | None, the_servers: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: it is taken out of the environment, so that the server gives it to its worker alone."""
    given: list[Mapping[str, str | None]] = []

    @contextmanager
    def own_server(folder: Path, options: Mapping[str, str], variables: Mapping[str, str | None]) -> Iterator[str]:
        given.append(variables)
        yield "http://127.0.0.1:1"

    monkeypatch.setattr(malloc, "quicker", lambda: "quick.so")
    monkeypatch.setattr(place, "own_server", own_server)
    monkeypatch.setattr(place, "place_at", lambda *_, **__: None)
    monkeypatch.delenv(malloc.VARIABLE, raising=False)
    if ours is not None:
        monkeypatch.setenv(malloc.VARIABLE, ours)
    with place.own_place({}):
        assert given == [{malloc.VARIABLE: the_servers}]
