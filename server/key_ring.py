"""The keys that are good now, as this process knows them: those of Redis and those of R3_KEYS_FILE.

They are looked at every POLL_S, and are trusted for FRESH_S: a key that was revoked is refused within that time
whatever happens, and while they cannot be read nobody is let in on old knowledge. Whoever asks when they are stale has
them read at once, so that the first request after Redis is back is served.

In `auto` keys are asked for once there was ever one, or where a file of them is named. A process that has once asked
for keys never stops to, though its Redis be emptied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from server.keys import NO_LIMITS, Key, KeysUnreadable, TenantLimits
from server.keys_file import KeysFile, KeysFileError, read_keys_file
from server.links import Links
from server.queue_errors import QueueUnavailable
from server.queue_keys import QueueKeys, StoredKeys
from server.sessions import Sessions
from server.settings import Settings
from server.shared_task import SharedTask, heard

log = structlog.get_logger("r3.api")

POLL_S: Final = 1.0
FRESH_S: Final = 4.0
FILE_WITHIN_S: Final = 2.0  # it may lie on a drive that nobody answers for


@dataclass(frozen=True)
class Ring:
    """Who may come in at one moment. `links` and `sessions` are None where nobody is asked for a key."""

    is_on: bool
    keys: Mapping[str, Key] = field(default_factory=dict)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    links: Links | None = None
    sessions: Sessions | None = None

    def limits_of(self, tenant: str) -> TenantLimits:
        """What a tenant may have."""
        return self.tenants.get(tenant, NO_LIMITS)


OFF: Final = Ring(is_on=False)


class KeyRing:
    """See above. `connect` it before it is asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: QueueKeys | None = None
        self._stored: StoredKeys | None = None
        self._file = KeysFile()
        self._file_seen: tuple[int, ...] | None = None
        self._secret = "" if settings.token_secret is None else settings.token_secret.get_secret_value()
        self._ring: Ring | None = OFF if settings.auth_mode == "none" else None
        self._read_at_s = float("-inf")
        self._reading = SharedTask[Ring]()
        self._opening: asyncio.Task[KeysFile] | None = None

    @property
    def is_on(self) -> bool:
        """Whether keys are known to be asked for; where that is not known yet, they are not."""
        return self._settings.auth_mode == "keys" or (self._ring is not None and self._ring.is_on)

    @property
    def links(self) -> Links | None:
        """What signs links, None where none are: the last that was known, for it lets nobody in by itself."""
        return None if self._ring is None else self._ring.links

    def connect(self, store: QueueKeys) -> None:
        """Say where the keys are."""
        self._store = store

    async def now(self) -> Ring:
        """Who may come in. Raises QueueUnavailable or KeysUnreadable where that cannot be known."""
        if self._settings.auth_mode == "none":
            return OFF
        if self._ring is not None and time.monotonic() - self._read_at_s < FRESH_S:
            return self._ring
        return await self.read()

    async def read(self) -> Ring:
        """The same, read anew; however many ask at the same time, it is read once."""
        return await self._reading.answer(self._read)

    async def keep_fresh(self) -> None:
        """Read it again and again, and say where that fails, once."""
        if self._settings.auth_mode == "none":
            await asyncio.Event().wait()
        failing = ""
        while True:
            try:
                await self.read()
                failing = ""
            except (QueueUnavailable, KeysUnreadable) as error:
                if not failing:
                    log.warning("keys cannot be read; who needs one is answered 503", reason=str(error))
                failing = str(error)
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Read no more; to be called before the queue is closed."""
        await self._reading.close()

    async def _read(self) -> Ring:
        assert self._store is not None, "the key ring is not connected"
        began_s = time.monotonic()
        stored = await self._store.read(self._stored)
        file = await self._file_now()
        is_on = self.is_on or stored.is_on or self._settings.keys_file is not None
        if is_on and self._settings.token_secret is None and (not self._secret or stored is not self._stored):
            self._secret = stored.secret or await self._store.token_secret()
        if self._ring is None or stored != self._stored or file is not self._file or is_on != self._ring.is_on:
            self._ring = self._made_of(stored, file, is_on=is_on)
            log.info("keys read", asked_for=is_on, good=len(self._ring.keys))
        self._stored, self._file, self._read_at_s = stored, file, began_s
        return self._ring

    async def _file_now(self) -> KeysFile:
        """The file, by one thread at a time, however long that one has to wait."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(asyncio.to_thread(self._read_file))
            self._opening.add_done_callback(heard)
        done, _ = await asyncio.wait([self._opening], timeout=FILE_WITHIN_S)
        if not done:
            raise KeysFileError(f"{self._settings.keys_file} has not been read within {FILE_WITHIN_S:g} s")
        return self._opening.result()

    def _made_of(self, stored: StoredKeys, file: KeysFile, *, is_on: bool) -> Ring:
        """What was revoked is so, whatever the file says."""
        revoked = {key_id for key_id, key in stored.keys.items() if key.revoked_ms is not None}
        keys = {key_id: key for key_id, key in {**stored.keys, **file.keys}.items() if key_id not in revoked}
        links = Links(self._secret, self._settings.link_ttl_s) if is_on else None
        sessions = Sessions(self._secret) if is_on else None
        return Ring(is_on, keys, {**stored.tenants, **file.tenants}, links, sessions)

    def _read_file(self) -> KeysFile:
        """The file where it has changed. Kubernetes replaces a mounted Secret by another file of the same name."""
        path = self._settings.keys_file
        if path is None:
            return self._file
        try:
            found = path.stat()
        except OSError as error:
            raise KeysFileError(f"{path} cannot be read ({error.strerror})") from error
        seen = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)  # ctime: nobody can set it back
        if seen == self._file_seen:
            return self._file
        content = read_keys_file(path)
        self._file_seen = seen
        return content
