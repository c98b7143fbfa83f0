"""The service's loop: outages, fencing, signals, the end. Time is moved by hand; nothing here waits."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import pytest

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.app import FIRST_PAUSE, LONGEST_PAUSE, STALLED, Service
from stream_detector.errors import Fenced, Refused, Unavailable
from stream_detector.events import Model, Partition, Slice
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery, Ownership
from tests.simulated import PARTITION, RULES, SETTINGS, Broker, Record, SimulatedOutlet, SimulatedSource, SumScorer

LOG: list[Record] = [("ab"[at % 2], at, None if at % 9 == 8 else 9.0 if 20 <= at < 30 else 1.0) for at in range(60)]
Hook = Callable[[], None]


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.asleep: Hook = lambda: None  # called while somebody sleeps

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds
        self.asleep()


class Joined(SimulatedSource):
    """Like Kafka: assigns in a later poll, refuses to seek in what is not assigned, joins again when thrown out."""

    def __init__(self, broker: Broker, during_poll: Hook, patience: int = 3) -> None:
        super().__init__(broker, during_poll, random.Random(1))
        self.patience = patience
        self.joining, self.opened, self.joined = 0, 0, 0
        self.owner: Ownership | None = None
        self.closed = False
        self.ownership: Ownership | None = None

    def open(self, ownership: Ownership) -> None:
        self.opened += 1
        self.owner = ownership
        self._join()

    def _join(self) -> None:
        self.joined += 1
        self.generation = self.broker.join()
        self.position = None
        self.ownership, self.joining = self.owner, self.patience

    def poll(self, timeout: float) -> list[Slice]:
        if self.owner is not None and self.generation != self.broker.generation:
            self.owner.lost([PARTITION])
            self._join()
        if self.ownership is not None:
            self.joining -= 1
            if not self.joining:
                self.ownership.assigned([PARTITION])
                self.ownership = None
        return super().poll(timeout)

    def seek(self, partition: Partition, offset: int) -> None:
        if self.ownership is not None:
            raise Fenced(f"{partition} is not assigned")
        super().seek(partition, offset)

    def close(self) -> None:
        self.closed = True


class Outlet(SimulatedOutlet):
    """Counts, and calls a hook before each delivery."""

    def __init__(self, broker: Broker, source: SimulatedSource, before: Hook) -> None:
        super().__init__(broker, source, lambda: None)
        self.before = before
        self.opening: Hook = lambda: None
        self.opened, self.closed = 0, False

    def open(self) -> None:
        self.opening()
        self.opened += 1

    def deliver(self, delivery: Delivery) -> None:
        self.before()
        super().deliver(delivery)

    def close(self) -> None:
        self.closed = True


class Device(SumScorer):
    loaded = warmed = False
    device = "none"

    def load(self) -> None:
        self.loaded = True

    def warm(self) -> None:
        self.warmed = True


class Rig:
    """A service on a simulated broker. ``polling`` and ``delivering`` are called before each of these."""

    def __init__(self, log: Sequence[Record] = LOG) -> None:
        self.clock, self.broker = Clock(), Broker(log)
        self.polls = self.deliveries = 0
        self.polling: Callable[[int], None] = lambda number: None
        self.delivering: Callable[[int], None] = lambda number: None
        self.source = Joined(self.broker, self._poll)
        self.outlet = Outlet(self.broker, self.source, self._deliver)
        self.scorer = cast(Any, Device())  # stands in for the Keras scorer
        self.pipeline = Pipeline(
            self.source,
            MemoryStore(),
            self.scorer,
            self.outlet,
            Silent(),
            RULES,
            Model("m", "1"),
            SETTINGS,
            now_ms=lambda: 0.0,
        )
        self.service = Service(self.pipeline, self.scorer, now=self.clock.now, sleep=self.clock.sleep)

    def _poll(self) -> None:
        self.polls += 1
        self.polling(self.polls)

    def _deliver(self) -> None:
        self.deliveries += 1
        self.delivering(self.deliveries)

    def published(self) -> list[str]:
        return sorted(map(repr, self.broker.published))


def undisturbed() -> list[str]:
    rig = Rig()
    assert rig.service.run() == 0
    return rig.published()


def test_the_end_of_the_source_is_exit_code_0_with_everything_published() -> None:
    rig = Rig()
    assert rig.service.run() == 0
    assert rig.broker.committed == len(LOG)
    assert len(rig.broker.published) > 30
    assert (rig.source.opened, rig.outlet.opened) == (1, 1)
    assert rig.source.closed
    assert rig.outlet.closed
    assert rig.clock.time == 0  # nobody slept


def test_the_model_is_warm_before_it_joins() -> None:
    rig = Rig()
    rig.source.open = lambda ownership: pytest.fail("joined too early")  # type: ignore[method-assign]

    def warm() -> None:
        raise Refused("no device")

    rig.scorer.warm = warm
    with pytest.raises(Refused, match="no device"):
        rig.service.run()
    assert rig.scorer.loaded
    assert rig.source.closed


def test_while_a_server_is_away_pauses_grow_and_it_is_live_but_not_ready() -> None:
    rig = Rig()
    failed: list[float] = []
    states: set[tuple[bool, tuple[bool, str]]] = set()

    def polling(number: int) -> None:
        if number == 8:
            rig.outlet.opening = opening
            failed.append(rig.clock.now())
            raise Unavailable("the broker is away")

    def opening() -> None:
        if len(failed) < 10:
            failed.append(rig.clock.now())
            raise Unavailable("the broker is away")

    rig.polling = polling
    rig.clock.asleep = lambda: states.add((rig.service.live(), rig.service.ready()))
    assert rig.service.run() == 0
    pauses = [after - before for before, after in itertools.pairwise(failed)]
    expected = [min(FIRST_PAUSE * 2**step, LONGEST_PAUSE) for step in range(len(pauses))]
    assert pauses == [pytest.approx(pause, abs=0.1) for pause in expected]
    assert max(expected) == LONGEST_PAUSE
    assert states == {(True, (False, "the broker is away"))}
    assert rig.published() == undisturbed()
    assert rig.service.trouble is None


class Noting(Silent):
    """Remembers what it was told of the service."""

    def __init__(self) -> None:
        self.interruptions: list[str] = []
        self.devices: list[str] = []

    def started(self, device: str) -> None:
        self.devices.append(device)

    def interrupted(self, reason: Literal["unavailable", "fenced"]) -> None:
        self.interruptions.append(reason)


def test_interruptions_and_the_device_are_told() -> None:
    rig = Rig()
    rig.pipeline.observer = noting = Noting()

    def delivering(number: int) -> None:
        if number in (3, 5):
            raise Unavailable("the broker is away") if number == 3 else Fenced("somebody else is at it")

    rig.delivering = delivering
    assert rig.service.run() == 0
    assert noting.interruptions == ["unavailable", "fenced"]
    assert noting.devices == [rig.scorer.device]


def test_a_worker_without_partitions_is_spare_once_it_has_joined() -> None:
    rig = Rig()
    assert not rig.service.spare()  # it starts
    rig.service.start()
    rig.pipeline.turn()
    assert rig.service.spare()
    while not rig.pipeline.owned:
        rig.pipeline.turn()
    assert not rig.service.spare()
    assert rig.service.ready()[0]
    rig.service.trouble = "the broker is away"
    rig.pipeline.reset()
    assert not rig.service.spare()


def test_after_an_outage_pauses_begin_small_again() -> None:
    rig = Rig()
    slept: list[float] = []

    def polling(number: int) -> None:
        if number in (8, 9, 10, 11, 20, 30):
            slept.append(rig.clock.now())
            raise Unavailable("the broker is away")

    rig.polling = polling
    assert rig.service.run() == 0
    assert len(slept) == 6
    assert rig.clock.now() - slept[-1] == pytest.approx(FIRST_PAUSE, abs=0.1)
    assert rig.published() == undisturbed()


def test_an_outage_in_the_middle_of_a_delivery_loses_and_doubles_nothing() -> None:
    rig = Rig()

    def delivering(number: int) -> None:
        if number % 3 == 0:
            raise Unavailable("the outcome is unknown")

    rig.delivering = delivering
    assert rig.service.run() == 0
    assert rig.deliveries > 9
    assert rig.published() == undisturbed()


def test_fenced_it_joins_again() -> None:
    rig = Rig()

    def delivering(number: int) -> None:
        if number in (3, 5):
            rig.broker.join()  # somebody else takes over: ours is an older generation now

    rig.delivering = delivering
    assert rig.service.run() == 0
    assert (rig.source.opened, rig.source.joined, rig.outlet.opened) == (1, 3, 3)
    assert rig.published() == undisturbed()


def test_partitions_that_it_has_no_more_after_joining_again_are_left_alone() -> None:
    rig = Rig()
    turned: list[int] = []

    def polling(number: int) -> None:
        if number == 8:
            rig.source.patience = 1_000  # others get them
            rig.broker.join()
            raise Fenced("thrown out")
        if number == 30:
            rig.service.stop(signal.SIGTERM)
        if number > 9 and rig.service.trouble is None:  # it turns, and waits for an assignment
            turned.append(number)
            assert rig.service.ready() == (False, "no partitions assigned")

    rig.polling = polling
    assert rig.service.run() == 128 + signal.SIGTERM
    assert turned
    assert rig.source.joined == 2  # once more, not again and again


def test_it_stays_in_the_group_while_a_server_is_away_and_reads_nothing() -> None:
    rig = Rig()
    away: list[int] = []

    def opening() -> None:
        if len(away) < 6:
            away.append(rig.polls)
            raise Unavailable("Redis is away")

    def polling(number: int) -> None:
        if number == 8:
            rig.outlet.opening = opening
            raise Unavailable("Redis is away")
        if 0 < len(away) < 6:
            assert rig.source.position is None  # paused

    rig.polling = polling
    assert rig.service.run() == 0
    assert away[-1] > away[0] + 20  # polled all the while, as a member must
    assert rig.published() == undisturbed()


def test_a_worker_that_was_taken_over_from_ends_if_it_is_told_to() -> None:
    rig = Rig()
    settings = rig.pipeline.settings
    rig.pipeline.settings = settings.model_copy(
        update={"delivery": settings.delivery.model_copy(update={"fenced": "exit"})}
    )

    def delivering(number: int) -> None:
        if number == 2:
            rig.broker.join()

    rig.delivering = delivering
    with pytest.raises(Refused, match=r"older generation; another worker has taken over, and delivery\.fenced"):
        rig.service.run()
    assert rig.source.closed


def test_a_server_that_is_still_away_when_it_joins_again() -> None:
    rig = Rig()
    opened = rig.outlet.open
    failures = [3]

    def outlet_open() -> None:
        if rig.polls > 5 and failures[0]:
            failures[0] -= 1
            raise Unavailable("still away")
        opened()

    def polling(number: int) -> None:
        if number == 8:
            raise Unavailable("away")

    rig.outlet.open = outlet_open  # type: ignore[method-assign]
    rig.polling = polling
    assert rig.service.run() == 0
    assert failures == [0]
    assert rig.published() == undisturbed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_a_turn_and_what_is_in_flight_is_published(number: signal.Signals) -> None:
    rig = Rig()

    def polling(poll: int) -> None:
        if poll == 10:
            rig.service.stop(number)

    rig.polling = polling
    assert rig.service.run() == 128 + number
    assert rig.polls == 10
    assert rig.broker.committed == rig.source.position  # also what this very poll brought
    assert 0 < (rig.broker.committed or 0) < len(LOG)
    assert rig.pipeline.flight is None
    assert rig.source.closed


def test_a_signal_ends_the_waiting_for_a_server() -> None:
    rig = Rig()

    def polling(number: int) -> None:
        if number >= 8:
            raise Unavailable("away")

    def asleep() -> None:
        if rig.clock.now() > 20:  # in the middle of a long pause
            rig.service.stop(signal.SIGTERM)

    rig.polling, rig.clock.asleep = polling, asleep
    assert rig.service.run() == 128 + signal.SIGTERM
    assert rig.clock.now() < 20.2
    assert rig.source.closed


def test_what_is_in_flight_when_a_server_fails_at_the_end_is_left_to_the_next_worker() -> None:
    rig = Rig()

    def polling(number: int) -> None:
        if number == 10:
            rig.service.stop(signal.SIGTERM)
            rig.delivering = fail

    def fail(number: int) -> None:
        raise Unavailable("away")

    rig.polling = polling
    assert rig.service.run() == 128 + signal.SIGTERM
    assert rig.source.closed


def test_a_second_signal_ends_the_process_at_once() -> None:
    rig = Rig()
    child = os.fork()
    if not child:  # in the child: nothing but the signals
        signal.signal(signal.SIGTERM, rig.service.stop)
        os.kill(os.getpid(), signal.SIGTERM)
        if rig.service.stopped_by != signal.SIGTERM:
            os._exit(3)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(4)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize("where", ["start", "poll", "deliver"])
def test_a_server_that_says_no_ends_it(where: str) -> None:
    rig = Rig()

    def fail(number: int = 0) -> None:
        raise Refused("no")

    if where == "start":
        rig.outlet.open = fail  # type: ignore[method-assign]
    elif where == "poll":
        rig.polling = fail
    else:
        rig.delivering = fail
    with pytest.raises(Refused):
        rig.service.run()
    assert rig.source.closed
    assert rig.outlet.closed


def test_a_server_that_is_away_at_the_start_ends_it() -> None:
    rig = Rig()

    def fail() -> None:
        raise Unavailable("nobody there")

    rig.outlet.open = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="nobody there"):
        rig.service.run()
    assert rig.source.closed


def test_it_is_live_while_it_turns_and_ready_once_it_has_partitions() -> None:
    rig = Rig()
    told: list[tuple[bool, str]] = []

    def polling(number: int) -> None:
        assert rig.service.live()
        told.append(rig.service.ready())

    rig.polling = polling
    assert rig.service.ready() == (False, "starting")
    rig.clock.time = 10 * STALLED
    assert rig.service.live()  # compiling a model may take its time
    assert rig.service.run() == 0
    assert told[:3] == [(False, "no partitions assigned")] * 3
    assert set(told[3:]) == {(True, "1 partitions assigned")}
    rig.clock.time += STALLED + 1
    assert not rig.service.live()
