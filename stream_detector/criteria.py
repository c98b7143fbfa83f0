"""By what windows are judged beyond their score: settings and a bundle's features, made ready once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_detector.deviations import Deviations, Expect, deviations_of
from stream_detector.events import Errors, Float32, Windows
from stream_detector.faults import Limits, Signs, limits_of
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.policy import longest
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Settings

NONE: Grouped[Limits | None] = alike(None)
ANY: Grouped[Deviations | None] = alike(None)


@dataclass(frozen=True, slots=True)
class Criteria:
    """When a score becomes an alert, for each sensor; what must deviate how; what is a fault."""

    alerts: Grouped[Alerts]
    deviations: Grouped[Deviations | None] = ANY
    limits: Grouped[Limits | None] = NONE

    @property
    def most_recent(self) -> int:
        """The most alerts of a sensor that may be recent before its limit counts; 0 if none has a limit."""
        return max((one.limit for one in self.alerts.things if isinstance(one.limit, int)), default=0)

    def counted(self, windows: Windows, errors: Errors, expect: Expect) -> Float32:
        """The scores (n), 0 where nothing deviates as is wanted of the window's sensor: see `Deviations.counted`."""
        scores = errors.score
        for deviations, places in self.deviations.parted(windows.sensors):
            if deviations is not None:
                scores = scores.copy()
                scores[places] = deviations.counted(windows.take(places), errors.take(places), expect)
        return scores

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
    groups, grouping = settings.groups.values(), grouping_of(settings)
    features = Grouped(grouping, settings.features, [group.features or settings.features for group in groups])
    return Criteria(
        Grouped(grouping, settings.alerts, [group.over(settings.alerts) for group in groups]),
        features.each(lambda asked: deviations_of(rules.features, asked)),
        limits or features.each(lambda asked: limits_of(rules, settings, asked)),
    )


def grouping_of(settings: Settings) -> Grouping:
    """The groups of sensors that the settings name."""
    return Grouping({name: group.sensors for name, group in settings.groups.items()})


def with_longest_memory(rules: Rules, settings: Settings) -> Settings:
    """The settings with the longest hysteresis of any sensor, so that a look-back covers what all of them count."""
    alerts = longest(settings.alerts, settings.groups)
    asked = [settings.features, *(group.features for group in settings.groups.values() if group.features)]
    watched = [limits for limits in (limits_of(rules, settings, features) for features in asked) if limits is not None]
    if watched:  # what a fault left in the window, and for how long values were equal
        every = np.concatenate([limits.events for limits in watched])
        events = max(rules.length, int(every[np.isfinite(every)].max(initial=0)))
        more = -(-events // rules.stride)
        alerts = alerts.model_copy(update={"resolve_windows": alerts.resolve_windows + more})
    return settings.model_copy(update={"alerts": alerts})
