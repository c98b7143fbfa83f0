"""From a fitted model to verdicts: residual statistics, the score's other parts, thresholds from a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from keras import ops

from stream_detector.adapters.keras.partners import jumps
from stream_detector.adapters.keras.scorer import CompiledModel, buckets_up_to
from stream_detector.contents import Ends, ErrorKind, ErrorStatistics, Output, Partner, Scaler
from stream_detector.events import Float64
from stream_detector.policy import APART
from stream_detector.thresholds import (
    ALERTS,
    BUDGETED,
    FLOOR,
    Series,
    Thresholds,
    expected_alerts_per_day,
    fit_thresholds,
)
from training.data import Data
from training.normal import days_of, error_statistics, errors_of, most_alerts, series_of
from training.novelty import alerts_per_day, novelty
from training.options import TrainOptions
from training.partners import SHORTEST, bias, change, contrasts, ends, level, own_deviations, partner_errors, spread
from training.progress import Progress, silent
from training.split import Part, overlap

BUDGET = 0.5  # alerts per sensor and day that are accepted where nobody said how many
# Of the budget. Most goes to what finds most for it: docs/quality.md has the evidence.
SHARES = {"model": 0.1, "change": 0.77, "level": 0.1, "bias": 0.02, "spread": 0.01}
LEAST = 0.1  # threshold of a partner, in deviations: a plant without any noise has no alert for rounding
BATCH = 1_024  # windows judged at a time


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is learnt from windows that the optimiser did not see."""

    judge: CompiledModel
    statistics: ErrorStatistics
    errors: Float64  # (n) of the data's windows, NaN where they did not serve
    scores: Float64  # (n) likewise: the largest of the parts' errors, each by its threshold
    series: dict[str, Series]
    thresholds: Thresholds
    expected: float  # alerts per sensor and day
    asked: float | None  # likewise, what they were made for: as many as was asked for and sensors can have


def calibrate(
    model: Any,
    scaler: Scaler,
    data: Data,
    options: TrainOptions,
    progress: Progress = silent,
    output: Output = "window",
) -> Calibration:
    """Residual statistics on one part of the data, then thresholds on the errors of the part after it.

    Errors are made by the compiled function that the service scores with.
    """
    # One size: to compile for another takes longer than to pad to this one.
    sizes: dict[str, Any] = {"buckets": buckets_up_to(BATCH), "one_size": True}
    grouping = options.grouping
    batches = sizes | {"output": output, "stride": options.step, "grouping": grouping}
    sensors, held = data.gather(Part.STATISTICS, options.held_out, options.seed)  # (n), (n, W, F) raw
    error = error_kind(options, output)
    size = (model, options.length, scaler)
    bare = CompiledModel(*size, ErrorStatistics("mse"), None, **batches)
    thinned = max(1, int((data.parts == Part.STATISTICS).sum()) // len(held))
    learns = error in ("mahalanobis", "newest")
    residuals = bare.residuals(sensors, held) if learns else held[:0]
    statistics = error_statistics(error, residuals, max(1, overlap(options.length, options.step) // thinned))
    if error == "newest":
        common, own = own_deviations(sensors, ops.convert_to_numpy(jumps(residuals, options.step)))
        statistics = msgspec.structs.replace(statistics, deviation=common, own=own)
    progress("calibrate", 1, 2, {"windows": len(held)})
    judge = CompiledModel(*size, statistics, None, **batches)
    errors = errors_of(judge, data)
    series = series_of(errors, data)
    where, partners, beside = _partners(data, scaler, options, bare)
    parts = {"model": series} | {name: series_of(one, data) for name, one in beside.items()}
    learns_on, asked = _learns_on(data, options, output), asked_of(data, options)
    shares = {name: SHARES[name] for name in parts}
    whole, days = sum(shares.values()), days_of(data)
    found = {
        name: fit_thresholds(one, options.threshold, parameter, grouping, block_of(options), least)
        for name, one in parts.items()
        for parameter in (_parameter(options, asked, shares[name] / whole, days),)
        for least in (FLOOR if name == "model" else LEAST,)
    }
    expected = sum(expected_alerts_per_day(found[name], one, grouping) for name, one in parts.items())
    by_part = {"model": errors} | beside
    scores = np.full(len(errors), -np.inf)
    for name, one in by_part.items():  # NaN of any part stays
        limits = found[name].values[found[name].rows(data.names, grouping)]  # of each sensor
        np.maximum(scores, one / limits[data.which], out=scores)
    thresholds = msgspec.structs.replace(found.pop("model"), partners=found)
    statistics = msgspec.structs.replace(statistics, ends=where, partners=partners)
    progress("calibrate", 2, 2, {"threshold": thresholds.entries[0].threshold})
    judge = CompiledModel(*size, statistics, thresholds, **batches)
    if learns_on:
        made = novelty(data, scaler, judge, asked or BUDGET, asked=asked is not None, grouping=grouping)
        statistics = msgspec.structs.replace(statistics, novelty=made)
        expected = alerts_per_day(made, data)  # of what speaks once it knows enough
    return Calibration(judge, statistics, errors, scores, series, thresholds, expected, asked)


def asked_of(data: Data, options: TrainOptions) -> float | None:
    """Alerts per sensor and day that somebody asked for, or as many as sensors can have; None if nobody did."""
    if options.threshold not in BUDGETED or options.budget is None:
        return None
    return min(options.budget, most_alerts(data))


def block_of(options: TrainOptions) -> int:
    """Windows in a row in which a sensor can hardly have more than one alert: until it is over, events included."""
    shared = overlap(options.length, options.step)
    return max(APART * shared, shared + ALERTS.resolve_windows)


def error_kind(options: TrainOptions, output: Output) -> ErrorKind:
    """How an error is made of what the model returns: what its partners do not tell, or, without any, the whole."""
    if output == "probability":
        return "probability"
    return options.error or ("newest" if output == "window" and options.partners else "mahalanobis")


def _partners(
    data: Data, scaler: Scaler, options: TrainOptions, judge: CompiledModel
) -> tuple[Ends | None, tuple[Partner, ...], dict[str, Float64]]:
    """Where residuals count, the score's other parts, and the errors (n) of each.

    A single metric has another: see `novelty`.
    """
    if not _has_others(options, judge.output) or len(data.rules.features) == 1:
        return None, (), {}
    found = contrasts(data, scaler, judge, options.grouping)
    made = [
        one for one in (change(found), level(data, found), bias(data, found), spread(data, found)) if one is not None
    ]
    return ends(data, found), tuple(made), {one.name: partner_errors(data, one, found) for one in made}


def _has_others(options: TrainOptions, output: Output) -> bool:
    """Whether the score has other parts than the model.

    None beside a probability, which was taught what counts, nor beside a threshold that was given for the model.
    """
    return options.partners and output != "probability" and options.threshold != "fixed" and options.length >= SHORTEST


def _learns_on(data: Data, options: TrainOptions, output: Output) -> bool:
    """Whether the score has a part that learns on: of single metrics, for which there is evidence (docs/quality.md)."""
    return _has_others(options, output) and len(data.rules.features) == 1


def _parameter(options: TrainOptions, asked: float | None, share: float, days: float) -> float:
    """What a part's thresholds are fitted to: its share of the budget, or what was given for all.

    A budget that nobody asked for is not stretched: it is one alert in the sensor days that were learnt from, at least.
    Minutes of data say nothing of what comes once in two days, and a threshold for it would be blind.
    """
    if asked is not None:
        return share * asked
    if options.budget is not None:
        return options.budget
    return max(share * BUDGET, 1 / days)
