"""PromQL that both dashboards are made of: rates, quantiles and means of one installation, and of the chosen models.

An installation is a namespace; outside Kubernetes there is no such label, and an empty one selects what has none.
"""

from __future__ import annotations

from typing import Final

from k8s.monitoring.grafana import Query, Variable

HERE: Final = 'namespace="$namespace"'
OF: Final = f'{HERE}, model=~"$model"'
RATE: Final = "[$__rate_interval]"
NAMESPACE: Final = Variable("namespace", "Namespace", values_of="label_values(r3_api_info, namespace)", several=False)
MODEL: Final = Variable("model", "Model", values_of=f"label_values(r3_queue_waiting{{{HERE}}}, model)")


def rate(name: str, by: str = "", selected: str = OF) -> str:
    """How much a counter grows in a second, over all processes or by a label."""
    return f"sum{f' by ({by})' if by else ''} (rate({name}{{{selected}}}{RATE}))"


def within(name: str, selected: str = OF) -> str:
    """How much a counter has grown within the time that is shown."""
    return f"sum (increase({name}{{{selected}}}[$__range]))"


def quantile(q: float, name: str, by: str = "", selected: str = OF) -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', labels, selected)})"


def median_and_p95(*histograms: tuple[str, str]) -> tuple[Query, ...]:
    """Two lines for each (name, legend)."""
    return tuple(
        Query(quantile(q, name), f"{legend}, {told}")
        for name, legend in histograms
        for q, told in ((0.5, "median"), (0.95, "95 %"))
    )


def mean(name: str, by: str = "", selected: str = OF) -> str:
    """The mean of what a histogram saw."""
    return f"{rate(f'{name}_sum', by, selected)} / {rate(f'{name}_count', by, selected)}"
