"""Names are told apart in queries of every form that dashboards and alerts use."""

from __future__ import annotations

import pytest

from tests.monitoring import promql


@pytest.mark.parametrize(
    ("query", "metrics", "labels"),
    [
        ("r3_sse_streams", {"r3_sse_streams"}, set()),
        (
            'sum by (model) (rate(a_total{outcome=~"x|y", code!="5"}[5m])) > 0.05',
            {"a_total"},
            {"model", "outcome", "code"},
        ),
        ("max(b) and on (job, instance) c", {"b", "c"}, {"job", "instance"}),
        ("histogram_quantile(0.9, sum by (le) (rate(d_bucket[$__rate_interval])))", {"d_bucket"}, {"le"}),
        ("absent(e)", {"e"}, set()),
        ('f{route="/jobs/{job_id}"} / g offset 5m', {"f", "g"}, {"route"}),
        ("h * on (x) group_left (y) i unless bool_j", {"h", "i", "bool_j"}, {"x", "y"}),
        ("$price / 3600 * k", {"k"}, set()),
        ("1e3 * l + inf", {"l"}, set()),
    ],
)
def test_a_query_names_its_metrics_and_labels(query: str, metrics: set[str], labels: set[str]) -> None:
    assert (promql.metrics(query), promql.labels(query)) == (metrics, labels)
