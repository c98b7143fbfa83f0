"""The short form of the fuzz, in this process; `make fuzz` is the long one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from stream_detector.codec import Decoder, Raw
from stream_detector.settings import Columns, EventRules
from tests.fuzz.messages import FEATURES as NAMES
from tests.fuzz.messages import Maker
from tests.fuzz.oracle import doubtful, judge, read_time
from tests.fuzz.world import START, World, Wrong, outcomes
from tests.stream_detector.test_codec import FEATURES, RECORDS, RULES

MESSAGES = 60_000


def run(world: World, messages: int) -> None:
    try:
        while world.source.position < messages:
            world.turn()
        world.end()
    finally:
        world.close()


@pytest.mark.parametrize(("profile", "seed"), [("default", 1), ("lenient", 2), ("strict", 3)])
def test_every_message_comes_out_as_the_rules_say_once(profile: str, seed: int) -> None:
    world = World(seed, profile)
    run(world, MESSAGES)
    told = world.expected.time.counts
    assert min(count for what, count in told.items() if what != "set back" or profile == "lenient") > 10, told
    assert len(world.expected.reasons) >= 15, world.expected.reasons


def test_batches_of_one_message_come_out_alike() -> None:
    run(World(4, batch=1), 500)


def test_the_same_seed_makes_the_same_messages() -> None:
    assert Maker(5, START).batch(500, 0) == Maker(5, START).batch(500, 0) != Maker(6, START).batch(500, 0)


def test_what_is_made_to_be_good_is_good() -> None:
    for message in Maker(7, START, hostile=0).batch(2_000, 0):
        raw = Raw(0, START + 10_000, message.key, message.value)
        assert judge(raw.key, raw.value, raw.arrival, NAMES, Columns(), EventRules()) == (message.known,)


@settings(max_examples=400, deadline=None)
@given(RECORDS, RULES)
def test_the_decoder_agrees_with_the_rules_on_anything(given: list[Any], rules: EventRules) -> None:
    for columns in (Columns(), Columns(ignored=["note", "values"], label="alarm", timezone="Europe/Berlin")):
        records = [Raw(offset, *parts) for offset, parts in enumerate(given)]
        _, found = outcomes(Decoder(FEATURES, columns, rules), records)
        for record, outcome in zip(records, found, strict=True):
            allowed = judge(record.key, record.value, record.arrival, FEATURES, columns, rules)
            assert outcome in allowed or doubtful(record.value or b"")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31 23:59:59.9999", -1),
        ("1970-01-01t01:00:00.5+01:00", 500),
        ("1970-01-01T00:00:60Z", None),
        ("1970-01-01T00:00:00+01:60", None),
        ("1970-01-01", None),
    ],
)
def test_the_oracle_reads_times_of_its_own(text: str, read: int | None) -> None:
    assert read_time(text, "UTC") == read


# -- the fuzz itself would notice --------------------------------------------------------------------------------------


def test_it_notices_a_rule_that_is_off_by_one() -> None:
    world = World(1)
    world.source.decoder = Decoder(
        world.source.decoder.features, Columns(), EventRules(max_future=5_000, max_sensor_id=255)
    )
    with pytest.raises(Wrong, match="was taken for bad-sensor-id"):
        run(world, MESSAGES)


@pytest.mark.parametrize("what", ["rejects", "scores"])
def test_it_notices_what_is_lost_and_what_comes_twice(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for times, told in ((0, "never came"), (2, "where None was due|again")):
        world = World(1)
        deliver = world.outlet.deliver

        def faulty(delivery: Any, deliver: Any = deliver, times: int = times) -> None:
            getattr(delivery, what)[-1:] *= times
            deliver(delivery)

        monkeypatch.setattr(world.outlet, "deliver", faulty)
        with pytest.raises(Wrong, match=told):
            run(world, 6_000)
