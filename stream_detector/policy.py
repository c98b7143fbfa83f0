"""Settings of what becomes an alert: how long, how far off, for which sensors; and what is a sensor's own fault."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from stream_detector.sections import Duration, Section

RECENT = 1_000  # windows of a sensor after an alert in which it is recent, unless somebody says how long
LIMIT = 2  # alerts of a sensor that may be recent however few are expected
HOUR, DAY = 3_600_000, 86_400_000  # ms
LASTS = 1_000  # events of a sensor after which a shift is normal, unless somebody says how long; an hour at least, …
LENGTHS = 8  # … and so many windows' lengths
APART = 2  # windows' lengths from one alert to the next of which each is of something else: an event is in view for one
HELD = 1 / 8  # of the time to the next alert, if they are to be closer: how long what is told holds the thresholds
QUIET = 3 / 4  # of the time that they fall for then: how long what was told is calm

Learned: TypeAlias = Literal["learned"]


class Alerts(Section):
    """When a score becomes an alert. Durations are event time."""

    min_windows: int = Field(1, ge=1)
    """Anomalous windows in a row before an alert fires; the budget of thresholds counts incidents of one."""
    min_duration: Duration = 0
    """… and from the end of the first of them to that of the last."""
    resolve_windows: int = Field(5, ge=1)
    """Windows in a row below `resolve_below` before it resolves."""
    resolve_below: float = Field(0.7, gt=0, le=1)
    """The score below which a window is calm."""
    keep_firing_for: Duration = 0
    """… and so long since the last window that was not."""
    cooldown: Duration = 0
    """After it resolved: only a worse one fires before this is over."""
    limit: Annotated[int, Field(ge=1)] | Learned | Literal["off"] = "learned"
    """While so many alerts of a sensor are recent, only one as high fires; `learned`: as are expected, two at least."""
    limit_within: Duration | Learned = "learned"
    """How long after its end an alert is recent; `learned`: a thousand windows of the median sensor in training."""
    accept_after: Annotated[Duration, Field(gt=0)] | Learned | Literal["off"] = "learned"
    """A shift that lasts so long is normal from then on; `learned`: 1,000 events, 8 windows and an hour at least."""
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Learned | Literal["off"] = "learned"
    """Alerts a sensor and day that thresholds fall to spend; `learned`: what `train --budget` asked for, if it did."""
    major: float = Field(2.0, gt=1)
    """Peak score from which an alert is major."""
    critical: float = Field(5.0, gt=1)
    """… and critical; above `major`."""

    @model_validator(mode="after")
    def _bands(self) -> Alerts:
        if self.critical <= self.major:
            raise ValueError(f"critical = {self.critical} must be above major = {self.major}")
        return self


class Feature(Section):
    """What is asked of one feature beyond its part in the score."""

    direction: Literal["both", "above_expected", "below_expected"] = "both"
    """Which deviations count."""
    min_deviation: float = Field(0.0, ge=0, allow_inf_nan=False)
    """From what was expected, raw units; smaller ones do not count."""
    min_deviation_ratio: float = Field(0.0, ge=0, allow_inf_nan=False)
    """… as a share of what was expected."""
    range: tuple[float, float] | None = None
    """What the sensor can show, raw units; inf and -inf for no limit."""
    stuck_events: int | None = Field(None, ge=2)
    """So many equal values in a row are a fault …"""
    stuck_after: Duration | None = None
    """… if they also last so long."""

    @field_validator("range")
    @classmethod
    def _ordered(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not given[0] < given[1]:  # also what is not a number
            raise ValueError("give [lowest, highest], such as [0, 16.5]")
        return given

    @property
    def particular(self) -> bool:
        """Whether it asks how a window deviates."""
        return self.direction != "both" or self.min_deviation > 0 or self.min_deviation_ratio > 0


class Group(Section):
    """What is different for some sensors; what is not given is as in ``[alerts]``."""

    sensors: str = Field(min_length=1)
    """A pattern of sensor ids, as in a shell: `"pump-*"`."""
    bundle: str | None = Field(None, min_length=1)
    """The bundle that judges them, named as in `bundle.path`; without it, that one."""
    min_windows: int | None = Field(None, ge=1)
    min_duration: Duration | None = None
    resolve_windows: int | None = Field(None, ge=1)
    resolve_below: float | None = Field(None, gt=0, le=1)
    keep_firing_for: Duration | None = None
    cooldown: Duration | None = None
    limit: Annotated[int, Field(ge=1)] | Learned | Literal["off"] | None = None
    limit_within: Duration | Learned | None = None
    accept_after: Annotated[Duration, Field(gt=0)] | Learned | Literal["off"] | None = None
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Learned | Literal["off"] | None = None
    major: float | None = Field(None, gt=1)
    critical: float | None = Field(None, gt=1)
    features: dict[str, Feature] = Field(default_factory=dict)
    """Of the group's sensors; what is not given is as in `[features.NAME]`."""

    def over(self, alerts: Alerts) -> Alerts:
        """The settings of alerts with what is different here."""
        own = {key: value for key, value in self if key in Alerts.model_fields and value is not None}
        return alerts.model_copy(update=own)

    def features_over(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """Those settings of features, with what is different here."""
        every = dict(features)
        for name, one in self.features.items():
            given = {key: getattr(one, key) for key in one.model_fields_set}
            every[name] = every.get(name, Feature()).model_copy(update=given)
        return every


def paced(alerts: Alerts, step: float, expected: float, asked: float = 0.0, patience: int = 0) -> Alerts:
    """The settings with numbers in the place of what is learned.

    ``step`` is the usual time in ms from one window of a sensor to the next, ``expected`` its alerts a day by
    thresholds from training, ``asked`` those that somebody asked for, 0 if nobody did. ``patience`` is how
    long in ms a shift lasts before it is normal, 0 if none ever is.
    """
    budget = (asked or "off") if alerts.budget == "learned" else alerts.budget
    if isinstance(budget, float) and step:
        budget = min(budget, DAY / closest(alerts, step))
    expected = max(expected, budget) if isinstance(budget, float) else expected
    within = round(RECENT * step) if alerts.limit_within == "learned" else alerts.limit_within
    limit = max(LIMIT, math.ceil(expected * within / DAY)) if alerts.limit == "learned" else alerts.limit
    accepted = (patience or "off") if alerts.accept_after == "learned" else alerts.accept_after
    learned = {"limit": limit, "limit_within": within, "budget": budget, "accept_after": accepted}
    return alerts.model_copy(update=learned)


def closest(alerts: Alerts, step: float) -> float:
    """The least time in ms from one alert to the next for which thresholds are made to fall.

    ``step`` is the usual time in ms from one window of a sensor to the next. An alert takes as long as it has to last
    to fire, and is over only after as many calm windows as the settings say.
    """
    lasting = max((alerts.min_windows - 1) * step, alerts.min_duration)
    return max(lasting / HELD, ending(alerts, step) / QUIET / (1 - HELD))


def ending(alerts: Alerts, step: float) -> float:
    """How long in ms it is calm before an alert is over; ``step`` as for `closest`."""
    return max(alerts.resolve_windows * step, alerts.keep_firing_for) + step


def patience_of(length: int, interval: float) -> int:
    """How long in ms a shift lasts before it is normal, if nobody says it; 0 if unknown.

    ``length`` is events a window, ``interval`` the usual time in ms from one event of a sensor to the next.
    """
    return max(HOUR, round(max(LASTS, LENGTHS * length) * interval)) if interval else 0


class Faults(Section):
    """Alerts of kind `fault`: the sensor and not what it measures. ``range`` stands with each feature."""

    stuck: Literal["learned", "off"] = "learned"
    """`learned`: by the longest run of equal values in training."""
    stuck_factor: float = Field(3.0, gt=1, allow_inf_nan=False)
    """With `learned`: stuck from so many times that."""
    dropout: float | Literal["off"] = "off"
    """A feature that is missing in more than this share of a window's events; above 0 and below 1."""

    @field_validator("dropout")
    @classmethod
    def _share(cls, given: float | str) -> float | str:
        if not isinstance(given, str) and not 0 < given < 1:
            raise ValueError('give a share above 0 and below 1, or "off"')
        return given


def check_groups(groups: Mapping[str, Group], alerts: Alerts) -> None:
    """Raise `ValueError` for groups that contradict the settings of alerts, or each other."""
    for name, group in groups.items():
        merged = group.over(alerts)
        if merged.critical <= merged.major:
            raise ValueError(
                f"groups.{name}: critical = {merged.critical} must be above major = {merged.major} (what a group does "
                "not set is that of [alerts])"
            )
    patterns = Counter(group.sensors for group in groups.values())
    pattern, times = patterns.most_common(1)[0] if patterns else ("", 0)
    if times > 1:
        raise ValueError(f"groups: the pattern {pattern!r} stands in two groups, and only the first would count")


def longest(alerts: Alerts, groups: Mapping[str, Group]) -> Alerts:
    """With the largest counts of windows that any sensor has: what must be read again to know the state of all."""
    every = [alerts, *(group.over(alerts) for group in groups.values())]
    counts = {key: max(getattr(one, key) for one in every) for key in ("min_windows", "resolve_windows")}
    return alerts.model_copy(update=counts)
