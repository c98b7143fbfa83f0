"""What settings and a bundle make together."""

from __future__ import annotations

import pytest

from stream_detector.bundle import Manifest
from stream_detector.configured import bounded, rules_of
from stream_detector.errors import SettingsError
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
