"""Which models are known, and which of them a request means.

Workers leave descriptions in Redis; where there is none yet, the JSON files of R3_CHECKPOINT say the same without a
worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from r3core.checkpoint import Description, describe
from r3core.errors import CheckpointError
from server.errors import invalid_request
from server.faults import ApiError, Fault
from server.queue import Queue
from server.settings import Settings

log = structlog.get_logger("r3.api")


class Catalogue:
    """The models that this server can describe."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self._queue = queue
        self._settings = settings
        self._from_files: Description | None = None

    async def known(self) -> dict[str, Description]:
        """Every known model by name: those of Redis, else the one of the checkpoint's files, else none."""
        stored = await self._queue.models()
        if described := {name: d for name, value in stored.items() if (d := _readable(name, value)) is not None}:
            return described
        own = await self.described_by_files()
        return {} if own is None else {own.name: own}

    async def find(self, name: str | None) -> Description:
        """The model that a request names, or means by naming none.

        Raises ApiError model_unknown, model_not_found, or invalid_request that lists the names.
        """
        known = await self.known()
        if name is not None:
            return await self._named(name, known)
        if (default := self._settings.default_model) is not None:
            if default in known:
                return known[default]
            own = await self.described_by_files()
            if own is not None and own.name == default:
                return own
            raise ApiError(
                "model_unknown", f"no worker has described {default!r}, the default model, yet; try again later"
            )
        match len(known):
            case 0:
                raise _nothing_known()
            case 1:
                return next(iter(known.values()))
            case _:
                names = ", ".join(sorted(known))
                raise invalid_request(
                    [Fault("/model", f"is required where several models are known; use one of {names}")]
                )

    async def _named(self, name: str, known: Mapping[str, Description]) -> Description:
        if name in known:
            return known[name]
        own = await self.described_by_files()
        if own is not None and own.name == name:
            return own
        if not known:
            raise _nothing_known()
        raise ApiError(
            "model_not_found",
            f"no model is named {name[:100]!r}; use one of {', '.join(sorted(known))}",
            [Fault("/model", "is not the name of a known model")],
        )

    async def described_by_files(self) -> Description | None:
        """The model of R3_CHECKPOINT's files, None where there are none that can be read."""
        if self._from_files is None:
            try:
                self._from_files = await asyncio.to_thread(
                    describe, self._settings.checkpoint, self._settings.base_checkpoint
                )
            except (CheckpointError, OSError) as error:
                log.debug("no description from files", reason=str(error))
        return self._from_files


def _readable(name: str, value: dict[str, object]) -> Description | None:
    try:
        return Description.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("a stored model description cannot be read", model=name, reason=repr(error))
        return None


def _nothing_known() -> ApiError:
    return ApiError(
        "model_unknown",
        "no worker has described a model yet; start one, or point R3_CHECKPOINT of the API at the checkpoint's files",
        headers={"Retry-After": "10"},
    )
