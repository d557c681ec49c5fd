"""Who asks: the tenant whose jobs they are, the key that was shown, and what it may do.

Without keys everyone is `LOCAL`: this machine's one tenant, which may do all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import Depends, Request

from server.faults import ApiError

Scope = Literal["read", "generate", "admin"]

CALLER: Final = "r3.caller"  # where the request's ASGI scope holds it


@dataclass(frozen=True)
class Caller:
    """One request's caller. `key` is the id of the key that was shown, None where none is asked for."""

    tenant: str
    key: str | None
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the key has a scope: `admin` has all, `generate` has `read` too."""
        wider: dict[Scope, tuple[Scope, ...]] = {"read": ("generate", "admin"), "generate": ("admin",), "admin": ()}
        return scope in self.scopes or any(other in self.scopes for other in wider[scope])


LOCAL: Final = Caller("local", None, frozenset({"admin"}))


def needs(scope: Scope) -> Callable[[Request], Caller]:
    """A dependency that gives the caller. Raises ApiError forbidden where its key lacks the scope."""

    def asked(request: Request) -> Caller:
        caller: Caller = request.scope.get(CALLER, LOCAL)
        if not caller.may(scope):
            raise ApiError(
                "forbidden", f"this key has {', '.join(sorted(caller.scopes))}, and {scope} is needed; use another key"
            )
        return caller

    return asked


Reader = Annotated[Caller, Depends(needs("read"))]
Maker = Annotated[Caller, Depends(needs("generate"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
