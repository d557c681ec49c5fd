"""How errors answer below /v1, for the `openai` clients: in the statuses that OpenAI's API has, and with what they are
told of trying again; by themselves they do it after any 409, 429 and 5xx. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.faults import ApiError

PREFIX: Final = "/v1/"
MAX_RETRY_S: Final = 120  # told to wait longer, they give up at once
NOT_AGAIN: Final = {"x-should-retry": "false"}  # which those clients heed
# The same request would come to the same end, or nobody wants it any more.
_IN_VAIN: Final = frozenset({"cancelled", "poison_job", "step_failed", "storage_failed", "deadline_exceeded"})
# Of a page that has the clients call another origin, the browser asks whether these may pass.
SENT_BY_OPENAI: Final = (
    *("OpenAI-Organization", "OpenAI-Project", "X-Stainless-Arch", "X-Stainless-Lang", "X-Stainless-OS"),
    *("X-Stainless-Async", "X-Stainless-Package-Version", "X-Stainless-Raw-Response", "X-Stainless-Read-Timeout"),
    *("X-Stainless-Retry-Count", "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Timeout"),
    "User-Agent",
)
READ_BY_OPENAI: Final = ("retry-after-ms", "x-should-retry")


def status_below(path: str, status: int) -> int:
    """The status of an error's answer at that path.

    OpenAI's API says 400 to a value that cannot be, so that programs written for it catch BadRequestError.
    """
    return 400 if status == 422 and path.startswith(PREFIX) else status


def retry_headers(error: ApiError, path: str) -> Mapping[str, str]:
    """The headers of an error's answer: below /v1 with what those clients understand."""
    if not path.startswith(PREFIX):
        return error.headers
    told = dict(error.headers)
    after = told.get("Retry-After", "")
    if after.isdecimal():
        seconds = min(int(after), MAX_RETRY_S)
        told |= {"Retry-After": str(seconds), "retry-after-ms": str(seconds * 1000)}
    return {**told, **NOT_AGAIN} if error.code in _IN_VAIN else told
