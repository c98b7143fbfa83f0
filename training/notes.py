"""What a person should know of a training before relying on it, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_detector.events import Float32
from stream_detector.thresholds import ALERTS, FEW_PEAKS
from training.calibrate import BUDGET, Calibration, block_of
from training.data import Data
from training.normal import apart_a_day
from training.options import TrainOptions
from training.split import Part


def notes_of(
    data: Data,
    values: Float32,
    found: Calibration,
    options: TrainOptions,
    taught: Sequence[tuple[list[str], Float32, Any]] | None,
) -> list[str]:
    """Notes on data (``values`` are the windows that the model learnt from, (n, W, F)) and on what was calibrated.

    ``taught`` are labelled windows to learn from and to validate on, if there are any: sensors, windows, labels.
    """
    notes = []
    if taught is not None:
        labels = taught[0][2]
        notes.append(
            f"fine-tuned with a {options.head} head on {len(labels)} labelled windows, {labels.sum()} of them anomalous"
        )
    if data.touched:
        notes.append(
            f"{data.touched} of {len(data.which)} windows hold anomalous events ({options.label}): "
            "left out of what is learnt as normal, and of calibration"
        )
    constant = np.ptp(values, axis=(0, 1)) == 0  # (F)
    if constant.any():
        names = ", ".join(feature for feature, still in zip(data.rules.features, constant, strict=True) if still)
        notes.append(f"never changed while the model learnt: {names}; any real change of it will stand out")
    tail = found.thresholds.entries[0].tail
    if tail.peaks < FEW_PEAKS:
        notes.append(f"only {tail.peaks} independent peaks to calibrate on: the threshold is rough; give more data")
    days = sum(one.days for one in found.series.values())
    if found.asked is not None and options.budget is not None and found.asked < options.budget:
        notes.append(
            f"{options.budget:g} false alarms a sensor and day are more than these sensors can have, whose alerts are "
            f"over after {ALERTS.resolve_windows} calm windows: trained for {found.asked:.3g}"
        )
    if found.asked is not None and found.asked > (apart := apart_a_day(data)):
        notes.append(
            f"{found.asked:.3g} a sensor and day are more than one in two windows' lengths ({apart:.3g}): some alerts "
            "will be of the same events"
        )
    if options.threshold == "evt" and found.asked is not None and days * found.asked < 1:
        notes.append(
            f"calibration covers {days:.3g} sensor days, one alert is budgeted in {1 / found.asked:.3g}: "
            "the threshold is extrapolated"
        )
    if short := found.thresholds.short:
        notes.append(
            f"{len(short)} conformal thresholds are of too few blocks of {block_of(options)} windows for the budget: "
            f"just above the highest seen, n blocks promise one false alarm in n + 1 of them (here n is "
            f"{min(one.blocks for one in short)} or more), in all {found.expected:.3g} a sensor and day; give more data"
        )
    if found.asked is not None and found.expected < found.asked / 2:
        notes.append(
            f"these thresholds would make it {found.expected:.3g} a sensor and day; in the service they fall while "
            f"nothing happens, until it is {found.asked:.3g}"
        )
    if options.threshold == "evt" and options.budget is None and found.expected > 2 * BUDGET:
        notes.append(
            f"too few data to tell of {BUDGET:g} false alarms a sensor and day: expect {found.expected:.3g}; "
            "give more data, or ask for fewer by --budget"
        )
    fit_windows = int((data.parts == Part.FIT).sum())
    if fit_windows > len(values):
        notes.append(f"fitted on {len(values)} of {fit_windows} windows, drawn at random (--max-windows)")
    return notes
