"""What settings and a bundle make together: the rules of windows, the decoder's features, the model's name."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from stream_detector.bundle import Bundle, check_fits
from stream_detector.contents import Manifest
from stream_detector.errors import BundleError, SettingsError
from stream_detector.events import Model
from stream_detector.groups import Grouping
from stream_detector.novelty import Learner
from stream_detector.policy import Faults, Feature, paced, patience_of
from stream_detector.sensors import Rules
from stream_detector.settings import Settings, Window
from stream_detector.silence import Heartbeats

log = logging.getLogger(__name__)


def located(settings: Settings, path: str | None = None) -> str:
    """Where the bundle is; ``path`` (from ``--bundle``) wins. Raises `SettingsError` if nobody said."""
    chosen = path or settings.bundle.path
    if chosen is None:
        raise SettingsError("no bundle: give --bundle FOLDER or set bundle.path (`stream-detector train` makes one)")
    return chosen


def locations(settings: Settings, path: str | None = None) -> dict[str, str]:
    """Where the bundles are: those of groups that name one by the group's name, that of all other sensors under ""."""
    own = {name: group.bundle for name, group in settings.groups.items() if group.bundle is not None}
    return {"": located(settings, path)} | own


def check_windows(manifest: Manifest, features: tuple[str, ...], length: int, stride: int, remedy: str) -> None:
    """Raise `BundleError` unless the bundle is for windows of just these features, in their order, length and stride.

    ``remedy`` says what to do about it.
    """
    for what, new, old in (
        ("features", ", ".join(manifest.features), ", ".join(features)),
        ("length", manifest.length, length),
        ("stride", manifest.stride, stride),
    ):
        if new != old:
            told = f"bundle {manifest.name} {manifest.version} has {what} {new}, the windows that are kept have {old}"
            raise BundleError(f"{told}; {remedy}")


def checked(settings: Settings, bundle: Bundle) -> Bundle:
    """The bundle, if the settings are for it. Raises `BundleError` or `SettingsError`."""
    check_fits(bundle, length=settings.window.length, stride=settings.window.stride)
    fitted(settings, bundle.manifest)
    return bundle


def rules_of(manifest: Manifest, settings: Settings) -> Rules:
    """The event-time rules."""
    window, events = settings.window, settings.events
    return Rules(
        features=manifest.features,
        length=manifest.length,
        stride=manifest.stride,
        means=manifest.means,
        missing=events.missing,
        grace=window.grace,
        duplicates=window.duplicates,
        max_gap=max_gap_of(window, manifest.longest_window),
        own_gaps=manifest.longest_windows if window.max_gap == "learned" else {},
        clock_reset=window.clock_reset,
        ttl=window.ttl,
        max_sensors=window.max_sensors,
        known=frozenset(manifest.sensors) if events.unknown_sensors == "reject" else None,
    )


def max_gap_of(window: Window, longest: int = 0) -> int | None:
    """The silence in ms that starts a window over, where the ``longest`` is known; None if none does."""
    if isinstance(window.max_gap, int):
        return window.max_gap
    return longest if window.max_gap == "learned" and longest else None


def fitted(settings: Settings, manifest: Manifest) -> Settings:
    """The settings with what the bundle knows: how long values are equal normally, how many alerts are expected.

    Learned limits of features are watched only where one window shows them: values that are equal for longer in
    normal times, such as set points, would otherwise have to be followed all the time. Raises `SettingsError` for
    features that the bundle lacks, and for directions where its model expects no values.
    """
    own = {f"groups.{name}.features": group.features for name, group in settings.groups.items()}
    for place, features in ({"features": settings.features} | own).items():
        for name, asked in features.items():
            if name not in manifest.features:
                raise SettingsError(f"{place}.{name}: not in the bundle, which has {', '.join(manifest.features)}")
            if asked.particular and manifest.output != "window":
                raise SettingsError(
                    f"{place}.{name}: direction and min_deviation need a model that expects values, and this one gives "
                    f"a {manifest.output}; remove them or train another model"
                )
    if settings.publish.embeddings and not manifest.code:
        raise SettingsError(
            f"publish.embeddings: bundle {manifest.name} does not say which layer of its model is the code; "
            "train it again, or set publish.embeddings = false"
        )
    features = _watched(settings.features, settings.faults, manifest)
    return settings.model_copy(update={"features": features} | _paced(settings, manifest))


def _watched(asked: Mapping[str, Feature], faults: Faults, manifest: Manifest) -> dict[str, Feature]:
    """Features with their limits for stuck sensors, also those that are learned."""
    features = dict(asked)
    if faults.stuck == "learned":
        for name, run in zip(manifest.features, manifest.still, strict=False):
            limit, known = math.ceil(faults.stuck_factor * run), features.get(name, Feature())
            if 2 <= limit <= manifest.length and known.stuck_events is None and known.stuck_after is None:
                features[name] = known.model_copy(update={"stuck_events": limit})
    return features


def _paced(settings: Settings, manifest: Manifest) -> dict[str, Any]:
    """The settings of alerts, of all sensors and of groups, with the limit and budget of the bundle's sensors.

    A group with features of its own has all that is asked of any.
    """
    interval = manifest.intervals.get("", 0.0)
    step, patience, groups = manifest.stride * interval, patience_of(manifest.length, interval), {}
    for name, group in settings.groups.items():
        own = paced(group.over(settings.alerts), step, manifest.expected_alerts_per_day, manifest.budget, patience)
        known: dict[str, Any] = {key: getattr(own, key) for key in ("limit", "limit_within", "budget", "accept_after")}
        if group.features:
            known["features"] = _watched(group.features_over(settings.features), settings.faults, manifest)
        groups[name] = group.model_copy(update=known)
    alerts = paced(settings.alerts, step, manifest.expected_alerts_per_day, manifest.budget, patience)
    return {"alerts": alerts, "groups": groups}


def bounded(settings: Settings, manifest: Manifest) -> Settings:
    """`fitted`, and batches so small that the windows of one fit into ``poll.max_window_bytes``.

    In the worst case every event of a batch completes a window.
    """
    settings = fitted(settings, manifest)
    window = 4 * manifest.length * len(manifest.features)  # bytes
    most = max(1, settings.poll.max_window_bytes // window)
    if most >= settings.poll.max_records:
        return settings
    poll = settings.poll.model_copy(update={"max_records": most})
    log.info("batches are of %d events: a window takes %d bytes (poll.max_window_bytes)", most, window)
    return settings.model_copy(update={"poll": poll})


def heartbeats_of(manifest: Manifest, settings: Settings) -> Heartbeats | None:
    """How long sensors may be silent; None if nobody wants to know."""
    silence = settings.silence
    patterns = tuple((pattern, limit / 1_000) for pattern, limit in silence.sensors.items())
    if silence.after == "learned":
        usual = {
            sensor: max(silence.factor * interval, silence.at_least) / 1_000
            for sensor, interval in manifest.intervals.items()
        }
        return Heartbeats(patterns, usual, usual.get("", math.inf))
    if silence.after == "off":
        return Heartbeats(patterns) if patterns else None
    return Heartbeats(patterns, {}, silence.after / 1_000)


def learner_of(bundle: Bundle) -> Learner | None:
    """What learns on; None of bundles that do not."""
    if bundle.errors.novelty is None:
        return None
    made = bundle.manifest
    return Learner(bundle.errors.novelty, bundle.scaler, made.length, made.stride, Grouping(made.groups))


def model_of(manifest: Manifest) -> Model:
    """How scores name the model."""
    return Model(manifest.name, manifest.version)
