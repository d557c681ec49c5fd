"""What `r3 webhooks` does: the secret goes to standard output, all else to standard error."""

from __future__ import annotations

import sys

from server.audit import audit
from server.keys import tenant_name
from server.logs import configure_logging
from server.misconfigured import Misconfigured
from server.queue_at_hand import asked_of_queue
from server.settings import Settings


def secret(settings: Settings, tenant: str, *, rotate: bool) -> int:
    """Print a tenant's secret, for the first and only time, or a new one. Raises Misconfigured."""
    try:
        tenant_name(tenant)
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    configure_logging("warning", "json", sys.stderr)
    if rotate:
        shown: str | None = asked_of_queue(settings, lambda queue: queue.hooks.rotate_secret(tenant))
    else:
        shown = asked_of_queue(settings, lambda queue: queue.hooks.show_secret(tenant))
    if shown is None:
        raise Misconfigured(f"the secret of tenant {tenant} was shown before; --rotate makes another")
    audit("webhook secret rotated" if rotate else "webhook secret shown", None, tenant=tenant)
    print(shown, flush=True)
    told = "the one before is signed with too for 24 hours" if rotate else "it is shown this once"
    print(f"r3  webhooks of tenant {tenant} are signed with this secret; {told}", file=sys.stderr, flush=True)
    return 0
