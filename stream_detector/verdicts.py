"""From errors to what is published: a score record a window, an alert record a change of an alert's state."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.alerts import NONE, Incident, Place, Shown, Sight, Told, follow
from stream_detector.codec import identify, rfc3339, rfc3339_all
from stream_detector.criteria import Criteria
from stream_detector.deviations import Expect
from stream_detector.events import (
    LOCAL,
    PARTS,
    Alert,
    Bool,
    Errors,
    Float32,
    Model,
    Origin,
    Partition,
    PartName,
    Reject,
    Score,
    State,
    Windows,
)
from stream_detector.faults import Cause, Limits, Signs
from stream_detector.groups import Grouped
from stream_detector.ports import Kind

PLACES, NOVELTY = [PARTS.index(name) for name in LOCAL], PARTS.index("novelty")
DIGITS = (6, 7, 8, 9)  # six are always held by a float32, nine always tell it from its neighbours


class Judged(NamedTuple):
    """The verdicts on ``n`` windows of one partition."""

    states: list[State]  # (n) of the sensor after the window
    changes: list[tuple[int, Told, Cause]]  # index of the window, what changed, what is wrong if it is a fault
    touched: dict[str, Incident | None]  # sensors whose incident is another than before


def without_unscored(windows: Windows, errors: Errors) -> tuple[Windows, Errors, list[Reject]]:
    """Windows that have a score, and a reject for the last event of each that has none."""
    if np.isfinite(errors.score).all():
        return windows, errors, []
    missing = np.flatnonzero(~np.isfinite(errors.score)).tolist()
    message = "the device gives no score for the window that ends with this event"
    rejects = [
        Reject(int(windows.offsets[at, 1]), "unscorable", message, windows.sensors[at].encode(errors="replace"))
        for at in missing
    ]
    chosen = np.flatnonzero(np.isfinite(errors.score))
    return windows.take(chosen), errors.take(chosen), rejects


def judge(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    incidents: MutableMapping[str, Incident],
    criteria: Criteria,
    expect: Expect,
    floor: int = 0,
    swept: Sequence[tuple[str, int]] = (),
) -> Judged:
    """Move the alerts of a partition on by its windows, in order; ``incidents`` is the state before and after.

    Windows that end before ``floor`` are muted: see `alerts.advance`. ``expect`` tells what was expected of the few
    windows that need it. Of sensors that were ``swept`` after an offset, only open alerts are remembered from there on.
    """
    states: list[State] = ["normal"] * len(windows)
    changes: list[tuple[int, Told, Cause]] = []
    touched: dict[str, Incident | None] = {}
    signs, scores = criteria.look(windows), criteria.counted(windows, errors, expect)
    strengths = np.where(scores > 0, errors.strengths, 0).tolist()  # what does not count has none
    local, strange = of_local_parts(errors), np.asarray(strange_features(errors).any(axis=1))
    turns = windows.in_turn(swept, lambda gone: forget(gone, incidents, touched))
    for at, sensor, score in zip(turns, windows.sensors, scores.tolist(), strict=True):
        before = incidents.get(sensor)
        odd = signs is not None and signs.odd[at]
        if score < 1 and not odd and (before is None or before.idle):
            continue
        limits = criteria.limits.of(sensor)
        shown = NONE if limits is None or signs is None else _shown(before, windows, errors, at, limits, signs)
        last = int(windows.offsets[at, 1])
        place = Place(
            identify(sensor, *partition, last) if before is None or not before.id else "",
            identify(sensor, *partition, last, "fault") if shown.features else "",
            int(windows.timestamps[at, 0]),
            int(windows.timestamps[at, 1]),
        )
        policy, muted = criteria.alerts.of(sensor), last < floor
        sight = Sight(bool(local[at]), bool(strange[at]))
        after, told = follow(before, score, place, policy, shown, sight, strength=strengths[at], muted=muted)
        for one in told:
            cause = Cause()
            if one.kind == "fault" and limits is not None:
                fault = None if after is None else after.fault
                cause = limits.cause(windows, at, shown.features or (fault.features if fault is not None else ()))
            changes.append((at, one, cause))
        if after is None:
            incidents.pop(sensor, None)
        else:
            incidents[sensor] = after
            states[at] = after.state
        if before is not None or after is not None:
            touched[sensor] = after
    return Judged(states, changes, touched)


def strange_features(errors: Errors) -> Bool:
    """Which features (n, F) of windows are where the model has not been, so that to be calm there says little."""
    found = np.zeros(errors.contributions.shape, bool) if errors.outside is None else errors.outside.copy()
    if errors.part is not None:
        found[errors.part == NOVELTY] = False  # judged by the sensor's own past, wherever that is
    if errors.accepted is not None:
        found[errors.accepted > 0] = False  # a shift that has become normal is over, wherever it is
    return found


def of_local_parts(errors: Errors) -> Bool:
    """Which scores (n) are of a part that counts only where the model has been."""
    count = len(errors.score)
    return np.ones(count, bool) if errors.part is None else np.isin(errors.part, PLACES)


def forget(
    sensor: str, incidents: MutableMapping[str, Incident], touched: MutableMapping[str, Incident | None]
) -> None:
    """Drop what is known of a sensor that is gone; an alert that is open stays until the sensor is back."""
    before = incidents.get(sensor)
    if before is not None and before.state != "firing":
        del incidents[sensor]
        touched[sensor] = None


def _shown(before: Incident | None, windows: Windows, errors: Errors, at: int, limits: Limits, signs: Signs) -> Shown:
    """What a window shows of its sensor, given what is known of it."""
    fault = None if before is None else before.fault
    if not signs.odd[at] and fault is None:
        return NONE
    runs = limits.runs(() if fault is None else fault.runs, windows, at, signs.still[at])
    stuck = limits.stuck(runs, int(windows.timestamps[at, 1]))
    faulty = sorted({*np.flatnonzero(signs.faulty[at]).tolist(), *stuck})
    return Shown(tuple(faulty), runs, errors.contributions[at].tolist())


def score_records(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    states: Sequence[State],
    chosen: NDArray[np.intp],
    features: Sequence[str],
    models: Grouped[Model],
) -> list[Score]:
    """Records of the scores topic for the chosen windows; each names its sensor's model."""
    if not len(chosen):
        return []
    length = windows.values.shape[1]
    start, end = (rfc3339_all(windows.timestamps[chosen, side]) for side in (0, 1))
    columns = zip(
        chosen.tolist(),
        start,
        end,
        windows.offsets[chosen].tolist(),
        short(errors.score[chosen]),
        short(errors.threshold[chosen]),
        short(errors.error[chosen]),
        short(errors.contributions[chosen]),
        errors.worst_step[chosen].tolist(),
        short(windows.confidence[chosen]),
        errors.take(chosen).names,
        np.asarray(windows.imputed[chosen].any(axis=1), bool).tolist(),
        strict=True,
    )
    return [
        Score(
            identify(windows.sensors[at], *partition, last),
            windows.sensors[at],
            begun,
            ended,
            length,
            score,
            threshold,
            error,
            states[at],
            dict(zip(features, shares, strict=True)),
            worst,
            confidence,
            [name for name, was in zip(features, windows.imputed[at], strict=True) if was] if imputed else [],
            models.of(windows.sensors[at]),
            Origin(*partition, first, last),
            part,
        )
        for at, begun, ended, (
            first,
            last,
        ), score, threshold, error, shares, worst, confidence, part, imputed in columns
    ]


def alert_records(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    changes: Sequence[tuple[int, Told, Cause]],
    expect: Expect,
    features: Sequence[str],
    models: Grouped[Model],
) -> list[Alert]:
    """Records of the alerts topic. ``expect`` tells what was expected of the few windows that need it."""
    if not changes:
        return []
    told = np.array([at for at, _, _ in changes], np.intp)
    mine, of = windows.take(told), errors.take(told)
    every, steps = np.arange(len(told)), of.worst_step
    expected = expect(mine, of)[every, steps]  # (m, F)
    columns = zip(
        changes,
        mine.sensors,
        rfc3339_all(mine.timestamps[:, 1]),
        mine.offsets.tolist(),
        short(of.score),
        short(np.array([(one.incident.peak, one.incident.strength) for _, one, _ in changes], np.float32)),
        short(of.threshold),
        short(of.contributions),
        short(mine.values[every, steps]),
        short(expected),
        # Not every model expects values: those of a context or a probability have none to compare with.
        np.asarray(np.isnan(expected).any(axis=1)).tolist(),
        of.names,
        [0.0] * len(told) if of.accepted is None else short(of.accepted),
        strange_features(of),
        strict=True,
    )
    return [
        Alert(
            id=incident.id,
            revision=incident.revision,
            status="resolved" if what == "resolved" else "firing",
            kind=kind,
            sensor_id=sensor,
            severity=incident.severity,
            started_at=rfc3339(incident.started_at),
            ended_at=ended if what == "resolved" else None,
            score=score,
            peak_score=highest[0],
            threshold=threshold,
            contributions=dict(zip(features, shares, strict=True)),
            observed=dict(zip(features, values, strict=True)),
            expected={} if unknown else dict(zip(features, usual, strict=True)),
            summary=f"{sensor}: "
            + (
                _told(kind, why.words, part, features, shares, values, () if unknown else usual)
                if what != "resolved"
                else _over(kind, bool(accepted), [name for name, out in zip(features, strange, strict=True) if out])
            ),
            model=models.of(sensor),
            source=Origin(*partition, *span),
            part=part,
            peak_strength=highest[1],
            faults=dict(why.kinds),
            accepted=accepted,
        )
        for change, sensor, ended, span, score, highest, threshold, *of_window, part, accepted, strange in columns
        for shares, values, usual, unknown in (of_window,)
        for _, (incident, what, kind), why in (change,)
    ]


def _told(
    kind: Kind,
    cause: str,
    part: PartName,
    features: Sequence[str],
    shares: Sequence[float],
    values: Sequence[float],
    expected: Sequence[float],
) -> str:
    """What is wrong with a sensor; by feature its share of the error, what was measured and what was expected."""
    if kind == "fault":
        return cause or "the sensor was faulty"
    top = max(range(len(features)), key=lambda at: shares[at])
    if part == "spread":
        return f"{features[top]} {values[top]:.4g} moves less than usual"
    where = f"where {expected[top]:.4g} was expected" if expected else "stands out most"
    return f"{features[top]} {values[top]:.4g} {where}"


def _over(kind: Kind, accepted: bool, strange: Sequence[str]) -> str:
    """That an alert is over; ``accepted`` if with a shift that has become normal, with features that are ``strange``.

    Where training saw nothing, some parts of the score do not count: that they are calm does not say that all is well.
    """
    if kind == "fault":
        return "the sensor is well again"
    if accepted:
        return "calm, with a shift that has lasted and is taken as normal"
    if not strange:
        return "back to normal"
    more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
    return f"calm, but with {strange[0]}{more} outside of what the model was trained on, where not all is judged"


def short(values: Float32 | np.float32) -> Any:
    """The float32 values as Python floats with as few digits as tell them apart, nested lists as the array is."""
    narrow = np.asarray(values, np.float32)
    wide = narrow.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(wide)))
    found, open_ = wide.copy(), np.isfinite(magnitude)
    for digits in DIGITS:
        if not open_.any():
            break
        place = digits - 1 - magnitude[open_]
        # Powers of ten are exact up to 22: one operation with them gives the double that is written with few digits.
        up, down = 10.0 ** np.clip(place, 0, 22), 10.0 ** np.clip(-place, 0, 22)
        found[open_] = np.round(wide[open_] * up / down) / up * down
        open_ &= found.astype(np.float32) != narrow
    return np.where(open_, wide, found).tolist()
