"""What is known of each sensor, as rows of tables that stay on the device: its scale, deviations and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_detector.contents import Ends, ErrorStatistics, Scaler
from stream_detector.events import Float32, Float64
from stream_detector.groups import Grouping
from stream_detector.thresholds import Thresholds

FEWEST = 16  # rows


@dataclass(frozen=True, slots=True)
class Profiles:
    """Tables with a row for each of ``P`` profiles, a power of two; row 0 is for sensors that nothing is known of."""

    sensors: Mapping[str, int]  # sensor → row
    groups: Mapping[str, int]  # group → row, of its sensors that training knows nothing of
    grouping: Grouping
    tables: Mapping[str, Float32]  # (P, …), see `adapters.keras.programs`
    shared: Mapping[str, Float32]  # likewise, but the same for all
    parts: tuple[str, ...]  # of the score, in the order of the thresholds' columns: "model", then its partners

    def rows(self, sensors: Sequence[str]) -> list[int]:
        """The row of each sensor."""
        found = map(self.sensors.get, sensors)
        if not self.groups:
            return [row or 0 for row in found]
        return [
            self.groups.get(self.grouping.name(sensor), 0) if row is None else row
            for sensor, row in zip(sensors, found, strict=True)
        ]


def profiles_of(
    scaler: Scaler,
    errors: ErrorStatistics,
    thresholds: Thresholds | None,
    wide: int,
    grouping: Grouping | None = None,
) -> Profiles:
    """Tables of a bundle's parts, or of what is calibrated so far: without thresholds, each is 1.

    ``wide`` is the width D of what the model returns, ``grouping`` that of training. What a sensor has no own figure
    for is its group's, if that has one, else that of row 0.
    """
    grouping = grouping or Grouping({})
    of_partners = {name for one in errors.partners for name in one.own}
    bounded = errors.ends.own if errors.ends else {}
    names = sorted({*scaler.own, *errors.own, *bounded, *_named(thresholds), *of_partners})
    rows = {name: row for row, name in enumerate(names, 1)}
    groups = {name: row for row, name in enumerate(sorted({*scaler.groups, *_grouped(thresholds)}), 1 + len(names))}
    kin = [("", ""), *((name, grouping.name(name)) for name in names), *(("", name) for name in groups)]  # of each row
    # More rows than there are profiles, so that a bundle that knows a few sensors more runs what was compiled before.
    kin += [("", "")] * (max(FEWEST, 1 << (len(kin) - 1).bit_length()) - len(kin))
    names += [""] * (len(kin) - 1 - len(names))
    scalers = [scaler.of(*one) for one in kin]
    tables = {
        "center": np.asarray([one.center for one in scalers], np.float32),
        "scale": np.asarray([one.scale for one in scalers], np.float32),
        "deviation": _table(errors.deviation or np.ones(wide), errors.own, names),
    }
    shared = {
        "mean": np.asarray(errors.mean or np.zeros(wide), np.float32),
        "whitening": np.asarray(errors.whitening or np.eye(wide), np.float32),
    }
    size = len(scaler.center)
    ends = errors.ends or Ends((-np.inf,) * size, (np.inf,) * size)
    tables["low"] = _table(ends.low, {name: own.low for name, own in ends.own.items()}, names)
    tables["high"] = _table(ends.high, {name: own.high for name, own in ends.own.items()}, names)
    for one in errors.partners:
        centers = {name: own.center for name, own in one.own.items() if own.center}
        tables[f"{one.name}_center"] = _table(one.common.center or np.zeros(size), centers, names)
        tables[f"{one.name}_deviation"] = _table(
            one.common.deviation, {name: own.deviation for name, own in one.own.items()}, names
        )
        counted = np.asarray(one.counts or np.ones(size), np.float32)
        shared[f"{one.name}_weight"] = (counted / max(1.0, counted.sum())).astype(np.float32)
    parts = ("model", *(one.name for one in errors.partners))
    limits = np.ones((len(kin), len(parts)), np.float32)
    if thresholds is not None:
        for column, part in enumerate((thresholds, *(thresholds.partners[name] for name in parts[1:]))):
            limits[:, column] = part.values[[part.row(*one) for one in kin]]
    tables["thresholds"] = limits
    return Profiles(rows, groups, grouping, tables, shared, parts)


def _named(thresholds: Thresholds | None) -> set[str]:
    if thresholds is None:
        return set()
    return {*thresholds.sensors, *(name for part in thresholds.partners.values() for name in part.sensors)}


def _grouped(thresholds: Thresholds | None) -> set[str]:
    if thresholds is None:
        return set()
    return {*thresholds.groups, *(name for part in thresholds.partners.values() for name in part.groups)}


def _table(common: Sequence[float] | Float64, own: Mapping[str, Sequence[float]], names: Sequence[str]) -> Float32:
    """(P, F): the common row, then that of each name; of groups, under "", the common one again."""
    return np.asarray([common, *(own.get(name, common) for name in names)], np.float32)
