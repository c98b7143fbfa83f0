"""`run --workers 2`: two processes share a topic, on a real broker and a real Redis."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.servers import KafkaBroker
from tests.service import RunningService, committed_records, json_values, produce, wait_for, write_config
from tests.test_service import PARTITIONS, expected_windows, messages, start_topics
from training.plant import Plant

pytestmark = pytest.mark.servers


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def gauge(port: int, name: str) -> float:
    for line in get(port, "/metrics")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return -1.0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_workers_share_the_partitions_and_score_every_window_once(
    kafka_broker: KafkaBroker, redis_url: str, bundle: Path, plant: Plant, tmp_path: Path
) -> None:
    name = "workers"
    start_topics(kafka_broker, name)
    config = write_config(tmp_path, name, kafka_broker.bootstrap, redis_url, bundle, poll={"max_records": 50})
    sent = messages(plant, slice(0, 800))
    with RunningService(config, "--workers", "2") as service:
        ports = [service.port, service.port + 1]
        # Not before each has its partition: a rebalance in the middle is another test's.
        wait_for(
            lambda: [gauge(port, "stream_detector_assigned_partitions") for port in ports] == [1.0] * PARTITIONS,
            "each worker to have a partition",
            service,
        )
        assert [get(port, "/readyz")[0] for port in ports] == [200, 200]
        produce(kafka_broker.bootstrap, f"{name}-events", sent, PARTITIONS)
        wait_for(
            lambda: sum(gauge(port, "stream_detector_windows_total") for port in ports) >= expected_windows(sent),
            "all windows",
            service,
        )
        shares = [gauge(port, "stream_detector_windows_total") for port in ports]
        assert service.process is not None
        workers = children(service.process.pid)
        assert len(workers) == 2
        assert service.terminate() == 128 + signal.SIGTERM
    assert min(shares) > 0
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    scores = json_values(committed_records(kafka_broker.bootstrap, f"{name}-scores"))
    ends = Counter((score["sensor_id"], score["window_end"]) for score in scores)
    assert len(scores) == expected_windows(sent)
    assert set(ends.values()) == {1}


def test_when_one_worker_dies_all_end_so_that_a_supervisor_starts_anew(
    kafka_broker: KafkaBroker, redis_url: str, bundle: Path, tmp_path: Path
) -> None:
    name = "dying"
    start_topics(kafka_broker, name)
    config = write_config(tmp_path, name, kafka_broker.bootstrap, redis_url, bundle)
    with RunningService(config, "--workers", "2") as service:
        service.wait_ready()
        assert service.process is not None
        workers = children(service.process.pid)
        os.kill(workers[0], signal.SIGKILL)
        assert service.process.wait(60) == 128 + signal.SIGKILL
        assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
