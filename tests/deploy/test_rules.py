"""Rules and settings of Prometheus and Alertmanager, by their own tools; each alert is tested and has its section."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import DEPLOY, RULES, rules
from tests.servers.web import tool

pytestmark = pytest.mark.servers  # `make servers` fetches the tools

TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
CASES = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
ALERTS = [rule for rule in rules() if "alert" in rule]
RUNBOOK = (DEPLOY.parent / "docs" / "runbook.md").read_text("utf-8")


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_do_what_their_tests_say() -> None:
    run(tool("promtool"), "test", "rules", *TESTS)


def test_rules_and_settings_are_valid() -> None:
    run(tool("promtool"), "check", "rules", *RULES)
    run(tool("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(tool("amtool"), "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")


def told(alert: str) -> set[bool]:
    """Whether tests expect this alert to fire, and not to."""
    found: set[bool] = set()
    for test in CASES:
        for case in test.get("alert_rule_test", []):
            if case["alertname"] == alert:
                found.add(bool(case.get("exp_alerts")))
        for case in test.get("promql_expr_test", []):
            if "ALERTS" in case["expr"] and (f'"{alert}"' in case["expr"] or "alertname" not in case["expr"]):
                found.add(any(f'"{alert}"' in sample["labels"] for sample in case["exp_samples"]))
    return found


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_firing_and_quiet(rule: dict[str, Any]) -> None:
    assert told(rule["alert"]) == {True, False}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_and_leads_to_its_section(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    [section] = re.findall(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    for heading in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"**{heading}.**" in section


def test_the_runbook_has_no_section_too_many() -> None:
    assert set(re.findall(r"^## (StreamDetector\w+)$", RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in ALERTS}


def test_a_missing_tool_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="run `make servers`") as told:
        tool("no-such-program")
    assert "\n" not in str(told.value)
