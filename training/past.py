"""What came last of each sensor of a log: all that is held of it to follow runs of values and labels through it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_detector.events import Events, Int64
from stream_detector.sensors import NEVER


class Past:
    """Follows the events of one log, of ``F`` features, piece by piece."""

    def __init__(self, features: int) -> None:
        self.longest = np.zeros(features, np.int64)  # (F) see `follow`
        self.slots: dict[str, int] = {}  # sensor → row of what follows, of which there may be more
        self.values = np.empty((0, features), np.float32)  # of its last event
        self.runs = np.empty((0, features), np.int64)  # events up to the last with the same value
        self.odd = np.empty(0, bool)  # whether the last was anomalous
        self.struck = np.empty(0, np.int64)  # offset of the last that was

    def follow(self, events: Events, labels: NDArray[np.int8]) -> Int64:
        """For each of ``m`` events the offset of its sensor's newest anomalous one up to it, (m); `NEVER` for none.

        ``labels`` (m) are 1 of anomalous events. ``longest`` is then for how many events in a row each feature had one
        and the same value, at most, in any one sensor. A missing value ends a run, as does an event that is labelled
        anomalous: a sensor that is stuck there must not teach that this is normal.
        """
        count = len(events)
        newest = np.empty(count, np.int64)
        if not count:
            return newest
        slots = np.fromiter((self.slots.setdefault(name, len(self.slots)) for name in events.sensors), np.intp, count)
        self._make_room()
        order = np.argsort(slots, kind="stable")  # by sensor, then offset
        slot, values, odd = slots[order], events.values[order], labels[order] == 1
        place = np.arange(count)
        border = np.diff(slot, prepend=-1) != 0
        first = np.flatnonzero(border)  # of each sensor
        last = np.append(first[1:], count) - 1

        before = np.where(border[:, None], self.values[slot], np.roll(values, 1, axis=0))
        was_odd = np.where(border, self.odd[slot], np.roll(odd, 1))
        same = (values == before) & (odd == was_odd)[:, None]  # (m, F); NaN is like nothing
        start = np.maximum.accumulate(np.where(same & ~border[:, None], 0, place[:, None]), axis=0)
        carried = np.where(np.take_along_axis(same, start, axis=0), self.runs[slot], 0)  # from earlier pieces
        runs = place[:, None] - start + 1 + carried
        counted = np.where(np.isnan(values) | odd[:, None], 0, runs)
        self.longest = np.maximum(self.longest, counted.max(axis=0))

        latest = np.maximum.accumulate(np.where(odd, place, -1))  # of any sensor: those that sort before are others'
        own = latest >= np.maximum.accumulate(np.where(border, place, 0))
        struck = np.where(own, events.offsets[order][latest], self.struck[slot])
        newest[order] = struck

        rows = slot[last]
        self.values[rows], self.runs[rows] = values[last], runs[last]
        self.odd[rows], self.struck[rows] = odd[last], struck[last]
        return newest

    def _make_room(self) -> None:
        more = max(len(self.slots), 2 * len(self.odd)) if len(self.slots) > len(self.odd) else len(self.odd)
        new = more - len(self.odd)
        if new:
            size = len(self.longest)
            self.values = np.concatenate([self.values, np.full((new, size), np.nan, np.float32)])
            self.runs = np.concatenate([self.runs, np.zeros((new, size), np.int64)])
            self.odd = np.concatenate([self.odd, np.zeros(new, bool)])
            self.struck = np.concatenate([self.struck, np.full(new, NEVER)])
