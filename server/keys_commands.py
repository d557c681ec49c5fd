"""What `r3 keys` does. What a program may want to read goes to standard output, and all else to standard error.

Each act on keys is one line of the audit log, which a command writes to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from server.audit import audit
from server.keys import (
    KEY,
    MAX_LIMIT,
    NO_LIMITS,
    Key,
    TenantLimits,
    digest_of,
    id_of,
    new_secret,
    scopes_named,
    tenant_name,
)
from server.keys_file import KeysFile, entry, read_keys_file
from server.logs import configure_logging
from server.misconfigured import Misconfigured
from server.preflight import check_keys_file
from server.queue import Queue, QueueError
from server.queue_at_hand import asked_of_queue
from server.queue_records import rfc3339
from server.settings import Settings


def new_key(
    name: str, tenant: str | None, scopes: Sequence[str] | None, requests_per_min: int | None, *, stdin: bool = False
) -> tuple[Key, str]:
    """A key and its secret, made now or read. Raises Misconfigured."""
    secret = sys.stdin.readline().strip() if stdin else new_secret()
    key_id = id_of(secret)
    if key_id is None:
        raise Misconfigured(f"what was read has {len(secret)} characters and is no key; a key is {KEY.pattern}")
    if requests_per_min is not None and requests_per_min > MAX_LIMIT:
        raise Misconfigured(f"{requests_per_min} requests a minute are too many; give at most {MAX_LIMIT:,}")
    try:
        named = scopes_named(scopes or ["generate"])
        whose = tenant_name(tenant or tenant_name(name))
        tenant_name(name)
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    made_ms = int(time.time() * 1000)
    return Key(key_id, name, whose, named, digest_of(secret), made_ms, requests_per_min), secret


def create(settings: Settings, key: Key, secret: str) -> int:
    """Print a key and keep it: one that opens something and that nobody has seen could only be revoked."""
    _hear_audit()

    if sys.stdout is None:
        raise Misconfigured("the key cannot be printed (standard output is closed), and was not made")

    async def act(queue: Queue) -> str:
        await queue.keys.read()  # whether there is a queue at all
        try:
            print(secret, flush=True)
        except OSError as error:
            raise Misconfigured(f"the key cannot be printed ({error.strerror}), and was not made") from error
        try:
            return await queue.keys.create(key)
        except QueueError:
            _say("the key that was printed opens nothing")
            raise

    outcome = asked_of_queue(settings, act)
    audit("key created", None, **_named(key), scopes=list(key.scopes))
    _say(f"key {key.id} of tenant {key.tenant}, scope {', '.join(key.scopes)}; it is shown this once")
    if outcome == "first" and settings.auth_mode == "auto":
        _say("from now on requests without a key are refused")
    return 0


def show(settings: Settings, *, with_revoked: bool) -> int:
    """Print the keys."""
    file = _file(settings)
    stored = asked_of_queue(settings, lambda queue: queue.keys.read())
    found = [(key, "") for key in stored.keys.values() if with_revoked or key.revoked_ms is None]
    found += [(key, "file") for key in file.keys.values()]
    rows = [_row(key, where) for key, where in sorted(found, key=lambda one: (one[0].created_ms or 0, one[0].id))]
    for line in _table(("ID", "NAME", "TENANT", "SCOPES", "REQUESTS/MIN", "CREATED", "REVOKED", "IN"), rows):
        print(line)
    return 0


def revoke(settings: Settings, which: str) -> int:
    """Make a key no longer good. Raises Misconfigured where it is not clear which."""
    _hear_audit()
    now_ms = int(time.time() * 1000)

    async def act(queue: Queue) -> Key:
        key = _meant(which, (await queue.keys.read()).keys.values(), _file(settings))
        await queue.keys.revoke(key, now_ms)
        return key

    key = asked_of_queue(settings, act)
    audit("key revoked", None, **_named(key))
    _say(f"key {key.id} of tenant {key.tenant} opens nothing any more, within five seconds everywhere")
    return 0


def limits(settings: Settings, tenant: str, given: dict[str, Any], *, clear: bool) -> int:
    """Show or set what a tenant may have. Raises Misconfigured."""
    _hear_audit()
    try:
        tenant_name(tenant)
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    in_file = _file(settings).tenants.get(tenant)
    if in_file is not None and (given or clear):
        raise Misconfigured(f"the limits of {tenant} are those of R3_KEYS_FILE={settings.keys_file}; change them there")

    async def act(queue: Queue) -> TenantLimits:
        had = in_file or (await queue.keys.read()).tenants.get(tenant, NO_LIMITS)
        wanted = _limited(NO_LIMITS if clear else had, given)
        if given or clear:
            await queue.keys.limit_tenant(tenant, None if wanted == NO_LIMITS else wanted)
        return wanted

    now = asked_of_queue(settings, act)
    if given or clear:
        audit("tenant limited", None, tenant=tenant, **asdict(now))
    for name, value in asdict(now).items():
        print(f"{name.replace('_', '-'):<14}{'-' if value is None else format(value, 'g')}")
    return 0


def write_entry(key: Key, secret: str) -> int:
    """Print a key's entry in R3_KEYS_FILE, and, beside it, the key."""
    print(entry(key), end="", flush=True)
    _say(f"the key itself, which is shown this once: {secret}")
    return 0


def _meant(which: str, stored: Iterable[Key], file: KeysFile) -> Key:
    good = [key for key in stored if key.revoked_ms is None]
    meant = [key for key in good if which == key.id] or [key for key in good if which == key.name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise Misconfigured(f"{len(meant)} keys are named {which}; give an id: {', '.join(key.id for key in meant)}")
    if any(which in (key.id, key.name) for key in file.keys.values()):
        raise Misconfigured(f"key {which} is in R3_KEYS_FILE; take it out there")
    raise Misconfigured(f"no key has the id or name {_safe(which)}; `r3 keys list` shows them")


def _limited(had: TenantLimits, given: dict[str, Any]) -> TenantLimits:
    try:
        return replace(had, **given)
    except ValueError as error:
        raise Misconfigured(str(error)) from error


def _file(settings: Settings) -> KeysFile:
    if settings.keys_file is None:
        return KeysFile()
    check_keys_file(settings)
    return read_keys_file(settings.keys_file)


def _row(key: Key, where: str) -> tuple[str, ...]:
    times = ("-" if at_ms is None else rfc3339(at_ms)[:19] + "Z" for at_ms in (key.created_ms, key.revoked_ms))
    per_min = "-" if key.requests_per_min is None else str(key.requests_per_min)
    return (key.id, key.name, key.tenant, ",".join(key.scopes), per_min, *times, where or "queue")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _named(key: Key) -> dict[str, str]:
    return {"key": key.id, "name": key.name, "tenant": key.tenant}


def _safe(which: str) -> str:
    """What was given as a key's id, which may be the key itself."""
    found = KEY.fullmatch(which)
    return repr(which[:200]) if found is None else f"{found[1]}_***"


def _hear_audit() -> None:
    configure_logging("warning", "json", sys.stderr)


def _say(line: str) -> None:
    print(f"r3  {line}", file=sys.stderr, flush=True)
