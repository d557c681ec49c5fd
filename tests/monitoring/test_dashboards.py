"""The dashboards: of Grafana's form, with queries that Prometheus can read, over metrics that the code exports."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from k8s.monitoring import dashboards
from tests.monitoring import promql
from tests.monitoring.exported import TARGET_LABELS, labels_by_series
from tests.programs import needed

Json = dict[str, Any]
FILES: Final = sorted(dashboards.FOLDER.glob("*.json"))
OF_THE_PROCESS: Final = {"process_open_fds", "process_max_fds", "process_resident_memory_bytes"}
QUESTIONS: Final = {  # what the two are there to answer, and what answers it
    "r3-fleet": {"Is it up?": "r3_workers", "Is it keeping up?": "r3_queue_oldest_seconds"},
    "r3-loop": {
        "Where does a job's time go?": "r3_phase_seconds_sum",
        "How often does the loop stop early?": "r3_stops_total",
        "What does a picture cost?": "r3_engine_step_seconds_sum",
    },
}


def read(path: Path) -> Json:
    dashboard: Json = json.loads(path.read_text())
    return dashboard


def panels(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield target["expr"]


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def dashboard(request: pytest.FixtureRequest) -> Json:
    return read(request.param)


def test_there_are_two_and_they_are_what_the_source_says() -> None:
    assert {path: path.read_text() for path in FILES} == dashboards.texts()
    assert [path.stem for path in FILES] == ["r3-fleet", "r3-loop"]


def test_a_file_that_was_changed_by_hand_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "FOLDER", tmp_path)
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0
    assert dashboards.main(["--check"]) == 0
    (tmp_path / "r3-loop.json").write_text("{}")
    assert dashboards.main(["--check"]) == 1


# what they show


def unknown(dashboard: Json) -> list[str]:
    """Metrics and labels of its queries that nothing exports."""
    known = labels_by_series() | {name: set(TARGET_LABELS) for name in OF_THE_PROCESS}
    faults = []
    for query in queries(dashboard):
        named = promql.metrics(promql.as_sent(query))
        faults += [f"no metric {name}: {query}" for name in sorted(named - known.keys())] or (
            [] if named else [f"no metric at all: {query}"]
        )
        labels = set().union(*(known.get(name, set()) for name in named))
        faults += [f"no label {label}: {query}" for label in sorted(promql.labels(promql.as_sent(query)) - labels)]
    return faults


def test_every_query_names_metrics_and_labels_that_the_code_exports(dashboard: Json) -> None:
    assert not unknown(dashboard)


def of_another_installation(dashboard: Json) -> list[str]:
    """Queries that read more than the namespace that was chosen."""
    return [
        query
        for query in queries(dashboard)
        if re.search(r"\b(?:r3|process)_\w+(?!\w|\{namespace=\"\$namespace\")", query)
    ]


def test_every_query_is_of_one_installation(dashboard: Json) -> None:
    """One Prometheus may read several, with models of the same name."""
    assert of_another_installation(dashboard) == []
    panels(dashboard)[3]["targets"][0]["expr"] += " + r3_api_info"
    assert len(of_another_installation(dashboard)) == 1


@pytest.mark.parametrize(
    "expr", ["r3_job_seconds_sum", "sum by (tenant) (r3_sse_streams)", 'r3_jobs_total{status="failed"}', "vector(1)"]
)
def test_a_query_over_something_that_is_not_exported_is_noticed(expr: str, dashboard: Json) -> None:
    panels(dashboard)[3]["targets"][0]["expr"] = expr
    assert len(unknown(dashboard)) == 1


def test_every_legend_names_a_label_that_its_answer_has(dashboard: Json) -> None:
    """An aggregation keeps the labels that it names; without one there are those of the metric."""
    known = labels_by_series() | {name: set(TARGET_LABELS) for name in OF_THE_PROCESS}
    for panel in panels(dashboard):
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")}
            whole = set().union(*(known[name] for name in promql.metrics(promql.as_sent(target["expr"]))))
            assert named <= (kept or whole), (panel["title"], target["legendFormat"])


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    rules = [{"record": "a", "expr": promql.as_sent(query)} for path in FILES for query in queries(read(path))]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    program = needed("promtool", package="prometheus")
    command: list[str | Path] = [program, "check", "rules", tmp_path / "rules.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    rules[0]["expr"] += ")"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def test_no_number_that_every_api_process_tells_alike_is_added_up(dashboard: Json) -> None:
    alike = r"(?<!max by \(model\) )(?<!max by \(model\) \()(?<!max\()(?<!increase\()\br3_(queue_(?!up)\w+|workers\b)"
    for query in queries(dashboard):
        assert not re.search(alike, query), query


def test_each_question_has_a_row_and_something_that_answers_it(dashboard: Json) -> None:
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    titles = [row["title"] for row in rows]
    for question, answer in QUESTIONS[dashboard["uid"]].items():
        at = dashboard["panels"].index(rows[titles.index(question)])
        following = dashboard["panels"][at + 1 :]
        end = next((i for i, panel in enumerate(following) if panel["type"] == "row"), len(following))
        assert any(answer in target["expr"] for panel in following[:end] for target in panel["targets"]), question


# Grafana's form


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: Json) -> None:
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_panel_says_what_it_shows(dashboard: Json) -> None:
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def lost(ours: Any, theirs: Any, path: str = "$") -> list[str]:
    """What of ours is not in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [f"{path}.{key}" for key in ours.keys() - theirs.keys() if ours[key] is not None]
        return found + [
            one for key in ours.keys() & theirs.keys() for one in lost(ours[key], theirs[key], f"{path}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [one for at, pair in enumerate(zip(ours, theirs, strict=True)) for one in lost(*pair, f"{path}[{at}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


def through_grafana(dashboard: Json) -> list[str]:
    """What Grafana's own types do not know of it, or refuse."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read_back = Dashboard.from_json(copy.deepcopy(dashboard))
    return lost(dashboard, json.loads(JSONEncoder().encode(read_back)))


@pytest.fixture
def grafanas_types() -> None:
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        missing = "no grafana-foundation-sdk here, which has Grafana's types"
        if os.environ.get("R3_TEST_ALL"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.mark.usefixtures("grafanas_types")
def test_grafanas_own_types_know_all_of_it(dashboard: Json) -> None:
    assert not through_grafana(dashboard)


def misspell_a_field(panel: Json) -> None:
    panel["fieldConfg"] = panel.pop("fieldConfig")


def misspell_an_option(panel: Json) -> None:
    panel["options"]["colourMode"] = "value"


def give_a_query_a_field_that_there_is_not(panel: Json) -> None:
    panel["targets"][0]["legend"] = "a"


@pytest.mark.usefixtures("grafanas_types")
@pytest.mark.parametrize(
    "spoil",
    [misspell_a_field, misspell_an_option, give_a_query_a_field_that_there_is_not],
    ids=lambda one: one.__name__,
)
def test_a_fault_of_form_is_noticed(spoil: Callable[[Json], None], dashboard: Json) -> None:
    spoil(panels(dashboard)[0])
    assert through_grafana(dashboard)
