"""The image store: bytes in, a name out. Every object lies at `<root>/<tenant>/<job>/<sha256 of its bytes>`.

So deleting a job deletes a prefix, and writing the same picture twice is the same object. A folder is the default:
bytes go to a temporary file, are synced, and renamed, so that no reader ever sees half of one. In production it is S3
(`s3://bucket/prefix`, image_s3.py), or any other URL that fsspec knows (image_urls.py). All methods block: the worker
calls them beside its next step, the API from a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar

import structlog

from server.image_errors import ImageMissing, StoreAway, StoreFailed

if TYPE_CHECKING:
    from server.settings import Settings

__all__ = ["ImageMissing", "ImageStore", "StoreAway", "StoreFailed", "StoredFolder", "tried_again"]

log = structlog.get_logger("r3.images")

T = TypeVar("T")
STORE_TRIES: Final = 5
LONGEST_REST_S: Final = 2.0
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._@-]{0,127}")
_JOB: Final = re.compile(r"job_[A-Za-z0-9]{1,64}")
_TEMPORARY: Final = ".part-"
_TRIES: Final = 20
_MARK: Final = "@queue"  # beside the tenants
_PROBE: Final = "@probe"  # whose objects no job has, so that one left behind is swept


def tried_again(ask: Callable[[], T], job_id: str, waits: Callable[[], bool] = lambda: False) -> T:
    """What `ask` answers, asked again with back-off where the store fails for a moment; while it is away, for as long
    as `waits` says. Raises OSError in the end.
    """
    attempt = 0
    while True:
        try:
            return ask()
        except OSError as error:
            attempt += 1
            if attempt >= STORE_TRIES and not (isinstance(error, StoreAway) and waits()):
                raise
            log.warning("the image store failed; once more", job_id=job_id, reason=str(error), attempt=attempt)
            time.sleep(min(0.1 * 2 ** min(attempt - 1, 10), LONGEST_REST_S))


@dataclass(frozen=True)
class StoredFolder:
    """All objects of one job: how many, their size in bytes, and when the newest was written (Unix seconds)."""

    tenant: str
    job: str
    objects: int
    size_bytes: int
    newest_s: float


class _Objects(Protocol):
    """What a place for objects must do; keys are `tenant/job/sha256`."""

    def write(self, key: str, content: bytes) -> None: ...
    def read(self, key: str) -> bytes: ...
    def remove_folder(self, folder: str) -> None: ...
    def remove(self, keys: list[str]) -> None: ...
    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int, float]]: ...
    def close(self) -> None: ...


class ImageStore:
    """Pictures of jobs, in a folder or under an fsspec URL. Methods raise OSError, of it StoreFailed and StoreAway."""

    def __init__(self, place: str | Path, endpoint: str | None = None, region: str | None = None) -> None:
        """`place` is a folder, which is made where it does not exist, or a URL with a scheme; `endpoint` and `region`
        are S3's.

        Raises ValueError for a URL whose fsspec package is not installed.
        """
        text = str(place)
        scheme, mark, rest = text.partition("://")
        if not mark or scheme == "file":
            self._objects: _Objects = _FolderObjects(Path(rest if mark else text))
        elif scheme in ("s3", "s3a"):
            from server.image_s3 import S3Objects

            self._objects = S3Objects(text, endpoint, region)
        else:
            from server.image_urls import UrlObjects

            self._objects = UrlObjects(text)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The store that the settings name."""
        return cls(settings.image_store_url, settings.image_store_endpoint, settings.image_store_region)

    def put(self, tenant: str, job: str, content: bytes) -> str:
        """Store bytes of a job and return their SHA-256 in hex; the same bytes again are the same object."""
        digest = hashlib.sha256(content).hexdigest()
        self._objects.write(_key(tenant, job, digest), content)
        return digest

    def get(self, tenant: str, job: str, sha256: str) -> bytes:
        """The bytes that `put` stored. Raises ImageMissing where there are none."""
        return self._objects.read(_key(tenant, job, sha256))

    def delete_job(self, tenant: str, job: str) -> bool:
        """Remove all objects of a job; a job without objects is no error.

        Where the store fails it is False: nobody finds them any more, and the sweep of orphans removes them.
        """
        folder = _key(tenant, job)
        try:
            self._objects.remove_folder(folder)
        except OSError as error:
            log.warning("pictures of a job are left to the sweep", job_id=job, reason=str(error))
            return False
        return True

    def keep_only(self, tenant: str, job: str, hashes: Collection[str]) -> None:
        """Remove all objects of a job but those."""
        keys = [key for key, _, _ in self._objects.sizes(_key(tenant, job))]
        self._objects.remove([key for key in keys if key.rpartition("/")[2] not in hashes])

    def jobs(self) -> Iterator[StoredFolder]:
        """Every job that has objects, in no order, as they are found: a store may have millions."""
        for folder, objects in groupby(self._objects.sizes(), key=lambda one: one[0].rpartition("/")[0]):
            tenant, job = folder.split("/")
            if _SAFE_NAME.fullmatch(tenant) and _JOB.fullmatch(job):  # others are not ours: lost+found, a backup
                sizes, times = zip(*((size, written_s) for _, size, written_s in objects), strict=True)
                yield StoredFolder(tenant, job, len(sizes), sum(sizes), max(times))

    def mark(self) -> str | None:
        """What the queue whose pictures these are calls itself, None where nobody has marked the store."""
        try:
            return self._objects.read(_MARK).decode()
        except ImageMissing:
            return None

    def put_mark(self, mark: str) -> None:
        """Mark a store that has no mark."""
        self._objects.write(_MARK, mark.encode())

    def probe(self) -> None:
        """Write an object, list it, read it and delete it: all that is ever asked of a store."""
        job, content = f"job_{secrets.token_hex(16)}", secrets.token_bytes(64)
        folder, digest = _key(_PROBE, job), self.put(_PROBE, job, content)
        if self._holds(job, digest) != content or len(list(self._objects.sizes(folder))) != 1:
            raise StoreFailed("what was written cannot be read and listed as it was")
        self._objects.remove_folder(folder)
        if self._holds(job, digest) is not None:
            raise StoreFailed("what was deleted is still there; allow DeleteObject on what is in the bucket")

    def close(self) -> None:
        """End what other threads are asking of a store that hangs: it is away for them, and stays so."""
        self._objects.close()

    def _holds(self, job: str, digest: str) -> bytes | None:
        try:
            return self.get(_PROBE, job, digest)
        except ImageMissing:
            return None


def _key(*names: str) -> str:
    """The names as a path. They come from ids that we made, but a slash or `..` in one would leave the root."""
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a tenant, job or object; letters, digits, '.', '_' and '-' may")
    return "/".join(names)


class _FolderObjects:
    """Objects as files under a folder of this machine (or of a volume that all processes share)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, key: str, content: bytes) -> None:
        target = self._root / key
        if target.exists():
            return
        for attempt in range(_TRIES):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
                _write_synced(temporary, content)
                temporary.rename(target)
                break
            except (FileNotFoundError, FileExistsError):  # the latter: its folder went while mkdir looked at it
                # The job was deleted while it was written to, and a late write is swept; or the volume is gone.
                if attempt == _TRIES - 1:
                    raise
        _sync_folder(target.parent)

    def read(self, key: str) -> bytes:
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError as error:
            raise ImageMissing(f"no object {key} under {self._root}") from error

    def remove_folder(self, folder: str) -> None:
        for _ in range(_TRIES):
            try:
                return shutil.rmtree(self._root / folder)
            except FileNotFoundError:  # all of it, or what somebody else has removed meanwhile
                if not (self._root / folder).exists():
                    return None
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # written to meanwhile
                    raise
        return shutil.rmtree(self._root / folder)

    def remove(self, keys: list[str]) -> None:
        for key in keys:
            (self._root / key).unlink(missing_ok=True)
        for folder in {(self._root / key).parent for key in keys}:
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int, float]]:
        if folder is None:
            folders = (f"{t}/{j}" for t in _names(self._root) for j in _names(self._root / t))
        else:
            folders = (one for one in (folder,))
        for place in folders:
            for entry in _listed(self._root / place):
                try:
                    status = entry.stat()
                except (FileNotFoundError, PermissionError):
                    continue  # deleted while we were looking, or not for us to see
                yield f"{place}/{entry.name}", status.st_size, status.st_mtime

    def close(self) -> None:
        """A folder does not hang, or nothing can be done about it."""


def _listed(path: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where it is none, or gone, or not for us to see."""
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _names(path: Path) -> list[str]:
    """Of what is in a folder, which may be a million jobs."""
    return [entry.name for entry in _listed(path)]


def _write_synced(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power loss."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
