"""The operator's mistake, and the exit code it ends a process with. Light: every command imports it."""

from __future__ import annotations

from typing import Final

EXIT_MISCONFIGURED: Final = 2


class Misconfigured(Exception):
    """The process cannot start as it was asked to; the message says the value and what to change."""
