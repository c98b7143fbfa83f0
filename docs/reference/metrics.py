"""Every metric, from the registries that `/metrics` is made of, after one of everything has happened."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from docs.reference import markdown
from docs.reference.markdown import code
from stream_detector.adapters.prometheus.observer import PrometheusObserver
from stream_detector.adapters.prometheus.webhooks import WebhookMetrics
from stream_detector.events import Errors, Model, Partition, Windows
from stream_detector.ports import Firing
from stream_detector.webhooks.ports import Outcome

INTRODUCTION = """
Histograms have `_bucket`, `_sum` and `_count`; these and counters have a `_created`, when they began. A metric with
labels has no series before something happened, unless a rule watches it: then it begins at 0. How to get and watch
them is in [monitoring.md](../monitoring.md), what to do when a rule fires in the [runbook](../runbook.md).
"""
SERVICE = "At `/metrics` on `metrics.port` (9464) of each worker of `stream-detector run`."
WEBHOOKS = "At `/metrics` on `webhooks.metrics_port` (9465) of `stream-detector webhooks`."
# At the end of a name.
UNITS = ("seconds", "bytes", "events", "windows", "batches", "sensors", "partitions", "alerts", "records")


def page() -> str:
    return markdown.page(
        "Metrics",
        INTRODUCTION,
        "## The service",
        SERVICE,
        _table(service().collect()),
        "## Webhooks",
        WEBHOOKS,
        _table(webhooks().collect()),
    )


def service() -> CollectorRegistry:
    """A service's registry after one of everything."""
    partition, sensor = Partition("sensor-events", 0), "pump-7"
    windows = Windows(
        [sensor],
        np.zeros((1, 1, 1), np.float32),
        np.zeros((1, 2), np.int64),
        np.zeros((1, 2), np.int64),
        np.zeros((1, 1), np.bool_),
        np.ones(1, np.float32),
    )
    one = np.ones(1, np.float32)
    observer = PrometheusObserver(Model("pumps", "1"), lambda: 0.0, ["flow"])
    observer.started("CPU")
    observer.took("poll", 0.0)
    observer.received(1, {"not-json": 1}, {"imputed": 1})
    observer.scored(partition, windows, Errors(one, one, one, np.ones((1, 1), np.float32), np.zeros(1, np.int32)))
    observer.gauges(
        partitions=[partition], sensors=1, pending=0, lag={partition: 0}, firing=[Firing(sensor, "anomaly", "minor")]
    )
    return observer.registry


def webhooks() -> CollectorRegistry:
    """A webhooks process' registry after one of everything."""
    metrics = WebhookMetrics(["ops"], lambda: 0.0)
    metrics.tried("ops", Outcome("delivered", ""))
    metrics.delivered("ops", 0.0)
    metrics.died("ops", "exhausted")
    metrics.standing("ops", waiting=0, lag=0, flying=0, state="ok")
    return metrics.registry


def _table(families: Iterable[Metric]) -> str:
    counted = [family for family in families if not family.name.endswith("_created")]
    return markdown.table(("metric", "type", "unit", "labels", "meaning"), map(_row, counted))


def _row(family: Metric) -> tuple[str, str, str, str, str]:
    if not family.samples:
        raise LookupError(f"{family.name} has no series here: let happen what it counts, so that its labels are seen")
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    meaning = family.documentation.rstrip(".")
    return code(name), family.type, _unit(family.name), ", ".join(map(code, labels)), meaning


def _unit(name: str) -> str:
    if name.endswith(("_timestamp_seconds", "_start_time_seconds")):
        return "seconds since 1970"
    last = name.rpartition("_")[2]
    return last if last in UNITS else ""
