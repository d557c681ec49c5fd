"""How much of bodies is in memory at once, and for how long; and whose pictures are decoded when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from server import guard
from server.callers import CALLER, Caller
from server.fair_places import FairPlaces
from server.faults import ApiError
from server.guard import AT_ONCE, BodyLimit, let_go_of_body

MOST = 100


def scope_of(tenant: str, method: str = "POST") -> Scope:
    return {"type": "http", "method": method, "headers": [], CALLER: Caller(tenant, None, frozenset({"generate"}))}


class Bodies:
    """Requests to one limit, each of which reads all of its body."""

    def __init__(self) -> None:
        self.limit = BodyLimit(self._read, MOST)

    async def _read(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    async def send(self, tenant: str, sizes: Iterable[int], *, stalls: bool = False, method: str = "POST") -> None:
        """A body in pieces. One that stalls never ends."""
        pieces = [{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes]
        coming = iter([*pieces, *([] if stalls else [{"type": "http.request", "body": b"", "more_body": False}])])

        async def receive() -> Message:
            await asyncio.sleep(0)
            for message in coming:
                return message
            return await asyncio.Event().wait()  # type: ignore[return-value]

        async def nothing(_: Message) -> None: ...

        await self.limit(scope_of(tenant, method), receive, nothing)


async def test_what_one_tenant_has_on_its_way_is_bounded_and_keeps_no_other_out() -> None:
    bodies = Bodies()
    stalled = [asyncio.create_task(bodies.send("a", [MOST], stalls=True)) for _ in range(AT_ONCE)]
    await asyncio.sleep(0.01)
    with pytest.raises(ApiError, match="bodies of more than 600 bytes are being read at once") as refused:
        await bodies.send("a", [1])
    assert (refused.value.code, refused.value.headers["Retry-After"]) == ("rate_limited", "2")
    await bodies.send("b", [50, 50])
    stalled[0].cancel()
    await asyncio.gather(stalled[0], return_exceptions=True)
    await bodies.send("a", [50, 50])
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)
    assert not bodies.limit._held
    for _ in range(2 * AT_ONCE):  # those that have come count no more
        await bodies.send("a", [MOST])
    with pytest.raises(ApiError, match="more than 100 bytes came"):
        await bodies.send("a", [60, 60])
    assert not bodies.limit._held


async def test_what_is_sent_with_a_read_is_kept_by_nobody_and_counts_for_nothing() -> None:
    """Whoever has a link may send with it what they like, in the name of the tenant whose job it is."""
    bodies = Bodies()
    reads = [
        asyncio.create_task(bodies.send("a", [MOST] * 10, stalls=True, method=method))
        for method in ("GET", "HEAD") * AT_ONCE
    ]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in reads)
    assert not bodies.limit._held
    await bodies.send("a", [MOST])
    for task in reads:
        task.cancel()
    await asyncio.gather(*reads, return_exceptions=True)


async def test_a_body_is_held_until_nothing_of_it_is_kept() -> None:
    held: list[int] = []

    async def reads(scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        held.append(limit._held["a"])
        let_go_of_body(scope)
        held.append(limit._held["a"])

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(MOST), "more_body": False}

    async def nothing(_: Message) -> None: ...

    limit = BodyLimit(reads, MOST)
    await limit(scope_of("a"), receive, nothing)
    assert held == [MOST, 0]
    assert limit._held["a"] == 0


async def test_a_body_that_does_not_come_to_its_end_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_WITHIN_S", 0.05)
    bodies = Bodies()
    with pytest.raises(ApiError, match=r"the body was not complete within 0\.05 s"):
        await bodies.send("a", [10], stalls=True)
    assert not bodies.limit._held


async def test_who_waits_for_an_answer_is_not_taken_for_one_who_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its body a client says nothing until it goes."""
    monkeypatch.setattr(guard, "BODY_WITHIN_S", 0.05)
    said: asyncio.Queue[Message] = asyncio.Queue()
    said.put_nowait({"type": "http.request", "body": b"x", "more_body": False})
    heard: list[str] = []

    async def waits(_scope: Scope, receive: Receive, _send: Send) -> None:
        heard.extend([(await receive())["type"] for _ in range(2)])

    async def nothing(_: Message) -> None: ...

    asked = asyncio.create_task(BodyLimit(waits, MOST)(scope_of("a"), said.get, nothing))
    await asyncio.sleep(0.2)
    said.put_nowait({"type": "http.disconnect"})
    await asked
    assert heard == ["http.request", "http.disconnect"]


async def test_a_tenant_with_many_pictures_keeps_no_other_waiting_and_no_place_empty() -> None:
    places, began, may = FairPlaces(2), list[str](), asyncio.Semaphore(0)

    async def decode(tenant: str) -> None:
        async with places.of(tenant):
            began.append(tenant)
            await may.acquire()

    tasks = [asyncio.create_task(decode("many")) for _ in range(20)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(decode(tenant)) for tenant in ("one", "one", "other")]
    await asyncio.sleep(0)
    assert began == ["many", "many"], "nobody else was there"
    tasks[2].cancel()
    for expected in ("many", "one", "other", "many", "one", "many", "many"):
        may.release()
        await asyncio.sleep(0.001)
        assert began.pop() == expected
    for _ in tasks:
        may.release()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (places._free, len(places._lines)) == (2, 0)


@pytest.mark.parametrize("when", ["before", "with"])
async def test_who_goes_while_waiting_leaves_no_place_behind(when: str) -> None:
    places = FairPlaces(1)

    async def take() -> None:
        async with places.of("a"):
            pass

    async with places.of("a"):
        waiting = asyncio.create_task(take())
        await asyncio.sleep(0)
        if when == "before":
            waiting.cancel()
            await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(take(), 5)
    assert places._free == 1
