"""What settings and a bundle make together: the rules of windows, the decoder's features, the model's name."""

from __future__ import annotations

from pathlib import Path

from stream_detector.bundle import Bundle, Manifest, check_fits, load_bundle
from stream_detector.errors import SettingsError
from stream_detector.events import Model
from stream_detector.sensors import Rules
from stream_detector.settings import Settings


def open_bundle(settings: Settings, path: Path | None = None) -> Bundle:
    """The verified bundle; ``path`` (from ``--bundle``) wins. Raises `BundleError` or `SettingsError`."""
    chosen = path or settings.bundle.path
    if chosen is None:
        raise SettingsError("no bundle: give --bundle FOLDER or set bundle.path (`stream-detector train` makes one)")
    bundle = load_bundle(chosen)
    check_fits(bundle, length=settings.window.length, stride=settings.window.stride)
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
        max_gap=window.max_gap,
        ttl=window.ttl,
        max_sensors=window.max_sensors,
        known=frozenset(manifest.sensors) if events.unknown_sensors == "reject" else None,
    )


def model_of(manifest: Manifest) -> Model:
    """How scores name the model."""
    return Model(manifest.name, manifest.version)
