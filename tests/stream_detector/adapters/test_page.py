"""The live page without a browser: what it keeps, what it costs the pipeline, whom it answers."""

from __future__ import annotations

import http.client
import json
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.adapters import http as http_port
from stream_detector.adapters.page import Listener, LivePage, live
from stream_detector.adapters.page import board as boards
from stream_detector.adapters.page.board import Board, Scored, Seen
from stream_detector.adapters.page.view import DOTS, thin
from stream_detector.errors import SettingsError
from stream_detector.events import Float32
from stream_detector.pipeline import Pipeline
from stream_detector.settings import Settings
from tests.pages import FEATURES, MINUTE, MODEL, START, Clock, W, access, alert, board, feed, live_page
from tests.service import wait_for
from tests.simulated import SumScorer

NAMES = st.sampled_from([f"pump-{number}" for number in range(12)])
TIMES = st.lists(st.integers(0, 60), min_size=1, max_size=12)
STEPS = st.one_of(
    st.tuples(st.just("read"), NAMES, TIMES),
    st.tuples(st.just("scored"), NAMES, TIMES),
    st.tuples(st.just("fires"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("resolves"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("stands"), NAMES, st.sampled_from(["normal", "pending", "firing"])),
    st.tuples(st.just("watch"), NAMES, st.booleans()),
    st.tuples(st.just("waits"), NAMES, st.integers(1, 300)),
)


def seen(sensor: str, times: list[int]) -> Seen:
    moments = START + MINUTE * np.array(times, np.int64)
    return Seen([sensor] * len(times), moments, np.array([[time, 1] for time in times], np.float32))


def scored(sensor: str, times: list[int], score: float = 0.5) -> Scored:
    moments = START + MINUTE * np.array(times, np.int64)
    shares = np.full((len(times), len(FEATURES)), 0.5, np.float32)
    return Scored([sensor] * len(times), moments, np.full(len(times), score, np.float32), shares)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0, 3 * MINUTE]), st.lists(STEPS, max_size=60))
def test_whatever_comes_it_stays_small_in_order_and_true(grace: int, steps: list[tuple[str, str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boards, "SENSORS", 4)
        patch.setattr(boards, "POINTS", 16)
        patch.setattr(boards, "ALERTS", 3)
        clock = Clock()
        kept = board(clock, grace=grace)
        watched = ""
        for what, sensor, how in steps:
            if what == "read":
                kept.read(seen(sensor, how))
            elif what == "scored":
                kept.scored(scored(sensor, how))
            elif what == "fires":
                kept.told([alert(sensor, id_=f"{sensor} {how}")])
            elif what == "resolves":
                kept.told([alert(sensor, id_=f"{sensor} {how}", status="resolved")])
            elif what == "stands":
                kept.stand({sensor: how})
                assert how != "normal" or sensor not in kept.firing
            elif what == "watch":
                watched = sensor if how else ""
                kept.watch({watched} - {""})
            else:
                clock.now += how
            assert len(kept.tracks) <= 4
            assert not watched or watched in kept.tracks
            assert len(kept.alerts) <= 3
            assert {one.sensor_id for one in kept.alerts.values()} <= kept.firing.keys()
            assert len(kept.firing) <= 3 + 2 * 3
            for track in kept.tracks.values():
                assert len(track.times) == len(track.values) == len(track.expected) <= 16
                assert len(track.ends) == len(track.scores) == len(track.shares) <= 16
                assert (np.diff(track.times) > 0).all()
                assert (np.diff(track.ends) > 0).all()
                assert (
                    track.values[:, 0].astype(np.int64) * MINUTE + START == track.times
                ).all()  # each value beside its own time


def test_the_more_features_the_fewer_points() -> None:
    kept = board(features=[f"f{number}" for number in range(1_000)])
    times = START + np.arange(5_000, dtype=np.int64)
    kept.read(Seen(["pump"] * 5_000, times, np.zeros((5_000, 1_000), np.float32)))
    track = kept.tracks["pump"]
    held = track.times.nbytes + track.values.nbytes + track.expected.nbytes
    assert held * boards.SENSORS <= boards.BYTES
    assert (track.times == times[-len(track.times) :]).all()


def test_those_stay_that_are_looked_at_then_those_that_fire_then_the_worst_of_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "SENSORS", 4)
    clock = Clock()
    kept = board(clock)
    kept.watch({"looked-at"})
    kept.told([alert("fires")])
    kept.scored(scored("bad-once", [0], 50.0))
    clock.now += 600
    kept.scored(scored("bad-now", [0], 0.9))
    kept.scored(scored("calm", [0], 0.01))
    assert kept.tracks.keys() == {"looked-at", "fires", "bad-once", "bad-now"}
    kept.scored(scored("worse", [0], 0.5))  # ten minutes have made a fiftieth of that fifty
    assert kept.tracks.keys() == {"looked-at", "fires", "worse", "bad-now"}


def test_what_the_model_expects_stands_beside_the_events_it_was_asked_about() -> None:
    kept = board()
    asked: list[Float32] = []

    def expect(sensors: list[str], values: Float32) -> Float32:
        asked.append(values)
        return values + 1_000

    kept.read(seen("pump", list(range(11))))
    assert not kept.reconstruct("pump", expect)  # nothing was scored
    kept.scored(scored("pump", [3, 5, 7, 9]))
    assert kept.reconstruct("pump", expect)
    track = kept.tracks["pump"]
    [windows] = asked
    assert windows[:, :, 0].tolist() == [[6, 7, 8, 9], [2, 3, 4, 5]]  # without overlap, from the newest
    told = np.isfinite(track.expected[:, 0])
    assert told.tolist() == [False] * 2 + [True] * 8 + [False]
    assert (track.expected[told] == track.values[told] + 1_000).all()
    assert not kept.reconstruct("pump", expect)
    kept.read(seen("pump", [11]))
    kept.scored(scored("pump", [11]))
    assert kept.reconstruct("pump", expect)
    assert asked[1][0, :, 0].tolist() == [8, 9, 10, 11]
    assert not kept.reconstruct("nobody", expect)


def test_a_window_with_a_missing_value_is_asked_about_as_it_was_scored() -> None:
    kept = board()
    holes = seen("pump", [0, 1, 2, 3])
    holes.values[2, 0] = np.nan
    kept.read(holes)
    kept.scored(scored("pump", [3]))
    asked: list[Float32] = []
    kept.reconstruct("pump", lambda sensors, values: asked.append(values) or values)  # type: ignore[func-returns-value]
    assert asked[0][0, :, 0].tolist() == [0, 1, 1, 3]
    assert np.isnan(kept.tracks["pump"].values[2, 0])  # what was not measured is not shown as measured


def test_a_model_that_cannot_be_asked_is_asked_again() -> None:
    kept = board()
    kept.read(seen("pump", list(range(W))))
    kept.scored(scored("pump", [W - 1]))
    assert not kept.reconstruct("pump", lambda sensors, values: None)
    assert kept.reconstruct("pump", lambda sensors, values: values)


def test_a_clock_that_was_set_back_starts_over() -> None:
    kept = board(clock_reset=10 * MINUTE)
    kept.read(seen("pump", [50, 51]))
    kept.read(seen("pump", [1, 2]))
    assert kept.tracks["pump"].values[:, 0].tolist() == [1, 2]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=3_000))
@settings(deadline=None)
def test_a_line_with_fewer_dots_keeps_its_ups_and_downs(values: list[float]) -> None:
    times = np.arange(len(values), dtype=np.int64)
    rows = np.array(values, np.float32)[:, None]
    thinner, drawn = thin(times, rows)
    assert len(thinner) == len(drawn) <= DOTS + 2
    assert (np.diff(thinner) >= 0).all()
    assert (drawn.min(), drawn.max()) == (rows.min(), rows.max())


def test_a_page_that_does_not_keep_up_loses_facts_and_keeps_the_pipeline_going() -> None:
    listener = Listener()  # nobody drains its inbox
    big = np.zeros((20_000, 100), np.float32)
    for since in range(20):
        feed(listener, "pump", [0.5] * len(big), since=since * len(big), values=big)
    assert listener.inbox.held <= listener.inbox.most
    assert listener.inbox.dropped > 0
    listener.inbox.drain()
    feed(listener, "pump", [0.5])
    assert len(listener.inbox.drain()) == 2


def test_of_a_large_fleet_only_those_are_taken_that_are_followed_or_worst() -> None:
    listener = Listener()
    listener.follow(["pump-7"], room=False)
    for number in range(50):
        feed(listener, f"pump-{number}", [number / 100])
    facts = listener.inbox.drain()
    assert [fact.sensors for fact in facts if isinstance(fact, Seen)] == [["pump-7"]]


def test_a_mistake_of_the_pages_is_told_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    listener.inbox = None  # type: ignore[assignment] # as good a mistake as any
    feed(listener, "pump", [0.5])
    feed(listener, "pump", [0.5])
    assert len(caplog.records) == 1


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[str, Listener]]]:
    """Opens pages; address and listener of each."""
    pages: list[LivePage] = []

    def open_(**options: Any) -> tuple[str, Listener]:
        listener = Listener()
        pages.append(live_page(listener))
        return pages[-1].open(access(**options)), listener

    yield open_
    for page in pages:
        page.close()


def ask(address: str, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def message(stream: http.client.HTTPResponse) -> dict[str, Any]:
    """The next one."""
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    found: dict[str, Any] = json.loads(line[6:])
    return found


def test_it_answers_for_itself_alone(opened: Callable[..., tuple[str, Listener]]) -> None:
    address, _ = opened(names=["plant.example"])
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answer = ask(address, path)
        assert (answer.status, answer.headers.get_content_type()) == (200, kind)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert len(answer.read()) == int(answer.headers["Content-Length"])
    port = urlsplit(address).port
    for host, status in (
        (f"localhost:{port}", 200), (f"[::1]:{port}", 200), ("LOCALHOST", 200), ("plant.example:80", 200),
        (f"evil.example:{port}", 421), ("127.0.0.1.evil.example", 421), ("", 421),
    ):  # fmt: skip
        assert ask(address, Host=host).status == status, host
        assert ask(address, "/stream", Host=host).status == status, host
    assert ask(address, "/stream", Sec_Fetch_Site="cross-site").status == 403
    assert ask(address, "/page.js", Sec_Fetch_Site="same-site").status == 403
    assert ask(address, "/", Sec_Fetch_Site="cross-site").status == 200  # a link from elsewhere
    assert ask(address, "/", "POST").status == 405
    for path in ("/../board.py", "/static/page.js", "/%2e%2e/board.py", "/metrics"):
        assert ask(address, path).status == 404


def test_a_password_is_asked_for_everywhere(opened: Callable[..., tuple[str, Listener]]) -> None:
    address, _ = opened(username="anna", password="secret")
    right = "Basic " + b64encode(b"anna:secret").decode()
    for path in ("/", "/page.js", "/stream"):
        assert ask(address, path).status == 401
        assert ask(address, path, Authorization=right).status == 200


def test_a_port_that_is_taken_is_told_by_its_setting(opened: Callable[..., tuple[str, Listener]]) -> None:
    address, _ = opened()
    with pytest.raises(SettingsError, match=r"page\.port: \d+ is taken on 127\.0\.0\.1; set another, or 0"):
        opened(port=urlsplit(address).port)


def test_each_gets_the_newest_whoever_else_is_slow(opened: Callable[..., tuple[str, Listener]]) -> None:
    address, listener = opened()
    place = urlsplit(address)
    feed(listener, "pump ü", [0.5] * 50)
    slow = [socket.create_connection((place.hostname, place.port)) for _ in range(10)]
    for other in slow:  # they ask and never read
        other.sendall(b"GET /stream?sensor=pump HTTP/1.1\r\nHost: localhost\r\n\r\n")
    stream = ask(address, f"/stream?sensor={quote('pump ü')}")
    for turn in range(3):
        feed(listener, "pump ü", [1.5 + turn], since=50 + turn)
        while (told := message(stream))["sensor"]["newest"]["score"] != 1.5 + turn:
            assert told["sensor"]["id"] == "pump ü"
    assert told["overview"]["fleet"][0] == {"id": "pump ü", "label": "pump ü", "score": 3.5, "severity": None}
    assert (told["about"]["events"], told["about"]["lag"]) == (53, 7)
    for other in slow:
        other.close()


def test_who_never_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port._Handler, "timeout", 0.5)
    monkeypatch.setattr(live, "TICK", 0.01)
    monkeypatch.setattr(live, "NEWS", 0.0)
    listener = Listener()
    page = live_page(listener)
    place = urlsplit(page.open(access()))
    feed(listener, "pump", [0.5] * 400)
    try:
        with socket.create_connection((place.hostname, place.port)) as idle:
            idle.sendall(b"GET /stream?sensor=pump HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(page.viewers.now, "the stream to begin")
            wait_for(lambda: not page.viewers.now(), "the server to give up")
    finally:
        page.close()


def test_what_is_over_is_shown_with_all_that_was_told() -> None:
    """Also if it ends while the model is asked, which takes as long as compiling does."""
    listener, over = Listener(), list[bool]()

    def ends(sensors: list[str], values: Float32) -> Float32:
        if not over:
            feed(listener, "pump", [2.5], since=20, alerts=[alert("pump")])
            over.append(True)
        return values

    clock = Clock()
    page = live_page(listener, state=lambda: (True, "over" if over else "on"), expect=ends, clock=clock)
    viewer = page.viewers.enter("pump")
    assert viewer is not None
    feed(listener, "pump", [0.5] * 20)
    told, stream = [], viewer.stream()
    next(stream)  # how soon to come back
    for _ in range(2):
        clock.now += 10
        page.turn()
        told.append(json.loads(next(stream).removeprefix(b"data: ")))
    assert [(one["about"]["state"], len(one["sensor"]["spans"])) for one in told] == [("on", 0), ("over", 1)]


def test_the_pipelines_own_facts_reach_it() -> None:
    """Off, nothing listens; on, the real pipeline's windows, scores and alerts are on the board."""
    from stream_detector.adapters.memory import MemoryStore
    from tests.world import POLICY, RULES, Outlet, Topic, World

    world, listener = World(), Listener()
    source = Topic(world.broker)
    pipeline = Pipeline(
        source, MemoryStore(), SumScorer(), Outlet(world.broker, source), listener, RULES, MODEL,
        Settings(alerts=POLICY), now_ms=lambda: 0.0,
    )  # fmt: skip
    clock = Clock()
    kept = Board(RULES.features, RULES.length, clock=clock)
    page = LivePage(
        listener, kept, lambda: pipeline.models.things, state=lambda: (True, ""), expect=lambda sensors, values: values
    )
    source.open(pipeline)
    while not (source.finished and pipeline.flight is None and not pipeline.waiting):
        pipeline.turn()
    pipeline.close()
    page.turn()
    assert kept.tracks.keys() == {"a", "b"}
    events = [offset for offset, record in enumerate(world.broker.log) if record[0] == "a" and record[2] is not None]
    assert kept.tracks["a"].times.tolist() == [10 * offset for offset in events]
    assert kept.tracks["a"].ends.tolist() == [10 * offset for offset in events[RULES.length - 1 :]]
    assert len(kept.tracks["a"].spans) == 1
    assert not kept.alerts  # it was resolved
