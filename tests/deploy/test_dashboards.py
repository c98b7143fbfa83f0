"""The dashboards are what their code makes, ask in valid PromQL, and look as a dashboard should."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.__main__ import FOLDER, generate
from tests.deploy.expressions import DASHBOARDS, DEPLOY, Asked, asked_by_dashboards, filled, rules, selectors

LOADED = [pytest.param(json.loads(path.read_text("utf-8")), id=path.stem) for path in DASHBOARDS]


def test_the_files_are_what_the_code_makes() -> None:
    assert {path.name: path.read_text("utf-8") for path in FOLDER.glob("*")} == generate(), "run `make dashboards`"


@pytest.mark.parametrize("asked", asked_by_dashboards(), ids=lambda asked: asked.where)
def test_every_expression_parses(asked: Asked) -> None:
    expr = filled(asked.expr)
    assert "$" not in expr, "a variable that the test does not know"
    assert selectors(expr)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_parses(rule: dict[str, Any]) -> None:
    assert selectors(rule["expr"]) or rule["expr"] == "vector(1)"


@pytest.mark.parametrize("dashboard", LOADED)
def test_identity(dashboard: dict[str, Any]) -> None:
    assert dashboard["uid"].startswith("stream-detector-")
    assert not dashboard.get("id")
    assert dashboard["schemaVersion"] >= 36
    assert {variable["name"] for variable in dashboard["templating"]["list"]} >= {"datasource", "job"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_uids_differ() -> None:
    uids = [json.loads(path.read_text("utf-8"))["uid"] for path in DASHBOARDS]
    assert len(set(uids)) == len(uids) == 3


@pytest.mark.parametrize("dashboard", LOADED)
def test_panels_say_what_they_are_and_ask_the_chosen_source(dashboard: dict[str, Any]) -> None:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["type"] in ("table", "heatmap", "state-timeline") or panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("dashboard", LOADED)
def test_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
        assert place["h"] > 0, title
    for (title, a), (other, b) in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (title, other)


def test_series_of_single_sensors_are_asked_for_only_where_they_are_bounded() -> None:
    for asked in asked_by_dashboards():
        for name, _ in selectors(filled(asked.expr)):
            if "sensor_id" in asked.expr:
                assert name.startswith(("stream_detector_sensor_", "stream_detector_alert_firing")), asked


@pytest.mark.parametrize(
    "path", sorted((DEPLOY / "grafana" / "provisioning").rglob("*.yml")), ids=lambda path: path.stem
)
def test_provisioning_is_as_grafana_reads_it(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    assert given["apiVersion"] == 1
    [item] = given[{"datasources": "datasources", "dashboards": "providers"}[path.parent.name]]
    assert item["type"] == {"datasources": "prometheus", "dashboards": "file"}[path.parent.name]
