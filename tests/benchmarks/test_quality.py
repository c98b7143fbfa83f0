"""What is told of a set: figures of alerts, explanations and the page, on streams small enough to count by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.pages import Picture, write_page
from benchmarks.quality import (
    BUDGETS,
    HEADS,
    Figures,
    Plan,
    cells,
    cut_out,
    explained,
    figures,
    learn,
    main,
    promised,
    stream_through,
)
from benchmarks.sets import Cause, Stream
from stream_detector.events import Bool
from stream_detector.policy import DAY, Alerts, closest
from training.baselines import Judged
from training.options import Session, TrainOptions

COLUMNS = ("a", "b", "c")
HOUR = 3_600_000  # ms


def flags(text: str) -> Bool:
    """``"..##."`` as rows: # is true."""
    return np.array([letter == "#" for letter in text], bool)


def stream(truth: str, causes: tuple[Cause, ...] = ()) -> Stream:
    rows = len(truth)
    none, times = np.zeros((0, 3)), HOUR * np.arange(rows, dtype=np.int64)
    return Stream("s", COLUMNS, none, times[:0], np.zeros((rows, 3)), times, flags(truth), (), None, causes)


def judged(firing: str) -> Judged:
    """All scores are those of the state, and the second column is to blame, then the third."""
    under = flags(firing)
    return Judged(np.where(under, 2.0, 0.5), under, np.tile([0.1, 0.6, 0.3], (len(under), 1)))


def test_false_alarms_are_counted_where_they_begin_by_sensor_and_day() -> None:
    truth = "." * 20 + "####" + "." * 24  # 44 normal hours
    firing = "..##" + "." * 15 + "#####" + "." * 14 + "#" + "." * 9
    found = figures("asd", [stream(truth)], {"s": judged(firing)})
    assert found.false_per_day == pytest.approx(3 / (44 / 24))  # also the one that begins a row too early
    assert found.far == pytest.approx(100 * 4 / 44)
    assert found.recall == 1
    assert math.isnan(found.standard)


def test_a_budget_is_what_windows_of_the_streams_can_have() -> None:
    hourly, plan = stream("." * 36 + "#" * 12), Plan(window=5, stride=2)
    daily = replace(hourly, test_times=hourly.test_times * 24)
    most = DAY / closest(Alerts(), 2 * HOUR)
    assert 1 < most < 24 / 2 / (Alerts().resolve_windows + 1)
    assert quality.spendable(1, [hourly], plan) == 1
    assert quality.spendable(10, [hourly], plan) == pytest.approx(most)
    assert quality.spendable(1, [hourly, daily], plan) == pytest.approx((1 + 24 * most / 24) / 25)


def test_an_alert_is_held_against_the_columns_that_are_to_blame() -> None:
    causes = (Cause((1, 2), ("b",)), Cause((4, 5), ("a", "b")), Cause((7, 7), ("a",)))
    one = stream(".##.##.#", causes)
    assert explained([one], {"s": judged(".#..##..")}) == pytest.approx((1 + 0.5) / 2)  # the third had no alert
    assert math.isnan(explained([one], {"s": judged("........")}))
    assert math.isnan(explained([replace(one, causes=())], {"s": judged(".##.##.#")}))


def test_the_row_with_the_highest_score_explains() -> None:
    said = judged(".##")
    assert said.contributions is not None
    said.score[2], said.contributions[2] = 9.0, [0.8, 0.1, 0.1]
    assert explained([stream(".##", (Cause((1, 2), ("a",)),))], {"s": said}) == 1


def test_the_median_is_told_with_the_range_and_nothing_where_there_is_nothing() -> None:
    none = math.nan
    each = [Figures(f1, 0.5, none, 0, 0, 0, none, none, 0) for f1 in (0.25, 0.75, 0.5)]
    assert cells("asd", each)[:3] == ["0.5 (0.25–0.75)", "0.5", ""]


def test_the_page_holds_tables_and_pictures_and_loads_nothing(tmp_path: Path) -> None:
    one, said = stream("..##..####"), judged("..#.......")
    picture = Picture("<b>pump</b>", one.test, one.anomalous, said)
    row = ["<i>ours</i>", *("1" for _ in HEADS)]
    write_page(tmp_path / "page.html", {"asd": [row]}, heads=HEADS, published={}, pictures=[picture])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "&lt;b&gt;pump" in page
    assert "&lt;i&gt;ours" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 1


def test_between_windows_the_last_verdict_stands(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), HOUR * np.arange(643, dtype=np.int64)
    values = rng.normal(0, 1, (643, 3))
    values[620:] += 50
    one = replace(
        stream("." * 43), train=values[:600], train_times=rows[:600], test=values[600:], test_times=rows[600:]
    )
    options = TrainOptions(kind="dense", length=4, stride=4, units=(4,), epochs=1)
    learn([one], options, tmp_path / "bundle", Session(pictures=False))
    found = stream_through(tmp_path / "bundle", [one], Plan(window=4, stride=4), tmp_path)["s"]
    for column in (found.score, found.firing):
        assert not column[:3].any()
        windows = column[3:].reshape(10, 4)
        assert (windows == windows[:, :1]).all()
    assert found.firing[23:27].all()
    assert not found.firing.all()


def test_after_a_gap_an_open_alert_goes_on_until_windows_say_otherwise(tmp_path: Path) -> None:
    """Windows start over after it; and a time that comes twice, or late, has the verdict of that time."""
    rng, rows = np.random.default_rng(0), HOUR * np.arange(660, dtype=np.int64)
    values = rng.normal(0, 1, (660, 3))
    values[620:630] += 50
    rows[630:] += 100 * HOUR
    rows[640], rows[650] = rows[639], rows[648] - HOUR // 2
    one = replace(
        stream("." * 60), train=values[:600], train_times=rows[:600], test=values[600:], test_times=rows[600:]
    )
    options = TrainOptions(kind="dense", length=4, stride=1, units=(4,), epochs=1)
    learn([one], options, tmp_path / "bundle", Session(pictures=False))
    found = stream_through(tmp_path / "bundle", [one], Plan(window=4, stride=1), tmp_path)["s"]
    assert found.firing[20:33].all()
    assert len(set(found.score[29:33])) == 1
    assert found.score[40] == found.score[39]
    assert found.score[50] == found.score[47]


def test_budgets_are_told_over_all_sets_by_their_days() -> None:
    def row(false: float) -> list[Figures]:
        return [Figures(math.nan, math.nan, math.nan, math.nan, false, math.nan, math.nan, math.nan, math.nan)]

    found = {
        name: {"stream-detector": row(9.0)} | {f"… asked for {one:g} a day{less}": row(one * by) for one in BUDGETS}
        for name, by, less in (("few", 4.0, ""), ("many", 1.0, ", 0.2 can be had"))
    }
    told = promised(found, {"few": 1.0, "many": 2.0})
    assert told.endswith("0.2 for 0.1, 0.6 for 0.3, 2 for 1, 6 for 3, 20 for 10")


def test_an_unknown_set_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path), "--sets", "asd,nothing", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "nothing: give some of skab, asd, smd, nab" in capsys.readouterr().err


def test_cutting_out_normal_stretches_leaves_every_anomaly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stream("." * 100 + "####" + "." * 60 + "##", (Cause((164, 165), ("a",)),))
    seen: list[Stream] = []

    def through(bundle: Path, streams: Sequence[Stream], plan: Plan, work: Path) -> dict[str, Judged]:
        seen.extend(streams)
        return {
            of.name: Judged(np.where(of.anomalous, 2.0, 0.5), of.anomalous, np.zeros((len(of.test), 3)))
            for of in streams
        }

    monkeypatch.setattr(quality, "stream_through", through)
    found = cut_out("asd", [one], Plan(), tmp_path, 0)
    [shorter] = seen
    assert len(shorter.test) < len(one.test)
    assert shorter.anomalous.sum() == one.anomalous.sum()
    assert (found.f1, found.far) == (1, 0)
