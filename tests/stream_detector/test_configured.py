"""What settings and a bundle make together."""

from __future__ import annotations

import msgspec
import pytest

from stream_detector.configured import bounded, fitted, rules_of
from stream_detector.contents import Manifest
from stream_detector.errors import SettingsError
from stream_detector.policy import Feature
from stream_detector.settings import Settings, load_settings


def manifest(features: int, length: int) -> Manifest:
    names = tuple(f"f{at}" for at in range(features))
    return Manifest("m", "lstm", names, length, 1, (0.0,) * features, "2026-11-20T10:00:00Z", 0, "tensorflow")


@pytest.mark.parametrize(("features", "length", "most"), [(8, 64, 20_000), (1_602, 64, 654), (100_000, 1_000, 1)])
def test_the_windows_of_a_batch_fit_into_memory(features: int, length: int, most: int) -> None:
    settings = bounded(Settings(), manifest(features, length))
    assert settings.poll.max_records == most
    assert most * features * length * 4 <= settings.poll.max_window_bytes or most == 1


def test_rules_come_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__CLOCK_RESET", "1d")
    rules = rules_of(manifest(2, 8), load_settings())
    assert (rules.length, rules.clock_reset, rules.grace) == (8, 86_400_000, 0)


def test_a_clock_reset_within_grace_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__CLOCK_RESET", "5s")
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__GRACE", "10s")
    with pytest.raises(SettingsError, match="clock_reset must be longer than grace"):
        load_settings()


def with_features(**features: object) -> Settings:
    return Settings.model_validate({"features": features})


def with_group_features(**features: object) -> Settings:
    return Settings.model_validate({"groups": {"a": {"sensors": "a-*", "features": features}}})


def test_a_feature_that_the_bundle_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^features\.f9: not in the bundle, which has f0, f1$"):
        fitted(with_features(f9={"range": [0, 1]}), manifest(2, 8))
    with pytest.raises(SettingsError, match=r"^groups\.a\.features\.f9: not in the bundle, which has f0, f1$"):
        fitted(with_group_features(f9={"range": [0, 1]}), manifest(2, 8))


@pytest.mark.parametrize("output", ["residual", "probability"])
@pytest.mark.parametrize("asked", [{"direction": "above_expected"}, {"min_deviation": 1}, {"min_deviation_ratio": 0.2}])
def test_a_direction_needs_a_model_that_expects_values(output: str, asked: dict[str, object]) -> None:
    other = msgspec.structs.replace(manifest(2, 8), output=output)
    with pytest.raises(SettingsError, match=rf"^features\.f1: direction .* gives a {output}; remove them") as told:
        bounded(with_features(f1=asked), other)
    assert "\n" not in str(told.value)
    with pytest.raises(SettingsError, match=rf"^groups\.a\.features\.f1: direction .* gives a {output}; remove them"):
        bounded(with_group_features(f1=asked), other)
    assert fitted(with_features(f1=asked), manifest(2, 8)).features == with_features(f1=asked).features
    assert fitted(with_features(f1={"range": [0, 1], "direction": "both"}), other)


def test_how_long_values_are_equal_is_learnt_from_the_bundle() -> None:
    told = msgspec.structs.replace(manifest(5, 8), still=(1, 2, 3, 0, 2))
    settings = Settings.model_validate({"features": {"f4": {"stuck_after": "1h"}, "f1": {"range": [0, 1]}}})
    found = fitted(settings, told).features
    limits = {name: one.stuck_events for name, one in found.items()}
    assert limits == {"f0": 3, "f1": 6, "f4": None}  # f2 is equal for as long as a window in normal times
    assert found["f1"] == Feature(range=(0, 1), stuck_events=6)
    own = {"a": {"sensors": "a-*", "features": {"f0": {"stuck_after": "1m"}, "f1": {"stuck_events": 9}}}}
    of_group = fitted(settings.model_copy(update={"groups": Settings.model_validate({"groups": own}).groups}), told)
    limits = {name: one.stuck_events for name, one in of_group.groups["a"].features.items()}
    assert limits == {"f0": None, "f1": 9, "f4": None}
    assert of_group.groups["a"].features["f1"] == Feature(range=(0, 1), stuck_events=9)
    assert fitted(Settings.model_validate({"faults": {"stuck": "off"}}), told).features == {}
    assert fitted(Settings(), manifest(5, 8)) is not None
    assert fitted(Settings(), manifest(5, 8)).features == {}
