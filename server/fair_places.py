"""A few places that tenants take in turn: whoever has much to do takes all that are free, and keeps nobody waiting for
longer than one of its own takes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairPlaces:
    """`async with places.of(tenant)`."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by tenant, the next one first

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """One of the places, once it is this tenant's turn."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(tenant)
        try:
            yield
        finally:
            self._pass_on()

    async def _turn(self, tenant: str) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():  # its turn came in the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give a place that became free to the next tenant's first, and let that tenant be the last from then on."""
        while self._lines:
            tenant, line = self._lines.popitem(last=False)
            staying = deque(called for called in line if not called.done())  # the others have gone
            if not staying:
                continue
            staying.popleft().set_result(None)
            if staying:
                self._lines[tenant] = staying
            return
        self._free += 1
