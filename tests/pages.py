"""A live page that is fed by hand: what the pipeline would tell, and a model that expects half of what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_detector.adapters.page import Board, Listener, LivePage
from stream_detector.events import Alert, Errors, Events, Float32, Model, Origin, Partition, Slice, Windows
from stream_detector.ports import Delivery
from stream_detector.settings import Page

FEATURES, W, MINUTE = ("flow", "pressure"), 4, 60_000
START = 1_800_000_000_000  # epoch ms
PARTITION = Partition("events", 0)
MODEL = Model("pumps", "7")


class Clock:
    """Stands still until told to go on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def board(clock: Clock | None = None, features: Sequence[str] = FEATURES, **rules: Any) -> Board:
    return Board(features, W, clock=clock or Clock(), **rules)


def live_page(listener: Listener, *, features: Sequence[str] = FEATURES, **more: Any) -> LivePage:
    def halves(sensors: list[str], values: Float32) -> Float32 | None:
        return (values / 2).astype(np.float32)

    options: dict[str, Any] = {"state": lambda: (True, "all answer"), "expect": halves} | more
    return LivePage(listener, board(features=features), lambda: [MODEL], **options)


def access(port: int = 0, **more: Any) -> Page:
    return Page(enabled=True, port=port, **more)


def feed(
    listener: Listener,
    sensor: str,
    scores: Sequence[float],
    *,
    since: int = 0,
    alerts: Sequence[Alert] = (),
    values: Float32 | None = None,
) -> None:
    """Events from minute ``since`` on, as many as ``scores``, each the end of a window with that score."""
    count = len(scores)
    times = START + MINUTE * np.arange(since, since + count, dtype=np.int64)
    if values is None:
        values = np.stack([10 + np.arange(count), np.full(count, 2)], axis=1).astype(np.float32)
    offsets = np.arange(count, dtype=np.int64)
    events = Events([sensor] * count, times, values, offsets, np.full(count, -1, np.int64))
    listener.read([Slice(PARTITION, 0, count, events, [])])
    listener.received(count, {}, {})
    windows = Windows(
        [sensor] * count,
        np.repeat(values[:, None], W, axis=1),
        np.stack([times - MINUTE * (W - 1), times], axis=1),
        np.stack([offsets, offsets], axis=1),
        np.zeros(values.shape, bool),
        np.ones(count, np.float32),
    )
    score = np.array(scores, np.float32)
    shares = np.zeros(values.shape, np.float32)
    shares[:, 0] = 1
    listener.scored(PARTITION, windows, Errors(score, score, np.ones_like(score), shares, np.zeros(count, np.int32)))
    listener.delivered(Delivery([], list(alerts), [], {PARTITION: count}), [])
    listener.gauges(partitions=[PARTITION], sensors=1, pending=0, lag={PARTITION: 7}, firing=[])


def alert(sensor: str, *, id_: str = "a", status: Any = "firing", severity: Any = "major", **more: Any) -> Alert:
    fields: dict[str, Any] = {
        "revision": 1, "kind": "anomaly", "started_at": "2027-01-15T08:05:00Z",
        "ended_at": None if status == "firing" else "2027-01-15T08:20:00Z", "score": 2.5, "peak_score": 2.5,
        "threshold": 1.0, "contributions": {}, "observed": {}, "expected": {},
        "summary": f"{sensor}: flow 3 where 2 was expected", "model": MODEL, "source": Origin("events", 0, 0, 1),
    }  # fmt: skip
    return Alert(id=id_, status=status, sensor_id=sensor, severity=severity, **(fields | more))
