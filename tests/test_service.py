"""The service as a user runs it: the real command, a real broker, a real Redis."""

from __future__ import annotations

import csv
import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from msgspec.structs import replace

from stream_detector.adapters.registry import Registry
from stream_detector.bundle import load_bundle, write_bundle
from stream_detector.thresholds import Thresholds
from tests.commandline import Done, invoke
from tests.servers import KafkaBroker, RedisCluster
from tests.servers.process import free_port
from tests.servers.redis_cluster import asked
from tests.service import (
    RunningService,
    command,
    committed_records,
    comparable,
    json_values,
    produce,
    score_count,
    wait_for,
    write_config,
)
from training.plant import FEATURES, Plant

W, PARTITIONS = 16, 2
BAD: list[tuple[bytes | None, bytes | None, str]] = [
    (b"pump-1", b"{not json", "not-json"),
    (b"pump-1", b"\xff\xfe", "bad-encoding"),
    (b"pump-2", b"", "empty"),
    (b"pump-2", None, "tombstone"),
    (b"pump-1", b'{"timestamp": 1, "speed": "fast"}', "bad-value"),
    (None, b'{"timestamp": 1, "speed": 1}', "missing-sensor-id"),
    (b"pump-1", b'{"sensor_id": "pump-1", "speed": 1}', "missing-timestamp"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": "2030-02-31", "speed": 1}', "bad-timestamp"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": "2100-01-01T00:00:00Z", "speed": 1}', "future-timestamp"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": 1, "speed": 1e999}', "non-finite"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": 1, "colour": 1}', "unknown-feature"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": 1, "speed": 1, "x": "%s"}' % (b"y" * 70_000), "too-long"),
    (b"pump-1", b'{"sensor_id": "pump-1", "timestamp": "2001-01-01T00:00:00Z", "speed": 1}', "late"),
]


def messages(plant: Plant, rows: slice) -> list[tuple[bytes | None, bytes | None]]:
    with plant.stream.open() as file:
        chosen = list(csv.DictReader(file))[rows]
    return [
        (
            row["sensor_id"].encode(),
            json.dumps(
                {
                    "sensor_id": row["sensor_id"],
                    "timestamp": row["timestamp"],
                    "values": {name: float(row[name]) if row[name] else None for name in FEATURES},
                }
            ).encode(),
        )
        for row in chosen
    ]


def start_topics(broker: KafkaBroker, name: str) -> None:
    broker.create_topics({f"{name}-{kind}": PARTITIONS for kind in ("events", "scores", "alerts", "dead_letters")})


def expected_windows(sent: list[tuple[bytes | None, bytes | None]]) -> int:
    per_sensor = Counter(key for key, _ in sent)
    return sum(max(0, count - W + 1) for count in per_sensor.values())


def holds_until_it_is_gone(broker: KafkaBroker, config: Path, name: str) -> None:
    """An alert is explained by its events in Kafka, and where those are gone, it is said."""
    alerts = json_values(committed_records(broker.bootstrap, f"{name}-alerts"))
    worst = max((alert for alert in alerts if alert["kind"] == "anomaly"), key=lambda alert: float(alert["score"]))
    asked = ["explain", worst["id"], "--config", config, "--out", config.parent]
    done = invoke(*asked, "--since", "1h")
    assert done.code == 0, done.out + done.err
    assert "the verdict holds" in done.out
    assert (config.parent / f"{worst['id']}.png").stat().st_size > 10_000
    assert invoke(*asked, "--since", "2100-01-01T00:00:00Z").code == 2
    source = worst["source"]
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.delete_records({TopicPartition(source["topic"], source["partition"]): source["first_offset"] + 1})
    admin.close()
    done = invoke(*asked)
    assert done.code == 2
    assert f"now begins at {source['first_offset'] + 1}: retention removed them" in done.err


def first_message(url: str) -> dict[str, Any]:
    """Of the live page's stream."""
    with urllib.request.urlopen(url, timeout=30) as stream:  # noqa: S310 # http on loopback
        found: dict[str, Any] = next(json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
    return found


@pytest.fixture
def broker(kafka_broker: KafkaBroker) -> KafkaBroker:
    return kafka_broker


def test_events_become_scores_alerts_dead_letters_and_metrics(
    broker: KafkaBroker, redis_url: str, bundle: Path, plant: Plant, tmp_path: Path
) -> None:
    name = "whole"
    start_topics(broker, name)
    page = {"enabled": True, "port": free_port()}
    config = write_config(tmp_path, name, broker.bootstrap, redis_url, bundle, page=page)
    done = command("check", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    good = messages(plant, slice(0, 1_200))
    bad = [(key, value) for key, value, _ in BAD]
    produce(broker.bootstrap, f"{name}-events", [*good[:600], *bad, *good[600:]], PARTITIONS)
    with RunningService(config, fresh=True) as service:  # once with all that a start takes
        service.wait_ready()
        wait_for(lambda: score_count(service) >= expected_windows(good), "all windows", service)
        wait_for(lambda: "in_flight" in service.get("/metrics")[1], "metrics", service)
        status, metrics = service.get("/metrics")
        assert status == 200
        assert service.get("/livez")[0] == 200
        shown = first_message(f"http://127.0.0.1:{page['port']}/stream")
        assert shown["about"]["ready"]
        assert shown["about"]["windows"] == expected_windows(good)
        assert {tile["id"] for tile in shown["overview"]["fleet"]} == {"pump-1", "pump-2"}
        assert service.terminate() == 143
    scores = json_values(committed_records(broker.bootstrap, f"{name}-scores"))
    assert len(scores) == expected_windows(good)
    assert len({score["id"] for score in scores}) == len(scores)
    ends = Counter((score["sensor_id"], score["window_end"]) for score in scores)
    assert set(ends.values()) == {1}
    for score in scores:
        assert score["score"] == pytest.approx(score["error"] / score["threshold"], rel=1e-5)
        assert sum(score["contributions"].values()) == pytest.approx(1, abs=1e-5)
        assert set(score["contributions"]) == set(FEATURES)
    holds_until_it_is_gone(broker, config, name)
    letters = committed_records(broker.bootstrap, f"{name}-dead_letters")
    told = sorted((dict(letter.headers)["errors.exception"].decode(), letter.value) for letter in letters)
    assert told == sorted((reason, value) for _, value, reason in BAD)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["errors.topic"].decode() == f"{name}-events"
        assert int(headers["errors.offset"]) >= 0
        assert headers["errors.message"]
    assert 'stream_detector_rejects_total{reason="not-json"} 1.0' in metrics
    alerts = json_values(committed_records(broker.bootstrap, f"{name}-alerts"))
    by_id = Counter(alert["id"] for alert in alerts)
    for alert in alerts:
        assert 1 <= alert["revision"] <= by_id[alert["id"]]
        assert alert["status"] in ("firing", "resolved")


def test_the_partitions_of_a_service_are_spread_over_a_redis_cluster(
    broker: KafkaBroker,
    redis_cluster: RedisCluster,
    redis_cluster_url: str,
    bundle: Path,
    plant: Plant,
    tmp_path: Path,
) -> None:
    name = "spread"
    start_topics(broker, name)
    config = write_config(tmp_path, name, broker.bootstrap, redis_cluster_url, bundle, redis={"cluster": True})
    done = command("check", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a cluster of 3 primaries" in done.stdout
    sent = messages(plant, slice(0, 300))
    produce(broker.bootstrap, f"{name}-events", sent, PARTITIONS)
    with RunningService(config) as service:
        service.wait_ready()
        wait_for(lambda: score_count(service) >= expected_windows(sent), "all windows", service)
        assert service.terminate() == 143
    homes = [{key.split(b":")[3] for key in asked(node, "KEYS", "*")} for node in redis_cluster.primaries]
    assert sorted(sorted(home) for home in homes if home) == [[b"0}"], [b"1}"]]
    config.write_text(config.read_text().replace("cluster = true", "cluster = false"))
    done = command("run", "--config", config)
    assert done.returncode == 1
    assert "error: Redis: this is a node of a cluster; set redis.cluster = true" in done.stderr
    scores = json_values(committed_records(broker.bootstrap, f"{name}-scores"))
    assert len({score["id"] for score in scores}) == len(scores) == expected_windows(sent)


def test_a_killed_worker_loses_and_doubles_nothing(
    broker: KafkaBroker, redis_url: str, bundle: Path, plant: Plant, tmp_path: Path
) -> None:
    sent = messages(plant, slice(0, 1_400))
    small = {"poll": {"max_records": 40}, "alerts": {"min_windows": 2}}
    results: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for name, kills in (("calm", 0), ("killed", 4)):
        start_topics(broker, name)
        config = write_config(tmp_path, name, broker.bootstrap, redis_url, bundle, **small)
        produce(broker.bootstrap, f"{name}-events", sent, PARTITIONS)
        for _ in range(kills):
            with RunningService(config) as service:
                wait_for(lambda service=service: score_count(service) > 0, "first scores", service)
                service.kill()
        with RunningService(config) as service:
            service.wait_ready()
            topic = f"{name}-scores"
            wait_for(
                lambda topic=topic: len(committed_records(broker.bootstrap, topic)) >= expected_windows(sent),
                "all windows",
                service,
            )
            assert service.terminate() == 143
        results[name] = (
            json_values(committed_records(broker.bootstrap, f"{name}-scores")),
            json_values(committed_records(broker.bootstrap, f"{name}-alerts")),
        )
    calm, killed = results["calm"], results["killed"]
    assert len(killed[0]) == len({score["id"] for score in killed[0]}) == expected_windows(sent)
    for left, right in zip(comparable(calm[0]), comparable(killed[0]), strict=True):
        assert left["score"] == pytest.approx(right["score"], rel=1e-5)
        assert (left["sensor_id"], left["window_end"], left["state"]) == (
            right["sensor_id"], right["window_end"], right["state"],
        )  # fmt: skip
    keys = ("sensor_id", "revision", "status", "severity", "started_at", "ended_at")
    histories = [sorted(tuple(str(alert[key]) for key in keys) for alert in side[1]) for side in (calm, killed)]
    assert histories[0] == histories[1]


@pytest.mark.servers
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"redis": {"url": "redis://127.0.0.1:1/0"}}, "Redis does not answer"),
        ({"kafka": {"bootstrap_servers": "127.0.0.1:1"}}, "Kafka"),
        ({"topics": {"events": "nobody-made-it"}}, "nobody-made-it"),
    ],
)
def test_what_is_not_there_is_one_line(
    broker: KafkaBroker, redis_url: str, bundle: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    name = f"absent-{told.split()[0].lower()}"
    start_topics(broker, name)
    config = write_config(tmp_path, name, broker.bootstrap, redis_url, bundle, **changes)
    if told == "nobody-made-it":  # once as a process of its own, with the seconds that TensorFlow takes
        ended = command("run", "--config", config)
        done = Done(ended.returncode, ended.stdout, ended.stderr)
    else:
        done = invoke("run", "--config", config)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
    checked = invoke("check", "--config", config)
    assert checked.code == 1
    assert "FAIL" in checked.out


def test_a_version_that_is_promoted_takes_over_while_it_runs(
    broker: KafkaBroker,
    redis_url: str,
    bundle: Path,
    plant: Plant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "promoted"
    start_topics(broker, name)
    registry = Registry(str(tmp_path / "registry"))
    first, second = registry.add(bundle), registry.add(stricter(bundle, tmp_path / "stricter"))
    registry.promote(first.version)
    monkeypatch.setenv("STREAM_DETECTOR__BUNDLE__RELOAD", "100ms")
    config = write_config(tmp_path, name, broker.bootstrap, redis_url, Path(registry.location))
    sent = messages(plant, slice(0, 900))

    def serves(version: str) -> bool:
        series = f'stream_detector_model_info{{group="",name="{first.name}",version="{version}"}} 1.0'
        return series in service.get("/metrics")[1]

    with RunningService(config) as service:
        service.wait_ready()
        produce(broker.bootstrap, f"{name}-events", sent[:300], PARTITIONS)
        wait_for(lambda: score_count(service) >= expected_windows(sent[:300]), "the first windows", service)
        (tmp_path / "registry" / "current.json").write_text('{"version": "20200101000000-00000000"}')
        refused = 'stream_detector_bundle_last_reload_successful{group=""} 0.0'
        wait_for(lambda: refused in service.get("/metrics")[1], "a version that is not there to be refused", service)
        assert serves(first.version)
        produce(broker.bootstrap, f"{name}-events", sent[300:600], PARTITIONS)
        registry.promote(second.version)
        wait_for(lambda: serves(second.version), "the second version", service)
        produce(broker.bootstrap, f"{name}-events", sent[600:], PARTITIONS)
        wait_for(lambda: score_count(service) >= expected_windows(sent), "all windows", service)
        assert 'stream_detector_bundle_last_reload_successful{group=""} 1.0' in service.get("/metrics")[1]
        assert service.terminate() == 143
    scores = json_values(committed_records(broker.bootstrap, f"{name}-scores"))
    assert len(scores) == len({score["id"] for score in scores}) == expected_windows(sent)
    for sensor in {score["sensor_id"] for score in scores}:
        own = sorted((one for one in scores if one["sensor_id"] == sensor), key=lambda one: one["window_end"])
        versions = [one["model"]["version"] for one in own]
        assert set(versions) == {first.version, second.version}
        assert versions == sorted(versions, key=[first.version, second.version].index)
    thresholds: dict[str, dict[tuple[str, str], float]] = {first.version: {}, second.version: {}}
    for score in scores:
        thresholds[score["model"]["version"]][score["sensor_id"], score["part"]] = score["threshold"]
    both = thresholds[first.version].keys() & thresholds[second.version].keys()
    assert both
    for one in both:
        assert thresholds[second.version][one] == pytest.approx(thresholds[first.version][one] / 2, rel=1e-5)


def stricter(path: Path, target: Path) -> Path:
    """The same model with half the thresholds."""
    found = load_bundle(path)

    def halved(of: Thresholds) -> Thresholds:
        entries = tuple(replace(entry, threshold=entry.threshold / 2) for entry in of.entries)
        return replace(of, entries=entries, partners={name: halved(part) for name, part in of.partners.items()})

    (target.parent / "model.keras").write_bytes(found.model)
    manifest = replace(found.manifest, created="2030-01-01T00:00:00.000Z")
    write_bundle(
        target,
        manifest,
        model=target.parent / "model.keras",
        scaler=found.scaler,
        errors=found.errors,
        thresholds=halved(found.thresholds),
    )
    return target
