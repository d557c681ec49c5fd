"""Which paths are open to everyone, and which can be read by a link. Every other path needs a key, known or not.

A path is looked at as the router looks at it: decoded, and whole. So `/livez/`, `/LIVEZ` and `/docs/../jobs` are none
of those below, and whatever spelling the router would take for one of its own is the same text here.
"""

from __future__ import annotations

import re
from typing import Final

HEALTH_PATHS: Final = frozenset({"/livez", "/healthz", "/readyz", "/startupz"})
_OPEN: Final = HEALTH_PATHS | {"/", "/docs", "/openapi.json", "/openapi.yaml"}
# Static files: the page of a job is the same for every id, and asks for the job with its reader's own key.
_OPEN_FILES: Final = re.compile(r"/(?:docs/assets|assets|j)/[^/]+")
# Ids in full: a route that is given a name beside them is not one that a link can read.
_LINKED: Final = re.compile(r"/jobs/job_[0-9a-f]{32}(?:/events)?|/images/img_[0-9a-f]{32}")


def is_open(path: str) -> bool:
    """Whether the path answers whoever asks."""
    return path in _OPEN or _OPEN_FILES.fullmatch(path) is not None


def takes_link(method: str, path: str) -> bool:
    """Whether a `?token=` can stand in for a key: links read, and nothing else."""
    return method in ("GET", "HEAD") and _LINKED.fullmatch(path) is not None
