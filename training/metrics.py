"""Detection quality against labels: pure functions of alerts, scores and labels. No threshold is picked here.

All take one array a stream and pool over the streams. What cannot be told is NaN: a recall without anything to find,
a precision without an alert.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from stream_detector.events import Bool, Float64, Int64

T = TypeVar("T", Bool, Float64)
Span: TypeAlias = tuple[int, int]  # first and last row, both included

JOINED = 10  # alert rows at most so far apart are one alarm
EACH = 60  # rows: a false alarm that goes on counts once for each so many
CHANGE_WINDOW = 60_000  # ms
STEPS = 1_000  # in which the tanh of a changepoint's window is read off, as in SKAB's own code
PROBATION_SHARE, PROBATION_MOST = 0.15, 750  # of a file's rows; rows
THRESHOLDS = 250  # at which range-based precision and recall are taken


class Weights(NamedTuple):
    """What a false alarm and a miss cost, where the best detection earns 1."""

    false: float
    missed: float


PROFILES = (Weights(0.11, 1.0), Weights(0.22, 1.0), Weights(0.11, 2.0))  # NAB's application profiles


class Rows(NamedTuple):
    """Row by row."""

    precision: float
    recall: float
    f1: float
    far: float  # percent of normal rows that are flagged
    mar: float  # percent of anomalous rows that are not


class Profiles(NamedTuple):
    """A score under each of NAB's profiles: 0 is a silent detector, 100 a perfect one."""

    standard: float
    low_fp: float
    low_fn: float


class EventCounts(NamedTuple):
    """By labelled segment and by alarm."""

    precision: float
    recall: float
    f1: float
    far: float  # percent of normal rows that are flagged
    delay: float  # median over the segments found: rows from a segment's first to the first flagged one in it
    segments: int
    found: int  # segments with a flagged row
    alarms: int  # that touch a segment
    false: int


def rows(said: Sequence[Bool], truth: Sequence[Bool]) -> Rows:
    """Rows of all streams pooled: flagged, ``said``, against anomalous, ``truth``, each (n) a stream.

    FAR and MAR as the Skoltech Anomaly Benchmark defines them (github.com/waico/SKAB, core/metrics.py).
    """
    flagged, anomalous = _pooled(said, truth)
    hits, false = int((flagged & anomalous).sum()), int((flagged & ~anomalous).sum())
    missed, quiet = int((~flagged & anomalous).sum()), int((~flagged & ~anomalous).sum())
    return Rows(
        _share(hits, hits + false),
        _share(hits, hits + missed),
        _share(2 * hits, 2 * hits + false + missed),
        100 * _share(false, false + quiet),
        100 * _share(missed, missed + hits),
    )


def changepoints(
    said: Sequence[Bool], times: Sequence[Int64], changes: Sequence[Bool], window: int = CHANGE_WINDOW
) -> Profiles:
    """SKAB's changepoint score: flips of the alert state ``said`` against rows where the state changes, ``changes``.

    ``times`` (n) are epoch ms, rising. A changepoint opens a window of ``window`` ms to its right; one that overlaps
    the window before it begins where that ends. The first flip in a window earns from 1 (at once) down a tanh to the
    false alarm's cost (at its end), each flip outside of all windows costs, each window without one too. A stream
    begins without an alert, so that one on its first row is a flip. NaN without changepoints. Follows waico/SKAB
    core/metrics.py with the arguments of its notebooks: windows to the right, "cut right window".
    """
    earned, null, perfect = np.zeros(3), np.zeros(3), 0
    for state, stamps, change in zip(said, times, changes, strict=True):
        flips = stamps[np.diff(state, prepend=False)]
        spans: list[Span] = []
        for at in stamps[change].tolist():
            begin = max(at, spans[-1][1]) if spans else at
            spans.append((begin, at + window))
        outside = np.ones(len(flips), bool)
        for begin, end in spans:
            inside = (flips >= begin) & (flips <= end)
            outside &= ~inside
            for profile, weights in enumerate(PROFILES):
                null[profile] -= weights.missed
                if inside.any():
                    earned[profile] += _fading((int(flips[inside][0]) - begin) / (end - begin), weights.false)
                else:
                    earned[profile] -= weights.missed
        perfect += len(spans)
        earned -= outside.sum() * np.array([weights.false for weights in PROFILES])
    return _scaled(earned, null, perfect)


def events(said: Sequence[Bool], truth: Sequence[Bool]) -> EventCounts:
    """Alarms against labelled segments, counts pooled over the streams; each array (n) a stream.

    Flagged rows at most `JOINED` apart are one alarm. It touches a segment if one of its flagged rows lies in it. An
    alarm that touches none is false once for each `EACH` rows begun of its length; one that touches some is false
    once for each full `EACH` flagged rows outside of segments. Recall is of segments, precision of alarms. This is
    the project's own metric (no "point adjust", by which a random score looks good; Kim et al. 2022, *Towards a
    Rigorous Evaluation of Time-Series Anomaly Detection*).
    """
    segments = found = alarms = false = 0
    delays: list[int] = []
    for flagged, anomalous in zip(said, truth, strict=True):
        for first, last in spans_of(anomalous):
            segments += 1
            hits = np.flatnonzero(flagged[first : last + 1])
            if len(hits):
                found += 1
                delays.append(int(hits[0]))
        alerts = np.flatnonzero(flagged)
        for alarm in np.split(alerts, np.flatnonzero(np.diff(alerts) > JOINED) + 1) if len(alerts) else []:
            outside = int((~anomalous[alarm]).sum())
            if outside < len(alarm):
                alarms += 1
                false += outside // EACH
            else:
                false += -(-int(alarm[-1] - alarm[0] + 1) // EACH)
    precision, recall = _share(alarms, alarms + false), _share(found, segments)
    f1 = math.nan if not segments else 2 * precision * recall / (precision + recall) if found else 0.0
    delay = float(np.median(delays)) if delays else math.nan
    return EventCounts(precision, recall, f1, rows(said, truth).far, delay, segments, found, alarms, false)


def probation(count: int) -> int:
    """Rows of a file of ``count`` that NAB leaves for learning: alerts in them are ignored."""
    return min(int(PROBATION_SHARE * count), PROBATION_MOST)


def nab(said: Sequence[Bool], windows: Sequence[Sequence[Span]]) -> Profiles:
    """The score of the Numenta Anomaly Benchmark v1.1, pooled over files; NaN without windows.

    ``said`` (n) are the rows of a file after its `probation`; ``windows`` are labelled spans of them, in order and
    apart; one that begins in the probation begins before row 0. A window earns by its earliest flagged row, from 1 at
    its first row down a sigmoid towards 0 at its last, and costs if it has none. Every flagged row outside costs:
    little just after a window, all from three times its length on and before the first. Follows nab/sweeper.py and
    nab/runner.py of github.com/numenta/NAB (Lavin and Ahmad 2015, *Evaluating Real-time Anomaly Detection
    Algorithms*).
    """
    earned, null, perfect = np.zeros(3), np.zeros(3), 0
    false = np.array([weights.false for weights in PROFILES])
    missed = np.array([weights.missed for weights in PROFILES])
    for flagged, spans in zip(said, windows, strict=True):
        cost = np.ones(len(flagged))  # of an alert on each row, as a share of a false alarm's weight
        for first, last in spans:
            after = np.arange(max(0, last + 1), len(flagged))
            past = (after - last) / (last - first) if last > first else np.full(len(after), np.inf)
            cost[after] = np.where(past > 3, 1.0, -_sigmoid(np.minimum(past, 3)))
        for first, last in spans:
            perfect += 1
            if last < 0:  # all of it in the probation: nobody can find it, and nobody pays for it
                continue
            cost[max(0, first) : last + 1] = 0
            null -= missed
            hits = np.flatnonzero(flagged[max(0, first) : last + 1])
            if len(hits):
                left = last - max(0, first) - hits[0] + 1  # rows from the alert to the window's end
                earned += float(_sigmoid(-left / (last - first + 1)) / _sigmoid(-1.0))
            else:
                earned -= missed
        earned -= float(cost[flagged].sum()) * false
    return _scaled(earned, null, perfect)


def average_precision(scores: Sequence[Float64], truth: Sequence[Bool]) -> float:
    """Area under the precision-recall curve, rows of all streams pooled: the mean precision over what recall gains.

    ``scores`` (n) a stream, higher is more anomalous; equal ones are one step. NaN without anomalous rows. The
    step-wise sum, as in scikit-learn's ``average_precision_score``: no interpolation. Raises `ValueError` for NaN.
    """
    score, anomalous = _pooled(_numbers(scores), truth)
    if not anomalous.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(score) - 1)  # of each run of equal scores
    hits = np.cumsum(anomalous[order])[ends]
    return float((np.diff(hits / hits[-1], prepend=0.0) * hits / (ends + 1)).sum())


def vus_pr(scores: Sequence[Float64], truth: Sequence[Bool], buffer: int) -> float:
    """Volume under the precision-recall surface: range-based average precision, mean over buffers of 0 to ``buffer``.

    Paparrizos et al. 2022, *Volume Under the Surface* (VLDB 15, 11), as in TSB-AD's ``RangeAUC_volume_opt``: with a
    buffer of l rows, labels fall off on both sides of a segment over l // 2 rows as sqrt(1 - distance / l); a hit
    there earns that much; recall counts half of what was earned in buffers as positives too, and is multiplied by the
    share of buffered segments that are touched. At `THRESHOLDS` ranks of the pooled scores. NaN without anomalous
    rows. Raises `ValueError` for NaN among the scores, and for a negative buffer.
    """
    if buffer < 0:
        raise ValueError(f"buffer {buffer}: give 0 or more")
    score, anomalous = _pooled(_numbers(scores), truth)
    if not anomalous.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    falling = -score[order]
    ranks = np.linspace(0, len(score) - 1, THRESHOLDS).astype(int)
    flagged = np.searchsorted(falling, falling[ranks], side="right")  # (T) rows at or above each threshold
    positives = int(anomalous.sum())
    hits = np.cumsum(anomalous[order])[flagged - 1]  # (T)
    total = 0.0
    for length in range(buffer + 1):
        labels, tops = _buffered(scores, truth, length)
        earned = np.cumsum(labels[order])[flagged - 1]  # (T) in segments and buffers
        recall = np.minimum(earned / (positives + (earned - hits) / 2), 1)
        touched = np.searchsorted(-tops, falling[ranks], side="right") / len(tops)
        total += float((np.diff(recall * touched, prepend=0.0) * earned / flagged).sum())
    return total / (buffer + 1)


def spans_of(flags: Bool) -> list[Span]:
    """First and last row of each run of true rows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(begin), int(end) - 1) for begin, end in edges.reshape(-1, 2)]


def _buffered(scores: Sequence[Float64], truth: Sequence[Bool], length: int) -> tuple[Float64, Float64]:
    """Labels (n, of all streams) with sloping sides, and the highest score of each buffered segment, falling."""
    half = length // 2
    slope = np.sqrt(1 - np.arange(1, half + 1) / length) if half else np.empty(0)
    labels, tops = [], []
    for score, anomalous in zip(scores, truth, strict=True):
        label = anomalous.astype(np.float64)
        merged: list[Span] = []
        for first, last in spans_of(anomalous):
            after, before = label[last + 1 : last + 1 + half], label[max(0, first - half) : first]
            after += slope[: len(after)]  # in place: views of the labels
            before += slope[: len(before)][::-1]
            if merged and merged[-1][1] >= first - half:
                merged[-1] = merged[-1][0], last + half
            else:
                merged.append((max(0, first - half), last + half))
        labels.append(np.minimum(label, 1))
        tops += [float(score[first : last + 1].max()) for first, last in merged]
    return np.concatenate(labels), np.sort(tops)[::-1]


def _fading(share: float, false: float) -> float:
    """What a flip earns after a share (0..1) of its window: 1 at once, ``-false`` at the end."""
    step = min(int(share * STEPS), STEPS - 1)
    angle = math.pi * (step / (STEPS - 1) - 0.5)
    return (1 + false) / 2 * (1 - math.tanh(angle) / math.tanh(math.pi / 2)) - false


def _sigmoid(place: Float64 | float) -> Float64:
    """NAB's scaled sigmoid: near 1 a window's length before its end, 0 there, towards -1 after it."""
    return np.asarray(2 / (1 + np.exp(5 * np.asarray(place, np.float64))) - 1)


def _scaled(earned: Float64, null: Float64, perfect: int) -> Profiles:
    if not perfect:
        return Profiles(math.nan, math.nan, math.nan)
    return Profiles(*(100 * (earned - null) / (perfect - null)).tolist())


def _pooled(first: Sequence[T], second: Sequence[Bool]) -> tuple[T, Bool]:
    """All streams as one. Raises `ValueError` where their lengths differ."""
    if [len(one) for one in first] != [len(one) for one in second]:
        raise ValueError("rows and labels differ in number")
    if not len(first):
        raise ValueError("no stream given")
    return np.concatenate(first), np.concatenate(second)


def _numbers(scores: Sequence[Float64]) -> Sequence[Float64]:
    if any(np.isnan(score).any() for score in scores):
        raise ValueError("a score is NaN; give rows without a score the lowest")
    return scores


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def hit_rate(named: Sequence[Sequence[str]], blamed: Sequence[Collection[str]]) -> float:
    """The mean share of ``blamed`` features among as many that were ``named`` first; one of each a segment.

    HitRate@100% of Su et al. 2019, *Robust Anomaly Detection for Multivariate Time Series through Stochastic
    Recurrent Neural Network*, 5.6. Naming at random reaches the share of the features that are to blame.
    """
    shares = [
        len(set(found[: len(sought)]) & set(sought)) / len(sought)
        for found, sought in zip(named, blamed, strict=True)
        if sought
    ]
    return sum(shares) / len(shares) if shares else math.nan
