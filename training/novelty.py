"""What learns on, made ready for a bundle: how far it looks back, and what each sensor showed last in training."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import Novelty, Scaler
from stream_detector.events import Float32, Int64, Windows
from stream_detector.groups import Grouping
from stream_detector.memories import Memories, Memory
from stream_detector.novelty import Learner
from training.data import Data
from training.normal import DAY
from training.split import Part

EVENTS = 2_000  # of a sensor, among which windows like the last are looked for …
LENGTHS = 8  # … or so many times a window, if that is more
NEIGHBOURS = 10
# Events whose windows a threshold is the highest of, at least. docs/quality.md has the evidence for all three.
RANKED = 1_000


def novelty(
    data: Data, scaler: Scaler, judge: CompiledModel, budget: float, *, asked: bool, grouping: Grouping
) -> Novelty:
    """For ``budget`` alerts per sensor and day.

    One that nobody ``asked`` for is not stretched beyond what each sensor was learnt from. What is beyond the highest
    of `RANKED` windows is left to thresholds that fall (`stream_detector.levels`).
    """
    length, stride = data.rules.length, data.rules.stride
    spans = {**data.periods, "": float(np.median(list(data.periods.values())))}
    windows = {sensor: math.ceil(DAY / (span * stride) / budget) for sensor, span in spans.items()}
    if not asked:
        known = dict(zip(data.names, np.bincount(data.which).tolist(), strict=True))
        known[""] = round(float(np.median(list(known.values()))))
        windows = {sensor: min(count, known[sensor]) for sensor, count in windows.items()}
    windows = {sensor: max(math.ceil(RANKED / stride), count) for sensor, count in windows.items()}
    bare = Novelty(max(EVENTS, LENGTHS * length), NEIGHBOURS, windows)
    return msgspec.structs.replace(bare, own=_last(data, Learner(bare, scaler, length, stride, grouping), judge))


def alerts_per_day(found: Novelty, data: Data) -> float:
    """What is expected of it per sensor, the mean: of so many windows one is the highest."""
    stride = data.rules.stride
    return float(np.mean([DAY / (span * stride) / found.windows[name] for name, span in data.periods.items()]))


def _last(data: Data, learner: Learner, judge: CompiledModel) -> dict[str, Memory]:
    """What is known of each sensor after the last windows of training."""
    chosen = np.zeros(len(data.parts), bool)
    for sensor, places in data.histories(data.parts != Part.NONE):
        count = learner.novelty.windows[sensor]
        filled = math.ceil(learner.novelty.events / min(learner.stride, learner.length))
        chosen[places[-(filled + count) :]] = True
    memories = Memories()
    for places, values in data.values(chosen):
        sensors = data.sensors(places)
        learner.judge(memories, _windows(sensors, values, data.timestamps[places]), judge.errors(sensors, values))
    return memories.known


def _windows(sensors: list[str], values: Float32, timestamps: Int64) -> Windows:
    """As the service has them; where they come from in a log, and what was imputed, does not matter here."""
    count, _, size = values.shape
    nowhere = np.zeros((count, 2), np.int64)
    return Windows(sensors, values, timestamps, nowhere, np.zeros((count, size), bool), np.ones(count, np.float32))
