"""What the dashboards and rules ask Prometheus, and what of it is known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml
from promql_parser import Expr, VectorSelector

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
OWN = ("up", "ALERTS")  # Prometheus makes these itself


class Asked(NamedTuple):
    """An expression, with Grafana's variables in it, and where it stands."""

    where: str
    expr: str


def asked_by(dashboard: dict[str, Any]) -> Iterator[Asked]:
    """Every expression of panels, annotations and variables."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield Asked(f"{dashboard['title']}, {panel['title']}, {target['refId']}", target["expr"])
    for annotation in dashboard["annotations"].get("list", []):
        yield Asked(f"{dashboard['title']}, annotation {annotation['name']}", annotation["expr"])
    for variable in dashboard["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]):
            yield Asked(f"{dashboard['title']}, variable {variable['name']}", f"group by ({found[2]}) ({found[1]})")


def asked_by_dashboards() -> list[Asked]:
    """Of all of them."""
    return [asked for path in DASHBOARDS for asked in asked_by(json.loads(path.read_text("utf-8")))]


@cache
def rules() -> list[dict[str, Any]]:
    """All rules, as they stand."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def filled(expr: str, interval: str = "1m", job: str = "stream-detector", sensor: str = "pump") -> str:
    """With values for Grafana's variables."""
    quoted = sensor.replace("\\", "\\\\").replace('"', '\\"')
    return expr.replace("$__rate_interval", interval).replace("$job", job).replace("$sensor_id", quoted)


def selectors(expr: str) -> list[tuple[str, set[str]]]:
    """Each metric that an expression reads, with the labels that it chooses by. Raises `ValueError` if it is none."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append((node.name or "", {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def known(name: str) -> bool:
    """Whether a metric is one that our processes are expected to show."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return name not in OWN and name not in recorded
