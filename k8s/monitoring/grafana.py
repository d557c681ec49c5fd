"""Grafana's form of a dashboard: rows of panels laid out on its 24 columns, as the JSON that it imports.

Plain values; what the dashboards show is dashboards.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

COLUMNS: Final = 24
SCHEMA_VERSION: Final = 39  # Grafana 10.4 and newer
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "table", "heatmap", "bargauge"]
_HEIGHT: Final[dict[str, int]] = {"stat": 4}


@dataclass(frozen=True)
class Query:
    """What Prometheus is asked, and how its answer is called."""

    expr: str
    legend: str = ""
    of_buckets: bool = False
    """Whether it gives a histogram's buckets, which Grafana then takes apart."""


@dataclass(frozen=True)
class Panel:
    """One picture. `says` is its description: what it shows, and what to make of it."""

    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    stacked: Literal["none", "normal", "percent"] = "none"
    bad_from: float | None = None
    """From which value on it is red."""
    bad_below: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels under a question."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What the reader chooses: a label's values, several or one, or a text."""

    name: str
    label: str
    values_of: str | None = None
    text: str = ""
    several: bool = True


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    links_to: tuple[tuple[str, str], ...] = ()
    """Title and uid of other dashboards."""

    def to_json(self) -> Json:
        """What Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["r3"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "links": [_link(title, uid) for title, uid in self.links_to],
            "templating": {"list": [_SOURCE_VARIABLE, *(_variable(one) for one in self.variables)]},
            "panels": _laid_out(self.rows),
        }


_SOURCE_VARIABLE: Final[Json] = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
}


def _link(title: str, uid: str) -> Json:
    return {
        "title": title,
        "type": "link",
        "icon": "dashboard",
        "url": f"/d/{uid}",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }


def _variable(one: Variable) -> Json:
    if one.values_of is None:
        return {"name": one.name, "label": one.label, "type": "textbox", "query": one.text}
    asked = {
        "name": one.name,
        "label": one.label,
        "type": "query",
        "datasource": SOURCE,
        "query": one.values_of,
        "refresh": 2,
        "sort": 1,
        "multi": one.several,
        "includeAll": one.several,
    }
    if one.several:
        asked |= {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return asked


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    panels: list[Json] = []
    top = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, height = 0, top + height, 0
            tall = _HEIGHT.get(panel.kind, 8)
            place = {"x": left, "y": top, "w": panel.width, "h": tall}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            left, height = left + panel.width, max(height, tall)
        top += height
    return panels


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "targets": [_target(panel, at, query) for at, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": {"unit": panel.unit, **_thresholds(panel), **_drawn(panel)}, "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _target(panel: Panel, at: int, query: Query) -> Json:
    now = panel.kind in ("stat", "table", "bargauge")
    return {
        "refId": chr(ord("A") + at),
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": "heatmap" if query.of_buckets else "table" if panel.kind == "table" else "time_series",
        "instant": now,
        "range": not now,
    }


def _thresholds(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    if panel.bad_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    return {"thresholds": {"mode": "absolute", "steps": steps}}


def _drawn(panel: Panel) -> Json:
    if panel.kind != "timeseries":
        return {}
    is_stacked = panel.stacked != "none"
    return {
        "min": 0,
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if is_stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": panel.stacked, "group": "A"},
        },
    }


_REDUCED: Final[Json] = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final[dict[str, Json]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "reduceOptions": _REDUCED,
    },
    "bargauge": {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "reduceOptions": _REDUCED},
    "table": {"showHeader": True},
    "heatmap": {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "reverse": False,
            "fill": "orange",
        },
        "yAxis": {"unit": "s"},
        "legend": {"show": False},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
    },
}
