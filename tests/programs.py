"""Programs that tests run besides our own: where one is missing the test is skipped, but never in CI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from r3core import malloc

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where servers are, and who is not root does not look


def needed(*names: str, package: str | None = None, made_by: str | None = None) -> Path:
    """The first of these programs that is here. Without one: skip, or fail where R3_TEST_ALL is set."""
    for name in names:
        if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}"):
            return Path(found)
    remedy = f"; apt install {package}" if package else f"; {made_by}" if made_by else ""
    return _lacks(f"no {' or '.join(names)} on PATH{remedy}")


def needed_malloc() -> str:
    """The name of a quicker malloc than the C library's."""
    if sys.platform != "linux":
        pytest.skip("only Linux's linker is asked for one")
    return malloc.quicker() or _lacks(f"no tcmalloc on this machine; apt install {malloc.PACKAGE}")


def _lacks(missing: str) -> NoReturn:
    if os.environ.get("R3_TEST_ALL"):
        pytest.fail(f"{missing}, and R3_TEST_ALL lets no test be skipped for that")
    pytest.skip(missing)


def without_proxies() -> dict[str, str]:
    """The environment for a program that is to talk to this machine itself."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
