"""Two features that share their half: a bundle learnt from them in seconds, streams of them, and what commands say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector import Detector, load_bundle
from stream_detector.bundle import Bundle
from stream_detector.events import Events, Float32, Score
from tests.commandline import invoke
from training.options import Session, TrainOptions
from training.train import train

LENGTH = 8
MINUTE = 60_000
START = 1_700_000_000_000
FEATURES = ("load", "heat")
OPTIONS = TrainOptions("dense", length=LENGTH, stride=1, units=(4,), epochs=1, seed=1)


def noise(count: int, seed: int, size: float = 1.0) -> Float32:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 1, (count, 1))
    return (20 + size * (common + rng.normal(0, 1, (count, 2)))).astype(np.float32)


def trained(out: Path, budget: float | None = None, minutes: float = 1.0) -> Bundle:
    """Learnt from 4,000 events of one sensor, so many minutes apart."""
    count = 4_000
    times = START + (np.arange(count) * minutes * MINUTE).astype(np.int64)
    events = Events(["a"] * count, times, noise(count, 0), np.arange(count), np.full(count, -1))
    train([events], FEATURES, replace(OPTIONS, budget=budget), out, session=Session(pictures=False))
    return load_bundle(out)


def event(at: int, row: list[float], minutes: float = 1.0) -> dict[str, Any]:
    """An event of that sensor, some days after those that were learnt from."""
    stamp = START + round((10_000 + at) * minutes * MINUTE)
    return {"sensor_id": "a", "timestamp": stamp, "values": dict(zip(FEATURES, row, strict=True))}


def write(file: Path, values: Float32, minutes: float = 1.0) -> Path:
    """A stream of these values (n, 2), so many minutes apart."""
    file.write_text("\n".join(json.dumps(event(at, row, minutes)) for at, row in enumerate(values.tolist())))
    return file


def replayed(bundle: Bundle, stream: Path, out: Path, config: str = "") -> Path:
    (out.parent / "detector.toml").write_text(config)
    done = invoke("replay", stream, "--bundle", bundle.path, "--config", out.parent / "detector.toml", "--out", out)
    assert done.code == 0, done.err
    return out


def updated(detector: Detector, stream: Path, count: int) -> list[Score]:
    """What a detector says of a stream's first ``count`` windows."""
    events = (json.loads(line) for line in islice(stream.read_text().splitlines(), count + LENGTH - 1))
    return [score for one in events for score in detector.update(one["sensor_id"], one["timestamp"], one["values"])]


def check_explained(alert: dict[str, Any], bundle: Bundle, told: Path, stream: Path) -> None:
    """`explain` finds that an alert among what was replayed into ``told`` is as it was told."""
    given = ("--bundle", bundle.path, "--alerts", told / "alerts.jsonl", "--data", stream, "--out", told / "explained")
    done = invoke("explain", alert["id"], *given)
    assert done.code == 0, done.out + done.err
    assert "the verdict holds" in done.out
