"""Dead letters, sent again by hand: once each, in order, without what newer revisions have made out of date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from stream_detector.events import Alert
from stream_detector.targets import Target
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.filters import wanted
from stream_detector.webhooks.ports import Post

ENOUGH = 5  # failures in a row after which a target is left alone
KEEP_EVERY = 20  # letters

ENDS = {
    "sent": "sent",
    "failed": "failed, and kept for the next time",
    "waits": "not tried, since an older revision or the target failed; kept for the next time",
    "stale": "left out: the target has a newer revision, or gets one",
    "unwanted": "left out: the target's settings no longer want them",
    "unreadable": "left out: no alert",
}


class Box(Protocol):
    """Dead letters of one target, and how far they are done."""

    @property
    def letters(self) -> Sequence[Entry]:
        """In the order of each partition."""

    def done(self, letter: Entry) -> None:
        """It was sent, or need not be."""

    def keep(self) -> None:
        """What was not done by now comes again with the next reading."""


def replay(box: Box, target: Target, post: Post, alerts: Mapping[str, Iterable[Alert]]) -> Counter[str]:
    """How many letters came to which of `ENDS`. ``alerts`` is what the alerts topic holds, by id.

    A revision is stale if the topic has a newer one that this target wants and that is no dead letter of its own: to
    send the old one after it would, for one, open an incident again that is resolved.
    """
    counts: Counter[str] = Counter()
    lying = {(letter.alert.id, letter.alert.revision) for letter in box.letters if letter.alert is not None}
    failed, row = set[str](), 0
    for number, letter in enumerate(box.letters, 1):
        end = _reason_not_to(letter, target, alerts, lying)
        if end is None and (row >= ENOUGH or letter.name in failed):
            end = "waits"
        if end is None:
            outcome = post(letter)
            end = "sent" if outcome.word == "delivered" else "failed"
            row = 0 if end == "sent" else row + 1
            if outcome.word == "gone":
                row = ENOUGH
        counts[end] += 1
        if end in ("failed", "waits"):
            failed.add(letter.name)
        else:
            box.done(letter)
        if number % KEEP_EVERY == 0:
            box.keep()
    box.keep()
    return counts


def _reason_not_to(
    letter: Entry, target: Target, alerts: Mapping[str, Iterable[Alert]], lying: set[tuple[str, int]]
) -> str | None:
    alert = letter.alert
    if alert is None:
        return "unreadable"
    if not wanted(alert, target):
        return "unwanted"
    newer = (other for other in alerts.get(alert.id, ()) if other.revision > alert.revision and wanted(other, target))
    return "stale" if any((other.id, other.revision) not in lying for other in newer) else None
