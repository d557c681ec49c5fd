"""How often is spoken: a text's pieces are joined to at most 5 events a second, progress is told at most 10 times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TEXT_EVERY_S: Final = 0.2
PROGRESS_EVERY_S: Final = 0.1
_NEVER: Final = float("-inf")


@dataclass
class _Voice:
    unsaid: str = ""
    text_at_s: float = _NEVER
    progress_at_s: float = _NEVER


class Pace:
    """One voice for each trajectory, by its key."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._voices: dict[str, _Voice] = {}

    def text(self, key: str, piece: str) -> str:
        """Adds a piece; returns what is to be said now, joined, or nothing."""
        voice, now_s = self._voice(key), self._now_s()
        voice.unsaid += piece
        if now_s - voice.text_at_s < TEXT_EVERY_S:
            return ""
        voice.text_at_s = now_s
        return self.rest(key)

    def rest(self, key: str) -> str:
        """What of a text has not been said; it ends here."""
        voice = self._voice(key)
        said, voice.unsaid = voice.unsaid, ""
        return said

    def may_tell_progress(self, key: str) -> bool:
        """Whether progress may be told now."""
        voice, now_s = self._voice(key), self._now_s()
        if now_s - voice.progress_at_s < PROGRESS_EVERY_S:
            return False
        voice.progress_at_s = now_s
        return True

    def forget(self, key: str) -> None:
        """The trajectory has ended."""
        self._voices.pop(key, None)

    def _voice(self, key: str) -> _Voice:
        return self._voices.setdefault(key, _Voice())
