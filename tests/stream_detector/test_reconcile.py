"""What a new owner of a partition finds, case by case: where it reads on, and what it publishes.

Whatever happened before, all that was published in the end must be what one undisturbed run publishes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

import pytest

from stream_detector.adapters.memory import MemoryStore
from stream_detector.events import Alert, Model, Partition, Score
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Lookback, Update
from stream_detector.reconcile import lookback_of, reconcile
from stream_detector.settings import Alerts, Settings
from tests.simulated import PARTITION, Broker, LocalScorer, Record, ShiftScorer, SumScorer
from tests.world import FAR, LOG, POLICY, RULES, Noting, Outlet, Topic, World, ends, undisturbed


def test_the_log_has_all_that_must_survive() -> None:
    world = World()
    world.work()
    kinds = [type(record).__name__ for record in world.broker.published]
    assert kinds.count("Score") == sum(1 for record in LOG if record[2] is not None) - 2 * 2
    assert kinds.count("tuple") == sum(1 for record in LOG if record[2] is None)
    assert {(a.sensor_id, a.status) for a in world.broker.published if isinstance(a, Alert)} == {
        ("a", "firing"), ("a", "resolved"), ("b", "firing"), ("b", "resolved"),
    }  # fmt: skip


def test_fresh_reads_from_the_first_event_there_is() -> None:
    world = World()
    world.first = 10
    assert world.work() == "fresh"
    assert world.seeks == [10]
    assert min(ends(world.broker.published)) == 13  # the first that cannot be read
    scores = [record for record in world.broker.published if isinstance(record, Score)]
    assert min(score.source.first_offset for score in scores) == 10


def test_resumed_reads_on_where_it_was_left_and_repeats_nothing() -> None:
    world = World()
    world.work(until=24)
    before = world.published()
    assert world.work() == "resumed"
    assert world.seeks == [24]
    assert len(before) < len(world.published())
    assert world.published() == undisturbed()


def test_resumed_with_nothing_new_publishes_nothing() -> None:
    world = World()
    world.work()
    count = len(world.broker.published)
    assert world.work() == "resumed"
    assert (len(world.broker.published), world.seeks) == (count, [len(LOG)])


@pytest.mark.parametrize("crash", range(0, 12, 3))
def test_ahead_delivers_what_was_appended_but_not_published_dead_letters_too(crash: int) -> None:
    world = World()
    world.work(crash=crash)
    position, committed = world.position, world.broker.committed
    assert position > (committed or 0)
    assert world.work() == "ahead"
    assert world.seeks == [position]  # what the store knows is not read again
    assert world.published() == undisturbed()


@pytest.mark.parametrize("crash", range(0, 12, 3))
def test_ahead_after_a_delivery_that_the_store_was_not_told_of_repeats_nothing(crash: int) -> None:
    world = World()
    world.work(crash=crash, after=True)
    committed = world.broker.committed
    assert committed is not None
    assert world.store.states[PARTITION].settled < committed < world.position
    count = len(world.broker.published)
    assert world.work() == "ahead"
    assert min(ends(world.broker.published[count:])) >= committed
    assert world.published() == undisturbed()


def test_ahead_by_dead_letters_alone() -> None:
    world = World([("a", at, None) for at in range(8)])
    world.work(crash=0)
    assert world.broker.published == []
    assert world.work() == "ahead"
    assert sorted(ends(world.broker.published)) == list(range(8))


def test_ahead_with_nothing_to_publish_commits_the_position_all_the_same() -> None:
    world = World([("a", 0, 1.0)])  # one event fills no window
    world.work(crash=0)
    assert vars(world.broker)["committed"] is None
    assert world.work() == "ahead"
    assert world.broker.committed == 1
    assert not world.broker.published


@pytest.mark.parametrize("rolled_back_to", [8, 20, 28, 40])
def test_behind_reads_again_and_publishes_nothing_twice(rolled_back_to: int) -> None:
    world = World()
    world.work(until=rolled_back_to)
    saved = copy.deepcopy(world.store.states)
    world.work(until=44)
    count = len(world.broker.published)
    world.store.states = saved
    assert world.work() == "behind"
    assert world.seeks == [rolled_back_to]
    assert min(ends(world.broker.published[count:])) >= 44
    assert world.published() == undisturbed()


def test_behind_with_windows_waiting_that_were_published_meanwhile() -> None:
    world = World()
    world.work(until=24, crash=3)
    saved = copy.deepcopy(world.store.states)
    assert saved[PARTITION].pending
    world.work(until=44)
    world.store.states = saved
    assert world.work() == "behind"
    assert world.published() == undisturbed()


@pytest.mark.parametrize("wiped_at", [4, 20, 26, 30, 44, 50])
def test_empty_reads_again_from_before_the_committed_position(wiped_at: int) -> None:
    world = World()
    world.work(until=wiped_at)
    count = len(world.broker.published)
    world.store.states.clear()
    assert world.work() == "empty"
    assert world.seeks == [0]
    assert all(end >= wiped_at for end in ends(world.broker.published[count:]))
    assert world.published() == undisturbed()


def test_empty_looks_back_as_far_as_it_is_told() -> None:
    world = World(lookback=12)
    world.work(until=44)
    world.store.states.clear()
    assert world.work() == "empty"
    assert world.seeks == [32]
    assert (
        world.published() == undisturbed()
    )  # with stride 1, once the look-back holds a window and the alerts are over


# High for long, and twice: alerts that open long before any look-back, and others that come and go.
LONG: list[Record] = [
    ("ab"[offset % 2], 10 * offset, 9.0 if 20 <= offset < 110 or 130 <= offset < 150 else 1.0) for offset in range(200)
]


@pytest.mark.parametrize("wiped_at", range(10, 200, 9))
def test_open_alerts_go_on_after_the_state_was_lost(wiped_at: int) -> None:
    """The look-back holds a window and what hysteresis counts of each sensor, and no more."""
    world = World(LONG, lookback=2 * (3 + 2 + 2))
    world.work(until=wiped_at)
    world.store.states.clear()
    assert world.work() == "empty"
    assert world.seeks == [max(0, wiped_at - 14)]
    assert world.published() == undisturbed(LONG)


# What is told of leaves what the model knows, for longer than any look-back, and is seen to be over when it is back.
AWAY: list[Record] = [
    ("ab"[offset % 2], 10 * offset, 4.0 if 20 <= offset < 40 else 30.0 if 40 <= offset < 120 else 1.0)
    for offset in range(160)
]


@pytest.mark.parametrize("wiped_at", range(10, 160, 9))
def test_alerts_that_cannot_be_seen_to_be_over_go_on_after_the_state_was_lost(wiped_at: int) -> None:
    world, whole = (World(AWAY, lookback=14, scorer=LocalScorer) for _ in range(2))
    whole.work()
    told = [record for record in whole.broker.published if isinstance(record, Alert)]
    assert [(one.sensor_id, one.status) for one in told] == [
        ("a", "firing"), ("b", "firing"), ("a", "resolved"), ("b", "resolved"),
    ]  # fmt: skip
    assert min(one.source.last_offset for one in told if one.status == "resolved") > 120
    world.work(until=wiped_at)
    world.store.states.clear()
    assert world.work() == "empty"
    assert world.published() == whole.published()


@pytest.mark.parametrize("crash", range(4))
@pytest.mark.parametrize("wiped_at", [40, 104, 112, 115])
def test_open_alerts_go_on_though_the_worker_that_recovered_them_died(wiped_at: int, crash: int) -> None:
    world = World(LONG, lookback=14)
    world.work(until=wiped_at)
    world.store.states.clear()
    world.work(crash=crash)
    world.work(crash=crash, after=True)
    world.work()
    assert world.published() == undisturbed(LONG)


# Two sensors take turns; one shifts for good and jumps later, the other shifts for long.
SHIFTS: list[Record] = [
    ("a", 10 * offset, 1.0 if offset < 20 else 35.0 if offset in (120, 170) else 6.0)
    if offset % 2 == 0
    else ("b", 10 * offset, 6.0 if 60 <= offset < 160 else 1.0)
    for offset in range(200)
]
PATIENCE = Alerts(min_windows=2, resolve_windows=2, accept_after="300ms", limit="off")


def shifting(lookback: int) -> World:
    return World(SHIFTS, lookback=lookback, alerts=PATIENCE, scorer=ShiftScorer)


@pytest.mark.parametrize("wiped_at", range(10, 200, 9))
def test_shifts_that_were_accepted_are_not_told_again_after_the_state_was_lost(wiped_at: int) -> None:
    whole = shifting(FAR)
    assert whole.work() == "fresh"
    told = [one for one in whole.broker.published if isinstance(one, Alert)]
    each = [(one.sensor_id, one.status, one.accepted > 0) for one in told]
    assert [one[1:] for one in each if one[0] == "a"] == [
        ("firing", False),
        *[("resolved", True), ("firing", True)] * 2,
        ("resolved", True),
    ]
    assert [one[1:] for one in each if one[0] == "b"] == [
        ("firing", False),
        ("resolved", True),
        ("firing", False),
        ("resolved", False),
    ]
    world = shifting(2 * (3 + 2 + 2))
    world.work(until=wiped_at)
    world.store.states.clear()
    assert world.work() == "empty"
    again = [one for one in world.broker.published if isinstance(one, Alert)]
    assert [(one.id, one.status) for one in again] == [(one.id, one.status) for one in told]


def test_empty_looks_back_no_further_than_the_log_goes() -> None:
    world = World()
    world.work(until=44)
    world.store.states.clear()
    world.first = 30
    assert world.work() == "empty"
    assert world.seeks == [30]
    assert world.published() == undisturbed()


def test_empty_when_the_log_has_lost_what_was_not_read_yet() -> None:
    world = World()
    world.work(until=12)
    count = len(world.broker.published)
    world.store.states.clear()
    world.first = 30
    assert world.work() == "truncated"
    assert world.seeks == [30]
    assert min(ends(world.broker.published[count:])) >= 30


def test_replaced_for_another_window_discards_the_state_and_publishes_nothing_twice() -> None:
    world = World()
    world.work(until=30)
    life = world.store.states[PARTITION].life
    count = len(world.broker.published)
    world.rules = dataclasses.replace(RULES, length=4)
    assert world.work() == "replaced"
    assert world.seeks == [0]
    assert world.store.states[PARTITION].life != life
    fresh = world.broker.published[count:]
    assert min(ends(fresh)) >= 30
    assert {score.events for score in fresh if isinstance(score, Score)} == {4}


def test_replaced_by_another_life_of_the_topic_starts_from_its_first_event() -> None:
    world = World()
    world.work()
    world.broker.log = world.broker.log[:20]  # deleted and made anew: shorter than what we have read
    world.broker.published.clear()
    assert world.work() == "replaced"
    assert world.seeks == [0]
    assert world.published() == undisturbed(LOG[:20])


def test_truncated_when_the_log_no_longer_has_the_event_to_read_on_from() -> None:
    world = World()
    world.work(until=12)
    world.first = 20
    assert world.work() == "truncated"
    assert world.seeks == [20]


def test_a_committed_position_beyond_the_logs_end_is_of_another_life() -> None:
    world = World()
    world.work()
    world.store.states.clear()
    world.broker.log = world.broker.log[:20]
    world.broker.published.clear()
    assert world.work() == "empty"
    assert world.published() == undisturbed(LOG[:20])


def test_rewound_offsets_are_read_and_published_again() -> None:
    world = World()
    world.work()
    world.broker.committed = 20  # as `kafka-consumer-groups.sh --reset-offsets` does
    before = list(world.broker.published)
    assert world.work() == "rewound"
    again = world.broker.published[len(before) :]
    assert sorted(map(repr, again)) == [repr(one) for one in sorted(before, key=repr) if ends([one])[0] >= 20]


def test_an_old_answer_about_the_committed_position_discards_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.work()
    answers = [10]
    fresh = Outlet.committed

    def committed(self: Outlet, partition: Partition) -> int | None:
        return answers.pop() if answers else fresh(self, partition)

    monkeypatch.setattr(Outlet, "committed", committed)
    assert world.work() == "resumed"
    assert world.published() == undisturbed()


def test_damaged_rows_of_waiting_windows_are_read_again() -> None:
    world = World()
    world.work(crash=5)
    state = world.store.states[PARTITION]
    assert state.pending
    state.rows["a"] = b""
    assert world.work() == "damaged"
    assert world.seeks == [0]
    assert world.store.states[PARTITION].life != state.life
    assert world.published() == undisturbed()


def test_rows_that_are_found_missing_later_are_read_again() -> None:
    world = World()
    world.work(until=24)
    world.store.states[PARTITION].rows["b"] = b""  # nothing waits, so loading does not see it
    assert world.work() == "resumed"
    assert world.seeks == [24, 0]
    assert world.published() == undisturbed()


def test_a_state_that_another_worker_replaced_first_is_loaded_again() -> None:
    class Raced(MemoryStore):
        """Somebody else discards the state just before us."""

        def discard(self, partition: Partition, life: str) -> None:
            if not self.raced:
                self.raced = True
                super().discard(partition, life)
            super().discard(partition, life)

        raced = False

    world = World()
    world.work(until=24)
    raced = Raced()
    raced.states = world.store.states
    world.store = raced
    world.rules = dataclasses.replace(RULES, length=4)
    assert world.work() == "empty"
    assert raced.raced


def test_alerts_are_found_again_by_looking_back() -> None:
    """Open alerts go on with their id and their next revision, though their state was lost."""
    world = World()
    world.work(until=28)
    firing = [record for record in world.broker.published if isinstance(record, Alert)]
    assert {alert.status for alert in firing} == {"firing"}
    world.store.states.clear()
    world.work()
    resolved = [
        record for record in world.broker.published if isinstance(record, Alert) and record.status == "resolved"
    ]
    assert sorted(alert.id for alert in resolved) == sorted({alert.id for alert in firing})
    assert {alert.revision - 1 for alert in resolved} == {max(alert.revision for alert in firing)}


@pytest.mark.parametrize("lose", [lambda store: None, lambda store: store.states.clear()], ids=["kept", "lost"])
def test_a_crash_at_every_call_ends_as_an_undisturbed_run(lose: Callable[[MemoryStore], None]) -> None:
    world = World()
    for crash in range(60):
        world.work(crash=crash % 2, after=crash % 3 == 0)
        if crash % 5 == 4:
            lose(world.store)
    world.work()
    assert world.published() == undisturbed()


# Sensor a has one anomalous window, of the two in a row that an alert takes, and is gone; b moves the time on, until
# nobody waits for a any more; then a is back with another one.
GONE: list[Record] = [
    *[("a", at, value) for at, value in enumerate((1.0, 1.0, 1.0, 9.0))],
    *[("b", 50 * at, 1.0) for at in range(1, 10)],
    *[("a", 450 + at, value) for at, value in enumerate((1.0, 1.0, 9.0))],
]


@pytest.mark.parametrize("crash", [None, 0, 1, 2, 3])
def test_what_was_pending_of_a_sensor_that_expired_is_forgotten(crash: int | None) -> None:
    world = World(GONE, rules=dataclasses.replace(RULES, ttl=100))
    world.work(until=4)
    assert world.store.states[PARTITION].alerts.keys() == {"a"}
    if crash is not None:
        world.work(until=13, crash=crash, after=crash % 2 == 0)
    world.work(until=13)
    assert world.store.states[PARTITION].alerts == {}
    world.work()
    assert world.store.states[PARTITION].alerts.keys() == {"a"}
    assert [record for record in world.broker.published if isinstance(record, Alert)] == []


def test_an_alert_stays_open_when_its_sensor_expires() -> None:
    log = [*GONE[:4], ("a", 4, 9.0), *GONE[4:]]
    world = World(log, rules=dataclasses.replace(RULES, ttl=100))
    world.work()
    assert world.store.states[PARTITION].alerts.keys() == {"a"}
    assert [record.status for record in world.broker.published if isinstance(record, Alert)] == ["firing"]


def test_a_partition_that_must_go_before_what_was_left_of_it_is_done_is_not_read_on() -> None:
    """What an earlier owner left is in flight when the partition is revoked: it is published, and that is all."""
    world = World()
    world.work(crash=5)
    source = Topic(world.broker)
    outlet = Outlet(world.broker, source)
    pipeline = Pipeline(
        source, world.store, SumScorer(), outlet, Noting(), RULES, Model("m", "1"), Settings(alerts=POLICY),
        now_ms=lambda: 0.0,
    )  # fmt: skip
    source.open(pipeline)
    pipeline.turn()
    assert pipeline.flight is not None
    pipeline.revoked([PARTITION])
    assert source.seeks == []
    assert world.broker.committed == world.position
    pipeline.close()
    assert world.work() == "resumed"
    assert world.published() == undisturbed()


class OneShort(MemoryStore):
    """Negative control: forgets the last batch that waits."""

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        tails = super().append(partition, update)
        self.states[partition].pending.clear()
        return tails


def test_a_store_that_forgets_what_waits_is_noticed_here() -> None:
    world = World()
    world.store = OneShort()
    world.work(crash=5)
    world.work()
    assert world.published() != undisturbed()


@pytest.mark.parametrize(
    ("committed", "lookback", "first", "expected"),
    [
        (None, 0, 0, ("fresh", 0, 0)),
        (None, 5, 10, ("fresh", 10, 10)),
        (30, 0, 0, ("empty", 30, 30)),
        (30, 10, 0, ("empty", 20, 30)),
        (30, 10, 25, ("empty", 25, 30)),
        (30, 10, 40, ("truncated", 40, 40)),
        (30, FAR, 0, ("empty", 0, 30)),
        (99, 10, 5, ("empty", 5, 5)),
    ],
)
def test_without_a_state(committed: int | None, lookback: int, first: int, expected: tuple[str, int, int]) -> None:
    broker = Broker(LOG)
    broker.committed = committed
    source = Topic(broker, first)
    owned, work, case = reconcile(PARTITION, source, MemoryStore(), Outlet(broker, source), RULES, reach(lookback))
    assert (case, owned.position, owned.committed) == expected
    assert (work, owned.first, owned.settled) == (None, True, owned.position)
    assert not owned.incidents


def reach(limit: int) -> Lookback:
    return Lookback(1, 1, limit)


def test_the_look_back_is_enough_for_a_window_and_for_hysteresis() -> None:
    settings = Settings.model_validate({"alerts": {"min_windows": 4, "resolve_windows": 6}})
    rules = dataclasses.replace(RULES, length=10, stride=5)
    assert lookback_of(rules, settings).events == 10 + 5 * (4 + 6)
    chosen = Settings.model_validate({"delivery": {"lookback_events": 7, "lookback_time": "1h", "lookback_limit": 9}})
    assert lookback_of(rules, chosen) == Lookback(7, 3_600_000, 9)


def test_another_topic_of_the_same_name_starts_anew() -> None:
    world = World()
    world.work(until=30)
    world.broker.identity, world.broker.committed = "topic-2", None  # the broker forgets positions of a deleted topic
    world.broker.published.clear()
    assert world.work() == "replaced"
    assert world.seeks == [0]
    assert world.published() == undisturbed()


@pytest.mark.parametrize("names", [("", "topic-1"), ("topic-1", "")])
def test_a_topic_whose_id_is_not_known_is_taken_to_be_the_same(names: tuple[str, str]) -> None:
    """As while a broker restarts, or was upgraded from one that knows no ids."""
    world = World()
    world.broker.identity = names[0]
    world.work(until=30)
    world.broker.identity = names[1]
    assert world.work() == "resumed"
    assert world.published() == undisturbed()


def test_an_alert_of_a_deleted_topic_is_resolved_in_its_successor() -> None:
    world = World(LONG)
    world.work(until=60)
    opened = {record.id for record in world.broker.published if isinstance(record, Alert)}
    world.broker.identity, world.broker.committed = "topic-2", None
    world.broker.log = [("ab"[offset % 2], 10_000 + 10 * offset, 1.0) for offset in range(20)]
    world.work()
    resolved = {r.id for r in world.broker.published if isinstance(r, Alert) and r.status == "resolved"}
    assert resolved == opened


def test_each_state_gets_a_life_of_its_own() -> None:
    broker = Broker(LOG)
    source = Topic(broker)
    lives: Mapping[str, object] = {
        reconcile(PARTITION, source, MemoryStore(), Outlet(broker, source), RULES, reach(0))[0].life: None
        for _ in range(5)
    }
    assert len(lives) == 5
