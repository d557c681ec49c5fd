"""Programs that tests run besides our own: where one is missing the test is skipped, but never in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def needed(*names: str) -> Path:
    """The first of these programs that is on PATH. Without one: skip, or fail where R3_TEST_ALL is set."""
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    missing = f"no {' or '.join(names)} on PATH"
    if os.environ.get("R3_TEST_ALL"):
        pytest.fail(f"{missing}, and R3_TEST_ALL lets no test be skipped for that")
    pytest.skip(missing)
