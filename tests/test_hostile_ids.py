"""Sensor ids are anybody's to choose: they cannot break keys, terminals, logs, metrics or reports."""

from __future__ import annotations

import json
import logging
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import redis
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from stream_detector.adapters.prometheus.observer import PrometheusObserver
from stream_detector.adapters.prometheus.spotlight import LONGEST
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.errors import Damaged
from stream_detector.events import Errors, Model, Partition, Reject, Windows
from stream_detector.ports import Delivery, Firing, Update
from stream_detector.sensors import Rules, Table
from stream_detector.settings import Redis
from stream_detector.waiting import pack_waiting, unpack_waiting
from stream_detector.windows import advance
from tests.commandline import invoke
from tests.fuzz.messages import HOSTILE_IDS
from tests.stream_detector.test_windows import columns
from training.plant import FEATURES

IDS = [*HOSTILE_IDS, "a}:rows:b", "a:", ":a", "A", "a\x00", "meta", "pending", "alerts"]
SHOWN = [name for name in IDS if not name.isprintable() or set(name) & set("<&{[$")]
SHOWN = [*[name for name in SHOWN if len(name) > 3][:8], "[bold red]a[/]", "\x85"]
PLACES = [
    ("group", Partition("events", 0)),
    ("group", Partition("events", 1)),
    ("group", Partition("events.0", 1)),
    ("{group}", Partition("events", 0)),
    ("group:events", Partition("events", 0)),
    ("gr%6fup", Partition("events", 0)),
    ("gro\nup }{*?[a]", Partition("events", 0)),
]


def first(life: str, sensors: list[str], rows: list[bytes]) -> Update:
    count = len(sensors)
    headers = [b"h"] * count
    return Update(
        life, "layout", True, 0, 9, 0, sensors, rows, headers, [9_999] * count, [1] * count, [], b"w", sensors
    )


def later(life: str, expired: list[str]) -> Update:
    return Update(life, "layout", False, 9, 10, 0, [], [], [], [], [], expired, b"", [])


@pytest.fixture
def stores(redis_url: str) -> list[tuple[RedisStore, Partition]]:
    return [(RedisStore(Redis(url=SecretStr(redis_url)), group), partition) for group, partition in PLACES]


def test_no_two_of_them_share_a_key(stores: list[tuple[RedisStore, Partition]], redis_url: str) -> None:
    assert len(set(IDS)) == len(IDS)
    with redis.Redis.from_url(redis_url) as client:
        for place, (store, partition) in enumerate(stores):
            before = client.dbsize()
            store.append(partition, first("life", IDS, [f"{place} {name}".encode() for name in IDS]))
            store.settle(partition, "life", 0, 0, dict.fromkeys(IDS, b"firing"))
            # A string for each id; one hash or list each for meta, headers, what waits, alerts.
            assert client.dbsize() == before + len(IDS) + 4
    for place, (store, partition) in enumerate(stores):
        stored = store.load(partition)
        assert stored is not None
        assert stored.rows == {name: f"{place} {name}".encode() for name in IDS}
        assert stored.headers == dict.fromkeys(IDS, b"h")
        assert stored.alerts == dict.fromkeys(IDS, b"firing")


def test_each_is_forgotten_without_the_others(stores: list[tuple[RedisStore, Partition]], redis_url: str) -> None:
    for store, partition in stores:
        store.append(partition, first("life", IDS, [b"row"] * len(IDS)))
    gone, kept = IDS[::2], IDS[1::2]
    with redis.Redis.from_url(redis_url) as client:
        total = client.dbsize()
        store, partition = stores[0]
        store.append(partition, later("life", gone))
        store.settle(partition, "life", 0, 10, {})
        assert client.dbsize() == total - len(gone) - 1  # and nothing waits any more
        stored = store.load(partition)
        assert stored is not None
        assert set(stored.headers) == set(kept)
        for store, partition in stores:
            keys = set(client.keys())
            store.discard(partition, "life")
            assert store.load(partition) is None
            left = set(client.keys())
            assert len({key.split(b"}:")[0] for key in keys - left}) == 1  # of one hash tag
        assert client.dbsize() == 0


def test_errors_that_name_one_stay_a_line() -> None:
    rules = Rules(("p",), 2, 1, (0.0,))
    for name in IDS:
        change = advance(Table(rules), columns([(name, 0, [1.0]), (name, 1, [1.0])]))
        with pytest.raises(Damaged) as told:
            unpack_waiting(rules, pack_waiting(change, []), {name: b""})
        assert str(told.value).isprintable()


def test_metrics_hold_them_made_printable_and_each_by_itself() -> None:
    observer = PrometheusObserver(Model('pumps"\n}\\', "7\x00"), lambda: 0.0, ["p"], worst=len(IDS), firing=len(IDS))
    count = len(IDS)
    windows = Windows(
        IDS,
        np.zeros((count, 2, 1), np.float32),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 1), bool),
        np.ones(count, np.float32),
    )
    ones = np.ones(count, np.float32)
    observer.scored(PLACES[0][1], windows, Errors(ones, ones, ones, ones[:, None], np.zeros(count, np.int32)))
    letters = [(PLACES[0][1], Reject(at, "late", name, name.encode(), b"")) for at, name in enumerate(IDS)]
    observer.delivered(Delivery([], [], letters, {}), [])
    open_ = [Firing(name, "anomaly", "major") for name in IDS]
    observer.gauges(partitions=[PLACES[0][1]], sensors=count, pending=0, lag={}, firing=open_)
    text = generate_latest(observer.registry).decode()
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["name"] for sample in samples if "name" in sample.labels} == {'pumps"\n}\\'}
    assert {label for sample in samples for label in sample.labels} <= {
        "name", "version", "le", "outcome", "stage", "reason", "rule", "severity", "status", "case", "kind",
        "sensor_id", "feature", "group",
    }  # fmt: skip
    for name in ("sensor_score", "sensor_contribution", "alert_firing"):
        shown = [sample.labels["sensor_id"] for sample in samples if sample.name == f"stream_detector_{name}"]
        assert len(set(shown)) == len(shown) == count
        assert all(label.isprintable() and len(label) <= LONGEST for label in shown)
    assert len(text.splitlines()) == sum(len(family.samples) + 2 for family in families)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_a_replay_shows_them_and_is_not_broken(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "stream_detector")
    data, out = tmp_path / "events.jsonl", tmp_path / "out"
    with data.open("w", encoding="utf-8", newline="\n") as file:
        for minute in range(24):
            for name in SHOWN:  # an ordinary hour, then what no pump does
                values = dict.fromkeys(FEATURES, 1e4 * (minute % 3) if minute >= 16 else 1.0)
                event = {"sensor_id": name, "timestamp": minute * 60_000, "values": values}
                file.write(json.dumps(event, ensure_ascii=minute % 2 == 0) + "\n")
    done = invoke("replay", data, "--bundle", bundle, "--out", out)
    assert done.code == 0, done.err
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().split("\n") if line]
    assert {alert["sensor_id"] for alert in alerts} == set(SHOWN)
    told = [*(done.out + done.err).split("\n"), *(record.getMessage() for record in caplog.records)]
    assert len(told) > len(SHOWN)
    for line in told:
        assert line.isprintable(), repr(line)
    report = (out / "report.html").read_text("utf-8")
    assert not {sign for sign in report if not sign.isprintable()} - {"\n"}
    page = Tags(report)
    assert "h3" in page.seen
    assert not page.seen & {"script", "amp"}
    assert not page.handlers
    assert "<img src=x" not in report
