"""`python -m server.preload`: what a shell puts before a command, that it may have the malloc which `r3 serve` gives
its worker (r3core/malloc.py).

    env $(python -m server.preload) r3 worker
"""

from __future__ import annotations

import os

from pydantic import ValidationError
from pydantic_settings import SettingsError

from r3core.malloc import preload
from server.settings import Settings


def main() -> int:
    """Print the variable, or nothing."""
    try:
        device = Settings().device
    except (ValidationError, SettingsError):  # the command that it stands before says what is wrong
        return 0
    for name, value in preload(os.environ, device).items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
