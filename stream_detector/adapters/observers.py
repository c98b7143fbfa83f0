"""Several listeners to the same facts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from stream_detector.events import Errors, Float32, Partition, Slice, Windows
from stream_detector.ports import Delivery, Firing, Observer


class Observers:
    """`ports.Observer` that tells each of several, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def took(self, stage: str, seconds: float) -> None:
        """See `ports.Observer.took`."""
        for observer in self.observers:
            observer.took(stage, seconds)

    def read(self, batch: Sequence[Slice]) -> None:
        """See `ports.Observer.read`."""
        for observer in self.observers:
            observer.read(batch)

    def received(self, events: int, rejects: Mapping[str, int], rules: Mapping[str, int]) -> None:
        """See `ports.Observer.received`."""
        for observer in self.observers:
            observer.received(events, rejects, rules)

    def started(self, device: str) -> None:
        """See `ports.Observer.started`."""
        for observer in self.observers:
            observer.started(device)

    def interrupted(self, reason: Literal["unavailable", "fenced"]) -> None:
        """See `ports.Observer.interrupted`."""
        for observer in self.observers:
            observer.interrupted(reason)

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        """See `ports.Observer.scored`."""
        for observer in self.observers:
            observer.scored(partition, windows, errors)

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        """See `ports.Observer.delivered`."""
        for observer in self.observers:
            observer.delivered(delivery, latency_ms)

    def reconciled(self, partition: Partition, case: str) -> None:
        """See `ports.Observer.reconciled`."""
        for observer in self.observers:
            observer.reconciled(partition, case)

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        """See `ports.Observer.gauges`. One of them at most may go through ``firing``."""
        for observer in self.observers:
            observer.gauges(partitions=partitions, sensors=sensors, pending=pending, lag=lag, firing=firing)
