"""The alert rules: right by promtool, cases for and against each, a section of the runbook, and metrics that exist.

A case that cannot fail is none: each alert is spoiled in five ways, and promtool has to notice each time.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.monitoring import promql
from tests.monitoring.exported import TARGET_LABELS, labels_by_series
from tests.programs import needed

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "k8s" / "monitoring" / "alerts.yaml"
CASES: Final = RULES.with_name("alerts.test.yaml")
RUNBOOK: Final = ROOT / "docs" / "runbook.md"
OF_THE_PROCESS: Final = {"process_open_fds", "process_max_fds"}  # what the client library adds on Linux

Rule = dict[str, Any]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> list[Rule]:
    return [rule for group in read(RULES)["groups"] for rule in group["rules"]]


NAMES: Final = [rule["alert"] for rule in alerts()]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = needed("promtool", package="prometheus")
    # It keeps a small database for each case, and syncs it to disk: in memory where there is such a place.
    place = {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}
    return subprocess.run(
        [program, *arguments], env={**os.environ, **place}, capture_output=True, text=True, timeout=100, check=False
    )


def test_promtool_finds_no_fault_in_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_case_holds() -> None:
    ran = promtool("test", "rules", CASES)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def never(rule: Rule) -> None:
    rule["expr"] = f"({rule['expr']}) and on () vector(1) > 2"


def always(rule: Rule) -> None:
    rule["expr"] = f"({rule['expr']}) or vector(1)"


def of_another_severity(rule: Rule) -> None:
    rule["labels"]["severity"] = "none"


def at_once(rule: Rule) -> None:
    rule["for"] = "0s"


def ever_later(rule: Rule) -> None:
    rule["for"] = "1d"


SPOILS: Final[tuple[Callable[[Rule], None], ...]] = (never, always, of_another_severity, at_once, ever_later)


@pytest.mark.parametrize("name", NAMES)
def test_a_spoiled_alert_is_noticed(name: str, tmp_path: Path) -> None:
    """One call for all ways to spoil it, for each costs seconds; only the cases that are about it are run."""
    tried = []
    for spoil in SPOILS:
        rules, cases = copy.deepcopy(read(RULES)), copy.deepcopy(read(CASES))
        (rule,) = [rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == name]
        if spoil is at_once and "for" not in rule:
            continue  # it waits for nothing as it is
        spoil(rule)
        cases["tests"] = [
            one for one in cases["tests"] if name in {asked["alertname"] for asked in one["alert_rule_test"]}
        ]
        cases["rule_files"] = [f"rules.{spoil.__name__}.yaml"]
        (tmp_path / f"rules.{spoil.__name__}.yaml").write_text(yaml.safe_dump(rules))
        (tmp_path / f"cases.{spoil.__name__}.yaml").write_text(yaml.safe_dump(cases))
        tried.append(tmp_path / f"cases.{spoil.__name__}.yaml")
    ran = promtool("test", "rules", *tried)
    told = re.split(r"^Unit Testing:  ", ran.stdout, flags=re.MULTILINE)[1:]
    assert len(told) == len(tried), ran.stdout + ran.stderr
    unnoticed = [one.splitlines()[0] for one in told if "SUCCESS" in one]
    assert not unnoticed
    # A rule that cannot be read fails every case, and would prove nothing.
    assert ran.stderr.count(f"alertname: {name}") >= len(tried), ran.stderr


@pytest.mark.parametrize("rule", alerts(), ids=NAMES)
def test_an_alert_reads_metrics_that_are_exported_with_labels_that_they_have(rule: Rule) -> None:
    known = labels_by_series() | {name: set(TARGET_LABELS) for name in OF_THE_PROCESS}
    named = promql.metrics(rule["expr"])
    assert named
    assert named <= known.keys()
    assert promql.labels(rule["expr"]) <= set().union(*(known[name] for name in named))


@pytest.mark.parametrize("rule", alerts(), ids=NAMES)
def test_an_alert_says_what_how_bad_and_what_to_do(rule: Rule) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    said = rule["annotations"]
    assert said.keys() == {"summary", "description", "runbook"}
    assert said["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_for_no_other() -> None:
    titles = re.findall(r"^## (R3\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert titles == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_section_of_the_runbook_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    section = RUNBOOK.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert part in section, part


def test_the_runbook_names_metrics_that_are_exported() -> None:
    known = labels_by_series().keys()
    text = RUNBOOK.read_text()
    named = {name for name in re.findall(r"\b(r3_[a-z0-9_]+)", text) if f"`{name}/" not in text}
    assert named
    assert named <= known, named - known
