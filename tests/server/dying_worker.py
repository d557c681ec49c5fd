"""`r3 worker` that ends as by `kill -9` where DIE_AT says, in its publishing: `image 2 before`, `score 1 after`.

It counts the pictures, or the scores, that it has to write, and dies before or after it has written that one.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import ClassVar

from server.publications import Item, Keep, Say
from server.publisher import Publisher
from server.queue_worker import Written


class DyingPublisher(Publisher):
    """Kills its process."""

    seen: ClassVar[Counter[str]] = Counter()

    def _write(self, item: Item) -> Written:
        what = _named(item)
        self.seen[what] += 1
        self._die(f"{what} {self.seen[what]} before")
        written = super()._write(item)
        self._die(f"{what} {self.seen[what]} after")
        return written

    def _die(self, here: str) -> None:
        if os.environ.get("DIE_AT") == here:
            os.kill(os.getpid(), signal.SIGKILL)


def _named(item: Item) -> str:
    match item:
        case Keep():
            return "image"
        case Say(events=events):
            return events[-1].name
        case _:
            return ""


if __name__ == "__main__":
    from server import worker
    from server.cli import main

    vars(worker)["Publisher"] = DyingPublisher
    main()
