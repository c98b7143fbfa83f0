"""A live service under a real Prometheus and a real Alertmanager.

One worker with real Kafka and Redis (its model is a stand-in on NumPy, as in the chaos tests), sensors that are well
and sensors that are not, a process that sends their alerts on, and a worker that does not answer. Only durations of
the shipped rules are shorter.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kafka import KafkaProducer

from stream_detector.codec import rfc3339
from tests.chaos.spec import Spec
from tests.deploy.expressions import DEPLOY, RULES
from tests.servers import KafkaBroker, RedisServer
from tests.servers.alertmanager import Alertmanager
from tests.servers.process import free_port
from tests.servers.prometheus import Prometheus
from tests.service import wait_for

KINDS = ("events", "scores", "alerts", "dead_letters", "webhook_dead_letters")
TOPICS = {kind: f"monitored-{kind}" for kind in KINDS}
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
ILL, ODD = "ill", 'o"d\n\\{}\x00'  # ODD: what an id may be
SENSORS = {f"well-{at}": 0.2 + at / 12 for at in range(6)} | {ILL: 4.0, ODD: 1.5}  # and their usual score
EVERY = 0.2  # seconds between two events of a sensor


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
        producer, rng = KafkaProducer(bootstrap_servers=self.bootstrap), random.Random(1)
        while not self.over.wait(EVERY):
            now = rfc3339(round(time.time() * 1_000))
            for sensor, usual in SENSORS.items():
                level = usual * rng.uniform(0.8, 1.2)
                value = {"sensor_id": sensor, "timestamp": now, "values": {"a": level, "b": level / 2}}
                producer.send(TOPICS["events"], key=sensor.encode(), value=json.dumps(value).encode(), partition=0)
            producer.send(TOPICS["events"], key=b"bad", value=b"{not json", partition=1)
        producer.close()


class Live(NamedTuple):
    prometheus: Prometheus
    receiver: Receiver
    metrics: str  # what the service showed
    sent: str  # what the webhooks' process showed
    absent: str  # the address of a worker that is not there


def hastened(text: str) -> str:
    """Rules whose alerts fire within seconds."""
    return re.sub(r"\b(for|interval): \w+", r"\1: 1s", text)


def prometheus_config(folder: Path, worker: int, webhooks: int, absent: str, alertmanager: int) -> str:
    """The shipped settings, where things are here, and often."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / path.name) for path in RULES]
    for path in RULES:
        (folder / path.name).write_text(hastened(path.read_text()))
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["stream-detector"]["static_configs"] = [{"targets": [f"127.0.0.1:{worker}", absent]}]
    jobs["stream-detector-webhooks"]["static_configs"] = [{"targets": [f"127.0.0.1:{webhooks}"]}]
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


def webhooks_settings(bootstrap: str, port: int, receiver: str) -> dict[str, str]:
    """The environment of `stream-detector webhooks` with one target."""
    target = {"url": f"{receiver}/alerts", "secrets": json.dumps([SECRET])}
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        **{f"TOPICS__{kind.upper()}": topic for kind, topic in TOPICS.items()},
        **{f"WEBHOOKS__TARGETS__OPS__{key.upper()}": value for key, value in target.items()},
        "WEBHOOKS__ALLOW_INTERNAL": '["127.0.0.1"]',
        "WEBHOOKS__GROUP_ID": "monitored-webhooks",
        "WEBHOOKS__START": "earliest",
        "WEBHOOKS__METRICS_PORT": str(port),
    }
    return {f"STREAM_DETECTOR__{key}": value for key, value in settings.items()}


@contextmanager
def session(kafka_broker: KafkaBroker, redis_server: RedisServer, folder: Path) -> Iterator[Live]:
    """All of it, once the first sensor's alert is in the service's metrics."""
    port, sends, absent = free_port(), free_port(), f"127.0.0.1:{free_port()}"
    kafka_broker.create_topics(dict.fromkeys(TOPICS.values(), 2))
    settings = {
        "kafka": {"bootstrap_servers": kafka_broker.bootstrap, "group_id": "monitored"},
        "topics": TOPICS,
        "redis": {"url": redis_server.url, "prefix": "monitored"},
        "metrics": {"port": port},
        "poll": {"timeout": 0.1},
    }
    spec = folder / "spec.json"
    Spec(settings, 1, str(folder / "log"), str(folder / "lethal"), learns=False).write(spec)  # scores alone decide
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, "-m", "tests.chaos.worker", str(spec)]
        worker = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(worker.kill)
        receiver = Receiver()
        stack.callback(receiver.close)
        sender = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "stream_detector", "webhooks"],
                stdout=log,
                stderr=log,
                env=os.environ | webhooks_settings(kafka_broker.bootstrap, sends, receiver.url),
            )
        )
        stack.callback(sender.kill)
        traffic = Traffic(kafka_broker.bootstrap)
        traffic.start()
        stack.callback(traffic.join)
        stack.callback(traffic.over.set)
        alertmanager = stack.enter_context(Alertmanager(alertmanager_config(receiver.url)))
        config = prometheus_config(folder, port, sends, absent, alertmanager.port)
        prometheus = stack.enter_context(Prometheus(config))

        def fires() -> bool:
            assert worker.poll() is None, (folder / "log").read_text()
            assert sender.poll() is None, (folder / "log").read_text()
            accepted = 'webhooks_attempts_total{outcome="delivered",target="ops"}' in metrics_of(sends)
            return accepted and f'alert_firing{{kind="anomaly",sensor_id="{ILL}"' in metrics_of(port)

        wait_for(fires, "an alert in the service's metrics, and its receiver's answer")
        yield Live(prometheus, receiver, metrics_of(port), metrics_of(sends), absent)
