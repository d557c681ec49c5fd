"""The end of a task that several wait for: whoever of them is cancelled leaves it running."""

from __future__ import annotations

import asyncio
from typing import Any


async def given_up(task: asyncio.Task[Any] | None) -> None:
    """Cancel it, where there is one, and wait until it has ended, however it ends."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
