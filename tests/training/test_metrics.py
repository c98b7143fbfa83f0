"""Metrics: hand-worked examples, invariants, and numbers of the reference implementations on the same input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from stream_detector.events import Bool, Float64, Int64
from training.metrics import (
    average_precision,
    changepoints,
    events,
    hit_rate,
    nab,
    probation,
    rows,
    spans_of,
    vus_pr,
)

SECOND = 1_000


def flags(text: str) -> Bool:
    """``"..##."`` as rows: # is true."""
    return np.array([letter == "#" for letter in text], bool)


def runs(n: int, *spans: tuple[int, int]) -> Bool:
    """Rows 0..n, true from first to last of each span."""
    found = np.zeros(n, bool)
    for first, last in spans:
        found[first : last + 1] = True
    return found


def clock(n: int) -> Int64:
    return np.arange(n, dtype=np.int64) * SECOND


both = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.booleans(), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
    )
)
scored = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 8), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
    )
)


def test_rows_by_hand() -> None:
    found = rows([flags("##.."), flags("#")], [flags(".##."), flags("#")])
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.far == 50
    assert found.mar == pytest.approx(100 / 3)


def test_rows_where_there_is_nothing() -> None:
    silent = rows([flags("....")], [flags("..##")])
    assert math.isnan(silent.precision)
    assert silent[1:] == (0.0, 0.0, 0.0, 100.0)
    normal = rows([flags("#...")], [flags("....")])
    assert normal.precision == 0
    assert math.isnan(normal.recall)
    assert normal.f1 == 0
    assert normal.far == 25
    assert all(math.isnan(figure) for figure in rows([flags("...")], [flags("...")])[:3])
    assert math.isnan(rows([flags("##")], [flags("##")]).far)


def test_rows_of_different_numbers() -> None:
    with pytest.raises(ValueError, match="differ"):
        rows([flags("#")], [flags("##")])
    with pytest.raises(ValueError, match="no stream"):
        rows([], [])


@given(both)
def test_rows_of_the_opposite_trade_places(pair: tuple[list[bool], list[bool]]) -> None:
    said, truth = (np.array(side, bool) for side in pair)
    one, other = rows([said], [truth]), rows([~said], [truth])
    for ours, theirs in ((one.far, other.far), (one.mar, other.mar)):
        assert math.isnan(ours) == math.isnan(theirs)
        assert math.isnan(ours) or ours + theirs == pytest.approx(100)


@given(both)
def test_spans_are_the_rows(pair: tuple[list[bool], list[bool]]) -> None:
    truth = np.array(pair[0], bool)
    assert (runs(len(truth), *spans_of(truth)) == truth).all()
    assert len(spans_of(truth)) == int((np.diff(truth.astype(int), prepend=0) == 1).sum())


def test_changepoints_at_once_and_silent() -> None:
    change = runs(200, (50, 50), (150, 150))
    perfect = runs(200, (50, 149))  # flips at 50 and 150
    assert changepoints([perfect], [clock(200)], [change]) == (100.0, 100.0, 100.0)
    assert changepoints([runs(200)], [clock(200)], [change]) == (0.0, 0.0, 0.0)


def test_changepoints_halfway_and_outside() -> None:
    change = runs(200, (50, 50))
    # On at 80: half of the window, worth (1 - 0.11) / 2. Off at 150: outside, -0.11.
    found = changepoints([runs(200, (80, 149))], [clock(200)], [change])
    earned = (1 - 0.11) / 2 - 0.11
    assert found.standard == pytest.approx(100 * (earned + 1) / 2, abs=0.1)
    assert found.low_fp == pytest.approx(100 * ((1 - 0.22) / 2 - 0.22 + 1) / 2, abs=0.1)
    assert found.low_fn == pytest.approx(100 * (earned + 2) / 3, abs=0.1)


def test_changepoints_of_an_alert_on_the_first_row() -> None:
    found = changepoints([runs(200, (0, 199))], [clock(200)], [runs(200, (100, 100))])
    assert found.standard == pytest.approx(100 * -0.11 / 2)


def test_a_later_window_loses_its_left_part() -> None:
    # Windows 10..70 and 70..100: a flip at 71 comes at once for the second, whose change was at 40.
    change = runs(200, (10, 10), (40, 40))
    found = changepoints([runs(200, (71, 199))], [clock(200)], [change])
    step = int(1 / 30 * 1_000)
    angle = math.pi * (step / 999 - 0.5)
    worth = (1 + 0.11) / 2 * (1 - math.tanh(angle) / math.tanh(math.pi / 2)) - 0.11
    assert found.standard == pytest.approx(100 * (worth - 1 + 2) / 4)


def test_changepoints_without_any() -> None:
    assert all(math.isnan(score) for score in changepoints([runs(9)], [clock(9)], [runs(9)]))


@given(both)
def test_changepoints_never_beat_perfect(pair: tuple[list[bool], list[bool]]) -> None:
    said, change = (np.array(side, bool) for side in pair)
    found = changepoints([said], [clock(len(said)) * 20], [change])
    if change.any():
        assert found.standard <= 100 + 1e-9
        assert found.low_fp <= found.standard + 1e-9
    else:
        assert math.isnan(found.standard)


def test_events_by_hand() -> None:
    truth = runs(400, (100, 119), (200, 209), (300, 309))
    said = runs(400, (10, 11), (105, 106), (112, 140), (305, 305))
    found = events([said], [truth])
    # One false alarm; 105-140 is one alarm (6 rows between) with 21 rows outside; 200-209 is missed.
    assert (found.segments, found.found, found.alarms, found.false) == (3, 2, 2, 1)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.delay == 5
    assert found.far == pytest.approx(100 * 23 / 360)


@pytest.mark.parametrize(("length", "counted"), [(1, 1), (60, 1), (61, 2), (120, 2), (121, 3)])
def test_a_false_alarm_counts_once_for_each_sixty_rows_begun(length: int, counted: int) -> None:
    found = events([runs(300, (0, length - 1))], [runs(300, (290, 290))])
    assert (found.alarms, found.false, found.f1) == (0, counted, 0)


@pytest.mark.parametrize(("outside", "counted"), [(59, 0), (60, 1), (119, 1), (120, 2)])
def test_an_alarm_that_hits_is_false_for_each_full_sixty_rows_outside(outside: int, counted: int) -> None:
    found = events([runs(300, (10, 10 + outside))], [runs(300, (10, 10))])
    assert (found.alarms, found.false) == (1, counted)


@pytest.mark.parametrize(("apart", "alarms"), [(10, 1), (11, 2)])
def test_alert_rows_ten_apart_are_one_alarm(apart: int, alarms: int) -> None:
    assert events([runs(99, (20, 20), (20 + apart, 20 + apart))], [runs(99, (10, 50))]).alarms == alarms


def test_an_alarm_does_not_touch_what_lies_between_its_rows() -> None:
    found = events([runs(30, (5, 5), (15, 15))], [runs(30, (8, 10))])
    assert (found.found, found.alarms, found.false) == (0, 0, 1)


def test_one_alarm_may_touch_several_segments() -> None:
    found = events([runs(60, (0, 59))], [runs(60, (5, 6), (20, 22))])
    assert (found.found, found.alarms, found.recall, found.delay) == (2, 1, 1, 0)


def test_events_where_there_is_nothing() -> None:
    silent = events([runs(20)], [runs(20, (5, 6))])
    assert math.isnan(silent.precision)
    assert (silent.recall, silent.f1) == (0, 0)
    assert math.isnan(silent.delay)
    normal = events([runs(20, (3, 3))], [runs(20)])
    assert math.isnan(normal.recall)
    assert math.isnan(normal.f1)
    assert (normal.precision, normal.false) == (0, 1)


@given(both)
def test_the_labels_themselves_are_the_best_alarms(pair: tuple[list[bool], list[bool]]) -> None:
    said, truth = (np.array(side, bool) for side in pair)
    found = events([said], [truth])
    assert found.found <= found.segments
    if truth.any():
        best = events([truth], [truth])
        assert (best.precision, best.recall, best.f1, best.delay, best.false) == (1, 1, 1, 0, 0)
        assert 0 <= found.f1 <= 1


def test_probation() -> None:
    assert [probation(n) for n in (100, 4_032, 5_000, 22_695)] == [15, 604, 750, 750]


def test_nab_perfect_and_silent() -> None:
    windows = [[(10, 19), (60, 79)], []]
    assert nab([runs(100, (10, 10), (60, 60)), runs(50)], windows) == (100.0, 100.0, 100.0)
    assert nab([runs(100), runs(50)], windows) == (0.0, 0.0, 0.0)
    assert all(math.isnan(score) for score in nab([runs(9, (1, 1))], [[]]))


def test_nab_counts_the_earliest_in_a_window_once() -> None:
    windows = [[(10, 19)]]
    once, often = nab([runs(60, (12, 12))], windows), nab([runs(60, (12, 19))], windows)
    assert once == often
    assert once.standard == pytest.approx(100 * (math.tanh(2.5 * 0.8) / math.tanh(2.5) + 1) / 2)


@pytest.mark.parametrize(("row", "share"), [(5, 1.0), (20, math.tanh(2.5 / 9)), (46, math.tanh(2.5 * 3)), (47, 1.0)])
def test_nab_a_detection_outside_costs_by_its_distance(row: int, share: float) -> None:
    # The window's last row is 19, its width 10: a row is (row - 19) / 9 widths past it.
    found = nab([runs(60, (10, 10), (row, row))], [[(10, 19)]])
    assert found.standard == pytest.approx(100 * (1 - 0.11 * share + 1) / 2)
    assert found.low_fp == pytest.approx(100 * (1 - 0.22 * share + 1) / 2)
    assert found.low_fn == pytest.approx(100 * (1 - 0.11 * share + 2) / 3)


def test_nab_windows_that_reach_into_the_probation() -> None:
    half = nab([runs(60, (0, 0))], [[(-5, 4)]])  # row 0 is the middle of the window
    assert half.standard == pytest.approx(100 * (math.tanh(2.5 * 0.5) / math.tanh(2.5) + 1) / 2)
    assert nab([runs(60)], [[(-9, -3), (10, 12)]]).standard == 0


@given(both, st.integers(0, 30), st.integers(1, 20))
def test_nab_another_false_alarm_never_helps(pair: tuple[list[bool], list[bool]], first: int, width: int) -> None:
    said = np.array([*pair[0], *[False] * 60], bool)
    window = (first, first + width)
    before = nab([said], [[window]])
    assert before.standard <= 100 + 1e-9
    said[-1] = True
    assert nab([said], [[window]]).standard <= before.standard + 1e-9


def test_average_precision_by_hand() -> None:
    score, truth = np.array([0.9, 0.8, 0.7, 0.1]), flags("#.#.")
    assert average_precision([score], [truth]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([score[:2], score[2:]], [truth[:2], truth[2:]]) == pytest.approx(0.5 + 1 / 3)
    assert average_precision([np.full(4, -np.inf)], [truth]) == 0.5
    assert math.isnan(average_precision([score], [flags("....")]))
    with pytest.raises(ValueError, match="NaN"):
        average_precision([np.array([np.nan])], [flags("#")])


@given(scored)
@settings(deadline=None)  # the first call imports scikit-learn
def test_average_precision_is_scikit_learns(pair: tuple[list[int], list[bool]]) -> None:
    score, truth = np.array(pair[0], float), np.array(pair[1], bool)
    if truth.any():
        assert average_precision([score], [truth]) == pytest.approx(average_precision_score(truth, score))


def test_vus_pr_is_what_tsb_ad_gives() -> None:
    """`basic_metricor().RangeAUC_volume_opt(labels, scores, 4, 250)` of TSB-AD, run once on these rows."""
    score = np.array([0.1, 0.2, 0.15, 0.7, 0.9, 0.3, 0.8, 0.12, 0.11, 0.05])
    assert vus_pr([score], [flags("....##....")], 4) == pytest.approx(0.8659196999849217, abs=1e-12)


def test_vus_pr_without_a_buffer_by_hand() -> None:
    # Two segments, found at ranks 1 and 3: recall 1/2 times half of the segments, then all.
    score = np.array([0.9, 0.8, 0.7, 0.1])
    assert vus_pr([score], [flags("#.#.")], 0) == pytest.approx(0.25 * 1 + 0.75 * 2 / 3)


def test_vus_pr_streams_do_not_touch() -> None:
    score, truth = np.array([0.9, 0.8, 0.1, 0.2]), flags("##..")
    one = vus_pr([score, score[::-1]], [truth, truth[::-1]], 3)  # the segments lie at the outer ends
    other = vus_pr([score[::-1], score], [truth[::-1], truth], 3)  # and here side by side
    assert one == pytest.approx(other)


def test_vus_pr_where_there_is_nothing() -> None:
    assert math.isnan(vus_pr([np.ones(5)], [flags(".....")], 2))
    with pytest.raises(ValueError, match="buffer"):
        vus_pr([np.ones(2)], [flags("#.")], -1)
    with pytest.raises(ValueError, match="NaN"):
        vus_pr([np.full(2, np.nan)], [flags("#.")], 1)


@given(scored, st.integers(0, 12))
@settings(deadline=None)  # four volumes an example: long on a busy machine
def test_vus_pr_bounds(pair: tuple[list[int], list[bool]], buffer: int) -> None:
    score, truth = np.array(pair[0], float), np.array(pair[1], bool)
    if not truth.any():
        return
    assert 0 <= vus_pr([score], [truth], buffer) <= 1 + 1e-9
    assert vus_pr([truth.astype(float)], [truth], buffer) == pytest.approx(1)
    constant = vus_pr([np.ones(len(truth))], [truth], buffer)
    assert constant >= float(truth.mean()) - 1e-9
    assert vus_pr([np.ones(len(truth))], [truth], 0) == pytest.approx(float(truth.mean()))
    shifted: Float64 = 3 * score + 1
    assert vus_pr([shifted], [truth], buffer) == pytest.approx(vus_pr([score], [truth], buffer))


def test_explanations_are_held_against_as_many_names_as_there_are_to_blame() -> None:
    named = [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["a", "b", "c", "d"]]
    assert hit_rate(named, [("a",), ("a", "c"), ("c", "d")]) == pytest.approx((1 + 0.5 + 0) / 3)
    assert hit_rate(named[:1], [("d", "c", "b", "a")]) == 1  # all of them, in whatever order
    assert math.isnan(hit_rate([], []))
    assert math.isnan(hit_rate(named[:1], [()]))
