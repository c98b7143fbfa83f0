"""A live service under a real Prometheus and a real Alertmanager: what the dashboards show, and what reaches people.

One worker with real Kafka and Redis (its model is a stand-in on NumPy, as in the chaos tests), sensors that are well
and sensors that are not, and two targets that do not answer. Only durations of the shipped rules are shorter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from stream_detector.codec import rfc3339
from tests.chaos.spec import Spec
from tests.deploy.expressions import (
    DEPLOY,
    NOT_THERE_YET,
    RULES,
    Asked,
    asked_by_dashboards,
    filled,
    known,
    rules,
    selectors,
)
from tests.servers import KafkaBroker, RedisServer
from tests.servers.alertmanager import Alertmanager
from tests.servers.process import free_port
from tests.servers.prometheus import Prometheus
from tests.service import wait_for

TOPICS = {kind: f"monitored-{kind}" for kind in ("events", "scores", "alerts", "dead_letters")}
ILL, ODD = "ill", 'o"d\n\\{}\x00'  # ODD: what an id may be
SENSORS = {f"well-{at}": 0.3 for at in range(6)} | {ILL: 4.0, ODD: 1.5}
EVERY = 0.2  # seconds between two events of a sensor
DOCUMENT = DEPLOY.parent / "docs" / "monitoring.md"


class Receiver:
    """Takes what Alertmanager posts."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []  # (path, body)
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def alerts(self, path: str, name: str, **labels: str) -> list[dict[str, Any]]:
        """What came there of this alert, with these labels."""
        wanted = {"alertname": name, **labels}.items()
        found = [alert for at, body in list(self.got) if at == path for alert in body["alerts"]]
        return [alert for alert in found if wanted <= alert["labels"].items()]


class Traffic(threading.Thread):
    """Events of all sensors, and some that are none, until told to end."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.bootstrap, self.over = bootstrap, threading.Event()

    def run(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap)
        while not self.over.wait(EVERY):
            now = rfc3339(round(time.time() * 1_000))
            for sensor, level in SENSORS.items():
                value = {"sensor_id": sensor, "timestamp": now, "values": {"a": level, "b": level / 2}}
                producer.send(TOPICS["events"], key=sensor.encode(), value=json.dumps(value).encode(), partition=0)
            producer.send(TOPICS["events"], key=b"bad", value=b"{not json", partition=1)
        producer.close()


class Live(NamedTuple):
    prometheus: Prometheus
    receiver: Receiver
    metrics: str  # what the service showed
    absent: str  # the address of a worker that is not there


def hastened(text: str) -> str:
    """Rules whose alerts fire within seconds."""
    return re.sub(r"\b(for|interval): \w+", r"\1: 1s", text)


def prometheus_config(folder: Path, worker: int, absent: str, alertmanager: int) -> str:
    """The shipped settings, where things are here, and often."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / path.name) for path in RULES]
    for path in RULES:
        (folder / path.name).write_text(hastened(path.read_text()))
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["stream-detector"]["static_configs"] = [{"targets": [f"127.0.0.1:{worker}", absent]}]
    jobs["stream-detector-webhooks"]["static_configs"] = [{"targets": [absent]}]
    return str(yaml.safe_dump(config))


def alertmanager_config(receiver: str) -> str:
    """The shipped settings, with receivers that are here."""
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    config["global"] = {}
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    config["receivers"] = [
        {"name": given["name"], "webhook_configs": [{"url": f"{receiver}/{given['name']}"}]}
        for given in config["receivers"]
    ]
    return str(yaml.safe_dump(config))


def metrics_of(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def live(
    kafka_broker: KafkaBroker, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    folder, port, absent = tmp_path_factory.mktemp("live"), free_port(), f"127.0.0.1:{free_port()}"
    kafka_broker.create_topics(dict.fromkeys(TOPICS.values(), 2))
    settings = {
        "kafka": {"bootstrap_servers": kafka_broker.bootstrap, "group_id": "monitored"},
        "topics": TOPICS,
        "redis": {"url": redis_server.url, "prefix": "monitored"},
        "metrics": {"port": port},
        "poll": {"timeout": 0.1},
    }
    spec = folder / "spec.json"
    Spec(settings, 1, str(folder / "log"), str(folder / "lethal")).write(spec)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, "-m", "tests.chaos.worker", str(spec)]
        worker = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(worker.kill)
        receiver = Receiver()
        stack.callback(receiver.close)
        traffic = Traffic(kafka_broker.bootstrap)
        traffic.start()
        stack.callback(traffic.join)
        stack.callback(traffic.over.set)
        alertmanager = stack.enter_context(Alertmanager(alertmanager_config(receiver.url)))
        config = prometheus_config(folder, port, absent, alertmanager.port)
        prometheus = stack.enter_context(Prometheus(config))

        def fires() -> bool:
            assert worker.poll() is None, (folder / "log").read_text()
            return f'alert_firing{{kind="anomaly",sensor_id="{ILL}"' in metrics_of(port)

        wait_for(fires, "an alert in the service's metrics")
        yield Live(prometheus, receiver, metrics_of(port), absent)


def families(text: str) -> dict[str, set[str]]:
    """The labels of each series' name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_that_is_asked_for_exists_with_its_labels(live: Live) -> None:
    shown = families(live.metrics)
    asked = [*asked_by_dashboards(), *(Asked(str(rule), rule["expr"]) for rule in rules())]
    names = set()
    for one in asked:
        for name, labels in selectors(filled(one.expr)):
            if known(name):
                names.add(name)
                assert name in shown, one
                assert labels <= shown[name] | {"job", "instance"}, one
    assert len(names) > 20
    assert not set(NOT_THERE_YET) & set(shown), "they are there now: remove them from the list"


def has_data(prometheus: Prometheus, expr: str) -> bool:
    return any(series["value"][1] != "NaN" for series in prometheus.query(expr))


def test_every_panel_has_data(live: Live) -> None:
    wanted = {
        asked.where: filled(asked.expr, "5s", sensor=ILL)
        for asked in asked_by_dashboards()
        if not any(name in asked.expr for name in NOT_THERE_YET)
    }
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
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()}
    shown = {}
    for family in text_string_to_metric_families(live.metrics):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if family.name.startswith("stream_detector_") and not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown[name] = labels
    assert listed == shown
