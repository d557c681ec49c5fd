"""What can go wrong inside r3core, and whose fault it is.

R3Error
├── CheckpointError     the operator's: a file, a tensor or a setting of the checkpoint; says which and what to do
├── DeviceError         the operator's: a device that is not there, or that was lost
├── InvalidRequest      the caller's: say what to change
│   └── PromptTooLong   more tokens than the model or the cache holds
├── OutOfCapacity       it would never fit the memory planned at start
└── StepFailed          ours: the request fails, the engine lives
    └── OutOfMemory     the device ran out of memory in this request's step

Every error carries a stable snake_case `code`, which the service shows to clients.
"""

from __future__ import annotations

import traceback


class R3Error(Exception):
    """Base of all errors that r3core raises on purpose."""

    code = "error"


class CheckpointError(R3Error):
    """A checkpoint that cannot be served: the message lists the names and the remedy."""

    code = "checkpoint_error"


class DeviceError(R3Error):
    """The device is not there, or stopped answering."""

    code = "device_error"


class InvalidRequest(R3Error):
    """The request cannot be carried out as it is; the message names the value and what to change."""

    code = "invalid_request"


class PromptTooLong(InvalidRequest):
    """A text has more tokens than a context may hold."""

    code = "prompt_too_long"


class OutOfCapacity(R3Error):
    """The request needs more cache than was planned at start, even alone."""

    code = "out_of_capacity"


class StepFailed(R3Error):
    """A step of this request raised; its batch mates are not affected."""

    code = "step_failed"

    @classmethod
    def because_of(cls, error: Exception) -> StepFailed:
        """The failure that an unexpected exception comes to; the exception is its cause."""
        failure = cls(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


class OutOfMemory(StepFailed):
    """The device ran out of memory in a step of this request, alone and after memory was freed."""

    code = "out_of_memory"


def origin(error: BaseException) -> str:
    """What an error is and where it came from, for logs: not its text, which may repeat what a client sent."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return type(cause).__name__ + where
