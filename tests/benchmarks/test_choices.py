"""A part of the score that is left out, as `benchmarks.choices` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.choices import PARTS, leave_out
from stream_detector import Detector, load_bundle
from stream_detector.events import Errors, Float32


@pytest.fixture(scope="module")
def windows(bundle: Path) -> Float32:
    """Random ones about what is usual, from calm to wild, so that each part is the largest in some."""
    made = load_bundle(bundle)
    center, scale = np.array(made.scaler.center), np.array(made.scaler.scale)
    rng = np.random.default_rng(0)
    wild = np.geomspace(0.1, 10, 200)[:, None, None]
    walks = rng.normal(0, 1, (200, made.manifest.length, len(center))) * wild
    walks += rng.normal(0, 1, (200, 1, len(center))) * wild[::-1]
    walks[::10] = rng.normal(0, 0.01, walks[::10].shape)  # as calm as nothing is
    return (center + scale * walks).astype(np.float32)


def scored(bundle: Path, windows: Float32) -> Errors:
    return Detector(load_bundle(bundle)).score(windows)


def test_the_other_parts_say_what_they_said(bundle: Path, windows: Float32, tmp_path: Path) -> None:
    whole = scored(bundle, windows)
    told = np.array(whole.names)
    parts = [part for part in PARTS if leave_out(bundle, part, tmp_path / part)]
    assert parts == ["change", "spread", "model"]  # what wanders has no level; a day and a half is too little for bias
    assert set(told) == set(parts)
    for part in parts:
        less = scored(tmp_path / part, windows)
        others = told != part
        assert others.any()
        np.testing.assert_allclose(less.score[others], whole.score[others], rtol=1e-5)
        assert (less.score[~others] < whole.score[~others]).all()
        assert part not in less.names
