"""Facts of the pipeline as Prometheus metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from stream_detector.adapters.http import Server as Server  # what `serve` returns
from stream_detector.adapters.http import serve
from stream_detector.adapters.prometheus.spotlight import FEATURES, Spotlight
from stream_detector.events import Errors, Float32, Model, Partition, Severity, Slice, Windows
from stream_detector.ports import Delivery, Firing, Kind
from stream_detector.settings import Metrics

PREFIX = "stream_detector"
STAGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
BATCHES = tuple(float(1 << power) for power in range(14))  # windows: 1 … 8192
SCORES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # 1: threshold
LATENCIES = (*STAGES[4:], 30.0, 60.0, 300.0, 1800.0, 7200.0)  # seconds
LABELS = 50  # different values a label may take; what comes after is counted as "other"
CASES = ("fresh", "resumed", "ahead", "behind", "empty", "replaced", "truncated", "damaged", "rewound")
OWN_COUNTERS = ("late", "duplicate")  # rules that have a counter of their own


def _version() -> str:
    try:
        return version("stream-detector")
    except PackageNotFoundError:  # run from a folder of sources
        return "unknown"


class Spread(Collector):
    """A histogram that takes whole arrays: prometheus_client's takes one value a call, in Python."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: ArrayLike) -> None:
        """Count each of ``values``; those that are no numbers are left out."""
        array = np.asarray(values, np.float64).ravel()
        array = array[np.isfinite(array)]
        counts = np.bincount(np.searchsorted(self._bounds, array), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(array.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            running, total = np.cumsum(self._counts).tolist(), self._sum
        names = [*(repr(bound) for bound in self._bounds.tolist()), "+Inf"]
        yield HistogramMetricFamily(self._name, self._text, list(zip(names, running, strict=True)), total)


class Sensors(Collector):
    """Series of single sensors: those in the spotlight, as they are when asked."""

    def __init__(self, spotlight: Spotlight, features: Sequence[str], registry: CollectorRegistry) -> None:
        self._spotlight, self._features = spotlight, features
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Names alone: registering must not need what is not there yet."""
        return iter(self._families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        scores, thresholds, contributions, firing, opened = families = self._families()
        scene = self._spotlight.scene()
        for sensor, seen in scene.seen.items():
            scores.add_metric([sensor], seen.score)
            thresholds.add_metric([sensor], seen.threshold)
            shares = seen.contributions.tolist()
            known = seen.contributions[: len(self._features)]
            for at in np.argsort(-known, kind="stable")[:FEATURES].tolist():
                contributions.add_metric([sensor, self._features[at]], shares[at])
        for alert in scene.firing:
            firing.add_metric(alert, 1.0)
        for kind in get_args(Kind):
            for severity in get_args(Severity):
                opened.add_metric([kind, severity], scene.open.get((kind, severity), 0))
        return iter(families)

    def _families(self) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
            for name, text, labels in (
                (
                    "sensor_score",
                    "Score of the newest window, of the worst and the firing sensors; 1 is the threshold.",
                    ["sensor_id"],
                ),
                (
                    "sensor_threshold",
                    "What its error was held against; score times threshold is the error.",
                    ["sensor_id"],
                ),
                ("sensor_contribution", "Share of a feature in that score.", ["sensor_id", "feature"]),
                ("alert_firing", "Open alerts of single sensors; always 1.", ["sensor_id", "kind", "severity"]),
                ("firing_alerts", "Open alerts of all sensors.", ["kind", "severity"]),
            )
        ]


class PrometheusObserver:
    """`ports.Observer` with a registry of its own, so that several can live in one process.

    ``worst`` and ``firing`` say how many sensors have series of their own: see `spotlight`.
    """

    def __init__(
        self,
        model: Model,
        clock: Callable[[], float],
        features: Sequence[str] = (),
        *,
        worst: int = 10,
        firing: int = 50,
    ) -> None:
        self._clock = clock
        self._features = tuple(features)
        self._spotlight = Spotlight(worst, firing)
        self.registry = registry = CollectorRegistry()
        self._labels: dict[str, set[str]] = {}
        self._lags: set[Partition] = set()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._events = counter("events", "Events accepted.")
        self._rejects = counter("rejects", "Events rejected; they are in the dead-letter topic.", ["reason"])
        self._late = counter("late", "Events older than their sensor's newest by more than the grace.")
        self._duplicate = counter("duplicate", "Events that repeat a sensor's timestamp.")
        self._rules = counter("rules", "Other rules of event time that applied.", ["rule"])
        self._windows = counter("windows", "Windows scored.")
        self._outside = counter(
            "windows_outside_training",
            "Windows whose mean of a feature lies where training saw none; the model has no say in these.",
            ["feature"],
        )
        self._shifted = counter("windows_shifted", "Windows in a shift that has lasted and is taken as normal by now.")
        self._batches = counter("batches", "Batches of windows scored, of one partition each.")
        self._alerts = counter(
            "alerts", "Changes of alerts published; firing also when one worsens.", ["severity", "status"]
        )
        self._openings = counter(
            "partition_restarts", "Partitions opened, by what was found (ARCHITECTURE.md).", ["case"]
        )
        self._interruptions = counter("interruptions", "Times that everything had to be loaded again.", ["reason"])
        self._reloads = counter("bundle_reloads", "Bundles loaded, the first too, or not.", ["outcome"])
        self._sizes = Histogram(
            f"{PREFIX}_batch_size_windows", "Windows in a batch.", buckets=BATCHES, registry=registry
        )
        self._stages = Histogram(
            f"{PREFIX}_stage_duration_seconds",
            "Time in poll, decode (within poll), append, queue, compute, judge, deliver, settle.",
            ["stage"],
            buckets=STAGES,
            registry=registry,
        )
        self._scores = Spread(f"{PREFIX}_score", "Scores of all windows; 1 is the threshold.", SCORES, registry)
        self._latency = Spread(
            f"{PREFIX}_latency_seconds",
            "From a window's last event, by its own timestamp, to its publication.",
            LATENCIES,
            registry,
        )
        self._lag = gauge("consumer_lag_events", "Offsets behind the end of the log.", ["topic", "partition"])
        self._pending = gauge("pending_windows", "Windows that filled and are not yet settled.")
        self._sensors = gauge("sensors", "Sensors with state here.")
        self._partitions = gauge("assigned_partitions", "Partitions assigned to this worker.")
        self._flight = gauge("in_flight_batches", "Batches scored and not yet published.")
        self._delivered = gauge(
            "last_delivery_timestamp_seconds", "When a delivery last succeeded; 0 before the first."
        )
        # By group of sensors that has a bundle of its own; the group of all others is "", as if there was no label.
        self._model = gauge("model_info", "The model that judges; always 1.", ["group", "name", "version"])
        self._reload = gauge("bundle_last_reload_successful", "Whether the newest bundle could be loaded.", ["group"])
        self._reloaded = gauge("bundle_last_reload_success_timestamp_seconds", "When one last could.", ["group"])
        self._ready = gauge("ready", "Whether events would be scored now, as /readyz says.")
        self._spare = gauge("spare", "Whether all is well and no partition is left for this worker.")
        self._device = gauge("device_info", "What the model runs on; always 1.", ["device"])
        gauge("build_info", "The program; always 1.", ["version"]).labels(_version()).set(1)
        Sensors(self._spotlight, features, registry)
        self._models: dict[str, Model] = {}
        self._begin()
        self.serving({"": model})

    def _begin(self) -> None:
        """Series that rules watch begin at 0: a counter that appears with its first event has not risen."""
        for case in CASES:
            self._openings.labels(self._bounded("case", case))
        for feature in self._features:
            self._outside.labels(feature)
        for reason in ("unavailable", "fenced"):
            self._interruptions.labels(reason)
        for outcome in ("success", "failure"):
            self._reloads.labels(outcome)
        for severity in get_args(Severity):
            for status in ("firing", "resolved"):
                self._alerts.labels(severity, status)

    def serving(self, models: Mapping[str, Model]) -> None:
        """These models judge from now on, by group of sensors; "" for those of no group with its own."""
        self._model.clear()
        for group, model in models.items():
            self._model.labels(group, model.name, model.version).set(1)
            if model != self._models.get(group):
                self._reload.labels(group).set(1)
                self._reloaded.labels(group).set(self._clock())
                self._reloads.labels("success").inc()
        self._models = dict(models)

    def reload_failed(self, group: str) -> None:
        """Another bundle could not be loaded; the model before it goes on."""
        self._reload.labels(group).set(0)
        self._reloads.labels("failure").inc()

    def reload_recovered(self, group: str) -> None:
        """The bundle that judges is there again: nothing is left to load."""
        self._reload.labels(group).set(1)

    def took(self, stage: str, seconds: float) -> None:
        self._stages.labels(self._bounded("stage", stage)).observe(seconds)

    def read(self, batch: Sequence[Slice]) -> None:
        """Counted when the rules have been applied: see `received`."""

    def received(self, events: int, rejects: Mapping[str, int], rules: Mapping[str, int]) -> None:
        self._events.inc(events)
        for reason, count in rejects.items():
            self._rejects.labels(self._bounded("reason", reason)).inc(count)
        self._late.inc(rules.get("late", 0))
        self._duplicate.inc(rules.get("duplicate", 0))
        for rule, count in rules.items():
            if rule not in OWN_COUNTERS:
                self._rules.labels(self._bounded("rule", rule)).inc(count)

    def started(self, device: str) -> None:
        self._device.clear()
        self._device.labels(device).set(1)

    def interrupted(self, reason: Literal["unavailable", "fenced"]) -> None:
        self._interruptions.labels(reason).inc()

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        self._windows.inc(len(windows))
        self._batches.inc()
        self._sizes.observe(len(windows))
        if errors.outside is not None:
            for feature, count in zip(self._features, errors.outside.sum(axis=0).tolist(), strict=False):
                self._outside.labels(feature).inc(count)
        if errors.accepted is not None:
            self._shifted.inc(int(np.count_nonzero(errors.accepted)))
        self._scores.observe(errors.score)
        self._spotlight.scored(partition, windows, errors, self._clock())
        self._flight.inc()

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        for alert in delivery.alerts:
            self._alerts.labels(alert.severity, alert.status).inc()
        self._latency.observe(np.asarray(latency_ms, np.float64) / 1_000)
        self._flight.set(0)
        self._delivered.set(self._clock())

    def reconciled(self, partition: Partition, case: str) -> None:
        self._openings.labels(self._bounded("case", case)).inc()

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        self._partitions.set(len(partitions))
        self._spotlight.stands(partitions, firing, self._clock())
        self._sensors.set(sensors)
        self._pending.set(pending)
        for gone in self._lags - lag.keys():  # a partition that went elsewhere is somebody else's to report
            self._lag.remove(gone.topic, str(gone.number))
        for partition, offsets in lag.items():
            self._lag.labels(partition.topic, str(partition.number)).set(offsets)
        self._lags = set(lag)

    def _bounded(self, label: str, value: str) -> str:
        seen = self._labels.setdefault(label, set())
        if value not in seen:
            if len(seen) >= LABELS:
                return "other"
            seen.add(value)
        return value

    def serve(
        self,
        host: str,
        port: int,
        live: Callable[[], bool],
        ready: Callable[[], tuple[bool, str]],
        access: Metrics | None = None,
        *,
        spare: Callable[[], bool] = lambda: False,
    ) -> Server:
        """Answer on /metrics, /livez and /readyz from a daemon thread; port 0 takes a free one.

        ``access`` says who may: the settings of TLS and of the password.
        """
        self._ready.set_function(lambda: float(ready()[0]))
        self._spare.set_function(lambda: float(spare()))
        return serve(host, port, make_wsgi_app(self.registry), live, ready, access or Metrics())
