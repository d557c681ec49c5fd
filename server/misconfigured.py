"""The operator's mistake, the exit code it ends a process with, and how it repeats a URL. Light: every command imports
it.
"""

from __future__ import annotations

import re
from typing import Final

EXIT_BROKEN: Final = 1  # of a process that cannot go on
EXIT_MISCONFIGURED: Final = 2
# To the last @ of the word: a password that was not percent-encoded may hold every sign, and AWS's often hold a slash.
_SECRET_PART: Final = re.compile(r"(:/{0,2})\S*@")


class Misconfigured(Exception):
    """The process cannot start as it was asked to; the message says the value and what to change."""


def shown_url(text: str) -> str:
    """A URL, or a text with some, without user and password, however malformed."""
    return _SECRET_PART.sub(r"\1***@", text)
