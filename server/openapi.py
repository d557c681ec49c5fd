"""openapi.yaml, generated from the app: the HTTP contract for machines. A check fails where it drifts."""

from __future__ import annotations

import difflib
from pathlib import Path

from server.app import create_app
from server.contract import openapi_yaml
from server.settings import Settings


def described() -> str:
    """The file as the app of this source describes itself; the environment has no say in it."""
    return openapi_yaml(create_app(Settings.model_construct()))


def drift(path: Path) -> str:
    """What is wrong with the file, and the remedy; empty where it is up to date."""
    remedy = "write it anew with `make openapi`"
    if not path.is_file():
        return f"{path} is not there; {remedy}"
    stored, fresh = path.read_text(encoding="utf-8"), described()
    if stored == fresh:
        return ""
    lines = difflib.unified_diff(stored.splitlines(), fresh.splitlines(), str(path), "the app", n=1, lineterm="")
    return "\n".join([*list(lines)[:40], f"{path} is not what the app says; {remedy}"])
