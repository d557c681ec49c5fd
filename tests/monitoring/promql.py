"""What a PromQL query names: its metrics and its labels. No parser: promtool is that; this only tells names apart."""

from __future__ import annotations

import re
from typing import Final

_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan", "by", "without", "on", "ignoring"})
_GROUPS: Final = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
_LABEL: Final = re.compile(r"\s*([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")


def metrics(query: str) -> set[str]:
    """The series that a query reads."""
    bare = re.sub(r"\[[^\]]*\]", "", _without_groups(re.sub(r"\{[^}]*\}", "", _without_strings(query))))
    names = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return {name for name in names if name.lower() not in _WORDS}


def labels(query: str) -> set[str]:
    """The labels that a query selects or groups by."""
    plain = _without_strings(query)
    selected = {label for inside in re.findall(r"\{([^}]*)\}", plain) for label in _LABEL.findall(inside)}
    grouped = {label.strip() for inside in re.findall(_GROUPS, plain) for label in inside.split(",")}
    return (selected | grouped) - {""}


def _without_strings(query: str) -> str:
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', query)


def _without_groups(query: str) -> str:
    return re.sub(_GROUPS, "", query)


def as_sent(query: str, shown: str = "6h", rate_over: str = "1m") -> str:
    """A dashboard's query as Grafana sends it: with its variables, longer names first, and those of the page."""
    given = {
        "$__rate_interval": rate_over,
        "$__interval_ms": "5000",
        "$__interval": "5s",
        "$__range": shown,
        "$namespace": "",
        "$model": ".*",
        "$gpu_hour": "3",
    }
    for name, stands_for in given.items():
        query = query.replace(name, stands_for)
    assert "$" not in query, query
    return query
