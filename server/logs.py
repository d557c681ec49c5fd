"""Logs: one JSON line an event on standard output (or coloured text for people), ours and those of the libraries alike.

No line holds a prompt, a query string, a key or a token: whoever logs passes ids and numbers, never texts of people.
What looks like a key or a token all the same, in a path or in an exception's text, is struck out at the last moment. A
terminal is given no order that somebody has put into a path.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

from server.audit import AUDIT
from server.tables import plain

_KEY: Final = re.compile(r"(r3_[0-9a-f]{16})_[A-Za-z0-9_-]+")
_TOKEN: Final = re.compile(r"(token=)[^&\s\"']+")
# Their warnings repeat what they could not read: a caller's `tracestate`, our OTEL_EXPORTER_OTLP_HEADERS with its key.
_REPEATERS: Final = ("opentelemetry.trace.span", "opentelemetry.util.re")


def configure_logging(level: str, log_format: Literal["json", "console"], to: TextIO | None = None) -> None:
    """Send structlog and the standard library's logging through one formatter, to standard output unless told."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    for_people = [] if log_format == "json" else [escaped]  # JSON escapes by itself
    last: list[Any] = [structlog.processors.format_exc_info, struck, *for_people, renderer]  # tracebacks are in it, too
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(to or sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    for name in _REPEATERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # ours (observe.py) leaves the query string out


def escaped(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line with escapes in place of what a terminal would act on; tracebacks keep their lines."""
    for name, value in line.items():
        if isinstance(value, str):
            lines = value.split("\n") if name in ("exception", "stack") else [value.rstrip("\n")]
            line[name] = "\n".join(map(plain, lines))
    return line


def struck(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line without keys and tokens: of a key its id is left."""
    for name, value in line.items():
        if isinstance(value, str) and ("r3_" in value or "token=" in value):
            line[name] = _TOKEN.sub(r"\1***", _KEY.sub(r"\1_***", value))
    return line
