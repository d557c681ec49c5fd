"""Objects under an fsspec URL, S3's above all. Object stores write whole objects, so no temporary name is needed.

Listings are never remembered: other processes write and delete too. Every fault of fsspec and of the libraries below it
comes out as one of image_errors.py, which says whether it is worth asking again. They try twice themselves and wait
little: whoever asks here knows how long to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from server.image_errors import ImageMissing, StoreAway, StoreFailed

S3: Final = frozenset({"s3", "s3a"})
CONNECT_S: Final = 3.0
ANSWER_S: Final = 10.0  # without a byte of the answer
_TRIES: Final = 2
_BUSY: Final = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"})
_GONE: Final = frozenset({"NoSuchKey", None})  # not NoSuchBucket, nor the 404 of what is no object store
_CREDENTIALS: Final = (
    "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the pod an identity (AWS_WEB_IDENTITY_TOKEN_FILE)"
)
_REMEDIES: Final = {
    "NoSuchBucket": "make the bucket, or name another in R3_IMAGE_STORE; it is not made here",
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is another key's, or the clock is wrong",
    "ExpiredToken": "credentials that expire must be given in a way that renews them",
    "AccessDenied": "allow GetObject, PutObject and DeleteObject on what is in the bucket, and ListBucket on it",
    "403": "allow GetObject, PutObject and DeleteObject on what is in the bucket, and ListBucket on it",
    "AuthorizationHeaderMalformed": "give the bucket's region as R3_IMAGE_STORE_REGION",
    "PermanentRedirect": "give the bucket's region as R3_IMAGE_STORE_REGION",
    "IllegalLocationConstraintException": "give the bucket's region as R3_IMAGE_STORE_REGION",
}


class UrlObjects:
    """See above. `endpoint` and `region` are S3's."""

    def __init__(self, url: str, endpoint: str | None = None, region: str | None = None) -> None:
        """Nothing is asked of the store yet. Raises ValueError for what is no URL of a store, without its secrets."""
        scheme, _, place = url.partition("://")
        if "@" in place.partition("/")[0]:
            raise ValueError("credentials do not belong into it; S3's come from the environment, as AWS_ACCESS_KEY_ID")
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if scheme in S3:
            if not place.strip("/"):
                raise ValueError("it names no bucket; write s3://BUCKET or s3://BUCKET/FOLDER")
            options |= _s3_options(endpoint, region)
        import fsspec  # type: ignore[import-untyped]  # only production uses it, and it costs start-up time

        try:
            self._files: Any
            self._files, root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            how = "pip install 'r3-server[s3]'" if scheme in S3 else f"install what fsspec needs for {scheme}://"
            raise ValueError(f"{error}: {how}") from error
        self._away = _ways_to_be_away(scheme)
        if scheme in S3:
            self._files.retries = 1  # botocore tries again by itself; both would multiply
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
        self._remove(self._found(f"{self._root}/{folder}"))

    def remove(self, keys: list[str]) -> None:
        """Remove these objects."""
        self._remove([f"{self._root}/{key}" for key in keys])

    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int, float]]:
        """Key, size in bytes and time of writing of every object, or of those in a folder."""
        for path, info in self._found(self._root if folder is None else f"{self._root}/{folder}").items():
            key = path[len(self._root) :].strip("/")
            if key.count("/") == 2:
                yield key, int(info["size"]), _written_s(info)

    def _found(self, path: str) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = self._ask("find", path, detail=True)
        except ImageMissing:
            return {}
        return found

    def _remove(self, paths: Any) -> None:
        if paths:
            try:
                self._ask("rm", list(paths))
            except ImageMissing:  # another process was first, and some stores mind
                for path in paths:
                    self._remove_one(path)

    def _remove_one(self, path: str) -> None:
        try:
            self._ask("rm_file", path)
        except ImageMissing:
            return

    def _ask(self, method: str, *args: Any, **fields: Any) -> Any:
        try:
            return getattr(self._files, method)(*args, **fields)
        except Exception as error:
            code, status = _said(error)
            if isinstance(error, FileNotFoundError) and code in _GONE:
                raise ImageMissing(f"no such object under {self._root}") from error
            if status >= 500 or status == 429 or code in _BUSY or isinstance(error, self._away):
                raise StoreAway(f"the image store does not answer: {_told(error)}") from error
            remedy = _REMEDIES.get(code or type(error).__name__)
            raise StoreFailed(f"the image store refuses: {_told(error)}{f'; {remedy}' if remedy else ''}") from error


def _s3_options(endpoint: str | None, region: str | None) -> dict[str, Any]:
    """How s3fs is set up; what is not said here comes from the environment that AWS's own tools read."""
    once = {"mode": "standard", "total_max_attempts": _TRIES}
    options: dict[str, Any] = {
        "config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": once},
        "max_concurrency": 1,  # else each read begins with a question of how long the picture is
    }
    if endpoint is not None:
        options["endpoint_url"] = endpoint
    if region is not None:
        options["client_kwargs"] = {"region_name": region}
    return options


def _ways_to_be_away(scheme: str) -> tuple[type[Exception], ...]:
    """What is raised where nobody answers."""
    if scheme not in S3:
        return (ConnectionError, TimeoutError)
    from botocore import exceptions as of_s3  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    return (
        *(ConnectionError, TimeoutError, ResponseParserError),
        *(of_s3.HTTPClientError, of_s3.ConnectionError, of_s3.CredentialRetrievalError, of_s3.MetadataRetrievalError),
    )


def _said(error: Exception) -> tuple[str | None, int]:
    """The code and the status that an S3 store answered with, None and 0 where it is no answer of one."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None, 0
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status or 0)


def _told(error: Exception) -> str:
    code, _ = _said(error)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{text} ({code})" if code else text


def _written_s(info: dict[str, Any]) -> float:
    """When an object was written; each fsspec backend has its own name for it."""
    for name in ("mtime", "LastModified", "created", "updated"):
        value = info.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0
