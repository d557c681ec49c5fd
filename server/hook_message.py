"""What a webhook says and how it is signed: Standard Webhooks (standardwebhooks.com), version 1. Pure.

webhook-id         the same at every attempt: a job has exactly one end, so it is the job's own number
webhook-timestamp  of the attempt, seconds
webhook-signature  `v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`, one for each secret that is good now
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

import server
from server.errors import json_bytes
from server.queue_hooks import SECRET_PREFIX


def message_id(job_id: str) -> str:
    """The id of the one message that a job's end is."""
    return f"msg_{job_id.removeprefix('job_')}"


def body(job: Mapping[str, Any]) -> bytes:
    """The message about a finished job, which is given as GET /jobs/{id} shows it."""
    return json_bytes({"type": f"job.{job['status']}", "timestamp": job["finished_at"], "data": job})


def headers(job_id: str, at_s: int, content: bytes, signing: Sequence[str]) -> dict[str, str]:
    """The headers of one attempt at `at_s`, signed with each of the secrets."""
    name = message_id(job_id)
    signed = f"{name}.{at_s}.".encode() + content
    return {
        "Content-Type": "application/json",
        "User-Agent": f"r3-server/{server.__version__}",
        "webhook-id": name,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in signing),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")
