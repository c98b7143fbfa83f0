from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from stream_detector.adapters.pictures import recorder as recording
from stream_detector.adapters.pictures import report as html
from stream_detector.adapters.pictures.recorder import Recorder, Trace
from stream_detector.adapters.pictures.report import write_report
from stream_detector.codec import rfc3339
from stream_detector.errors import DataError
from stream_detector.events import Alert, Events, Model, Origin, Partition, Reject, Score, Slice
from stream_detector.ports import Delivery

START = 1_795_168_800_000
MODEL, ORIGIN = Model("pumps", "<1>"), Origin("files", 0, 0, 1)
HOSTILE = '<script>alert("x")</script>\x00\u202e$x_$&amp;"\''
FILES = Partition("files", 0)


def read(sensor: str, values: list[list[float]], start: int = START) -> Slice:
    n = len(values)
    stamps = start + np.arange(n, dtype=np.int64) * 60_000
    offsets = np.arange(n, dtype=np.int64)
    events = Events([sensor] * n, stamps, np.array(values, np.float32), offsets, np.full(n, -1, np.int64))
    return Slice(FILES, 0, n, events, [])


def score(sensor: str, value: float, minute: int = 0, contributions: dict[str, float] | None = None) -> Score:
    when = rfc3339(START + minute * 60_000)
    shares = contributions or {"pressure": 1.0}
    return Score("i", sensor, when, when, 2, value, 0.1, 0.1, "normal", shares, 0, 1.0, [], MODEL, ORIGIN)


def alert(sensor: str, number: int = 1, *, revision: int = 1, ended: int | None = None) -> Alert:
    until = None if ended is None else rfc3339(START + ended * 60_000)
    return Alert(
        id=f"a{number}",
        revision=revision,
        status="firing" if ended is None else "resolved",
        kind="anomaly",
        sensor_id=sensor,
        severity="major",
        started_at=rfc3339(START + 60_000),
        ended_at=until,
        score=1.0,
        peak_score=2.5,
        threshold=0.1,
        contributions={"pressure": 0.8, "current": 0.2},
        observed={},
        expected={},
        summary=f"{sensor}: pressure 3.9 where 2.1 was expected",
        model=MODEL,
        source=ORIGIN,
    )


def recorded(*sensors: str, features: tuple[str, ...] = ("pressure", "current")) -> Recorder:
    recorder = Recorder(features)
    for place, sensor in enumerate(sensors):
        recorder.read([read(sensor, [[float(minute)] * len(features) for minute in range(10)])])
        recorder.delivered(Delivery([score(sensor, 0.1 * (place + 1), minute) for minute in range(10)], [], [], {}))
    return recorder


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.pictures: list[bytes] = []
        self.headings: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        if tag == "img":
            kind, data = str(given["src"]).split(",", 1)
            assert kind == "data:image/svg+xml;base64"
            self.pictures.append(base64.b64decode(data))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == "h3" and data.strip():
            self.headings.append(data)


def write(tmp_path: Path, recorder: Recorder, pictures: int = 24) -> Page:
    write_report(tmp_path / "report.html", recorder, pictures=pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return Page(tmp_path / "report.html")


def test_totals_alerts_and_a_picture_per_sensor(tmp_path: Path) -> None:
    recorder = recorded("pump-1", "pump-2")
    rejects = [(FILES, Reject(n, reason, "…")) for n, reason in enumerate(["late", "late", "not-json"])]
    recorder.delivered(Delivery([score("pump-1", 1.5, 10)], [alert("pump-1")], rejects, {}))
    recorder.delivered(Delivery([], [alert("pump-1", revision=2, ended=5)], [], {}))

    page = write(tmp_path, recorder)

    for number, name in [("2", "sensors"), ("20", "events"), ("3", "rejected"), ("21", "windows"), ("1", "alerts")]:
        assert f"<b>{number}</b><span>{name}</span>" in page.source
    assert "Rejected: late 2, not-json 1." in page.text
    assert "4.8 %" in page.text
    assert "pressure 3.9 where 2.1 was expected" in page.text
    assert "pressure 80%, current 20%" in page.text
    assert "2026-11-20 10:05:00" in page.text
    assert "still firing" not in page.text
    assert page.headings == ["pump-1", "pump-2"]
    assert len(page.pictures) == 2
    for picture in page.pictures:
        assert ET.fromstring(picture).tag.endswith("svg")  # noqa: S314 # our own
        assert re.search(rb"scale\(0\.\d{4}", picture)  # letters are not rounded with the lines


def test_works_offline_and_runs_nothing(tmp_path: Path) -> None:
    page = write(tmp_path, recorded("pump-1"))
    assert "script" not in page.tags
    assert not [value for name, value in page.attributes if name in {"src", "href"} and "//" in str(value)]
    assert "default-src 'none'" in page.source


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    recorder = recorded(HOSTILE, features=(HOSTILE, "$\\frac{"))
    recorder.delivered(Delivery([score(HOSTILE, 2.0, contributions={HOSTILE: 1.0})], [alert(HOSTILE)], [], {}))

    page = write(tmp_path, recorder)

    assert not {"script", "amp"} & set(page.tags)
    assert "<script>alert" not in page.source
    assert "\x00" not in page.source
    assert "\u202e" not in page.source
    assert '<script>alert("x")</script>' in page.text  # shown as it is
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert len(page.pictures) == 1


def test_sensors_with_alerts_come_first_then_peaks_and_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    recorder = recorded("a", "b", "c", "d")  # peaks rise
    recorder.delivered(Delivery([], [alert("b")], [], {}))
    page = write(tmp_path, recorder, pictures=3)
    assert page.headings == ["b", "d", "c"]
    assert "3 of 4 sensors are drawn" in page.text


def test_many_features_show_those_that_contributed_most(tmp_path: Path) -> None:
    names = tuple(f"m{number}" for number in range(38))
    recorder = recorded("server", features=names)
    recorder.delivered(Delivery([score("server", 3.0, contributions={"m30": 0.7, "m20": 0.3})], [], [], {}))
    assert html._blamed(recorder, "server") == ["m0", "m1", "m2", "m3", "m4", "m5", "m20", "m30"]
    assert "8 of 38 features" in write(tmp_path, recorder).text


def test_odd_data_is_drawn_too(tmp_path: Path) -> None:
    recorder = Recorder(["x"])
    recorder.read(
        [read("gaps", [[np.nan], [1.0], [np.nan]]), read("nothing", [[np.nan]]), read("constant", [[5.0]] * 3)]
    )
    recorder.delivered(
        Delivery([score("gaps", 0.0), score("nothing", 1e12), score("constant", 1.0)], [alert("gaps")], [], {})
    )
    page = write(tmp_path, recorder)
    assert len(page.pictures) == 3
    assert "still firing" in page.text


def test_an_empty_replay_has_a_report(tmp_path: Path) -> None:
    assert "No events were read." in write(tmp_path, Recorder(["x"])).text


def test_the_same_replay_gives_the_same_page(tmp_path: Path) -> None:
    pages = []
    for _ in range(2):
        pages.append(write(tmp_path, recorded("a")).source)
    assert pages[0] == pages[1]


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder to write to"):
        write_report(tmp_path / "missing" / "report.html", Recorder(["x"]))


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_traces_are_bounded_and_keep_extremes(step: int) -> None:
    trace = Trace(2)
    times = np.arange(50_000, dtype=np.int64)
    values = np.random.default_rng(1).normal(size=(50_000, 2)).astype(np.float32)
    values[17_123, 0], values[40_001, 1], values[::3, 1] = 99, -99, np.nan
    values[40_001, 1] = -99
    for start in range(0, 50_000 if step > 1 else 5_000, step):
        trace.add(times[start : start + step], values[start : start + step])
    end = 50_000 if step > 1 else 5_000

    moments, low, high = trace.lines()

    assert len(moments) == len(low) == len(high) <= 2 * recording.BUCKETS + 1
    assert (np.diff(moments) > 0).all()
    np.testing.assert_array_equal(np.nanmax(high, axis=0), np.nanmax(values[:end], axis=0))
    np.testing.assert_array_equal(np.nanmin(low, axis=0), np.nanmin(values[:end], axis=0))
    widths = np.diff(moments[:-1])
    assert widths.max() <= 2 * np.median(widths)  # old and new alike


def test_sensors_beyond_the_cap_are_counted_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (html, recording):
        monkeypatch.setattr(module, "SENSORS", 3)
    recorder = recorded(*"abcde")
    assert (set(recorder.values), recorder.counts["events"]) == ({"a", "b", "c"}, 50)
    assert "2 of more than 3 sensors" in write(tmp_path, recorder, pictures=2).text


def test_the_table_of_alerts_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (html, recording):
        monkeypatch.setattr(module, "ALERTS", 3)
    recorder = recorded("a")
    recorder.delivered(Delivery([], [alert("a", number) for number in range(40)], [], {}))
    page = write(tmp_path, recorder)
    assert len(re.findall("<tr>", page.source)) == 4
    assert "37 more are in alerts.jsonl" in page.text
    assert len(recorder.alerts) == 30
