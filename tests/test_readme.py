"""The README's commands and samples, run as they stand, in their order.

Only where the servers are is told through the environment, which wins over the settings file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC
from pathlib import Path

from stream_detector.timestamps import parse
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.service import committed_records, wait_for
from training.plant import Plant

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- (?P<what>[^>]+?) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 # http on loopback
            return bool(answer.status == 200)
    except OSError:
        return False


def labelled(plant: Plant) -> str:
    """Its stream with a column `anomaly`."""
    header, *lines = plant.stream.read_text().splitlines()
    sensor, time = (header.split(",").index(name) for name in ("sensor_id", "timestamp"))

    def anomalous(line: str) -> bool:
        cells = line.split(",")
        at = parse(cells[time], UTC)
        return any(fault.sensor == cells[sensor] and fault.start <= at <= fault.end for fault in plant.faults)

    return "\n".join([f"{header},anomaly", *(f"{line},{anomalous(line):d}" for line in lines)]) + "\n"


def test_the_readme_does_what_it_says(kafka_broker: KafkaBroker, redis_url: str, plant: Plant, tmp_path: Path) -> None:
    shutil.copy(plant.train, tmp_path / "normal.csv")
    shutil.copy(plant.stream, tmp_path / "today.csv")
    (tmp_path / "labelled.csv").write_text(labelled(plant))
    port = free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STREAM_DETECTOR__KAFKA__BOOTSTRAP_SERVERS": kafka_broker.bootstrap,
        "STREAM_DETECTOR__REDIS__URL": redis_url,
        "STREAM_DETECTOR__METRICS__PORT": str(port),
    }

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    started: list[subprocess.Popen[bytes]] = []
    seen: list[str] = []
    try:
        for block in BLOCK.finditer((ROOT / "README.md").read_text()):
            what, text = block["what"], block["text"]
            seen.append(what)
            if what == "runs":
                for line in text.splitlines():
                    run(*shlex.split(line))
            elif what == "topics":
                found = re.findall(r"--topic (\S+) --partitions (\d+)", text)
                kafka_broker.create_topics({name: int(count) for name, count in found})
            elif what == "python":
                run(sys.executable, "-c", text)
            elif what == "starts":
                started.append(subprocess.Popen(shlex.split(text), cwd=tmp_path, env=environment))
                wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the service to be ready")
            else:
                kind, _, name = what.partition(": ")
                assert kind == "file"
                (tmp_path / name).write_text(text)
        rows = len(plant.stream.read_text().splitlines()) - 1
        windows = (rows - 2 * 32) // 4  # two pumps, windows of 32, stride 4
        wait_for(
            lambda: len(committed_records(kafka_broker.bootstrap, "sensor-scores")) >= windows - 2,
            "the README's scores",
        )
        started[0].send_signal(signal.SIGTERM)
        assert started[0].wait(30) == 143
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert seen == ["runs", "runs", "topics", "file: detector.toml", "runs", "starts", "python", "python"]
    for name in ("report.html", "scores.jsonl", "alerts.jsonl", "dead-letters.jsonl"):
        assert (tmp_path / "results" / name).exists()
    assert list((tmp_path / "bundle" / "report").iterdir())


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "ARCHITECTURE.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document} links to {target}"


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets | {"lists"}
