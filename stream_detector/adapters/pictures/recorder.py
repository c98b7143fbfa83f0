"""What the report of a replay shows, collected while it runs, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import Any

import msgspec
import numpy as np

from stream_detector.events import Alert, Float32, Float64, Int64, Slice
from stream_detector.ports import Delivery
from stream_detector.timestamps import parse

BUCKETS = 300  # points of a line at most, each the range of what it stands for
SENSORS = 2_000  # of which lines are kept; more are counted only
ALERTS = 500  # that the report lists; ten times as many are followed


class Trace:
    """Lines of bounded length: the range of each column in buckets of equally many points. ``w`` columns."""

    def __init__(self, width: int) -> None:
        self.times: Int64 = np.empty(0, np.int64)  # (b) of each bucket's first point, epoch ms
        self.low: Float32 = np.empty((0, width), np.float32)
        self.high: Float32 = np.empty((0, width), np.float32)
        self._waiting: tuple[Int64, Float32] = self.times, self.low
        self._each = 1  # points in a bucket

    def add(self, times: Int64, values: Float32) -> None:
        """Take ``n`` points, ``times`` (n) and ``values`` (n, w); NaN is no value."""
        times = np.concatenate([self._waiting[0], times])
        values = np.concatenate([self._waiting[1], values])
        whole = len(times) // self._each * self._each
        self._waiting = times[whole:], values[whole:]
        buckets = values[:whole].reshape(-1, self._each, values.shape[1])
        self.times = np.concatenate([self.times, times[: whole : self._each]])
        self.low = np.concatenate([self.low, np.fmin.reduce(buckets, axis=1)])
        self.high = np.concatenate([self.high, np.fmax.reduce(buckets, axis=1)])
        while len(self.times) >= 2 * BUCKETS:
            self.times = _halved(self.times, lambda first, _: first)
            self.low = _halved(self.low, np.fmin)
            self.high = _halved(self.high, np.fmax)
            self._each *= 2

    def lines(self) -> tuple[Int64, Float32, Float32]:
        """Times, lows and highs, with what waits for a full bucket."""
        times, values = self._waiting
        if not len(times):
            return self.times, self.low, self.high
        low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        return np.append(self.times, times[0]), np.vstack([self.low, low]), np.vstack([self.high, high])


def _halved(buckets: Any, merge: Callable[[Any, Any], Any]) -> Any:
    """Neighbours merged; an odd one at the end stays as it is."""
    even = len(buckets) // 2 * 2
    return np.concatenate([merge(buckets[:even:2], buckets[1:even:2]), buckets[even:]])


class Recorder:
    """Collects what the report shows, while a replay runs, in bounded memory."""

    def __init__(self, features: Sequence[str]) -> None:
        self.features = tuple(features)
        self.values: dict[str, Trace] = {}
        self.scores: dict[str, Trace] = {}
        self.peaks: dict[str, float] = {}
        self.blame: dict[str, Float64] = {}  # (F) by sensor, summed contributions weighted by score
        self.alerts: dict[str, Alert] = {}  # the last revision, by id
        self.counts: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()  # by reason
        self.span: tuple[int, int] | None = None  # event time, epoch ms
        self.models: set[str] = set()

    def read(self, slices: Iterable[Slice]) -> None:
        """Take what a poll brought."""
        for batch in slices:
            events = batch.events
            self.counts["events"] += len(events)
            if not len(events):
                continue
            self._widen(int(events.timestamps.min()), int(events.timestamps.max()))
            rows: dict[str, list[int]] = {}
            for row, sensor in enumerate(events.sensors):
                rows.setdefault(sensor, []).append(row)
            for sensor, chosen in rows.items():
                if trace := self._trace(self.values, sensor, len(self.features)):
                    trace.add(events.timestamps[chosen], events.values[chosen])

    def delivered(self, delivery: Delivery) -> None:
        """Take what was published."""
        self.rejects.update(reject.reason for _, reject in delivery.rejects)
        points: dict[str, list[tuple[int, float]]] = {}
        for score in delivery.scores:
            self.counts["windows"] += 1
            self.counts["anomalous"] += score.score >= 1
            self.models.add(f"{score.model.name} {score.model.version}")
            sensor = score.sensor_id
            self.peaks[sensor] = max(self.peaks.get(sensor, 0.0), score.score)
            points.setdefault(sensor, []).append((parse(score.window_end, UTC), score.score))
            if score.score >= 0.5 and sensor in self.values:
                shares = np.array([score.contributions.get(name, 0.0) for name in self.features])
                self.blame[sensor] = self.blame.get(sensor, np.zeros(len(shares))) + score.score * shares
        for sensor, pairs in points.items():
            if trace := self._trace(self.scores, sensor, 1):
                times, values = zip(*pairs, strict=True)
                trace.add(np.array(times, np.int64), np.array(values, np.float32)[:, None])
        for alert in delivery.alerts:
            self.counts["alerts"] += alert.revision == 1
            before = self.alerts.get(alert.id)
            if before is not None and alert.status == "resolved":  # what was wrong says more than that it is over
                said = {"summary": before.summary, "contributions": before.contributions}
                alert = msgspec.structs.replace(alert, **said)
            if before is not None or len(self.alerts) < 10 * ALERTS:
                self.alerts[alert.id] = alert

    def _trace(self, traces: dict[str, Trace], sensor: str, width: int) -> Trace | None:
        if sensor not in traces and len(traces) < SENSORS:
            traces[sensor] = Trace(width)
        return traces.get(sensor)

    def _widen(self, first: int, last: int) -> None:
        start, end = self.span or (first, last)
        self.span = min(start, first), max(end, last)
