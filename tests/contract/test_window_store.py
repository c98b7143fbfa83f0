"""`ports.WindowStore`: what every adapter must do, on memory, on a real Redis and on a real Redis Cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from stream_detector.adapters.memory import MemoryStore
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.errors import Moved
from stream_detector.events import Partition
from stream_detector.ports import Update, WindowStore
from stream_detector.settings import Redis as RedisSettings

P = Partition("sensor-events", 3)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> WindowStore:
    if request.param == "memory":
        return MemoryStore()
    url = SecretStr(request.getfixturevalue(request.param))
    settings = RedisSettings(url=url, cluster=request.param == "redis_cluster_url")
    return RedisStore(settings, "a group with {braces}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All but memory needs servers, and says so."""
    if "store" in metafunc.fixturenames:
        servers = [pytest.param(f"{name}_url", marks=pytest.mark.servers) for name in ("redis", "redis_cluster")]
        params = ["memory", *servers]
        metafunc.parametrize("store", params, indirect=True)


def update(start: int, end: int, **changes: Any) -> Update:
    given: dict[str, Any] = {
        "life": "L1", "layout": "abc", "first": False, "start": start, "end": end, "settled": 0, "sensors": [],
        "rows": [], "headers": [], "keep": [], "tails": [], "expired": [], "pending": b"", "waiting": [],
    }  # fmt: skip
    return Update(**(given | changes))


def one(start: int, end: int, rows: bytes, **changes: Any) -> Update:
    """An update of one sensor."""
    given = {"sensors": ["a"], "rows": [rows], "headers": [b"h%d" % end], "keep": [100], "tails": [0]}
    return update(start, end, **(given | changes))


def test_a_partition_starts_without_state(store: WindowStore) -> None:
    assert store.load(P) is None
    with pytest.raises(Moved):
        store.append(P, one(0, 5, b"xx"))
    assert store.load(P) is None


def test_the_first_append_creates_the_state_and_later_ones_move_it(store: WindowStore) -> None:
    assert store.append(P, one(7, 9, b"abc", first=True, tails=[2])) == [b"bc"]
    assert store.append(P, one(9, 20, b"de", tails=[4])) == [b"bcde"]
    stored = store.load(P)
    assert stored is not None
    assert (stored.life, stored.layout, stored.position, stored.settled) == ("L1", "abc", 20, 7)
    assert stored.headers == {"a": b"h20"}
    assert store.load(Partition("sensor-events", 4)) is None


@pytest.mark.parametrize("stale", [{"start": 8}, {"start": 0, "first": True}, {"life": "L2"}])
def test_a_stale_append_is_refused_and_changes_nothing(store: WindowStore, stale: dict[str, Any]) -> None:
    store.append(P, one(0, 9, b"abc", first=True, pending=b"w", waiting=["a"]))
    before = store.load(P)
    with pytest.raises(Moved):
        store.append(P, replace(one(9, 12, b"zz", expired=["a"]), **stale))
    assert store.load(P) == before


@pytest.mark.parametrize("stale", [(1, 9, "L1"), (0, 10, "L1"), (0, 9, "L2")])
def test_a_stale_settle_is_refused_and_changes_nothing(store: WindowStore, stale: tuple[int, int, str]) -> None:
    store.append(P, one(0, 9, b"abc", first=True, pending=b"w", waiting=["a"]))
    before = store.load(P)
    since, upto, life = stale
    with pytest.raises(Moved):
        store.settle(P, life, since, upto, {"a": b"alert"})
    assert store.load(P) == before
    with pytest.raises(Moved):
        store.settle(Partition("nothing", 0), "L1", 0, 0, {})


def test_what_waits_is_kept_until_it_is_settled(store: WindowStore) -> None:
    store.append(P, one(0, 5, b"abc", first=True, pending=b"first", waiting=["a"]))
    store.append(P, one(5, 9, b"\x00\xff\xc4", pending=b"\x00second\xff", waiting=["a"]))
    stored = store.load(P)
    assert stored is not None
    assert stored.pending == [(5, b"first"), (9, b"\x00second\xff")]
    assert stored.rows == {"a": b"abc\x00\xff\xc4"}
    store.settle(P, "L1", 0, 5, {"a": b"firing", "b": b"pending"})
    store.settle(P, "L1", 5, 5, {"b": None, "c": None})
    stored = store.load(P)
    assert stored is not None
    assert (stored.settled, stored.pending, stored.alerts) == (5, [(9, b"\x00second\xff")], {"a": b"firing"})


def test_memories_are_settled_beside_alerts_and_go_with_the_state(store: WindowStore) -> None:
    store.append(P, one(0, 5, b"abc", first=True))
    store.settle(P, "L1", 0, 3, {"a": b"firing"}, {"head:a": b"\x00\xff", "0:a": b"values", "head:b": b"b"})
    store.settle(P, "L1", 3, 4, {"a": None}, {"0:a": b"others", "head:b": None, "1:c": None})
    stored = store.load(P)
    assert stored is not None
    assert stored.whole
    assert (stored.alerts, stored.memories) == ({}, {"head:a": b"\x00\xff", "0:a": b"others"})
    with pytest.raises(Moved):
        store.settle(P, "L1", 3, 5, {}, {"0:a": b"stale"})
    assert store.load(P) == stored
    store.append(P, one(5, 9, b"de"))
    store.settle(P, "L1", 4, 9, {})
    again = store.load(P)
    assert again is not None
    assert (again.memories, again.whole) == (stored.memories, True)
    store.discard(P, "L1")
    store.append(P, one(0, 5, b"abc", first=True))
    anew = store.load(P)
    assert anew is not None
    assert anew.memories == {}


def test_rows_are_trimmed_but_never_below_what_is_kept(store: WindowStore) -> None:
    store.append(P, one(0, 1, b"0" * 10, first=True, keep=[10]))
    for at in range(1, 200):
        (tail,) = store.append(P, one(at, at + 1, b"%010d" % at, keep=[20], tails=[20]))
        assert tail == (b"%010d" % (at - 1) if at > 1 else b"0" * 10) + b"%010d" % at
    (tail,) = store.append(P, one(200, 201, b"x" * 10, keep=[20], tails=[10_000]))
    assert 30 <= len(tail) <= 110


def test_rows_are_not_trimmed_under_another_view_of_what_is_settled(store: WindowStore) -> None:
    store.append(P, one(0, 1, b"first row,", first=True, pending=b"w", waiting=["a"]))
    for at in range(1, 50):
        store.append(P, one(at, at + 1, b"0123456789", keep=[10], settled=1))
    stored = store.load(P)
    assert stored is not None
    assert stored.rows["a"].startswith(b"first row,")


def test_an_expired_sensor_is_forgotten_but_not_its_waiting_rows(store: WindowStore) -> None:
    store.append(P, one(0, 5, b"abc", first=True, pending=b"w", waiting=["a"]))
    store.append(P, update(5, 6, expired=["a"]))
    stored = store.load(P)
    assert stored is not None
    assert (stored.headers, stored.rows) == ({}, {"a": b"abc"})
    store.settle(P, "L1", 0, 6, {})
    assert store.append(P, one(6, 7, b"new", tails=[100])) == [b"new"]


def test_an_expired_sensor_that_came_back_keeps_its_rows(store: WindowStore) -> None:
    store.append(P, one(0, 5, b"abc", first=True))
    store.append(P, update(5, 6, expired=["a"]))
    store.append(P, one(6, 7, b"new"))
    store.settle(P, "L1", 0, 6, {})
    assert store.append(P, one(7, 8, b"er", tails=[5])) == [b"newer"]


def test_discard_forgets_one_life_and_no_other(store: WindowStore) -> None:
    store.append(P, one(0, 5, b"abc", first=True, pending=b"w", waiting=["a"]))
    with pytest.raises(Moved):
        store.discard(P, "L2")
    assert store.load(P) is not None
    store.discard(P, "L1")
    assert store.load(P) is None
    assert store.append(P, one(0, 5, b"z", first=True, tails=[9])) == [b"z"]


@pytest.mark.parametrize(
    "name", ["{braces}", "new\nline", "\x00\x07", "a b", "'quoted'", "<script>", "ü" * 3_000, ":rows:", "*", "-1"]
)
def test_sensor_names_cannot_break_keys(store: WindowStore, name: str) -> None:
    store.append(P, one(0, 5, b"abc", first=True, sensors=[name], pending=b"w", waiting=[name]))
    store.append(P, one(5, 6, b"other", sensors=["other"]))
    store.settle(P, "L1", 0, 0, {name: b"firing"})
    stored = store.load(P)
    assert stored is not None
    assert stored.rows == {name: b"abc"}
    assert stored.alerts == {name: b"firing"}
    assert set(stored.headers) == {name, "other"}


def test_what_a_state_begins_with_is_stored_once(store: WindowStore) -> None:
    begun = one(7, 9, b"abc", first=True, settled=7, floor=8, alerts={"a": b"A", "b\x00": b"\x93\x00\xff"})
    store.append(P, begun)
    stored = store.load(P)
    assert stored is not None
    assert (stored.floor, stored.alerts) == (8, {"a": b"A", "b\x00": b"\x93\x00\xff"})
    assert stored.headers == {"a": b"h9"}
    store.append(P, one(9, 10, b"de", settled=7, floor=99, alerts={"c": b"C"}))
    assert store.load(P) == replace(stored, position=10, headers={"a": b"h10"})


def test_alert_states_may_change_without_the_position(store: WindowStore) -> None:
    store.append(P, one(0, 9, b"abc", first=True, pending=b"w", waiting=["a"]))
    store.settle(P, "L1", 0, 0, {"a": b"silent"})
    stored = store.load(P)
    assert stored is not None
    assert (stored.settled, stored.alerts, len(stored.pending)) == (0, {"a": b"silent"}, 1)
