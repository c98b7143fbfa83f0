"""What the live page shows, in bounded memory: the newest points of few sensors, and the alerts that fire.

Those sensors are kept that somebody looks at, then those that fire, then those that were worst of late. One thread
owns a board; nothing here locks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC
from typing import NamedTuple

import numpy as np

from stream_detector.events import Alert, Bool, Float32, Int64, Severity, State
from stream_detector.timestamps import parse

SENSORS = 100  # of which points are kept
POINTS = 4_000  # of each at most: events, and as many scores
BYTES = 64 << 20  # of all points together; the more features, the fewer points
ALERTS = 200  # that fire; more are counted by the metrics alone
SPANS = 50  # alerts of one sensor
HALVED = 60.0  # seconds after which a bad score counts half when it is asked who was worst of late
AT_ONCE = 16  # windows that the model is asked about in one call: its smallest batch
NEVER = int(np.iinfo(np.int64).min)
RANK: dict[Severity, int] = {"minor": 1, "major": 2, "critical": 3}

Expect = Callable[[list[str], Float32], Float32 | None]
"""What the model expects of windows (n, W, F) of sensors (n), in raw units; None if it cannot be asked now."""


class Seen(NamedTuple):
    """``n`` events as they were read."""

    sensors: list[str]  # (n)
    times: Int64  # (n) epoch ms
    values: Float32  # (n, F) NaN where nothing was measured


class Scored(NamedTuple):
    """``n`` windows that were scored."""

    sensors: list[str]  # (n)
    ends: Int64  # (n) time of the last event, epoch ms
    scores: Float32  # (n)
    shares: Float32  # (n, F) contributions


class Track:
    """The newest points of one sensor, in time order. ``n`` events, ``m`` scores."""

    def __init__(self, features: int) -> None:
        self.times: Int64 = np.empty(0, np.int64)  # (n)
        self.values: Float32 = np.empty((0, features), np.float32)  # (n, F)
        self.expected: Float32 = np.empty((0, features), np.float32)  # (n, F) NaN where the model was not asked
        self.ends: Int64 = np.empty(0, np.int64)  # (m)
        self.scores: Float32 = np.empty(0, np.float32)  # (m)
        self.shares: Float32 = np.empty((0, features), np.float32)  # (m, F)
        self.spans: deque[Alert] = deque(maxlen=SPANS)  # the last record of each alert
        self.asked: set[int] = set()  # ends of windows that the model was asked about
        self.peak, self.peaked = 0.0, 0.0  # the worst score of late, and by our clock when it was
        self.revision = 0

    @property
    def newest(self) -> int:
        """Time of the last event."""
        return int(self.times[-1]) if len(self.times) else NEVER


class Board:
    """See above. ``rules`` of event time are followed as far as it takes to line up events and windows."""

    def __init__(
        self,
        features: Sequence[str],
        length: int,
        *,
        grace: int = 0,
        clock_reset: int | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.features, self.length = tuple(features), length
        self.grace, self.clock_reset, self.clock = grace, clock_reset, clock
        each = 16 + 4 + 12 * len(self.features)  # bytes of an event and a score
        self.points = int(np.clip(BYTES // (SENSORS * each), 16, POINTS))
        self.tracks: dict[str, Track] = {}
        self.watched: frozenset[str] = frozenset()
        self.alerts: dict[str, Alert] = {}  # the last record of each that fires, by id
        self.firing: dict[str, dict[str, Severity]] = {}  # by sensor and id; empty: an alert that is not known
        self.revision = 0  # rises with every change

    @property
    def room(self) -> bool:
        """Whether any sensor would be kept."""
        return len(self.tracks) < SENSORS

    def watch(self, sensors: Collection[str]) -> None:
        """Somebody looks at these; nobody looks at others any more."""
        self.watched = frozenset(list(sensors)[: SENSORS // 2])
        for sensor in self.watched - self.tracks.keys():
            self._add(sensor, np.inf)
        for sensor in [name for name, track in self.tracks.items() if not track.revision and name not in self.watched]:
            del self.tracks[sensor]  # of whom nothing was ever heard

    def read(self, seen: Seen) -> None:
        """Take events, in the order in which they were read."""
        rows: dict[str, list[int]] = {}
        for row, sensor in enumerate(seen.sensors):
            rows.setdefault(sensor, []).append(row)
        for sensor, chosen in rows.items():
            if sensor in self.tracks or (self.room and self._add(sensor, 0.0)):
                self._extend(self.tracks[sensor], seen.times[chosen], seen.values[chosen])

    def scored(self, scored: Scored) -> None:
        """Take scores, in the order in which their windows ended."""
        rows: dict[str, list[int]] = {}
        for row, sensor in enumerate(scored.sensors):
            rows.setdefault(sensor, []).append(row)
        for sensor, chosen in rows.items():
            worst = float(scored.scores[chosen].max())
            if sensor in self.tracks or self._add(sensor, worst):
                self._judge(self.tracks[sensor], scored.ends[chosen], scored.scores[chosen], scored.shares[chosen])

    def told(self, alerts: Iterable[Alert]) -> None:
        """Take alerts as they were published."""
        for alert in alerts:
            self.revision += 1
            if alert.status == "resolved":
                self._close(alert.sensor_id, alert.id)
            elif alert.id in self.alerts or len(self.alerts) < ALERTS:
                self.alerts[alert.id] = alert
                self.firing.setdefault(alert.sensor_id, {})[alert.id] = alert.severity
            if alert.sensor_id in self.tracks or self._add(alert.sensor_id, alert.score):
                self._span(self.tracks[alert.sensor_id], alert)

    def stand(self, states: Mapping[str, State]) -> None:
        """Take what the newest score of sensors says of them.

        Where it fires and no alert is known, one was told before the page began, or is too many. Where it is normal,
        what the page missed is over.
        """
        for sensor, state in states.items():
            if state == "firing" and sensor not in self.firing and len(self.firing) < 2 * ALERTS:
                self.firing[sensor] = {}
                self.revision += 1
            elif state == "normal" and sensor in self.firing:
                for id_ in [name for name in self.firing[sensor] if self.alerts[name].kind == "anomaly"]:
                    self._close(sensor, id_)
                if not self.firing.get(sensor, {"": "minor"}):
                    del self.firing[sensor]
                    self.revision += 1

    def severity(self, sensor: str) -> Severity | None:
        """Of what fires; None if nothing does, and where the alert is not known, minor."""
        if sensor not in self.firing:
            return None
        worst: Severity = max([*self.firing[sensor].values(), "minor"], key=RANK.__getitem__)
        return worst

    def order(self) -> list[str]:
        """Sensors, the worst first: by the severity of what fires, then by the newest score."""

        def badness(sensor: str) -> tuple[int, float, str]:
            severity, track = self.severity(sensor), self.tracks[sensor]
            score = float(track.scores[-1]) if len(track.scores) else 0.0
            return 0 if severity is None else -RANK[severity], -score, sensor

        return sorted(self.tracks, key=badness)

    def reconstruct(self, sensor: str, expect: Expect) -> bool:
        """Ask the model once about windows of a sensor that it was not asked about yet; whether anything came of it.

        Windows that were scored, without overlap, the newest first.
        """
        track = self.tracks.get(sensor)
        if track is None or len(track.times) < self.length:
            return False
        windows: list[tuple[int, int]] = []  # (rows before its end, end)
        start, row = np.inf, len(track.times)
        for end in reversed(track.ends.tolist()):
            if len(windows) == AT_ONCE:
                break
            if end >= start:
                continue
            row = int(np.searchsorted(track.times[:row], end, side="right"))
            if row < self.length:
                break
            start = int(track.times[row - self.length])
            if end not in track.asked:
                windows.append((row, end))
        if not windows:
            return False
        values = np.stack([_filled(track.values[row - self.length : row]) for row, _ in windows])  # (k, W, F)
        whole = np.asarray(np.isfinite(values).all(axis=(1, 2)), bool)  # (k)
        track.asked.update(end for _, end in windows)
        track.asked &= set(track.ends.tolist())
        if not whole.any():
            return False
        expected = expect([sensor] * int(whole.sum()), np.ascontiguousarray(values[whole]))
        if expected is None:
            track.asked.difference_update(end for _, end in windows)
            return False
        chosen = [row for (row, _), good in zip(windows, whole.tolist(), strict=True) if good]
        for row, view in zip(reversed(chosen), expected[::-1], strict=True):  # newer windows have the last word
            track.expected[row - self.length : row] = view
        self._changed(track)
        return True

    def _extend(self, track: Track, times: Int64, values: Float32) -> None:
        if self.clock_reset is not None and track.newest != NEVER and track.newest - times[0] > self.clock_reset:
            self._restart(track)
        fresh = _rising(times, track.newest) if not self.grace else self._within_grace(track, times)
        if not fresh.any():
            return
        times = np.concatenate([track.times, times[fresh]])
        values = np.concatenate([track.values, values[fresh]])
        nothing = np.full((int(fresh.sum()), values.shape[1]), np.nan, np.float32)
        expected = np.concatenate([track.expected, nothing])
        order = np.argsort(times, kind="stable")[-self.points :]
        track.times, track.values, track.expected = times[order], values[order], expected[order]
        self._changed(track)

    def _judge(self, track: Track, ends: Int64, scores: Float32, shares: Float32) -> None:
        if self.clock_reset is not None and len(track.ends) and track.ends[-1] - ends[0] > self.clock_reset:
            track.ends, track.scores, track.shares = track.ends[:0], track.scores[:0], track.shares[:0]
        fresh = _rising(ends, int(track.ends[-1]) if len(track.ends) else NEVER)
        if not fresh.any():
            return
        track.ends = np.concatenate([track.ends, ends[fresh]])[-self.points :]
        track.scores = np.concatenate([track.scores, scores[fresh]])[-self.points :]
        track.shares = np.concatenate([track.shares, shares[fresh]])[-self.points :]
        worst, now = float(scores[fresh].max()), self.clock()
        if worst >= self._late(track, now):
            track.peak, track.peaked = worst, now
        self._changed(track)

    def _close(self, sensor: str, id_: str) -> None:
        self.alerts.pop(id_, None)
        open_ = self.firing.get(sensor, {})
        open_.pop(id_, None)
        if not open_:
            self.firing.pop(sensor, None)
        self.revision += 1

    def _within_grace(self, track: Track, times: Int64) -> Bool:
        """Which are neither late nor there already."""
        newest = np.maximum.accumulate(np.r_[track.newest, times])[:-1]
        known = track.times[np.searchsorted(track.times, times.min()) :]
        first = np.zeros(len(times), bool)
        first[np.unique(times, return_index=True)[1]] = True
        timely = (newest == NEVER) | (times >= newest - self.grace)
        return np.asarray(first & timely & ~np.isin(times, known), bool)

    def _span(self, track: Track, alert: Alert) -> None:
        for at, known in enumerate(track.spans):
            if known.id == alert.id:
                track.spans[at] = alert
                break
        else:
            track.spans.append(alert)
        self._changed(track)

    def _restart(self, track: Track) -> None:
        track.times, track.values, track.expected = track.times[:0], track.values[:0], track.expected[:0]

    def _changed(self, track: Track) -> None:
        self.revision += 1
        track.revision = self.revision

    def _late(self, track: Track, now: float) -> float:
        """How bad a sensor was of late."""
        return float(track.peak * 2 ** (-(now - track.peaked) / HALVED))

    def _add(self, sensor: str, worst: float) -> bool:
        """Whether there is a place for the sensor: free, or that of one that is less worth looking at."""
        if not self.room:
            now = self.clock()
            worth = {name: self._worth(name, self._late(track, now)) for name, track in self.tracks.items()}
            least = min(worth, key=worth.__getitem__)
            if worth[least] >= self._worth(sensor, worst):
                return False
            del self.tracks[least]
        self.tracks[sensor] = Track(len(self.features))
        return True

    def _worth(self, sensor: str, worst: float) -> tuple[bool, bool, float]:
        return sensor in self.watched, sensor in self.firing, worst


def started(alert: Alert) -> int:
    """Epoch ms."""
    return parse(alert.started_at, UTC)


def ended(alert: Alert) -> int | None:
    """Epoch ms; None while it fires."""
    return None if alert.ended_at is None else parse(alert.ended_at, UTC)


def _rising(times: Int64, after: int) -> Bool:
    """Which are later than ``after`` and all before them."""
    return times > np.maximum.accumulate(np.r_[after, times])[:-1]


def _filled(values: Float32) -> Float32:
    """Rows (W, F) with the last value where one is missing, as the service does; the next where there is none."""
    filled = values.copy()
    for row in range(1, len(filled)):
        filled[row] = np.where(np.isnan(filled[row]), filled[row - 1], filled[row])
    for row in range(len(filled) - 2, -1, -1):
        filled[row] = np.where(np.isnan(filled[row]), filled[row + 1], filled[row])
    return filled
