"""What happens to webhooks as Prometheus metrics; `webhooks.ports.Watcher`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app

from stream_detector.adapters.http import Server, serve
from stream_detector.settings import Metrics
from stream_detector.webhooks.circuit import State
from stream_detector.webhooks.ports import Outcome, Word

PREFIX = "stream_detector_webhooks"
TRIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0)  # seconds
DELAYS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0, 259_200.0)  # seconds


class WebhookMetrics:
    """With a registry of its own. Targets are known from the start, so their counters begin at 0."""

    def __init__(self, targets: Iterable[str], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, ["target"], registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, ["target", *labels], registry=registry)

        self._tries = counter("attempts", f"Requests to targets: {', '.join(get_args(Word))}.", "outcome")
        self._delivered = counter("delivered", "Alerts that targets accepted.")
        self._dead = counter("dead_letters", "Alerts that became dead letters, by reason.", "reason")
        self._missed = counter("missed_records", "Records of the alerts topic that retention removed too early.")
        self._seconds = Histogram(
            f"{PREFIX}_attempt_seconds", "How long a request took.", ["target"], registry=registry, buckets=TRIES
        )
        self._delay = Histogram(
            f"{PREFIX}_delivery_seconds",
            "Time from an alert's publication to its acceptance.",
            ["target"],
            registry=registry,
            buckets=DELAYS,
        )
        self._waiting = gauge("waiting", "Alerts that were read and are not done: the backlog, with the lag.")
        self._lag = gauge("consumer_lag", "Records of the alerts topic that were not read yet.")
        self._flying = gauge("in_flight", "Requests under way.")
        self._success = gauge("last_success_timestamp_seconds", "When a target last accepted an alert.")
        self._state = Gauge(
            f"{PREFIX}_target_state",
            "1 for the state that a target is in: ok, open, disabled.",
            ["target", "state"],
            registry=registry,
        )
        for target in targets:
            for metric in (self._delivered, self._missed, self._seconds, self._delay):
                metric.labels(target)

    def tried(self, target: str, outcome: Outcome) -> None:
        """See `webhooks.ports.Watcher.tried`."""
        self._tries.labels(target, outcome.word).inc()
        self._seconds.labels(target).observe(outcome.seconds)

    def delivered(self, target: str, seconds: float) -> None:
        """See `webhooks.ports.Watcher.delivered`."""
        self._delivered.labels(target).inc()
        self._delay.labels(target).observe(seconds)
        self._success.labels(target).set(self._clock())

    def died(self, target: str, reason: str) -> None:
        """See `webhooks.ports.Watcher.died`."""
        self._dead.labels(target, reason).inc()

    def missed(self, target: str, records: int) -> None:
        """See `webhooks.ports.Watcher.missed`."""
        self._missed.labels(target).inc(records)

    def standing(self, target: str, *, waiting: int, lag: int, flying: int, state: State) -> None:
        """See `webhooks.ports.Watcher.standing`."""
        self._waiting.labels(target).set(waiting)
        self._lag.labels(target).set(lag)
        self._flying.labels(target).set(flying)
        for one in get_args(State):
            self._state.labels(target, one).set(one == state)

    def serve(self, access: Metrics, live: Callable[[], bool], ready: Callable[[], tuple[bool, str]]) -> Server:
        """Answer on /metrics, /livez and /readyz from a daemon thread."""
        return serve(access.host, access.port, make_wsgi_app(self.registry), live, ready, access)
