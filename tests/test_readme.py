"""The README's commands and samples, run as they stand, in their order."""

from __future__ import annotations

import re
import shutil
from datetime import UTC
from pathlib import Path

from stream_detector.timestamps import parse
from tests.servers import KafkaBroker
from tests.service import committed_records, wait_for
from tests.walk import walk
from training.plant import Plant

ROOT = Path(__file__).parent.parent


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
    with walk(tmp_path, kafka_broker, redis_url, fresh=True) as reader:
        seen = reader.follow(ROOT / "README.md")
        rows = len(plant.stream.read_text().splitlines()) - 1
        windows = (rows - 2 * 32) // 4  # two pumps, windows of 32, stride 4
        wait_for(
            lambda: len(committed_records(kafka_broker.bootstrap, "sensor-scores")) >= windows - 2,
            "the README's scores",
        )
        reader.stop()
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
