"""By what windows are judged beyond their score: settings and a bundle's features, made ready once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_detector.deviations import Deviations, deviations_of
from stream_detector.events import Windows
from stream_detector.faults import Limits, Signs, limits_of
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.policy import longest
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Settings

NONE: Grouped[Limits | None] = alike(None)


@dataclass(frozen=True, slots=True)
class Criteria:
    """When a score becomes an alert, for each sensor; what must deviate how; what is a fault."""

    alerts: Grouped[Alerts]
    deviations: Deviations | None = None
    limits: Grouped[Limits | None] = NONE

    @property
    def most_recent(self) -> int:
        """The most alerts of a sensor that may be recent before its limit counts; 0 if none has a limit."""
        return max((one.limit for one in self.alerts.things if isinstance(one.limit, int)), default=0)

    def look(self, windows: Windows) -> Signs | None:
        """What windows show of their sensors, each by its own limits; None if nothing is watched."""
        parts = self.limits.parted(windows.sensors)
        if len(parts) == 1:
            limits = parts[0][0]
            return None if limits is None else limits.look(windows)
        count, width = len(windows), windows.values.shape[2]
        signs = Signs(np.zeros((count, width), bool), np.zeros((count, width), bool), [False] * count)
        for limits, places in parts:
            if limits is not None:
                signs.place(limits.look(windows.take(places)), places)
        return signs


def criteria_of(rules: Rules, settings: Settings, limits: Grouped[Limits | None] | None = None) -> Criteria:
    """What the settings ask of windows with these features; ``limits`` where they are not the same for all sensors."""
    groups = settings.groups
    return Criteria(
        Grouped(grouping_of(settings), settings.alerts, [group.over(settings.alerts) for group in groups.values()]),
        deviations_of(rules.features, settings.features),
        limits or alike(limits_of(rules, settings)),
    )


def grouping_of(settings: Settings) -> Grouping:
    """The groups of sensors that the settings name."""
    return Grouping({name: group.sensors for name, group in settings.groups.items()})


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
