"""What the dashboards show of a live service, and what of it reaches people: see `session`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.expressions import DEPLOY, Asked, asked_by_dashboards, filled, known, rules, selectors
from tests.deploy.session import ILL, Live, session
from tests.servers import KafkaBroker, RedisServer
from tests.servers.prometheus import Prometheus
from tests.service import wait_for

DOCUMENT = DEPLOY.parent / "docs" / "reference" / "metrics.md"


@pytest.fixture(scope="module")
def live(
    kafka_broker: KafkaBroker, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    with session(kafka_broker, redis_server, tmp_path_factory.mktemp("live")) as opened:
        yield opened


def families(text: str) -> dict[str, set[str]]:
    """The labels of each series' name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_that_is_asked_for_exists_with_its_labels(live: Live) -> None:
    shown = families(live.metrics) | families(live.sent)
    asked = [*asked_by_dashboards(), *(Asked(str(rule), rule["expr"]) for rule in rules())]
    names = set()
    for one in asked:
        for name, labels in selectors(filled(one.expr)):
            if known(name):
                names.add(name)
                assert name in shown, one
                assert labels <= shown[name] | {"job", "instance"}, one
    assert len(names) > 20


def has_data(prometheus: Prometheus, expr: str) -> bool:
    return any(series["value"][1] != "NaN" for series in prometheus.query(expr))


def test_every_panel_has_data(live: Live) -> None:
    wanted = {asked.where: filled(asked.expr, "5s", sensor=ILL) for asked in asked_by_dashboards()}
    assert len(wanted) > 45

    def all_have() -> bool:
        for where in [where for where, expr in wanted.items() if has_data(live.prometheus, expr)]:
            del wanted[where]
        return not wanted

    try:
        wait_for(all_have, "data in every panel")
    except AssertionError:
        pytest.fail("no data for " + "; ".join(f"{where}: {expr}" for where, expr in wanted.items()))


def test_prometheus_takes_every_sensors_id(live: Live) -> None:
    found = live.prometheus.query('stream_detector_alert_firing{kind="anomaly"}')
    ids = {series["metric"]["sensor_id"] for series in found}
    assert ILL in ids
    [odd] = ids - {ILL}
    assert odd.startswith('o"d\\x0a\\{}\\x00~')
    assert [
        series["value"][1] for series in live.prometheus.query(f'stream_detector_sensor_threshold{{sensor_id="{ILL}"}}')
    ] == ["1"]
    assert [target["health"] for target in targets(live.prometheus, "stream-detector")].count("up") == 1


def targets(prometheus: Prometheus, job: str) -> list[dict[str, Any]]:
    active = prometheus.get("/api/v1/targets")["data"]["activeTargets"]
    return [target for target in active if target["labels"]["job"] == job]


def test_rules_are_healthy(live: Live) -> None:
    found = [rule for group in live.prometheus.get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
    assert len(found) == len(rules())
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] == "err"} == {}


def test_what_fires_reaches_the_receiver(live: Live) -> None:
    down = "/pager", "StreamDetectorDown"  # of the worker that is not there: the other was down until it had started
    wait_for(lambda: live.receiver.alerts(*down, instance=live.absent), "the pager to be told")
    wait_for(lambda: live.receiver.alerts("/channel", "StreamDetectorRejects"), "the channel to be told")
    alert = live.receiver.alerts(*down, instance=live.absent)[0]
    assert alert["status"] == "firing"
    assert alert["labels"] == {
        "alertname": "StreamDetectorDown",
        "instance": live.absent,
        "job": "stream-detector",
        "severity": "critical",
    }
    assert alert["annotations"]["summary"] == f"{live.absent} does not answer"
    assert alert["annotations"]["runbook_url"].endswith("#streamdetectordown")
    assert not live.receiver.alerts("/channel", "StreamDetectorDown")


def test_hours_of_rest_can_be_told(live: Live) -> None:
    [expr] = re.findall(r"# expr: (.*)", (DEPLOY / "prometheus" / "rules" / "recording.yml").read_text())
    for when, expected in (
        ("2026-11-20T12:00:00Z", "1"),  # a Friday
        ("2026-11-20T23:00:00Z", "0"),
        ("2026-11-21T12:00:00Z", "0"),
    ):
        [found] = live.prometheus.get("/api/v1/query", query=expr, time=when)["data"]["result"]
        assert found["value"][1] == expected, when


def test_the_documents_name_every_metric_with_its_labels(live: Live) -> None:
    service = DOCUMENT.read_text("utf-8").partition("## Webhooks")[0]
    rows = re.findall(r"^\| `(stream_detector_\w+)` \|[^|]*\|[^|]*\|([^|]*)\|", service, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    shown = {}
    for family in text_string_to_metric_families(live.metrics):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if family.name.startswith("stream_detector_") and not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown[name] = labels
    assert listed == shown
