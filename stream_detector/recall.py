"""Open faults, recovered from what was published where a state was lost."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import UTC

from stream_detector.alerts import Incident, with_fault
from stream_detector.events import Alert, Partition
from stream_detector.ports import Delivery, Outlet
from stream_detector.timestamps import parse


@dataclass(slots=True)
class Recall:
    """`ports.Outlet` as `reconcile` sees it: open faults are kept here, since a sensor may also have an anomaly."""

    outlet: Outlet
    faults: list[Alert] = field(default_factory=list)

    def open(self) -> None:
        """See `ports.Outlet.open`."""
        self.outlet.open()

    def committed(self, partition: Partition) -> int | None:
        """See `ports.Outlet.committed`."""
        return self.outlet.committed(partition)

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        """See `ports.Outlet.standing`; without faults."""
        every = self.outlet.standing(partition, before, limit)
        self.faults = [alert for alert in every if alert.kind == "fault"]
        return [alert for alert in every if alert.kind != "fault"]

    def deliver(self, delivery: Delivery) -> None:
        """See `ports.Outlet.deliver`."""
        self.outlet.deliver(delivery)

    def close(self) -> None:
        """See `ports.Outlet.close`."""
        self.outlet.close()

    def restore(self, incidents: MutableMapping[str, Incident]) -> None:
        """Let the faults go on with their ids and revisions; their features show in the windows that are read again."""
        for alert in self.faults:
            started = parse(alert.started_at, UTC)
            fault = Incident(
                alert.id,
                started,
                revision=alert.revision,
                severity=alert.severity,
                peak=alert.peak_score,
                strength=alert.peak_strength,
            )
            incidents[alert.sensor_id] = with_fault(incidents.get(alert.sensor_id), fault)
