"""What `deploy/try.sh` runs: a fault, and when it is seen on the alerts topic, by webhook, at Alertmanager, on a page.

Each part is a step of its own.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer

from stream_detector.timestamps import parse
from tests.servers import KafkaBroker, RedisServer
from tests.servers.alertmanager import Alertmanager
from tests.servers.process import free_port
from tests.servers.prometheus import Prometheus

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "stream_detector"]
PATIENCE = 300.0  # seconds for each part to be ready
NOTICED = 120.0  # seconds from the fault until it is seen everywhere
SMALL = ["--window", "32", "--stride", "4", "--epochs", "6", "--units", "24"]
RULES = [ROOT / "deploy" / "compose" / "rules.yml", ROOT / "deploy" / "prometheus" / "rules"]


@dataclass
class Fault:
    """What was broken, as the generator tells it."""

    kind: str
    sensor: str
    began: float  # seconds since 1970


@dataclass
class Walk:
    """What is running, and where."""

    folder: Path
    stack: ExitStack
    broker: str = ""
    redis: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def port(self, name: str) -> int:
        return self.ports.setdefault(name, free_port())

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """A child process that ends when the walk does."""
        with self.log(name).open("ab") as log:
            child = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=log, stderr=log)
        self.children[name] = child
        self.stack.callback(_end, child)

    def run(self, *arguments: str | Path) -> None:
        """A command of the project, to its end."""
        line = [*PROGRAM, *map(str, arguments)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}\n{done.stdout}{done.stderr}")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """What the condition gives once it holds."""
        until = time.monotonic() + seconds
        while True:
            if found := condition():
                return found
            for name, child in self.children.items():
                if child.poll() is not None:
                    raise RuntimeError(f"{name} ended with {child.returncode}\n{self.log(name).read_text()[-2_000:]}")
            if time.monotonic() > until:
                logs = "\n".join(f"{name}: …{self.log(name).read_text()[-1_000:]}" for name in self.children)
                raise RuntimeError(f"waited {seconds:.0f} s for {what} in vain\n{logs}")
            time.sleep(0.1)  # between looks


def main() -> None:
    """All steps in their order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--bundle", type=Path, help="a bundle of the simulated plant, instead of training one")
    parser.add_argument("--fault", default="cavitation", help="its kind")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was started is ended on the way
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-detector-try-")))
        walk = Walk(folder, stack)
        try:
            servers(walk)
            configure(walk, given.bundle or trained(walk))
            walk.run("topics", "--config", folder / "detector.toml")
            walk.say("topics are there")
            stages: list[tuple[str, Callable[[Walk, Fault], str | None]]] = [
                ("alerts topic", on_topic),
                ("webhook", webhooks(walk)),
                ("Prometheus and Alertmanager", monitoring(walk)),
                ("page", page(walk)),
            ]
            service(walk)
            fault = broken(walk, given.fault)
            watch(walk, fault, dict(stages))
            if given.keep:
                walk.say(f"it all runs on; Ctrl-C ends it; ports: {walk.ports}, Kafka {walk.broker}; logs in {folder}")
                signal.pause()
        except RuntimeError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit(130)


def servers(walk: Walk) -> None:
    """Kafka and Redis, as the tests start them."""
    walk.broker = walk.stack.enter_context(KafkaBroker()).bootstrap
    walk.redis = walk.stack.enter_context(RedisServer()).url
    walk.say(f"Kafka at {walk.broker}, Redis at {walk.redis}")


def trained(walk: Walk) -> Path:
    """A bundle from five days of the plant's past."""
    history, bundle = walk.folder / "normal.csv", walk.folder / "bundle"
    walk.run("simulate", "--out", history, "--days", "5")
    walk.run("train", history, "--out", bundle, *SMALL)
    walk.say("trained on five days of the plant's life")
    return bundle


def configure(walk: Walk, bundle: Path) -> None:
    """Settings of the service, the generator and webhooks."""
    lines = [
        f'[kafka]\nbootstrap_servers = "{walk.broker}"',
        f'[redis]\nurl = "{walk.redis}"',
        f"[bundle]\npath = {json.dumps(str(bundle.resolve()))}",
        f"[metrics]\nport = {walk.port('metrics')}",
        f"[page]\nenabled = true\nport = {walk.port('page')}",
    ]
    (walk.folder / "detector.toml").write_text("\n\n".join(lines) + "\n")


def service(walk: Walk) -> None:
    """`stream-detector run`, until it is ready."""
    walk.start("service", [*PROGRAM, "run", "--config", walk.folder / "detector.toml"])
    walk.wait("the service to be ready", lambda: answer(f"http://127.0.0.1:{walk.port('metrics')}/readyz"))
    walk.say(f"the service is ready: http://127.0.0.1:{walk.port('metrics')}/metrics")


def broken(walk: Walk, kind: str) -> Fault:
    """The generator; and after a while, so that windows have filled, a fault by its signal."""
    options = ["--fault", kind, "--fault-after", "45s", "--fault-lasts", "90s"]
    walk.start("generator", [*PROGRAM, "simulate", *options, "--config", walk.folder / "detector.toml"])

    def told() -> Fault | None:
        lines = walk.log("generator").read_text().splitlines()
        words = next((line.split() for line in lines if " at pump-" in line), None)
        return None if words is None else Fault(words[0], words[2], parse(words[4], UTC) / 1_000)

    fault: Fault = walk.wait("the generator's fault", told)
    walk.say(f"broken: {fault.kind} at {fault.sensor}")
    return fault


def watch(walk: Walk, fault: Fault, stages: dict[str, Callable[[Walk, Fault], str | None]]) -> None:
    """Say of each stage when the alert was seen there."""

    def look() -> bool:
        for name, seen in list(stages.items()):
            if told := seen(walk, fault):
                walk.say(f"{name}: {time.time() - fault.began:.1f} s after the fault: {told}")
                del stages[name]
        return not stages

    walk.wait("the alert to be seen everywhere", look, NOTICED)


def on_topic(walk: Walk, fault: Fault) -> str | None:
    """An alert about the broken sensor, as a `read_committed` consumer sees it."""
    consumer = KafkaConsumer(
        "sensor-alerts",
        bootstrap_servers=walk.broker,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=1_000,
    )
    try:
        alerts = [(record.timestamp / 1_000, json.loads(record.value)) for record in consumer]
    finally:
        consumer.close()
    found = next(((at, alert) for at, alert in alerts if _about(alert, fault)), None)
    return found and f"{found[1]['summary']} (published {found[0] - fault.began:.1f} s after the fault)"


def webhooks(walk: Walk) -> Callable[[Walk, Fault], str | None]:
    """`stream-detector webhooks`, and `deploy/receiver.py` with a secret of its own to receive them."""
    secret, config = walk.folder / "webhook-secret", walk.folder / "webhooks.toml"
    secret.write_text("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    url = f"http://127.0.0.1:{walk.port('receiver')}/"
    program = ROOT / "deploy" / "receiver.py"
    walk.start("receiver", [sys.executable, program, "--secret-file", secret, "--port", str(walk.port("receiver"))])
    walk.wait("the receiver", lambda: answer(url))
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{walk.broker}"\n\n'
        f'[webhooks]\nstart = "earliest"\nallow_internal = ["127.0.0.1"]\nmetrics_port = {walk.port("webhooks")}\n\n'
        f'[webhooks.targets.try]\nurl = "{url}"\nsecrets_file = {json.dumps(str(secret))}\n'
    )
    walk.start("webhooks", [*PROGRAM, "webhooks", "--config", config])
    walk.say(f"webhooks go to {url}")

    def seen(walk: Walk, fault: Fault) -> str | None:
        lines = walk.log("receiver").read_text().splitlines()
        return next((line for line in lines if " verified " in line and fault.sensor in line), None)

    return seen


def monitoring(walk: Walk) -> Callable[[Walk, Fault], str | None]:
    """Prometheus with the rules, and Alertmanager."""
    text = (ROOT / "deploy" / "compose" / "alertmanager.yml").read_text()
    alertmanager = walk.stack.enter_context(Alertmanager(text))
    rules = [str(path / "*.yml" if path.is_dir() else path) for path in RULES if path.exists()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": rules,
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]}]},
        "scrape_configs": [
            {
                "job_name": "stream-detector",
                "static_configs": [{"targets": [f"127.0.0.1:{walk.port('metrics')}"]}],
            }
        ],
    }
    prometheus = walk.stack.enter_context(Prometheus(json.dumps(config)))  # JSON is YAML
    walk.say(f"Prometheus at {prometheus.url}, Alertmanager at {alertmanager.url}")

    def seen(walk: Walk, fault: Fault) -> str | None:
        alerts = alertmanager.get("/api/v2/alerts")
        found = next((alert for alert in alerts if alert["labels"]["alertname"] == "SensorAlert"), None)
        return None if found is None else f"SensorAlert, {found['annotations']['summary']}"

    return seen


def page(walk: Walk) -> Callable[[Walk, Fault], str | None]:
    """The live page: what it is told to show."""

    def seen(walk: Walk, fault: Fault) -> str | None:
        """Look at the page's stream for a second or two."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{walk.port('page')}/stream", timeout=2) as stream:
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    field, _, text = stream.readline().decode().partition(": ")
                    told = json.loads(text) if field == "data" else {}
                    if any(_shown(alert, fault) for alert in told.get("overview", {}).get("alerts", [])):
                        return f"{fault.sensor} is firing on http://127.0.0.1:{walk.port('page')}/"
        except (OSError, ValueError):  # not there yet, or ended within a line
            pass
        return None

    return seen


def answer(url: str) -> str | None:
    """The body of a 200 answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as got:
            return str(got.read().decode()) or "ok"
    except OSError:
        return None


def _about(alert: dict[str, Any], fault: Fault) -> bool:
    began = parse(alert["started_at"], UTC) / 1_000
    return bool(alert["sensor_id"] == fault.sensor and alert["status"] == "firing" and began >= fault.began - 5)


def _shown(alert: dict[str, Any], fault: Fault) -> bool:
    return bool(alert["id"] == fault.sensor and alert["from"] / 1_000 >= fault.began - 5)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
