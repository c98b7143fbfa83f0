"""The pipeline inside a program or a notebook, without servers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.alerts import Incident
from stream_detector.bundle import Bundle
from stream_detector.configured import fitted, learner_of, model_of, rules_of
from stream_detector.criteria import criteria_of
from stream_detector.events import Errors, Events, Float32, Partition, Score, Windows
from stream_detector.groups import alike
from stream_detector.levels import Level, fall
from stream_detector.memories import Memories
from stream_detector.novelty import expected_by
from stream_detector.settings import Settings, load_settings
from stream_detector.shifts import Shift, accept
from stream_detector.timestamps import parse
from stream_detector.verdicts import forget, judge, score_records, without_unscored
from stream_detector.windows import Rolling

HERE = Partition("detector", 0)


class Detector:
    """Scores events one by one, or whole windows; same rules, model and thresholds as the service.

    >>> from stream_detector import Detector, load_bundle
    >>> detector = Detector(load_bundle("bundle"))               # doctest: +SKIP
    >>> detector.update("pump-7", "2026-11-20T10:00:00Z", {"pressure": 2.1, "current": 0.93})  # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        self.bundle = bundle
        self.settings = fitted(settings or load_settings(), bundle.manifest)
        self.scorer = KerasScorer(bundle, self.settings.device.max_batch_windows)
        rules = rules_of(bundle.manifest, self.settings)
        self.rolling, self.criteria = Rolling(rules), criteria_of(rules, self.settings)
        self.incidents: dict[str, Incident] = {}
        self.levels: dict[str, Level] = {}
        self.shifts: dict[str, Shift] = {}
        self.learner, self.memories = learner_of(bundle), Memories()
        self.position = 0
        self.zone = ZoneInfo(self.settings.columns.timezone)

    def update(
        self, sensor_id: str, timestamp: str | int | datetime, values: Mapping[str, float | None]
    ) -> list[Score]:
        """The scores that one event completes: none or one.

        ``timestamp`` is RFC 3339, epoch milliseconds or a datetime; one that names no zone is in `columns.timezone`.
        Raises `ValueError` for what the service would put into the dead-letter topic: unknown features, nothing
        measured, values that are not finite; late and repeated events are ignored as in the service.
        """
        row = self._row(values)
        time = parse(timestamp, self.zone)
        offset, self.position = self.position, self.position + 1
        windows, change = self.rolling.push(
            Events([sensor_id], np.array([time]), row, np.array([offset]), np.array([-1]))
        )
        for sensor, _ in change.swept:
            forget(sensor, self.incidents, {})
            self.memories.forget(sensor)
            self.levels.pop(sensor, None)
            self.shifts.pop(sensor, None)
        if not len(windows):
            return []
        windows, errors, _ = without_unscored(windows, self._loaded().score(windows.sensors, windows.values))
        errors, _ = accept(self.shifts, windows, errors, self.criteria.alerts)
        if self.learner is not None:
            errors, _ = self.learner.judge(self.memories, windows, errors)
        errors, _ = fall(self.levels, windows, errors, self.criteria.alerts, self.bundle.manifest.stride)
        judged = judge(HERE, windows, errors, self.incidents, self.criteria, self._expect)
        features, models = self.bundle.manifest.features, alike(model_of(self.bundle.manifest))
        return score_records(HERE, windows, errors, judged.states, np.arange(len(windows)), features, models)

    def score(self, windows: Float32) -> Errors:
        """Errors of ``windows`` (n, W, F) in raw units, features in the bundle's order, global threshold.

        Without what learns on: these windows are nobody's, and nothing is known of what was before each.
        """
        values = np.asarray(windows, np.float32)
        manifest = self.bundle.manifest
        if values.ndim != 3 or values.shape[1:] != (manifest.length, len(manifest.features)):
            raise ValueError(
                f"give windows of shape (n, {manifest.length}, {len(manifest.features)}), not {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError("windows hold values that are missing or not finite; impute them first")
        return self._loaded().score([""] * len(values), values)

    def _expect(self, windows: Windows, errors: Errors) -> Float32:
        return expected_by(errors, self._loaded().expect(windows.sensors, windows.values, errors.names))

    def _loaded(self) -> KerasScorer:
        if self.scorer.compiled is None:
            self.scorer.load()
        return self.scorer

    def _row(self, values: Mapping[str, float | None]) -> Float32:
        features = self.bundle.manifest.features
        unknown = sorted(set(values) - set(features))
        if unknown:
            raise ValueError(f"unknown features {', '.join(unknown)}; the bundle has {', '.join(features)}")
        given = [values.get(name) for name in features]
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            row = np.array([[np.nan if value is None else value for value in given]], np.float32)  # (1, F)
        if np.isinf(row).any() or any(value is not None and np.isnan(value) for value in given):
            raise ValueError("a value is not finite; leave it out (or give None) if it is missing")
        if np.isnan(row).all():
            raise ValueError("no feature has a value")
        return row
