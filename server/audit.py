"""The audit log: one line for each administrative act: what, who, when and from where; never a secret.

The lines are those of the logger `r3.audit`, and R3_LOG_LEVEL does not silence them. `who` is the id of a key, `local`
where none is asked for, or where the act was done on the machine itself; `from_` is the client's address.
"""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from starlette.requests import Request

AUDIT: Final = "r3.audit"

log = structlog.get_logger(AUDIT)


def audit(act: str, request: Request | None, **what: Any) -> None:
    """Write down an act; `request` is the one that asked for it, None for a command on this machine."""
    from server.callers import CALLER, Caller  # it has acts of its own to write down

    caller: Caller | None = None if request is None else request.scope.get(CALLER)
    facts = {"who": "local", "from_": _here()}
    if request is not None:
        facts["from_"] = request.client.host if request.client is not None else ""
    if caller is not None:
        facts |= {"who": caller.key or "local", "tenant": caller.tenant}
    log.info(act, **{**facts, **what})


def _here() -> str:
    """Whose command it is."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
