"""`python -m server.preload`: what a shell puts before a command, that it may have the malloc which `r3 serve` gives
its worker (r3core/malloc.py).

    env $(python -m server.preload) r3 worker
"""

from __future__ import annotations

import os

from r3core.malloc import preload
from server.preflight import load_settings


def main() -> int:
    """Print the variable, or nothing. Raises Misconfigured where a setting is wrong."""
    for name, value in preload(os.environ, load_settings({}).device).items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
