"""The metrics that interface.md promises, and the port that shows them."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_detector import reconcile
from stream_detector.adapters.prometheus.observer import LABELS, PrometheusObserver, Server
from stream_detector.errors import SettingsError
from stream_detector.events import Alert, Errors, Model, Origin, Partition, Windows
from stream_detector.ports import Delivery

PARTITION = Partition("events", 3)
ALERT = Alert(
    id="a",
    revision=1,
    status="firing",
    kind="anomaly",
    sensor_id="pump",
    severity="major",
    started_at="2026-01-01T00:00:00Z",
    ended_at=None,
    score=2.0,
    peak_score=2.0,
    threshold=1.0,
    contributions={},
    observed={},
    expected={},
    summary="",
    model=Model("pumps", "7"),
    source=Origin("events", 3, 0, 1),
)


class Health:
    live = True
    ready = (True, "all answer")


@pytest.fixture
def observer() -> PrometheusObserver:
    return PrometheusObserver(Model("pumps", "7"), lambda: 1_000.0)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(observer: PrometheusObserver, health: Health) -> Iterator[Server]:
    opened = observer.serve("127.0.0.1", 0, lambda: health.live, lambda: health.ready)
    yield opened
    opened.close()


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own port
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(server: Server) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of the labels' names …) of every sample."""
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def windows(n: int) -> Windows:
    return Windows(
        ["pump"] * n,
        np.zeros((n, 4, 1), np.float32),
        np.zeros((n, 2), np.int64),
        np.zeros((n, 2), np.int64),
        np.zeros((n, 1), np.bool_),
        np.ones(n, np.float32),
    )


def errors(*scores: float) -> Errors:
    column = np.array(scores, np.float32)
    n = len(scores)
    return Errors(column, column, column, np.ones((n, 1), np.float32), np.zeros(n, np.int32))


def test_every_fact_has_its_metric(observer: PrometheusObserver, server: Server) -> None:
    observer.took("poll", 0.003)
    observer.received(10, {"not-json": 2}, {"late": 3, "duplicate": 4, "restarted": 5})
    observer.scored(PARTITION, windows(3), errors(0.5, 1.0, np.nan))
    observer.scored(PARTITION, windows(0), errors())
    observer.delivered(Delivery([], [ALERT], [], {PARTITION: 9}), [20.0, 2_000.0])
    observer.reconciled(PARTITION, "resumed")
    observer.gauges(partitions=[PARTITION], sensors=2, pending=6, lag={PARTITION: 8}, firing=())
    found = samples(server)
    expected = {
        ("events_total",): 10,
        ("rejects_total", "not-json"): 2,
        ("late_total",): 3,
        ("duplicate_total",): 4,
        ("rules_total", "restarted"): 5,
        ("windows_total",): 3,
        ("batches_total",): 2,
        ("alerts_total", "major", "firing"): 1,
        ("batch_size_windows_sum",): 3,
        ("batch_size_windows_count",): 2,
        ("score_bucket", "0.5"): 1,
        ("score_bucket", "1.0"): 2,
        ("score_bucket", "+Inf"): 2,
        ("score_count",): 2,
        ("stage_duration_seconds_count", "poll"): 1,
        ("latency_seconds_count",): 2,
        ("latency_seconds_sum",): 2.02,
        ("consumer_lag_events", "3", "events"): 8,
        ("pending_windows",): 6,
        ("sensors",): 2,
        ("assigned_partitions",): 1,
        ("in_flight_batches",): 0,
        ("model_info", "", "pumps", "7"): 1,
        ("partition_restarts_total", "resumed"): 1,
        ("last_delivery_timestamp_seconds",): 1_000,
    }
    assert {key: found[f"stream_detector_{key[0]}", *key[1:]] for key in expected} == pytest.approx(expected)
    assert found["process_resident_memory_bytes",] > 0
    assert ("process_cpu_seconds_total",) in found


def test_features_outside_of_training_are_counted_from_0(health: Health) -> None:
    observer = PrometheusObserver(Model("pumps", "7"), lambda: 1_000.0, ["flow", "temp"])
    outside = np.array([[False, True], [False, True], [False, False]])
    observer.scored(PARTITION, windows(3), replace(errors(0.5, 0.5, 0.5), outside=outside))
    observer.scored(PARTITION, windows(1), errors(0.5))
    with closing(observer.serve("127.0.0.1", 0, lambda: health.live, lambda: health.ready)) as opened:
        found = samples(opened)
    counted = {key[1]: value for key, value in found.items() if key[0].endswith("_windows_outside_training_total")}
    assert counted == {"flow": 0, "temp": 2}


def test_windows_in_a_shift_that_is_normal_by_now_are_counted(observer: PrometheusObserver, server: Server) -> None:
    shifted = replace(errors(0.5, 0.5, 0.5), accepted=np.array([0, 1.5, 2.5], np.float32))
    observer.scored(PARTITION, windows(3), shifted)
    observer.scored(PARTITION, windows(1), errors(0.5))
    assert samples(server)["stream_detector_windows_shifted_total",] == 2


def test_a_partition_that_went_has_no_lag(observer: PrometheusObserver, server: Server) -> None:
    observer.gauges(partitions=[PARTITION], sensors=0, pending=0, lag={PARTITION: 8}, firing=())
    observer.gauges(partitions=[PARTITION], sensors=0, pending=0, lag={Partition("events", 4): 1}, firing=())
    lags = [key for key in samples(server) if key[0] == "stream_detector_consumer_lag_events"]
    assert lags == [("stream_detector_consumer_lag_events", "4", "events")]


def test_another_model_takes_the_place_of_the_first(observer: PrometheusObserver, server: Server) -> None:
    observer.serving({"": Model("pumps", "8")})
    observer.reload_failed("")
    found = samples(server)
    assert [key[1:] for key in found if key[0] == "stream_detector_model_info"] == [("", "pumps", "8")]
    assert found["stream_detector_bundle_last_reload_successful", ""] == 0
    assert found["stream_detector_bundle_reloads_total", "success"] == 2


def test_each_group_s_model_has_a_series_and_is_told_apart(observer: PrometheusObserver, server: Server) -> None:
    observer.serving({"": Model("pumps", "7"), "fans": Model("fans", "1")})
    observer.reload_failed("")
    observer.serving({"": Model("pumps", "7"), "fans": Model("fans", "2")})
    found = samples(server)
    models = {key[1:] for key in found if key[0] == "stream_detector_model_info"}
    assert models == {("", "pumps", "7"), ("fans", "fans", "2")}
    assert found["stream_detector_bundle_last_reload_successful", ""] == 0  # what went well for fans is not its success
    assert found["stream_detector_bundle_last_reload_successful", "fans"] == 1
    assert found["stream_detector_bundle_reloads_total", "success"] == 3
    observer.reload_recovered("")
    assert samples(server)["stream_detector_bundle_last_reload_successful", ""] == 1


def test_labels_are_bounded(observer: PrometheusObserver, server: Server) -> None:
    observer.received(0, {f"reason-{number}": 1 for number in range(LABELS + 10)}, {})
    reasons = {key[1]: value for key, value in samples(server).items() if key[0] == "stream_detector_rejects_total"}
    assert len(reasons) == LABELS + 1
    assert reasons["other"] == 10


def test_health(server: Server, health: Health) -> None:
    assert get(server, "/livez") == (200, "the loop turns\n")
    assert get(server, "/readyz") == (200, "all answer\n")
    health.live, health.ready = False, (False, "no partitions yet")
    assert get(server, "/livez") == (503, "the loop does not turn\n")
    assert get(server, "/readyz") == (503, "no partitions yet\n")


def test_nothing_else_is_there(server: Server) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics", "POST")[0] == 405


def test_what_rules_watch_begins_at_0(observer: PrometheusObserver, server: Server) -> None:
    found = samples(server)
    cases = re.findall(r"^([a-z]+) {3,}", reconcile.__doc__ or "", re.MULTILINE)
    assert len(cases) == 9
    for case in cases:
        assert found["stream_detector_partition_restarts_total", case] == 0
    assert found["stream_detector_interruptions_total", "unavailable"] == 0
    assert found["stream_detector_alerts_total", "critical", "firing"] == 0
    observer.interrupted("unavailable")
    observer.started("a device")
    found = samples(server)
    assert found["stream_detector_interruptions_total", "unavailable"] == 1
    assert found["stream_detector_device_info", "a device"] == 1


def test_readiness_is_a_metric_too(server: Server, health: Health) -> None:
    assert samples(server)["stream_detector_ready",] == 1
    health.ready = (False, "no partitions yet")
    assert samples(server)["stream_detector_ready",] == 0


def test_observers_do_not_clash(observer: PrometheusObserver) -> None:
    PrometheusObserver(Model("pumps", "7"), lambda: 0.0).received(1, {}, {})


def test_a_taken_port_names_the_setting(observer: PrometheusObserver, server: Server) -> None:
    with pytest.raises(SettingsError, match=rf"metrics\.port: {server.port} is taken"):
        observer.serve("127.0.0.1", server.port, lambda: True, lambda: (True, ""))
    with pytest.raises(SettingsError, match=r"metrics\.host"):
        observer.serve("192.0.2.1", 0, lambda: True, lambda: (True, ""))


def test_closing_twice_frees_port_and_thread(observer: PrometheusObserver) -> None:
    opened = observer.serve("127.0.0.1", 0, lambda: True, lambda: (True, ""))
    opened.close()
    opened.close()
    again = observer.serve("127.0.0.1", opened.port, lambda: True, lambda: (True, ""))
    again.close()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}
