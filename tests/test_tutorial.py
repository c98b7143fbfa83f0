"""The tutorial's commands and programs, run as they stand, in their order: the fault that it plants is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers import KafkaBroker
from tests.walk import walk

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


@pytest.mark.timeout(600)  # a training, a replay and a service, on whatever the machine has left
def test_the_tutorial_leads_to_the_alert(redis_url: str, tmp_path: Path) -> None:
    # A broker of its own: the other one may have the README's topics.
    with KafkaBroker() as broker, walk(tmp_path, broker, redis_url, fresh=False) as reader:
        seen = reader.follow(TUTORIAL)
        reader.stop()
    live = ["file: detector.toml", "runs", "starts", "python", "python", "runs"]
    assert seen == ["python", "runs", "runs", *live]
    alerts = [json.loads(line) for line in (tmp_path / "results" / "alerts.jsonl").read_text().splitlines()]
    last = [alert for alert in alerts if alert["sensor_id"] == "fan-2"][-1]
    assert last["status"] == "firing", "the bearing has not been well since"
    assert max(last["contributions"], key=last["contributions"].get) == "vibration"
    assert last["summary"] in reader.told
    assert "the verdict holds" in reader.told
