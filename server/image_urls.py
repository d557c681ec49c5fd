"""Objects under an fsspec URL. Object stores write whole objects, so no temporary name is needed.

Listings are never remembered: other processes write and delete too. Every fault of fsspec and of the libraries below it
comes out as one of image_errors.py, which says whether it is worth asking again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.image_errors import ImageMissing, StoreAway, StoreFailed
from server.misconfigured import shown_url


class UrlObjects:
    """See above. What a kind of store does otherwise is its subclass's: image_s3.py."""

    package = "what fsspec needs for it"

    def __init__(self, url: str, **options: Any) -> None:
        """Nothing is asked of the store yet. Raises ValueError for what is no URL of a store, without its secrets."""
        import fsspec  # type: ignore[import-untyped]  # only production uses it, and it costs start-up time

        try:
            self._files: Any
            self._files, root = fsspec.core.url_to_fs(
                url, skip_instance_cache=True, use_listings_cache=False, **options
            )
        except ImportError as error:
            raise ValueError(f"{error}: install {self.package}") from error
        self._root = str(root).rstrip("/")

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or write it again."""
        self._ask("pipe_file", f"{self._root}/{key}", content)

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises ImageMissing."""
        content: bytes = self._ask("cat_file", f"{self._root}/{key}")
        return content

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below a folder."""
        self.remove([key for key, _, _ in self.sizes(folder)])

    def remove(self, keys: list[str]) -> None:
        """Remove these objects."""
        for key in keys:
            try:
                self._ask("rm_file", f"{self._root}/{key}")
            except ImageMissing:  # another process was first
                continue

    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int, float]]:
        """Key, size in bytes and time of writing of every object, or of those in a folder."""
        try:
            found = self._ask("find", self._root if folder is None else f"{self._root}/{folder}", detail=True)
        except ImageMissing:
            return
        for path, info in found.items():
            key = path[len(self._root) :].strip("/")
            if key.count("/") == 2:
                yield key, int(info["size"]), _written_s(info)

    def close(self) -> None:
        """Nothing to end; some kinds of stores have."""

    def _call(self, method: str, *args: Any, **fields: Any) -> Any:
        return getattr(self._files, method)(*args, **fields)

    def _ask(self, method: str, *args: Any, **fields: Any) -> Any:
        try:
            return self._call(method, *args, **fields)
        except Exception as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> ImageMissing | StoreFailed:
        """What an exception of the library's means."""
        if isinstance(error, FileNotFoundError):
            return ImageMissing(f"no such object under {self._root}")
        if isinstance(error, ConnectionError | TimeoutError):
            return StoreAway(f"the image store does not answer: {told(error)}")
        return StoreFailed(f"the image store refuses: {told(error)}")


def told(error: Exception) -> str:
    """The exception in one line, without what a URL in it holds of secrets."""
    return shown_url(" ".join(str(error).split()))[:300] or type(error).__name__


def _written_s(info: dict[str, Any]) -> float:
    """When an object was written; each fsspec backend has its own name for it."""
    for name in ("mtime", "LastModified", "created", "updated"):
        value = info.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0
