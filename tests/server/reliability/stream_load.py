"""Readers of many event streams, in a process of their own so that reading them takes nothing from who is measured.

    python -m tests.server.reliability.stream_load PORT SAMPLES AT_ONCE < job ids

Follows each job, from its first event on, until standard input is closed; so many streams are opened at once, and a
line `open` says that all have begun. Every event whose text begins with a time (CLOCK_MONOTONIC, ns) is a sample. At
the end SAMPLES is a JSON file: when each event was sent and how long it took, and how often a number was missing or
came twice.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

TRIES = 10
EVENT = re.compile(rb"id: (\d+)\nevent: [^\n]+\ndata: ([^\n]*)\n\n")
STAMP = re.compile(rb'"text":"(\d{6,}) ')


@dataclass
class Samples:
    """What all readers saw."""

    sent_ns: list[int] = field(default_factory=list)
    took_ns: list[int] = field(default_factory=list)
    events: int = 0
    out_of_order: int = 0
    """How often a number was not the one after the last."""
    ended: int = 0
    """Streams that the server ended."""
    refused: int = 0
    """How often a stream was not begun, and had to be asked for again."""


class Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, job_id: str, samples: Samples) -> None:
        self._job_id, self._samples = job_id, samples
        self._text, self._last = b"", 0
        self.has_begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET /jobs/{self._job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Whole events; the server never splits one over two HTTP chunks."""
        now = time.monotonic_ns()
        self._text += data
        end = 0
        for event in EVENT.finditer(self._text):
            end = event.end()
            number = int(event[1])
            self._samples.out_of_order += number != self._last + 1
            self._samples.events += 1
            self._last = number
            if stamp := STAMP.search(event[2]):
                self._samples.sent_ns.append(int(stamp[1]))
                self._samples.took_ns.append(now - int(stamp[1]))
        self._text = self._text[end:]
        if self._text.startswith(b"HTTP/1.1") and b" 200 " not in self._text[:16] and not self.has_begun.done():
            self.has_begun.set_exception(ConnectionError(self._text.decode()))
        if self._last and not self.has_begun.done():
            self.has_begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or we, closed it."""
        if self._last:
            self._samples.ended += 1
        elif not self.has_begun.done():
            self.has_begun.set_exception(ConnectionError(f"{self._job_id}: {exc or 'closed'} after {self._text!r}"))


async def read_all(port: int, job_ids: list[str], samples: Samples, at_once: int) -> None:
    """Open them, a few at a time; then read until nobody listens to us any more."""
    loop, places = asyncio.get_running_loop(), asyncio.Semaphore(at_once)

    async def begin(job_id: str) -> None:
        """As a client does: again where the server is too busy to begin."""
        for tries_left in range(TRIES)[::-1]:
            transport, reader = await loop.create_connection(lambda: Reader(job_id, samples), "127.0.0.1", port)
            try:
                await reader.has_begun
            except ConnectionError:
                transport.close()
                samples.refused += 1
                if not tries_left:
                    raise
                await asyncio.sleep(1)
            else:
                break

    async def begin_in_turn(job_id: str) -> None:
        async with places:
            await begin(job_id)

    await asyncio.gather(*(begin_in_turn(job_id) for job_id in job_ids))
    print("open", flush=True)  # noqa: T201 - read by who started us
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """See above."""
    port, path = int(sys.argv[1]), Path(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job_ids = sys.stdin.readline().split()
    samples = Samples()
    asyncio.run(read_all(port, job_ids, samples, int(sys.argv[3])))
    path.write_text(json.dumps(asdict(samples)))


if __name__ == "__main__":
    main()
