"""By what windows are judged beyond their score: settings and a bundle's features, made ready once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from stream_detector.deviations import Deviations, deviations_of
from stream_detector.faults import Limits, limits_of
from stream_detector.policy import longest
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Settings

REMEMBERED = 200_000  # sensors whose group is known; patterns are slow


@dataclass(frozen=True, slots=True)
class Criteria:
    """When a score becomes an alert, for each sensor; what must deviate how; what is a fault."""

    alerts: Alerts
    groups: Sequence[tuple[str, Alerts]] = ()  # by pattern of sensor ids; the first that fits counts
    deviations: Deviations | None = None
    limits: Limits | None = None
    _known: dict[str, Alerts] = field(default_factory=dict)

    def of(self, sensor: str) -> Alerts:
        """The settings of alerts of this sensor."""
        if not self.groups:
            return self.alerts
        found = self._known.get(sensor)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = next((own for pattern, own in self.groups if fnmatchcase(sensor, pattern)), self.alerts)
            self._known[sensor] = found
        return found


def criteria_of(rules: Rules, settings: Settings) -> Criteria:
    """What the settings ask of windows with these features."""
    return Criteria(
        settings.alerts,
        [(group.sensors, group.over(settings.alerts)) for group in settings.groups.values()],
        deviations_of(rules.features, settings.features),
        limits_of(rules, settings),
    )


def with_longest_memory(rules: Rules, settings: Settings) -> Settings:
    """The settings with the longest hysteresis of any sensor, so that a look-back covers what all of them count."""
    alerts = longest(settings.alerts, settings.groups)
    limits = limits_of(rules, settings)
    if limits is not None:  # what a fault left in the window, and for how long values were equal
        finite = limits.events[limits.events < float("inf")]
        events = max(rules.length, int(finite.max(initial=0)))
        more = -(-events // rules.stride)
        alerts = alerts.model_copy(update={"resolve_windows": alerts.resolve_windows + more})
    return settings.model_copy(update={"alerts": alerts})
