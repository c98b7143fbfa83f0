"""From errors to what is published: a score record a window, an alert record a change of an alert's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector import alerts
from stream_detector.alerts import Incident
from stream_detector.codec import identify, rfc3339, rfc3339_all
from stream_detector.events import Alert, Errors, Float32, Model, Origin, Partition, Reject, Score, State, Windows
from stream_detector.settings import Alerts

DIGITS = (6, 7, 8, 9)  # six are always held by a float32, nine always tell it from its neighbours


class Judged(NamedTuple):
    """The verdicts on ``n`` windows of one partition."""

    states: list[State]  # (n) of the sensor after the window
    changes: list[tuple[int, Incident, alerts.Change]]  # index of the window, the alert after it, what changed
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
    policy: Alerts,
    floor: int = 0,
) -> Judged:
    """Move the alerts of a partition on by its windows, in order; ``incidents`` is the state before and after.

    Windows that end before ``floor`` are muted: see `alerts.advance`.
    """
    states: list[State] = ["normal"] * len(windows)
    changes: list[tuple[int, Incident, alerts.Change]] = []
    touched: dict[str, Incident | None] = {}
    for at, (sensor, score) in enumerate(zip(windows.sensors, errors.score.tolist(), strict=True)):
        before = incidents.get(sensor)
        if before is None and score < 1:
            continue
        last, ended = int(windows.offsets[at, 1]), int(windows.timestamps[at, 1])
        opening = ("" if before is not None else identify(sensor, *partition, last), ended)
        after, change = alerts.advance(before, score, opening, policy, muted=last < floor)
        if change is not None and after is not None:
            changes.append((at, after, change))
        if after is None or change == "resolved":
            incidents.pop(sensor, None)
            touched[sensor] = None
        else:
            incidents[sensor] = touched[sensor] = after
            states[at] = after.state
    return Judged(states, changes, touched)


def score_records(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    states: Sequence[State],
    chosen: NDArray[np.intp],
    features: Sequence[str],
    model: Model,
) -> list[Score]:
    """Records of the scores topic for the chosen windows."""
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
            model,
            Origin(*partition, first, last),
        )
        for at, begun, ended, (first, last), score, threshold, error, shares, worst, confidence, imputed in columns
    ]


def alert_records(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    changes: Sequence[tuple[int, Incident, alerts.Change]],
    expect: Callable[[Float32], Float32],
    features: Sequence[str],
    model: Model,
) -> list[Alert]:
    """Records of the alerts topic. ``expect`` gives the model's view of the few windows that need it."""
    if not changes:
        return []
    expected = expect(windows.values[[at for at, _, _ in changes]])
    return [
        _alert(partition, windows, errors, change, view, features, model)
        for change, view in zip(changes, expected, strict=True)
    ]


def _alert(
    partition: Partition,
    windows: Windows,
    errors: Errors,
    change: tuple[int, Incident, alerts.Change],
    expected: Float32,
    features: Sequence[str],
    model: Model,
) -> Alert:
    at, incident, kind = change
    step = int(errors.worst_step[at])
    observed = dict(zip(features, short(windows.values[at, step]), strict=True))
    wanted = dict(zip(features, short(expected[step]), strict=True))
    sensor, ended = windows.sensors[at], rfc3339(int(windows.timestamps[at, 1]))
    contributions: Mapping[str, float] = dict(zip(features, short(errors.contributions[at]), strict=True))
    top = max(contributions, key=lambda name: contributions[name])
    resolved = kind == "resolved"
    first, last = windows.offsets[at].tolist()
    return Alert(
        id=incident.id,
        revision=incident.revision,
        status="resolved" if resolved else "firing",
        kind="anomaly",
        sensor_id=sensor,
        severity=incident.severity,
        started_at=rfc3339(incident.started_at),
        ended_at=ended if resolved else None,
        score=short(errors.score[at]),
        peak_score=short(np.float32(incident.peak)),
        threshold=short(errors.threshold[at]),
        contributions=dict(contributions),
        observed=observed,
        expected=wanted,
        summary=f"{sensor}: back to normal"
        if resolved
        else f"{sensor}: {top} {observed[top]:.4g} where {wanted[top]:.4g} was expected",
        model=model,
        source=Origin(*partition, first, last),
    )


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
