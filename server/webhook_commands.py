"""What `r3 webhooks` does: the secret goes to standard output, all else to standard error."""

from __future__ import annotations

import re
import sys
from typing import Final

from server.audit import audit
from server.logs import configure_logging
from server.misconfigured import Misconfigured
from server.queue_at_hand import asked_of_queue
from server.settings import Settings

_TENANT: Final = re.compile(r"[A-Za-z0-9._@-]{1,128}")


def secret(settings: Settings, tenant: str, *, rotate: bool) -> int:
    """Print a tenant's secret, for the first and only time, or a new one. Raises Misconfigured."""
    if not _TENANT.fullmatch(tenant):
        raise Misconfigured(f"tenant {tenant[:200]!r} must be 1 to 128 characters of A-Z a-z 0-9 . _ @ -")
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
