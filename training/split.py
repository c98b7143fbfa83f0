"""Which window serves what: parts of each sensor's history, in time order, that share no event."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Int64


class Part(IntEnum):
    """What a window is for, in the order of time."""

    NONE = -1  # left out, because it shares events with two parts
    FIT = 0  # the optimiser and the scaler see it
    VALIDATION = 1  # early stopping looks at it
    STATISTICS = 2  # mean and covariance of residuals
    THRESHOLDS = 3  # errors under those statistics


USED = (Part.FIT, Part.VALIDATION, Part.STATISTICS, Part.THRESHOLDS)
SHARES = (0.7, 0.1, 0.1, 0.1)
WHOLE = (
    *[Part.FIT] * 7,
    Part.VALIDATION,
    Part.STATISTICS,
    Part.THRESHOLDS,
)  # of ten sensors that are too short


def overlap(length: int, stride: int) -> int:
    """How many windows an event is in: those this far apart or farther share none."""
    return -(-length // stride)


def split(
    sensors: Sequence[str] | NDArray[np.int32], ends: Int64, length: int, stride: int, seed: int = 0
) -> NDArray[np.int8]:
    """The part of each of ``n`` windows, (n); ``ends`` (n) are their last event times.

    ``sensors`` (n) are names, or numbers in the order of the names.

    Each sensor's windows are cut in time order by `SHARES`, with windows left out between the parts so that
    no event is in two of them. A sensor whose windows are too few for that serves one part as a whole, drawn
    by ``seed``. Raises `DataError`, saying how many rows are needed, if a part would be empty.
    """
    gap = overlap(length, stride) - 1
    least = 3 * gap + len(USED)  # windows of a sensor that can be cut
    parts = np.full(len(sensors), Part.NONE, np.int8)
    names, which = np.unique(np.asarray(sensors), return_inverse=True)
    order = np.lexsort((ends, which))  # by sensor, then time; stable
    histories = np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(order) else []
    short = [history for history in histories if len(history) < least]
    for history in histories:
        if len(history) >= least:
            _cut(parts, history, gap)
    turn = np.random.default_rng(seed).permutation(len(short))
    cut = len(short) < len(histories)
    first = () if cut else (Part.THRESHOLDS, Part.STATISTICS, Part.VALIDATION)  # at least one each
    plan = [*first, *WHOLE * (len(short) // len(WHOLE) + 1)]
    for index, part in zip(turn, plan, strict=False):
        parts[short[index]] = part
    if any(not (parts == part).any() for part in USED):
        rows = length + (least - 1) * stride
        raise DataError(
            f"{len(sensors)} windows of {length} events from {len(names)} sensors are too few to train on: "
            f"one sensor needs {rows} rows or more without a gap, or {len(USED)} sensors {length} rows each; "
            "give more data, or a smaller --window or --stride"
        )
    return parts


def _cut(parts: NDArray[np.int8], history: NDArray[np.intp], gap: int) -> None:
    usable = len(history) - 3 * gap
    sizes = [max(1, int(usable * share)) for share in SHARES]
    sizes[0] += usable - sum(sizes)
    at = 0
    for part, size in zip(USED, sizes, strict=True):
        parts[history[at : at + size]] = part
        at += size + gap
