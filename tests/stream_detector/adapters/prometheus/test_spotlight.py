"""Series of single sensors: the right ones, few, and gone when they are no news."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream_detector.adapters.prometheus.observer import PrometheusObserver
from stream_detector.adapters.prometheus.spotlight import EVERY, FEATURES, LONGEST, STALE, Spotlight, label
from stream_detector.events import Errors, Model, Partition, Windows
from stream_detector.ports import Firing

HERE, THERE = Partition("events", 0), Partition("events", 1)
WIDTH = FEATURES + 2
ORDER = ("sensor_id", "feature", "kind", "severity")  # of labels, in what `Rig.read` returns


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def batch(scores: list[tuple[str, float]]) -> tuple[Windows, Errors]:
    n = len(scores)
    column = np.array([score for _, score in scores], np.float32)
    shares = np.tile(np.arange(WIDTH, dtype=np.float32) / np.float32(sum(range(WIDTH))), (n, 1)).astype(np.float32)
    windows = Windows(
        [name for name, _ in scores],
        np.zeros((n, 4, WIDTH), np.float32),
        np.zeros((n, 2), np.int64),
        np.zeros((n, 2), np.int64),
        np.zeros((n, WIDTH), np.bool_),
        np.ones(n, np.float32),
    )
    return windows, Errors(column, 2 * column, column * 0 + 2, shares, np.zeros(n, np.int32))


class Rig:
    """An observer whose metrics are read as Prometheus would."""

    def __init__(self, worst: int = 3, firing: int = 2) -> None:
        self.clock = Clock()
        names = [f"f{at}" for at in range(WIDTH)]
        self.observer = PrometheusObserver(Model("m", "1"), self.clock, names, worst=worst, firing=firing)

    def score(self, *scores: tuple[str, float], partition: Partition = HERE) -> None:
        self.observer.scored(partition, *batch(list(scores)))

    def stand(self, *firing: Firing, partitions: tuple[Partition, ...] = (HERE, THERE)) -> None:
        self.clock.now += EVERY
        self.observer.gauges(partitions=partitions, sensors=9, pending=0, lag={}, firing=firing)

    def read(self, name: str) -> dict[tuple[str, ...], float]:
        text = generate_latest(self.observer.registry).decode()
        return {
            tuple(sample.labels[key] for key in ORDER if key in sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"stream_detector_{name}"
        }


def test_the_worst_sensors_by_their_newest_window() -> None:
    rig = Rig()
    rig.score(("a", 9.0), *((f"calm-{at}", 0.1) for at in range(100)), ("b", 2.0), ("a", 0.5), ("c", 3.0))
    rig.score(("d", 1.0), partition=THERE)
    rig.stand()
    assert rig.read("sensor_score") == {("c",): 3.0, ("b",): 2.0, ("d",): 1.0}
    assert set(rig.read("sensor_threshold").values()) == {2.0}
    rig.score(("c", 0.2))
    assert rig.read("sensor_score") == {("b",): 2.0, ("d",): 1.0, ("a",): 0.5}


def test_few_features_of_each_the_largest() -> None:
    rig = Rig()
    rig.score(("a", 1.0))
    shown = rig.read("sensor_contribution")
    assert {feature for _, feature in shown} == {f"f{at}" for at in range(2, WIDTH)}
    assert shown["a", f"f{WIDTH - 1}"] == pytest.approx((WIDTH - 1) / sum(range(WIDTH)))


def test_firing_sensors_are_shown_beside_the_worst_the_most_severe_first() -> None:
    rig = Rig(worst=1)
    rig.score(("worst", 5.0), ("x", 0.5), ("y", 0.4), ("z", 0.3))
    alerts = Firing("x", "anomaly", "minor"), Firing("y", "fault", "critical"), Firing("z", "silence", "major")
    rig.stand(*alerts)
    assert rig.read("alert_firing") == {("y", "fault", "critical"): 1, ("z", "silence", "major"): 1}
    rig.score(("y", 0.6), ("x", 0.7))
    assert rig.read("sensor_score") == {("worst",): 5.0, ("y",): pytest.approx(0.6), ("z",): pytest.approx(0.3)}
    opened = rig.read("firing_alerts")
    assert len(opened) == 9
    assert {key: count for key, count in opened.items() if count} == {
        ("anomaly", "minor"): 1,
        ("fault", "critical"): 1,
        ("silence", "major"): 1,
    }
    rig.stand()
    assert not rig.read("alert_firing")
    assert not any(rig.read("firing_alerts").values())


def test_those_shown_stay_among_equals() -> None:
    rig = Rig()
    rig.stand(Firing("x", "anomaly", "major"), Firing("y", "anomaly", "major"))
    rig.stand(*(Firing(name, "anomaly", "major") for name in "abxycd"))
    assert {sensor for sensor, _, _ in rig.read("alert_firing")} == {"x", "y"}


def test_what_is_stale_or_somebody_elses_is_gone() -> None:
    rig = Rig()
    rig.score(("a", 2.0))
    rig.score(("b", 3.0), partition=THERE)
    rig.stand(partitions=(HERE,))
    assert set(rig.read("sensor_score")) == {("a",)}
    rig.clock.now += STALE
    rig.stand(partitions=(HERE,))
    assert not rig.read("sensor_score")


def test_series_and_memory_are_bounded() -> None:
    rig = Rig(worst=3, firing=2)
    for turn in range(50):
        rig.score(*((f"s-{turn}-{at}", float(at)) for at in range(200)))
        rig.stand(*(Firing(f"s-{turn}-{at}", "anomaly", "major") for at in range(200)))
    assert len(rig.read("sensor_score")) <= 5
    assert len(rig.read("alert_firing")) == 2
    assert len(rig.read("sensor_contribution")) <= 5 * FEATURES
    assert len(rig.observer._spotlight._seen) < 20


def test_none_are_shown_where_none_are_wanted() -> None:
    rig = Rig(worst=0, firing=0)
    rig.score(("a", 2.0))
    rig.stand(Firing("a", "anomaly", "major"))
    assert not rig.read("sensor_score")
    assert not rig.read("alert_firing")
    assert rig.read("firing_alerts")["anomaly", "major"] == 1


def test_open_alerts_are_not_counted_at_each_turn() -> None:
    looked = []

    def alerts() -> Iterator[Firing]:
        looked.append(1)
        yield Firing("a", "anomaly", "major")

    spotlight = Spotlight(1, 1)
    for at in range(10):
        spotlight.stands([HERE], alerts(), at * EVERY / 5)
    assert len(looked) == 2


def test_labels_are_short_printable_and_never_the_same() -> None:
    names = ["pump-1", "a" * LONGEST, "a" * 5_000, "a" * 5_001, "a\n", "a\\x0a", "\ud800", "\ud801", ""]
    labels = [label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert labels[0] == "pump-1"
    for shown in labels:
        assert len(shown) <= LONGEST
        assert shown.isprintable()
        shown.encode()
