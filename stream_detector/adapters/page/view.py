"""What the browser is sent: a board as JSON, every text of it fit to be shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_detector.adapters.page.board import Board, Track, ended, started
from stream_detector.events import Alert, Float32, Int64
from stream_detector.text import visible
from stream_detector.verdicts import short

TILES = 60  # sensors of the fleet
LISTED = 50  # alerts
LINES = 8  # features of one sensor
DOTS = 400  # of one line
LONGEST = 200  # characters of a text that is shown


def fleet(board: Board) -> list[dict[str, Any]]:
    """The worst sensors first."""
    return [
        {
            "id": sensor,
            "label": shown(sensor),
            "score": _newest(board.tracks[sensor].scores),
            "severity": board.severity(sensor),
        }
        for sensor in board.order()[:TILES]
    ]


def firing(board: Board) -> list[dict[str, Any]]:
    """Alerts, the worst first, then the newest."""
    rank = {"minor": 1, "major": 2, "critical": 3}
    alerts = sorted(board.alerts.values(), key=lambda alert: (-rank[alert.severity], -started(alert)))
    return [_alert(alert) | {"id": alert.sensor_id, "label": shown(alert.sensor_id)} for alert in alerts[:LISTED]]


def sensor(board: Board, name: str) -> dict[str, Any]:
    """One sensor's lines: the features that were blamed most come first."""
    track = board.tracks.get(name)
    if track is None or not track.revision:
        return {"id": name, "label": shown(name), "known": False}
    newest, worst = (
        _moment(board, track, -1),
        _moment(board, track, int(np.argmax(track.scores)) if len(track.scores) else -1),
    )
    blame = np.nan_to_num(track.shares * np.square(track.scores)[:, None]).sum(axis=0)
    chosen = np.argsort(-blame, kind="stable")[:LINES]
    times, rows = thin(track.times, np.stack([track.values[:, chosen], track.expected[:, chosen]], axis=2))
    ends, scores = thin(track.ends, track.scores[:, None])
    return {
        "id": name,
        "label": shown(name),
        "known": True,
        "severity": board.severity(name),
        "times": times.tolist(),
        "features": [
            {"name": shown(board.features[index]), "values": short(rows[:, at, 0]), "expected": short(rows[:, at, 1])}
            for at, index in enumerate(chosen.tolist())
        ],
        "more": len(board.features) - len(chosen),
        "ends": ends.tolist(),
        "scores": short(scores[:, 0]),
        "spans": [_alert(alert) for alert in track.spans],
        "newest": newest,
        "worst": worst,
    }


def thin(times: Int64, rows: Float32) -> tuple[Int64, Float32]:
    """At most `DOTS` points of a line, times (n) and rows (n, …): the lowest and the highest of each stretch."""
    if len(times) <= DOTS:
        return times, rows
    each = -(-2 * len(times) // DOTS)
    cuts = np.arange(0, len(times), each)
    low, high = np.fmin.reduceat(rows, cuts, axis=0), np.fmax.reduceat(rows, cuts, axis=0)
    middle = np.minimum(cuts + each // 2, len(times) - 1)
    both = np.stack([low, high], axis=1).reshape(-1, *rows.shape[1:])
    return np.stack([times[cuts], times[middle]], axis=1).ravel(), both


def shown(text: str) -> str:
    """A text from outside on one line of bounded length; nothing in it is invisible or turns the line round."""
    return visible(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _moment(board: Board, track: Track, at: int) -> dict[str, Any] | None:
    """What a score was made of."""
    if not len(track.scores):
        return None
    shares = track.shares[at]
    order = np.argsort(-shares, kind="stable")[:LINES]
    return {
        "time": int(track.ends[at]),
        "score": short(track.scores[at]),
        "shares": [[shown(board.features[index]), short(shares[index])] for index in order.tolist()],
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "from": started(alert),
        "to": ended(alert),
        "severity": alert.severity,
        "kind": alert.kind,
        "score": alert.peak_score,
        "summary": shown(alert.summary),
    }


def _newest(scores: Float32) -> float | None:
    return short(scores[-1]) if len(scores) else None
