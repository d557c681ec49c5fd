"""What a shell is told to put before a command."""

from __future__ import annotations

import pytest

from r3core import malloc
from server import preload

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
