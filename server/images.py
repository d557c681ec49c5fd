"""The image store: bytes in, a name out. Every object lies at `<root>/<tenant>/<job>/<sha256 of its bytes>`.

So deleting a job deletes a prefix, and writing the same picture twice is the same object. A folder is the default:
bytes go to a temporary file, are synced, and renamed, so that no reader ever sees half a picture. Any other fsspec
URL (`s3://bucket/prefix`) serves in production. All methods block: the worker calls them beside its next step, the
API from a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog

log = structlog.get_logger("r3.images")

T = TypeVar("T")
STORE_TRIES: Final = 5
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._@-]{0,127}")
_TEMPORARY: Final = ".part-"
_TRIES: Final = 20


class ImageMissing(LookupError):
    """The store has no such object: it was deleted, or never written."""


def tried_again(ask: Callable[[], T], job_id: str) -> T:
    """What `ask` answers, asked again with back-off where the store fails for a moment. Raises OSError in the end."""
    for attempt in range(STORE_TRIES - 1):
        try:
            return ask()
        except OSError as error:
            log.warning("the image store failed; once more", job_id=job_id, reason=str(error))
            time.sleep(0.1 * 2**attempt)
    return ask()


@dataclass(frozen=True)
class StoredFolder:
    """All objects of one job: their size in bytes, and when the newest was written (Unix seconds)."""

    tenant: str
    job: str
    size_bytes: int
    newest_s: float


class _Objects(Protocol):
    """What a place for objects must do; keys are `tenant/job/sha256`."""

    def write(self, key: str, content: bytes) -> None: ...
    def read(self, key: str) -> bytes: ...
    def remove_folder(self, folder: str) -> None: ...
    def remove(self, key: str) -> None: ...
    def sizes(self, folder: str = "*/*") -> Iterator[tuple[str, int, float]]: ...


class ImageStore:
    """Pictures of jobs, in a folder or under an fsspec URL."""

    def __init__(self, place: str | Path) -> None:
        """`place` is a folder, which is made where it does not exist, or a URL with a scheme.

        Raises ValueError for a URL whose fsspec package is not installed.
        """
        text = str(place)
        scheme, mark, rest = text.partition("://")
        if not mark or scheme == "file":
            self._objects: _Objects = _FolderObjects(Path(rest if mark else text))
        else:
            self._objects = _UrlObjects(text)

    def put(self, tenant: str, job: str, content: bytes) -> str:
        """Store bytes of a job and return their SHA-256 in hex; the same bytes again are the same object."""
        digest = hashlib.sha256(content).hexdigest()
        self._objects.write(_key(tenant, job, digest), content)
        return digest

    def get(self, tenant: str, job: str, sha256: str) -> bytes:
        """The bytes that `put` stored. Raises ImageMissing where there are none."""
        return self._objects.read(_key(tenant, job, sha256))

    def delete_job(self, tenant: str, job: str) -> None:
        """Remove all objects of a job; a job without objects is no error."""
        self._objects.remove_folder(_key(tenant, job))

    def keep_only(self, tenant: str, job: str, hashes: Collection[str]) -> None:
        """Remove all objects of a job but those."""
        for key, _, _ in list(self._objects.sizes(_key(tenant, job))):
            if key.rpartition("/")[2] not in hashes:
                self._objects.remove(key)

    def jobs(self) -> Iterator[StoredFolder]:
        """Every job that has objects, in no order."""
        folders: dict[tuple[str, str], StoredFolder] = {}
        for key, size, written_s in self._objects.sizes():
            tenant, job, _ = key.split("/")
            seen = folders.get((tenant, job), StoredFolder(tenant, job, 0, 0.0))
            folders[tenant, job] = StoredFolder(tenant, job, seen.size_bytes + size, max(seen.newest_s, written_s))
        yield from folders.values()


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
            except FileNotFoundError:
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
        shutil.rmtree(self._root / folder, ignore_errors=True)

    def remove(self, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)

    def sizes(self, folder: str = "*/*") -> Iterator[tuple[str, int, float]]:
        for path in self._root.glob(f"{folder}/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # deleted while we were looking
            yield path.relative_to(self._root).as_posix(), status.st_size, status.st_mtime


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


class _UrlObjects:
    """Objects under an fsspec URL; object stores write whole objects, so no temporary name is needed."""

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped]  # only production uses it, and it costs start-up time

        try:
            self._files: Any
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"image store {url!r} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")

    def write(self, key: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._root}/{key}", content)

    def read(self, key: str) -> bytes:
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{key}")
        except FileNotFoundError as error:
            raise ImageMissing(f"no object {key} under {self._root}") from error
        return content

    def remove_folder(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{folder}", recursive=True)

    def remove(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{key}")

    def sizes(self, folder: str = "*/*") -> Iterator[tuple[str, int, float]]:
        where = self._root if folder == "*/*" else f"{self._root}/{folder}"
        found: dict[str, dict[str, Any]] = self._files.find(where, detail=True)
        for path, info in found.items():
            key = path[len(self._root) :].strip("/")
            if key.count("/") == 2:
                yield key, int(info["size"]), _written_s(info)


def _written_s(info: dict[str, Any]) -> float:
    """When an object was written; each fsspec backend has its own name for it."""
    for name in ("mtime", "LastModified", "created", "updated"):
        value = info.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0
