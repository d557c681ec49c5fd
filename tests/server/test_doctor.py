"""`r3 doctor`: one line a finding, every finding even where one is broken, and an exit code that says which."""

from __future__ import annotations

import json
import re
import shutil
import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from r3core import malloc
from server.doctor import CHECKS, Finding, run_doctor
from server.settings import Settings, default_checkpoint


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", device="cpu")


def report(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and what was found by subject."""
    code = run_doctor(settings)
    lines = capsys.readouterr().out.splitlines()
    return code, {line.split()[1]: (line.split()[0], line.split(maxsplit=2)[2]) for line in lines}


def test_a_good_installation_has_nothing_broken(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(settings, capsys)
    assert code == 0, found
    assert "sdpa" in found["attention"][1]
    assert "weights" in found["memory"][1]
    assert "ema.safetensors" in found["checkpoint"][1]


@pytest.mark.parametrize("lock", ["worker", "cuda"])
def test_the_packages_of_a_worker_are_enough_for_a_worker(
    lock: str, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its image nothing is broken."""
    text = (Path(__file__).parents[2] / "requirements" / f"{lock}.txt").read_text()
    there = {*re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE), "r3-server", "torch"}

    def of_the_image(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("server.doctor.version", of_the_image)
    code, found = report(settings, capsys)
    assert (code, found["packages"][0]) == (0, "note")
    assert "no fastapi" in found["packages"][1]
    assert "enough for a worker" in found["packages"][1]


@pytest.mark.parametrize(
    ("total", "held", "state"),
    [(4 * 10**9, 39 * 10**8, "note"), (10**7, 10**6, "broken"), (2 * 10**9, 19 * 10**8, "broken")],
    ids=["held by a worker", "too small", "too small, and held"],
)
def test_a_device_that_a_worker_holds_is_not_broken(
    total: int,
    held: int,
    state: str,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.doctor._place", lambda _: (torch.device("cuda"), torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (total - held, total))
    state_, said = report(settings, capsys)[1]["memory"]
    assert state_ == state, said


def test_what_is_broken_is_named_and_the_rest_is_still_looked_at(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"checkpoint": Path("/nowhere"), "device": "cuda:63", "redis_url": "redis://127.0.0.1:1"}
    code, found = report(settings.model_copy(update=asked), capsys)
    assert code == 1
    assert {subject for subject, (state, _) in found.items() if state == "broken"} == {
        "device",
        "attention",
        "checkpoint",
        "memory",
        "queue",
    }
    assert "/nowhere does not exist" in found["checkpoint"][1]
    assert "cuda:63" in found["device"][1]
    assert found["data"][0] == "ok"


def test_a_missing_tensor_is_named(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "lacking"
    shutil.copytree(default_checkpoint(), checkpoint)
    forget(checkpoint / "ema.safetensors", "llm2vae.bias")
    code, found = report(settings.model_copy(update={"checkpoint": checkpoint}), capsys)
    assert code == 1
    assert "1 missing: llm2vae.bias" in found["checkpoint"][1]


def test_the_threads_are_those_that_a_worker_takes(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        _, found = report(settings.model_copy(update={"torch_threads": before + 1}), capsys)
        assert f"{before + 1} threads" in found["device"][1]
    finally:
        torch.set_num_threads(before)


def forget(path: Path, name: str) -> None:
    """Take a tensor out of a file's header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    del header[name]
    text = json.dumps(header).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_where_traces_go_is_told(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[str, str]:
        monkeypatch.setattr("server.doctor.CHECKS", {"traces": CHECKS["traces"]})
        return report(settings, capsys)[1]["traces"]

    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert found()[1].startswith("off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:word@collector:4318")
    assert found() == ("ok", "sent to http://***@collector:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert found()[0] == "note"


@pytest.mark.parametrize(
    ("device", "preloaded", "found", "says"),
    [
        ("cpu", None, "libtcmalloc.so.4", "libtcmalloc.so.4, where `r3 serve` starts the worker"),
        ("cpu", None, None, "apt install libtcmalloc-minimal4"),
        ("cpu", "", "libtcmalloc.so.4", "LD_PRELOAD is set"),
        ("cuda", None, "libtcmalloc.so.4", "not tried with a GPU"),
    ],
)
def test_whose_malloc_a_worker_would_have_is_told(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    preloaded: str | None,
    found: str | None,
    says: str,
) -> None:
    monkeypatch.setattr(malloc, "quicker", lambda: found)
    monkeypatch.delenv(malloc.VARIABLE, raising=False)
    if preloaded is not None:
        monkeypatch.setenv(malloc.VARIABLE, preloaded)
    finding = CHECKS["malloc"](settings.model_copy(update={"device": device}))
    assert says in (finding.text if isinstance(finding, Finding) else finding)
