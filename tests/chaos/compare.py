"""What a `read_committed` reader sees of a run, and how it differs from what an undisturbed run published."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.service import committed_records

NEAR = 1e-5
EXACT = ("sensor_id", "window_start", "window_end", "state", "confidence", "imputed", "worst_step", "source")
CLOSE = ("score", "threshold", "error")
ALERT = ("id", "revision", "status", "kind", "sensor_id", "severity", "started_at", "ended_at")


@dataclass(frozen=True)
class Outputs:
    """What was published, in the order of reading."""

    scores: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    letters: list[tuple[int, int, str]]  # partition, offset, reason

    @classmethod
    def read(cls, bootstrap: str, topics: dict[str, str]) -> Outputs:
        """Everything committed by now."""
        scores, alerts = (
            [json.loads(record.value) for record in committed_records(bootstrap, topics[kind])]
            for kind in ("scores", "alerts")
        )
        letters = []
        for record in committed_records(bootstrap, topics["dead_letters"]):
            told = {name: value.decode() for name, value in record.headers}
            origin = int(told["errors.partition"]), int(told["errors.offset"])
            letters.append((*origin, told["errors.exception"]))
        return cls(scores, alerts, letters)

    def once(self, *, last: bool = False) -> Outputs:
        """The first or the last of each, for at-least-once delivery."""
        step = 1 if last else -1  # later ones replace earlier ones
        scores = {score["id"]: score for score in self.scores[::step]}
        alerts = {(alert["id"], alert["revision"]): alert for alert in self.alerts[::step]}
        return Outputs(list(scores.values()), list(alerts.values()), list(dict.fromkeys(self.letters)))


def repeated(outputs: Outputs) -> list[str]:
    """What stands there twice."""
    counts = [
        ("score", Counter(score["id"] for score in outputs.scores)),
        ("alert", Counter((alert["id"], alert["revision"]) for alert in outputs.alerts)),
        ("dead letter", Counter(outputs.letters)),
    ]
    return [f"{kind} {key} {times} times" for kind, counter in counts for key, times in counter.items() if times > 1]


def differences(calm: Outputs, wild: Outputs) -> list[str]:
    """How ``wild`` differs from ``calm``; empty if both tell the same, each thing once."""
    found = repeated(wild)
    left, right = ({score["id"]: score for score in side.scores} for side in (calm, wild))
    found += _sets("score", left, right)
    found += [
        f"score {key}: {difference}"
        for key in left.keys() & right.keys()
        for difference in _score(left[key], right[key])
    ]
    before, after = ({_alert(alert): alert for alert in side.alerts} for side in (calm, wild))
    found += _sets("alert", before, after)
    found += [
        f"alert {key}: score {before[key]['score']} became {after[key]['score']}"
        for key in before.keys() & after.keys()
        if not _near(before[key]["score"], after[key]["score"])
    ]
    found += _sets("dead letter", calm.letters, wild.letters)
    return found


def weakly(calm: Outputs, wild: Outputs) -> list[str]:
    """How ``wild`` breaks what holds after a flush with a longer stride, where windows may start anew.

    No window end twice, every dead letter, and every event in a window: the first of each calm window stands for all,
    since up to a stride of events at the end of a sensor's log waits for its window in either run.
    """
    found = repeated(wild) + _sets("dead letter", calm.letters, wild.letters)
    spans: dict[str, list[tuple[int, int]]] = {}
    for score in wild.scores:
        spans.setdefault(score["sensor_id"], []).append(_span(score))
    for score in calm.scores:
        first, _ = _span(score)
        if not any(start <= first <= end for start, end in spans.get(score["sensor_id"], ())):
            found.append(f"no window of {score['sensor_id']} covers offset {first}")
    return found


def _span(score: dict[str, Any]) -> tuple[int, int]:
    return score["source"]["first_offset"], score["source"]["last_offset"]


def _sets(kind: str, calm: Iterable[Any], wild: Iterable[Any]) -> list[str]:
    left, right = set(calm), set(wild)
    return [f"{kind} {key} is missing" for key in sorted(left - right, key=str)] + [
        f"{kind} {key} is too much" for key in sorted(right - left, key=str)
    ]


def _alert(alert: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(alert[name]) for name in ALERT)


def _score(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    exact = [f"{name} {left[name]} became {right[name]}" for name in EXACT if left[name] != right[name]]
    return exact + [f"{name} {left[name]} became {right[name]}" for name in CLOSE if not _near(left[name], right[name])]


def _near(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=NEAR, abs_tol=1e-9)
