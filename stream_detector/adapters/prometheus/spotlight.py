"""Which sensors have metrics of their own: the worst, and those with an open alert; never more than so many of each.

There may be millions of sensors, and each series costs a Prometheus memory for hours. So a few are picked: of those
with an open alert the most severe, and of the others those whose newest window has the highest score. Scores older than
`STALE` are left out: of a sensor that sends nothing more, little can be said.
"""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from stream_detector.alerts import RANK
from stream_detector.events import Errors, Float32, Partition, Windows
from stream_detector.ports import Firing
from stream_detector.text import visible

STALE = 900.0  # seconds after which a score is no news
POOL = 4  # times as many candidates are kept as are shown, so that there is a next one when the worst recovers
FEATURES = 10  # contributions shown of a sensor, the largest
LONGEST = 128  # characters of a label's value
EVERY = 1.0  # seconds between two looks at all open alerts


class Seen(NamedTuple):
    """What is known of a sensor's newest window."""

    partition: Partition
    at: float  # when it was scored, seconds
    score: float
    threshold: float
    contributions: Float32  # (F)


class Scene(NamedTuple):
    """What is shown, at one moment; sensors by their label."""

    seen: Mapping[str, Seen]
    firing: Collection[tuple[str, str, str]]  # sensor, kind, severity
    open: Mapping[tuple[str, str], int]  # all open alerts, by kind and severity


class Spotlight:
    """Fed once a batch by the loop, read by the thread that answers scrapes."""

    def __init__(self, worst: int, firing: int) -> None:
        self.worst, self.most = worst, firing
        self._seen: dict[str, Seen] = {}
        self._firing: list[Firing] = []
        self._open: Counter[tuple[str, str]] = Counter()
        self._looked = -EVERY
        self._lock = threading.Lock()

    def scored(self, partition: Partition, windows: Windows, errors: Errors, now: float) -> None:
        """Windows of one partition, in order. Python runs for the few that are candidates, not for each."""
        if not len(windows) or not (self.worst or self.most):
            return
        last = dict(zip(windows.sensors, range(len(windows)), strict=True))  # a sensor's last window counts
        at = np.fromiter(last.values(), np.intp, len(last))
        pool = POOL * self.worst
        if len(at) > pool:
            at = at[np.argpartition(errors.score[at], len(at) - pool)[len(at) - pool :]] if pool else at[:0]
        firing = {alert.sensor for alert in self._firing}
        known = [last[name] for name in firing.union(self._seen) if name in last]
        with self._lock:
            for index in {*at.tolist(), *known}:
                self._seen[windows.sensors[index]] = Seen(
                    partition,
                    now,
                    float(errors.score[index]),
                    float(errors.threshold[index]),
                    errors.contributions[index].copy(),
                )
            if len(self._seen) > pool + len(firing):
                kept = self._ranked(pool, firing) + [name for name in self._seen if name in firing]
                self._seen = {name: self._seen[name] for name in kept}

    def stands(self, partitions: Collection[Partition], alerts: Iterable[Firing], now: float) -> None:
        """These partitions are ours, and these alerts are open; ``alerts`` is read now and then only."""
        if 0 <= now - self._looked < EVERY:
            return
        self._looked = now
        shown, opened = set(self._firing), Counter[tuple[str, str]]()

        def counted() -> Iterable[Firing]:
            for alert in alerts:
                opened[alert.kind, alert.severity] += 1
                yield alert

        # Those that are shown already before others of their severity: a series should not come and go.
        firing = heapq.nlargest(self.most, counted(), key=lambda alert: (RANK[alert.severity], alert in shown))
        if not self.most:  # then nobody has counted them
            opened.update((alert.kind, alert.severity) for alert in alerts)
        ours = set(partitions)
        with self._lock:
            self._firing, self._open = firing, opened
            self._seen = {
                name: seen for name, seen in self._seen.items() if seen.partition in ours and now - seen.at < STALE
            }

    def scene(self) -> Scene:
        """What is to be shown now."""
        with self._lock:
            firing = {alert.sensor for alert in self._firing}
            names = self._ranked(self.worst, firing) + [name for name in self._seen if name in firing]
            return Scene(
                {label(name): self._seen[name] for name in names},
                sorted({(label(sensor), kind, severity) for sensor, kind, severity in self._firing}),
                dict(self._open),
            )

    def _ranked(self, count: int, beside: Collection[str]) -> list[str]:
        """The names of the worst, those ``beside`` left out."""
        others = [name for name in self._seen if name not in beside]
        return heapq.nlargest(count, others, key=lambda name: self._seen[name].score)


def label(sensor: str) -> str:
    """A sensor's id as a label: printable, and short; what is cut keeps a digest, so that no two become one."""
    text = visible(sensor)
    if text == sensor and len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(sensor.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{text[: LONGEST - 9]}~{digest}"
