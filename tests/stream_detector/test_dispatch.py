"""Couriers beside each other: who waits, who ends whom, what health says, and how commands are misused."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from stream_detector import dispatch as module
from stream_detector.adapters.prometheus.webhooks import WebhookMetrics
from stream_detector.dispatch import Dispatch
from stream_detector.errors import Refused, Unavailable
from stream_detector.settings import Metrics
from stream_detector.webhooks.courier import Courier
from stream_detector.webhooks.ports import Outcome
from tests.commandline import invoke
from tests.stream_detector.adapters.test_http import ask

TARGET = '[webhooks.targets.ops]\nurl = "https://hooks.example/"\nformat = "slack"\n'


class Fake:
    """A courier that does what a test says."""

    def __init__(self, name: str, *, opening: list[Exception] | None = None, owned: int = 1) -> None:
        self.name, self.owned = name, owned
        self.opening = opening or []
        self.turns, self.closed = 0, threading.Event()
        self.turned = threading.Event()
        self.do: Callable[[], None] = lambda: None

    def open(self) -> None:
        if self.opening:
            raise self.opening.pop(0)

    def turn(self, timeout: float) -> None:
        self.turns += 1
        try:
            self.do()
        finally:
            self.turned.set()
        time.sleep(0.001)  # as one that waits for alerts

    def close(self) -> None:
        self.closed.set()


def running(*fakes: Fake) -> tuple[Dispatch, threading.Thread, list[object]]:
    """A dispatch in a thread, and what comes of it."""
    dispatch, ends = Dispatch([cast("Courier", fake) for fake in fakes]), list[object]()

    def run() -> None:
        try:
            ends.append(dispatch.run())
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return dispatch, thread, ends


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_signal_ends_all() -> None:
    one, two = Fake("one"), Fake("two")
    dispatch, thread, ends = running(one, two)
    assert one.turned.wait(60)
    assert two.turned.wait(60)
    until(lambda: dispatch.ready() == (True, "2 targets"))
    assert dispatch.live()
    dispatch.stop(signal.SIGTERM)
    thread.join(60)
    assert ends == [143]
    assert one.closed.is_set()
    assert two.closed.is_set()


def test_what_is_refused_ends_all_and_is_told() -> None:
    one, two = Fake("one"), Fake("two", opening=[Refused("no such topic")])
    _, thread, ends = running(one, two)
    thread.join(60)
    assert isinstance(ends[0], Refused)
    assert one.closed.is_set()


def test_an_outage_is_waited_out_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    one, two = Fake("one"), Fake("two")
    dispatch, thread, _ = running(one, two)
    until(lambda: dispatch.ready()[0])
    away = threading.Event()

    def fail() -> None:
        if not away.is_set():
            raise Unavailable("Kafka is away")

    two.do = fail
    until(lambda: dispatch.ready() == (False, "two: Kafka is away"))
    before = one.turns
    until(lambda: one.turns > before + 10)
    assert dispatch.live()
    away.set()
    until(lambda: dispatch.ready()[0])
    one.owned = 0
    assert dispatch.ready() == (False, "one: no partitions assigned")
    dispatch.stop(signal.SIGINT)
    thread.join(60)


def test_a_broker_that_is_not_there_at_the_start_is_told_at_once() -> None:
    _, thread, ends = running(Fake("one", opening=[Unavailable("nobody there")]))
    thread.join(60)
    assert isinstance(ends[0], Unavailable)


def test_metrics() -> None:
    metrics = WebhookMetrics(["ops", "pager"], clock=lambda: 1_000.0)
    metrics.tried("ops", Outcome("busy", "", 0.3))
    metrics.delivered("ops", 2.0)
    metrics.died("ops", "exhausted")
    metrics.missed("ops", 7)
    metrics.standing("ops", waiting=3, lag=4, flying=2, state="open")
    server = metrics.serve(Metrics(port=0), lambda: True, lambda: (False, "ops: no partitions assigned"))
    try:
        told = ask(f"http://127.0.0.1:{server.port}/metrics")[1]
        assert ask(f"http://127.0.0.1:{server.port}/readyz")[:2] == (503, "ops: no partitions assigned\n")
    finally:
        server.close()
    for line in (
        'attempts_total{outcome="busy",target="ops"} 1.0',
        'attempt_seconds_bucket{le="0.5",target="ops"} 1.0',
        'delivered_total{target="ops"} 1.0',
        'delivered_total{target="pager"} 0.0',
        'delivery_seconds_sum{target="ops"} 2.0',
        'dead_letters_total{reason="exhausted",target="ops"} 1.0',
        'missed_records_total{target="ops"} 7.0',
        'waiting{target="ops"} 3.0',
        'consumer_lag{target="ops"} 4.0',
        'in_flight{target="ops"} 2.0',
        'target_state{state="open",target="ops"} 1.0',
        'target_state{state="ok",target="ops"} 0.0',
        'last_success_timestamp_seconds{target="ops"} 1000.0',
    ):
        assert f"stream_detector_webhooks_{line}" in told


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("", [], "webhooks.targets: there are none"),
        ("", ["--replay-dead-letters"], "webhooks.targets: there are none"),
        (TARGET, ["--check", "--replay-dead-letters"], "give one of them"),
        (TARGET, ["--target", "ops"], "is for --replay-dead-letters alone"),
        (TARGET, ["--replay-dead-letters", "--target", "chat"], "no such target; use one of: ops"),
        (TARGET.replace('"slack"', '"template"\ntemplate = "{"'), [], "webhooks.targets.ops.template: what it makes"),
        (TARGET + 'ca_file = "/nowhere"\n', [], "webhooks.targets.ops.ca_file: /nowhere: No such file"),
    ],
)
def test_misuse_is_one_line(text: str, options: list[Any], told: str, tmp_path: Path) -> None:
    config = tmp_path / "detector.toml"
    config.write_text(text)
    done = invoke("webhooks", "--config", config, *options)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1
