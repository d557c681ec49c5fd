"""Programs that tests run besides our own: where one is missing the test is skipped, but never in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where servers are, and who is not root does not look


def needed(*names: str, package: str | None = None, made_by: str | None = None) -> Path:
    """The first of these programs that is here. Without one: skip, or fail where R3_TEST_ALL is set."""
    for name in names:
        if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}"):
            return Path(found)
    missing = f"no {' or '.join(names)} on PATH" + (
        f"; apt install {package}" if package else f"; {made_by}" if made_by else ""
    )
    if os.environ.get("R3_TEST_ALL"):
        pytest.fail(f"{missing}, and R3_TEST_ALL lets no test be skipped for that")
    pytest.skip(missing)


def without_proxies() -> dict[str, str]:
    """The environment for a program that is to talk to this machine itself."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
