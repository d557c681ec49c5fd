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
