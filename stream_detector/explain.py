"""An alert looked into: its events are read again by their offsets and scored again by the model that it names.

The same decoding, the same rules of event time and the same compiled scoring as in the service; only the step from
window to window is one event, so that the alert's own window is among those that come of it whatever the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream_detector.adapters.files.source import FILES, FileSource
from stream_detector.adapters.kafka import read_alerts, read_offsets
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.adapters.registry import open_bundle
from stream_detector.bundle import Bundle
from stream_detector.codec import Decoder, decode_alert
from stream_detector.configured import fitted, learner_of, locations, rules_of
from stream_detector.criteria import criteria_of, grouping_of
from stream_detector.errors import BundleError, DataError, SettingsError, UserError
from stream_detector.events import (
    PARTS,
    Alert,
    Bool,
    Errors,
    Events,
    Float32,
    Int64,
    Partition,
    PartName,
    Windows,
    gathered,
    joined,
)
from stream_detector.levels import HIGHEST, LOWEST
from stream_detector.memories import Memories
from stream_detector.novelty import Learner, expected_by
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.shifts import raised_by
from stream_detector.verdicts import short
from stream_detector.windows import Rolling

FIRST_MARGIN = 1_024  # offsets before the window that are read first; more if that was too little
CHUNK = 1_000  # events that are made windows of at once
BEFORE = 200  # scores before the alert's own that are told
TOLERANCE = 1e-5  # relative, on the same kind of machine
LEAST = 1e-6  # absolute, of what is near zero

Read = Callable[[Alert, int], tuple[int, Events]]
"""The first offset there is, and the sensor's events from that many offsets before an alert's window to its end."""


class Claim(NamedTuple):
    """One number of an alert, as published and as it comes out now."""

    name: str
    published: float | None  # None: it tells none
    again: float | None

    def holds(self, tolerance: float) -> bool:
        """Whether both are the same."""
        if self.published is None or self.again is None:
            return self.published is self.again
        apart = abs(self.published - self.again)
        return apart <= max(LEAST, tolerance * max(abs(self.published), abs(self.again)))


@dataclass(frozen=True, slots=True)
class Explanation:
    """One record of an alert, and what comes out now. ``n`` scores, windows of ``W`` events, ``F`` features."""

    alert: Alert
    features: tuple[str, ...]
    claims: list[Claim]
    times: Int64  # (W) epoch ms
    values: Float32  # (W, F) as scored, imputed where something was missing
    measured: Float32  # (W, F) NaN where nothing was measured
    expected: Float32  # (W, F) NaN where the model expects nothing
    worst_step: int
    ends: Int64  # (n) of the windows that were scored, the alert's own last, epoch ms
    scores: Float32  # (n)
    imputed_blindly: bool  # whether a value was missing that was last measured before what could be read

    def holds(self, tolerance: float = TOLERANCE) -> bool:
        """Whether everything that the alert says comes out again."""
        return all(claim.holds(tolerance) for claim in self.claims)


def alerts_of_topic(settings: Settings, topic: str, id_: str, since_ms: int | None) -> list[Alert]:
    """The records of an alert, in their order. Raises `DataError` if there are none."""
    return _found(read_alerts(settings, topic, id_, since_ms), id_, f"topic {topic}")


def alerts_of_file(path: Path, id_: str) -> list[Alert]:
    """The records of an alert in a replay's ``alerts.jsonl``. Raises `DataError` if there are none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give --alerts the alerts.jsonl of a replay") from error
    alerts = [decode_alert(line) for line in lines if id_.encode() in line]
    return _found([alert for alert in alerts if alert is not None and alert.id == id_], id_, str(path))


def reading_topic(settings: Settings, decoder: Decoder) -> Read:
    """Events from Kafka."""

    def read(alert: Alert, margin: int) -> tuple[int, Events]:
        source = alert.source
        partition = Partition(source.topic, source.partition)
        start = source.first_offset - margin
        return read_offsets(settings, decoder, partition, start, source.last_offset + 1, alert.sensor_id)

    return read


def reading_files(
    paths: Sequence[str], decoder: Decoder, names: Sequence[str] | None = None, period: int | None = None
) -> Read:
    """Events from the files of a replay, all there are up to the alert."""

    def read(alert: Alert, margin: int) -> tuple[int, Events]:
        if alert.source.topic != FILES.topic:
            raise DataError(f"the alert's events are in topic {alert.source.topic}, not in files; leave out --data")
        source = FileSource(paths, decoder, names=names, period=period)
        parts = [decoder.decode([]).events]
        while not source.finished:
            for part in source.poll(0):
                events = part.events
                mine = np.array([name == alert.sensor_id for name in events.sensors], bool)
                parts.append(events.take(mine & (events.offsets <= alert.source.last_offset)))
                if part.end > alert.source.last_offset:
                    source.close()
        return max(0, alert.source.first_offset - margin), joined(parts)  # and all before that, which does no harm

    return read


def bundle_of(alert: Alert, settings: Settings, path: str | None = None) -> Bundle:
    """The bundle that judged; ``path`` (from ``--bundle``) is looked at first, then that of the alert's sensor.

    Sensors may have been in other groups then, so the others follow. Raises what the first had to say if it is none.
    """
    places = locations(settings, path)
    group = ["", *settings.groups][grouping_of(settings).of(alert.sensor_id)]
    own = places.get(group, places[""])
    refused: list[UserError] = []
    for place in dict.fromkeys([path or own, own, *places.values()]):
        try:
            bundle = open_bundle(settings, place, alert.model.version)
            check_model(alert, bundle)
            return bundle
        except (BundleError, SettingsError) as error:
            refused.append(error)
    raise refused[0]


def check_model(alert: Alert, bundle: Bundle) -> None:
    """Raise `BundleError` unless the bundle is the one that judged."""
    manifest = bundle.manifest
    if (alert.model.name, alert.model.version) != (manifest.name, manifest.version):
        raise BundleError(
            f"{bundle.path} is {manifest.name} {manifest.version}, the alert was judged by {alert.model.name} "
            f"{alert.model.version}; give --bundle that version"
        )


def explain(alerts: Sequence[Alert], bundle: Bundle, settings: Settings, read: Read) -> list[Explanation]:
    """Each record of one alert, scored again.

    Raises `BundleError` for another model, `DataError` for events that are gone and for alerts without a window.
    """
    for alert in alerts:
        check_model(alert, bundle)
        if alert.kind == "silence":
            raise DataError(f"alert {alert.id} tells that {alert.sensor_id} was silent: no window was scored for it")
    rules = replace(rules_of(bundle.manifest, settings), stride=1)
    learner = learner_of(bundle)
    enough = rules.length + (0 if learner is None else learner.reach)
    events = [_with_margin(alert, read, enough, settings.delivery.lookback_limit) for alert in alerts]
    policies = criteria_of(rules, fitted(settings, bundle.manifest)).alerts
    scorer = KerasScorer(bundle, settings.device.max_batch_windows)
    scorer.load()
    return [
        _explain(alert, part, rules, scorer, learner, falls=isinstance(policies.of(alert.sensor_id).budget, float))
        for alert, part in zip(alerts, events, strict=True)
    ]


def _explain(
    alert: Alert, events: Events, rules: Rules, scorer: KerasScorer, learner: Learner | None, *, falls: bool
) -> Explanation:
    origin, before = alert.source, BEFORE if learner is None else BEFORE + learner.reach
    rolling, newest = Rolling(rules), max(0, len(events) - before - 1)
    for at in range(0, newest, CHUNK):  # their windows are of no interest, and could be many
        rolling.push(events.take(slice(at, min(at + CHUNK, newest))))
    held = rolling.rows.get(alert.sensor_id, b"")
    windows, change = rolling.push(events.take(slice(newest, None)))
    if not len(windows) or windows.offsets[-1].tolist() != [origin.first_offset, origin.last_offset]:
        raise DataError(
            f"offsets {origin.first_offset} to {origin.last_offset} of {origin.topic}-{origin.partition} no longer "
            f"make a window of {rules.length} events of {alert.sensor_id}: events were compacted away, the settings of "
            "[window], [events] or [columns] are others, or the data are"
        )
    errors = scorer.score(windows.sensors, windows.values)
    # What the service had accepted by then depends on all that the sensor did before; the alert says it.
    errors = raised_by(np.full(len(windows), max(1.0, alert.accepted), np.float32), errors)
    if learner is not None:
        errors = _learnt(learner, windows, errors)
    if falls:
        errors = _fallen(alert, errors)
    last = len(windows) - 1
    own, judged = windows.take(np.array([last])), errors.take(slice(last, last + 1))
    # What the alert says was expected is of the part of the score that it names.
    parts: list[PartName] = [alert.part if alert.part in PARTS else "model"]
    expected = expected_by(judged, scorer.expect(own.sensors, own.values, parts))[0]  # (W, F)
    step, features = int(judged.worst_step[0]), rules.features
    rows = np.frombuffer(held + b"".join(change.rows), rules.row)[-rules.length :]  # (W) as the rules took them
    imputed = np.unpackbits(rows["imputed"], axis=1, count=len(features)).astype(bool)  # (W, F)
    claims = [
        Claim("score", alert.score, short(judged.score[0])),
        Claim("threshold", alert.threshold, short(judged.threshold[0])),
    ]
    tables = (
        ("contribution", alert.contributions, short(judged.contributions[0])),
        ("observed", alert.observed, short(own.values[0, step])),
        (
            "expected",
            alert.expected,
            [None] * len(features) if np.isnan(expected[step]).any() else short(expected[step]),
        ),
    )
    for what, published, found in tables:
        claims += [
            Claim(f"{what} {name}", published.get(name), value) for name, value in zip(features, found, strict=True)
        ]
    blind = own.imputed[0] & ~_known_before(events, origin.first_offset)
    return Explanation(
        alert,
        features,
        claims,
        rows["timestamp"].astype(np.int64),
        own.values[0],
        np.where(imputed, np.float32(np.nan), own.values[0]),
        expected,
        step,
        windows.timestamps[-BEFORE - 1 :, 1],
        errors.score[-BEFORE - 1 :],
        bool(blind.any()),
    )


def _learnt(learner: Learner, windows: Windows, errors: Errors) -> Errors:
    """The errors (n) of windows with a stride of 1, of which the service judged the last, and every so many before."""
    judged = np.arange(len(windows) - 1, -1, -learner.stride)[::-1]
    told, _ = learner.judge(Memories(), windows.take(judged), errors.take(judged))
    others = np.setdiff1d(np.arange(len(windows)), judged)
    order = np.argsort(np.concatenate([others, judged]))
    return gathered([errors.take(others), told]).take(order)


def _fallen(alert: Alert, errors: Errors) -> Errors:
    """The errors (n) by the threshold that the alert names, if the one of the last window can have moved to it.

    How far it had depends on all that the sensor did before; after an alert, a step above that of training at most.
    """
    share = np.float32(alert.threshold / float(errors.threshold[-1]))
    if not LOWEST * (1 - TOLERANCE) <= share <= HIGHEST * (1 + TOLERANCE):
        return errors
    return replace(errors, score=errors.score / share, threshold=errors.threshold * share)


def _with_margin(alert: Alert, read: Read, length: int, limit: int) -> Events:
    """Events of the window and enough before it: what is late or repeated, and what was last measured, shows there."""
    margin, origin = FIRST_MARGIN, alert.source
    while True:
        first, events = read(alert, margin)
        if first > origin.first_offset:
            raise DataError(
                f"the alert's events began at offset {origin.first_offset} of {origin.topic}-{origin.partition}, which "
                f"now begins at {first}: retention removed them; a longer retention.ms keeps them for the next alert"
            )
        before = int((events.offsets < origin.first_offset).sum())
        known = bool(_known_before(events, origin.first_offset).all())
        if (before >= length and known) or origin.first_offset - margin <= first or margin >= limit:
            return events
        margin *= 4


def _known_before(events: Events, offset: int) -> Bool:
    """Of which features (F) a value was measured before ``offset``."""
    return np.asarray((~np.isnan(events.values[events.offsets < offset])).any(axis=0), bool)


def _found(alerts: list[Alert], id_: str, where: str) -> list[Alert]:
    if not alerts:
        raise DataError(f"no alert {id_} in {where}; look at its id again, or further back with --since")
    return sorted({alert.revision: alert for alert in alerts}.values(), key=lambda alert: alert.revision)
