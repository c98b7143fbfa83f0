"""Which dead letters are sent again, in what order, and which would do harm."""

from __future__ import annotations

from collections import Counter

from stream_detector.codec import decode_alert, encode_alert
from stream_detector.events import Alert, Partition
from stream_detector.targets import Target
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Outcome, Word
from stream_detector.webhooks.replay import replay
from tests.alerts import alert

TARGET = Target.model_validate({"url": "https://a.example", "format": "slack", "severities": ["major"]})


class Box:
    def __init__(self, *alerts: Alert | None) -> None:
        values = [b"no alert" if one is None else encode_alert(one) for one in alerts]
        self.letters = [
            Entry(Partition("dead", 0), offset, None, value, decode_alert(value), 0.0, 0.0)
            for offset, value in enumerate(values)
        ]
        self.left = set(range(len(values)))
        self.kept: list[int] = []

    def done(self, letter: Entry) -> None:
        self.left.remove(letter.offset)

    def keep(self) -> None:
        self.kept = sorted(self.left)


def sent(box: Box, topic: list[Alert], bad: dict[str, Word] | None = None) -> tuple[Counter[str], list[str]]:
    tried: list[str] = []

    def post(entry: Entry) -> Outcome:
        tried.append(entry.id)
        return Outcome((bad or {}).get(entry.name, "delivered"), "")

    history: dict[str, list[Alert]] = {}
    for one in topic:
        history.setdefault(one.id, []).append(one)
    return replay(box, TARGET, post, history), tried


def test_all_are_sent_once_in_order() -> None:
    alerts = [alert("a"), alert("b"), alert("a", 2, "resolved")]
    box = Box(*alerts)
    counts, tried = sent(box, alerts)
    assert counts == {"sent": 3}
    assert tried == [letter.id for letter in box.letters]
    assert box.kept == []


def test_what_a_newer_revision_has_made_out_of_date_is_left_out() -> None:
    opened, closed = alert("a"), alert("a", 2, "resolved")
    box = Box(opened)
    assert sent(box, [opened, closed]) == ({"stale": 1}, []), "it would open again what is resolved"
    assert box.kept == []
    # But a newer one that the target does not want changes nothing.
    minor = alert("a", 2, "resolved", severity="minor")
    assert sent(Box(opened), [opened, minor])[0] == {"sent": 1}


def test_what_fails_is_kept_and_newer_revisions_wait_for_it() -> None:
    alerts = [alert("a"), alert("b"), alert("a", 2, "resolved")]
    box = Box(*alerts)
    counts, tried = sent(box, alerts, {alert("a").id: "refused"})
    assert counts == {"failed": 1, "waits": 1, "sent": 1}
    assert len(tried) == 2
    assert box.kept == [0, 2]


def test_a_target_that_is_away_is_left_alone() -> None:
    alerts = [alert(f"a{number}") for number in range(30)]
    box = Box(*alerts)
    counts, tried = sent(box, alerts, dict.fromkeys((one.id for one in alerts), "timeout"))
    assert len(tried) == counts["failed"] == 5
    assert len(box.kept) == 30
    gone = Box(*alerts)
    counts, tried = sent(gone, alerts, dict.fromkeys((one.id for one in alerts), "gone"))
    assert (len(tried), counts["waits"], len(gone.kept)) == (1, 29, 30)


def test_what_is_no_alert_and_what_nobody_wants_any_more_are_done_with() -> None:
    box = Box(None, alert("a", severity="minor"))
    assert sent(box, []) == ({"unreadable": 1, "unwanted": 1}, [])
    assert box.kept == []
