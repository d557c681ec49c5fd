"""Objects in an S3 bucket, through s3fs. What is not said here comes from the environment that AWS's own tools read.

Listing and deleting are asked for in S3's own words: s3fs makes one dictionary of a listing, however long, and takes no
notice of objects that a deletion was refused for. A request is made twice at most, and waits little: whoever asks here
knows how long to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from server.image_errors import ImageMissing, StoreAway, StoreFailed
from server.image_urls import UrlObjects, told

CONNECT_S: Final = 3.0
ANSWER_S: Final = 10.0  # without a byte of the answer
PAGE: Final = 1000  # objects; the most that S3 lists, or deletes, at once
_TRIES: Final = 2
_BUSY: Final = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"})
_CREDENTIALS: Final = (
    "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the pod an identity (AWS_WEB_IDENTITY_TOKEN_FILE)"
)
_RIGHTS: Final = "allow GetObject, PutObject and DeleteObject on what is in the bucket, and ListBucket on it"
_REGION: Final = "give the bucket's region as R3_IMAGE_STORE_REGION"
_REMEDIES: Final = {
    "NoSuchBucket": "make the bucket, or name another in R3_IMAGE_STORE; it is not made here",
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is another key's, or the clock is wrong",
    "ExpiredToken": "credentials that expire must be given in a way that renews them",
    "AccessDenied": _RIGHTS,
    "403": _RIGHTS,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
}


class S3Objects(UrlObjects):
    """See above."""

    package = "it: pip install 'r3-server[s3]'"

    def __init__(self, url: str, endpoint: str | None, region: str | None) -> None:
        """As its base does."""
        bucket, _, folder = url.partition("://")[2].strip("/").partition("/")
        if "@" in bucket or ":" in bucket:  # a secret may hold the slash that we took for the bucket's end
            raise ValueError("credentials do not belong into it; S3's come from the environment, as AWS_ACCESS_KEY_ID")
        if not bucket:
            raise ValueError("it names no bucket; write s3://BUCKET or s3://BUCKET/FOLDER")
        super().__init__(url, **_options(endpoint, region))
        self._files.retries = 1  # botocore tries again by itself; both would multiply
        self._bucket, self._folder = bucket, f"{folder}/" if folder else ""
        self._away = _ways_to_be_away()
        self._asked: set[Future[Any]] = set()
        self._is_closed = False

    def sizes(self, folder: str | None = None) -> Iterator[tuple[str, int, float]]:
        """As its base's, page by page."""
        prefix = self._folder if folder is None else f"{self._folder}{folder}/"
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix, "MaxKeys": PAGE}
        while True:
            page = self._ask("call_s3", "list_objects_v2", **asked)
            for found in page.get("Contents", ()):
                key = found["Key"][len(self._folder) :]
                if key.count("/") == 2:
                    yield key, int(found["Size"]), found["LastModified"].timestamp()
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, keys: list[str]) -> None:
        """As its base's, many at once where the store can. What is not there is no error."""
        for first in range(0, len(keys), PAGE):
            some = keys[first : first + PAGE]
            try:
                self._remove_at_once(some)
            except StoreFailed as error:
                if "contentmd5" not in str(error).lower().replace("-", ""):
                    raise
                super().remove(some)  # stores that want the sum that AWS's tools no longer send

    def _remove_at_once(self, keys: list[str]) -> None:
        named = [{"Key": f"{self._folder}{key}"} for key in keys]
        asked = {"Bucket": self._bucket, "Delete": {"Objects": named, "Quiet": True}}
        for refused in self._ask("call_s3", "delete_objects", **asked).get("Errors", ()):
            raise _refusal(f"{refused.get('Key')}: {refused.get('Message')}", str(refused.get("Code")))

    def close(self) -> None:
        """End what is being asked: a process that is to end must not wait for a store that hangs."""
        self._is_closed = True
        for asked in list(self._asked):
            asked.cancel()

    def _call(self, method: str, *args: Any, **fields: Any) -> Any:
        """As s3fs's own blocking methods do it, but that `close` can end it."""
        asked = asyncio.run_coroutine_threadsafe(getattr(self._files, f"_{method}")(*args, **fields), self._files.loop)
        self._asked.add(asked)
        if self._is_closed:
            asked.cancel()
        try:
            return asked.result()
        finally:
            self._asked.discard(asked)

    def _fault(self, error: Exception) -> ImageMissing | StoreFailed:
        code, status = _said(error)
        if code == "NoSuchKey":  # not NoSuchBucket, nor the 404 of what is no object store
            return ImageMissing(f"no such object under {self._root}")
        if status >= 500 or status == 429 or code in _BUSY or isinstance(error, self._away):
            return StoreAway(f"the image store does not answer: {told(error)}")
        return _refusal(told(error), code or type(error).__name__)


def _refusal(what: str, code: str) -> StoreFailed:
    remedy = _REMEDIES.get(code)
    return StoreFailed(f"the image store refuses: {what} ({code}){f'; {remedy}' if remedy else ''}")


def _options(endpoint: str | None, region: str | None) -> dict[str, Any]:
    """How s3fs is set up."""
    once = {"mode": "standard", "total_max_attempts": _TRIES}
    # Else pictures are sent over TLS with a sum behind them, which AWS reads and many others refuse.
    sums = {"request_checksum_calculation": "when_required"}
    options: dict[str, Any] = {
        "config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": once, **sums},
        "max_concurrency": 1,  # else each read begins with a question of how long the picture is
    }
    if endpoint is not None:
        options["endpoint_url"] = endpoint
    if region is not None:
        options["client_kwargs"] = {"region_name": region}
    return options


def _ways_to_be_away() -> tuple[type[Exception], ...]:
    """What is raised where nobody answers, or breaks off in an answer."""
    from aiohttp import ClientPayloadError
    from botocore import exceptions as of_s3  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    return (
        *(ConnectionError, TimeoutError, CancelledError, ResponseParserError, ClientPayloadError),
        *(of_s3.HTTPClientError, of_s3.ConnectionError, of_s3.CredentialRetrievalError, of_s3.MetadataRetrievalError),
    )


def _said(error: Exception) -> tuple[str, int]:
    """The code and the status that a store answered with, "" and 0 where it is no answer of one. The code of what has
    none, as a proxy's refusal, is its status.
    """
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return "", 0
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    return str(response.get("Error", {}).get("Code", "") or status or ""), status
