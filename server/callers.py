"""Who asks: the tenant whose jobs they are, the key that was shown, and what it may do.

Without keys everyone is `LOCAL`: this machine's one tenant, which may do all. Who came by a read-only link is nobody's
key, reads the link's one job, and does nothing else. authority.py says who a request's caller is; where nobody did, the
dependencies below let nobody in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final

from fastapi import Depends, Query, Request

from server.audit import audit
from server.faults import ApiError
from server.keys import TENANT_PATTERN, Scope
from server.schemas import JobsQuery

__all__ = ["CALLER", "LOCAL", "Admin", "Caller", "Link", "Maker", "Reader", "Scope", "needs"]

CALLER: Final = "r3.caller"  # where the request's ASGI scope holds it

AnyTenant = Annotated[
    str | None, Query(pattern=TENANT_PATTERN, description=JobsQuery.model_fields["tenant"].description)
]


@dataclass(frozen=True)
class Link:
    """A read-only link that somebody came by: its job, and the token, which the links of the answer carry on."""

    job: str
    token: str


@dataclass(frozen=True)
class Caller:
    """One request's caller. `key` is the id of the key that was shown, None where none is asked for."""

    tenant: str
    key: str | None
    scopes: frozenset[Scope]
    link: Link | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key has a scope: `admin` has all, `generate` has `read` too."""
        wider: dict[Scope, tuple[Scope, ...]] = {"read": ("generate", "admin"), "generate": ("admin",), "admin": ()}
        return scope in self.scopes or any(other in self.scopes for other in wider[scope])

    def owns(self, tenant: str, job: str) -> bool:
        """Whether a job of that tenant is one that this caller sees."""
        return tenant == self.tenant and (self.link is None or self.link.job == job)


LOCAL: Final = Caller("local", None, frozenset({"admin"}))


def needs(scope: Scope) -> Callable[..., Caller]:
    """A dependency that gives the caller; where `?tenant=` names another tenant, as if it were that tenant's.

    Raises ApiError forbidden where the key lacks the scope.
    """

    def asked(request: Request, tenant: AnyTenant = None) -> Caller:
        caller = _let_in(request, scope)
        if tenant is None or tenant == caller.tenant:
            return caller
        if not caller.may("admin"):
            raise _forbidden(caller, "admin", "of another tenant's jobs")
        # Said before it is done: an act that fails half way was begun all the same.
        audit("another tenant's jobs", request, of=tenant, method=request.method, path=request.url.path[:200])
        return replace(caller, tenant=tenant)

    return asked


def may(scope: Scope) -> Callable[[Request], None]:
    """The same for routes that are no tenant's."""

    def asked(request: Request) -> None:
        _let_in(request, scope)

    return asked


def _let_in(request: Request, scope: Scope) -> Caller:
    caller: Caller | None = request.scope.get(CALLER)
    if caller is None:
        raise AssertionError(f"nobody has asked who calls {request.url.path}")
    if not caller.may(scope):
        raise _forbidden(caller, scope, "here")
    return caller


def _forbidden(caller: Caller, scope: Scope, what: str) -> ApiError:
    challenge = f'Bearer realm="r3", error="insufficient_scope", scope="{scope}"'
    has = ", ".join(sorted(caller.scopes))
    return ApiError(
        "forbidden",
        f"this key has scope {has}, and {scope} is needed {what}; use another key",
        headers={"WWW-Authenticate": challenge},
    )


Reader = Annotated[Caller, Depends(needs("read"))]
Maker = Annotated[Caller, Depends(needs("generate"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
