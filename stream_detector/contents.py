"""What is in a bundle, file by file, and whether its parts fit each other: see `bundle` for the folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from stream_detector.memories import Memory
from stream_detector.thresholds import Thresholds

FORMAT = 1

ErrorKind: TypeAlias = Literal["newest", "mahalanobis", "mse", "mae", "probability"]
Output: TypeAlias = Literal["window", "residual", "probability"]
State: TypeAlias = Literal["pretrained", "fine_tuned"]


class Scaler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``(value - center) / scale``; no scale is 0, also for constant features."""

    center: tuple[float, ...]  # (F) raw units
    scale: tuple[float, ...]  # (F) raw units
    own: dict[str, Scaler] = {}  # of sensors with a history of their own
    groups: dict[str, Scaler] = {}  # of groups, for their other sensors; the rest share what stands above

    def of(self, sensor: str, group: str = "") -> Scaler:
        """The sensor's own, else its group's, else what all others share."""
        return self.own.get(sensor) or self.groups.get(group, self)


class Normal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is normal of a window's contrast, in scaled units."""

    center: tuple[float, ...]  # (F) where it lies; empty: at 0
    deviation: tuple[float, ...]  # (F)


class Partner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the score beside the model's: see `adapters.keras.partners`."""

    name: Literal["change", "level", "bias", "spread"]
    common: Normal
    own: dict[str, Normal] = {}  # by sensor
    counts: tuple[bool, ...] = ()  # (F) which features it looks at; empty: all
    events: int = 0  # the latest of a window, whose mean it looks at; 0: all


class Ends(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between what means of training's steps lay, in scaled units: where the model has been."""

    low: tuple[float, ...]  # (F)
    high: tuple[float, ...]  # (F)
    own: dict[str, Ends] = {}  # by sensor; of others it is what stands above
    events: int = 0  # the latest of a window, whose mean it is; 0: all. Of sensors' own too


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the score that learns on, of a single metric: see `novelty`."""

    events: int  # of a sensor before a window, among which windows like it are looked for
    neighbours: int  # windows that are nearest
    windows: dict[str, int]  # that a threshold is the highest of: of sensors, under "" of those that are not named
    own: dict[str, Memory] = {}  # by sensor: what it showed at the end of training


class ErrorStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Residuals of normal windows, in scaled units; see `adapters.keras.programs` for how they make an error.

    ``D`` is the number of features for models that return a window, the model's own width for others.
    """

    kind: ErrorKind
    mean: tuple[float, ...] = ()  # (D) mean residual; mahalanobis only
    whitening: tuple[tuple[float, ...], ...] = ()  # (D, D) L with L Lᵀ the inverse covariance; mahalanobis only
    shrinkage: float = 0.0  # of the correlations towards none, 0..1
    deviation: tuple[float, ...] = ()  # (D) of a step's jump; newest only
    own: dict[str, tuple[float, ...]] = {}  # the same by sensor
    ends: Ends | None = None  # beyond which what the model returns does not count; None: it counts anywhere
    partners: tuple[Partner, ...] = ()
    novelty: Novelty | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle is. ``version``, ``files`` and ``digest`` are filled in by `write_bundle`."""

    name: str
    kind: str  # of autoencoder: "lstm", …
    features: tuple[str, ...]  # in the order of the model's input
    length: int  # events a window
    stride: int  # events from one window to the next
    means: tuple[float, ...]  # (F) raw units, to impute with
    created: str  # RFC 3339
    seed: int
    backend: str
    span: tuple[str, str] = ("", "")  # event time of the training data, RFC 3339
    sensors: tuple[str, ...] = ()  # that it was trained on
    intervals: dict[str, float] = {}  # ms between events: the median of each sensor, under "" that of all
    longest_window: int = 0  # ms from the first event to the last, at most, in training; 0: not known
    longest_windows: dict[str, int] = {}  # the same, of each sensor that showed enough of them
    units: dict[str, str] = {}
    libraries: dict[str, str] = {}
    metrics: dict[str, float] = {}
    expected_alerts_per_day: float = 0.0  # per sensor, on data like that of the calibration
    budget: float = 0.0  # alerts per sensor and day that were asked for; 0: nobody said
    still: tuple[int, ...] = ()  # (F) longest run of equal values in training, in events; 0 or empty: not known
    output: Output = "window"  # of the model: its reconstruction, a residual of its own, or a probability of anomaly
    state: State = "pretrained"  # learnt without labels, or taught with them afterwards
    code: str = ""  # the layer of the model whose output is a window's embedding; empty: not known
    groups: dict[str, str] = {}  # of sensors, in training: a pattern of ids by name, the first that fits counts
    format: int = FORMAT
    version: str = ""
    files: dict[str, str] = {}  # name → SHA-256
    digest: str = ""  # SHA-256 of this manifest with an empty digest


def misfits(manifest: Manifest, scaler: Scaler, errors: ErrorStatistics, thresholds: Thresholds) -> Iterator[str]:
    """What is wrong with the parts of a bundle that no digest tells."""
    size = len(manifest.features)
    tables = (thresholds, *thresholds.partners.values())
    scalers = (scaler, *scaler.own.values(), *scaler.groups.values())
    # A residual's width is the model's own: what it must be is seen when the model is loaded.
    wide = (len(errors.mean) or len(errors.deviation)) if manifest.output == "residual" else size
    whitening = (wide,) * 2 if errors.kind == "mahalanobis" else (0,)
    jumps = wide if errors.kind == "newest" else 0
    normals = [normal for one in errors.partners for normal in (one.common, *one.own.values())]
    centers = [one.center for one in normals if one.center]
    ends = () if errors.ends is None else (errors.ends, *errors.ends.own.values())
    looked = [*(one.events for one in errors.partners), *(one.events for one in ends)]
    shapes = {
        "manifest.json: means": (np.shape(manifest.means), (size,)),
        "scaler.json: center": (np.shape(scaler.center), (size,)),
        "scaler.json: scale": (np.shape(scaler.scale), (size,)),
        "errors.json: mean": (np.shape(errors.mean), whitening[:1]),
        "errors.json: whitening": (tuple(map(len, errors.whitening)), whitening[:1] * whitening[0]),
        "errors.json: deviation": ({len(errors.deviation), *map(len, errors.own.values())}, {jumps}),
        "errors.json: partners": ({size, *(len(one.deviation) for one in normals), *map(len, centers)}, {size}),
        "errors.json: ends": ({size, *(len(side) for one in ends for side in (one.low, one.high))}, {size}),
        "errors.json: counts": ({size, *(len(one.counts) for one in errors.partners if one.counts)}, {size}),
        "scaler.json: own": (
            {size, *(len(part) for own in scalers[1:] for part in (own.center, own.scale))},
            {size},
        ),
    }
    for where, (shape, wanted) in shapes.items():
        if shape != wanted:
            yield f"{where} does not fit {size} features"
    sane = {
        "features": size > 0 and len(set(manifest.features)) == size,
        "budget": 0 <= manifest.budget < np.inf,
        "longest windows": min(manifest.longest_window, *manifest.longest_windows.values(), 0) == 0,
        "length or stride": manifest.length >= 1 and manifest.stride >= 1,
        "output and errors": (manifest.output == "probability") == (errors.kind == "probability"),
        "residual's width": wide > 0 or errors.kind != "mahalanobis",
        "scale": all(0 < scale < np.inf for one in scalers for scale in one.scale),
        "deviations": all(
            0 < deviation < np.inf
            for row in (errors.deviation, *errors.own.values(), *(one.deviation for one in normals))
            for deviation in row
        ),
        "partners' events": all(0 <= events <= manifest.length for events in looked),
        "ends": all(low <= high for one in ends for low, high in zip(one.low, one.high, strict=False)),
        "thresholds": all(0 < entry.threshold < np.inf for part in tables for entry in part.entries)
        and all(part.entries for part in tables),
        "thresholds' sensors": all(
            0 <= row < len(part.entries) for part in tables for row in (*part.sensors.values(), *part.groups.values())
        ),
        "groups": {*scaler.groups, *(name for part in tables for name in part.groups)} <= manifest.groups.keys(),
        "novelty": errors.novelty is None
        or (
            size == 1
            and min(errors.novelty.events - manifest.length, errors.novelty.neighbours) >= 1
            and min(errors.novelty.windows.values(), default=0) >= 1
            and "" in errors.novelty.windows
            and all(memory.sound for memory in errors.novelty.own.values())
        ),
        "partners' thresholds": set(thresholds.partners) == {one.name for one in errors.partners},
    }
    for what, good in sane.items():
        if not good:
            yield f"its {what} make no sense"
