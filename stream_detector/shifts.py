"""Shifts that last are taken as normal in the end, so that none hides for good what else happens to its sensor.

Some parts of the score stay high for as long as a shift lasts (`events.LASTING`), and a sensor's score is that of its
highest part. So where a shift has lasted for `policy.Alerts.accept_after`, their thresholds rise above all that they
showed in the latter half of that time: it is calm from there on, and the other parts are heard again. What reaches
the risen thresholds is told, and accepted likewise if it lasts. They come down when the sensor is calm by those of
training.

A shift lasts as an alert does: from a score of 1 until ``resolve_windows`` in a row are below ``resolve_below``.

A function of the sensor's windows alone, in whatever batches they come; stored beside the states of its alerts.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from stream_detector.events import LASTING, PARTS, Bool, Errors, Float32, Windows
from stream_detector.groups import Grouped
from stream_detector.policy import Alerts

PLACES = [PARTS.index(name) for name in LASTING]
ROUNDING = 1 + 1e-6  # so that what is as high as it was is calm, however it is rounded


class Shift(msgspec.Struct, array_like=True, frozen=True):
    """A shift of a sensor: one that lasts, one that was accepted, or one beyond what was accepted."""

    since: int | None = None  # epoch ms, end of the first window of what lasts; None: all of it is accepted
    top: float = 0.0  # highest score so far in the latter half of `accept_after`, by thresholds from training
    calm: int = 0  # windows in a row that are, by the thresholds that hold while something lasts, else from training
    raised: float = 1.0  # of thresholds, as a multiple of those from training
    seen: int = 0  # windows of that latter half


def after(shift: Shift | None, score: float, ended: int, policy: Alerts) -> tuple[Shift | None, float]:
    """The shift after one more window, and the multiple of the thresholds from training that holds for this one.

    ``score`` is the highest of the parts that last, by those thresholds. Of a clock that was set back, time counts
    from there.
    """
    if not isinstance(policy.accept_after, int):
        return None, 1.0
    raised = 1.0 if shift is None else shift.raised
    if shift is None or shift.since is None:
        if score < raised:
            return _accepted(shift, score, policy), raised
        shift = Shift(ended, raised=raised)
    since = ended if shift.since is None else min(shift.since, ended)
    calm = shift.calm + 1 if score < policy.resolve_below * raised else 0
    lasted, over = ended - since, calm >= policy.resolve_windows
    top, seen = (max(shift.top, score), shift.seen + 1) if 2 * lasted >= policy.accept_after else (0.0, 0)
    # Time alone does not tell: a sensor that was silent meanwhile has yet to show that it still is so.
    if lasted >= policy.accept_after and seen >= policy.resolve_windows and not over:
        raised, over = max(raised, float(np.float32(ROUNDING * top / policy.resolve_below))), True
    if over:
        return Shift(raised=raised) if raised > 1 else None, raised
    return Shift(since, top, calm, raised, seen), raised


def _accepted(shift: Shift | None, score: float, policy: Alerts) -> Shift | None:
    """What was accepted, after a window that does not reach the risen thresholds."""
    if shift is None:
        return None
    calm = shift.calm + 1 if score < policy.resolve_below else 0
    return None if calm >= policy.resolve_windows else msgspec.structs.replace(shift, calm=calm)


def accept(
    shifts: MutableMapping[str, Shift],
    windows: Windows,
    errors: Errors,
    alerts: Grouped[Alerts],
    swept: Sequence[tuple[str, int]] = (),
) -> tuple[Errors, set[str]]:
    """The errors (n) by the thresholds that hold for each window, and sensors of which another shift is known.

    ``windows`` are in the order of their offsets. Sensors that were ``swept`` after an offset are forgotten there.
    """
    lasting = np.zeros(len(windows), np.float32) if errors.lasting is None else errors.lasting.score
    if not shifts and not (lasting >= 1).any():
        return replace(errors, lasting=None), set()
    raised, touched = np.ones(len(windows), np.float32), set[str]()

    def forget(sensor: str) -> None:
        if shifts.pop(sensor, None) is not None:
            touched.add(sensor)

    each = zip(windows.in_turn(swept, forget), windows.sensors, lasting.tolist(), strict=True)
    for at, sensor, score in each:
        before = shifts.get(sensor)
        if before is None and score < 1:
            continue
        known, raised[at] = after(before, score, int(windows.timestamps[at, 1]), alerts.of(sensor))
        if known is None:
            forget(sensor)
        elif known != before:
            shifts[sensor] = known
            touched.add(sensor)
    return raised_by(raised, errors), touched


def raised_by(raised: Float32, errors: Errors) -> Errors:
    """The errors (n) where the thresholds of the parts that last are so many times (n) those of training."""
    if errors.lasting is None or errors.part is None or not (raised > 1).any():
        return replace(errors, lasting=None)
    others, there = errors.lasting.others, (raised > 1) & (errors.lasting.score >= 1)
    of_lasting = np.isin(errors.part, PLACES)
    risen: Float32 = np.where(of_lasting, raised, np.float32(1))
    score: Float32 = errors.score / risen
    left: Bool = of_lasting & (others.score > score)  # to the others

    def chosen(theirs: Float32, ours: Float32) -> Float32:
        return np.where(left.reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)

    return replace(
        errors,
        score=chosen(others.score, score),
        error=chosen(others.error, errors.error),
        threshold=chosen(others.threshold, errors.threshold * risen),
        contributions=chosen(others.contributions, errors.contributions),
        worst_step=np.where(left, others.worst_step, errors.worst_step),
        part=errors.part if others.part is None else np.where(left, others.part, errors.part),
        strength=chosen(others.strengths, errors.strengths),
        accepted=np.where(there, raised, np.float32(0)),
        lasting=None,
    )
