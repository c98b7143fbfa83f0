"""Parts of the score beside the model's: what they see, what they let pass, and what is told of them."""

from __future__ import annotations

import keras
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from stream_detector.adapters.keras.partners import ALPHA, FAINT, MOST, before, jumps, taps
from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import Ends, ErrorStatistics, Normal, Partner, Scaler
from stream_detector.events import Float32
from stream_detector.thresholds import Entry, Tail, Thresholds

LENGTH, SIZE, STRIDE = 8, 2, 3
TAIL = Tail(1.0, 0.0, 1.0, 1, 1.0)
SCALER = Scaler((0.0,) * SIZE, (1.0,) * SIZE, {"big": Scaler((100.0,) * SIZE, (10.0,) * SIZE)})


def running(values: Float32, step: int) -> Float32:
    """The mean before a step, as it is usually written."""
    mean: Float32 = values[0]
    for value in values[1:step]:
        mean = (1 - ALPHA) * mean + ALPHA * value
    return mean


@settings(deadline=None)  # the first call starts the backend
@given(st.integers(2, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_jump_is_from_the_weighted_mean_of_what_was_before(length: int, newest: int, seed: int) -> None:
    newest = min(newest, length)
    values = np.random.default_rng(seed).normal(size=(3, length, SIZE)).astype(np.float32)
    found = np.asarray(ops.convert_to_numpy(jumps(ops.convert_to_tensor(values), newest)))
    for row, step in enumerate(range(length - newest, length)):
        wanted = [window[step] - running(window, step) if step else 0 * window[0] for window in values]
        np.testing.assert_allclose(found[:, row], wanted, atol=1e-5)


def test_weights_sum_to_one() -> None:
    np.testing.assert_allclose(before(64, 8).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(taps(64, 8).sum(axis=1), 0, atol=1e-6)
    assert taps(1, 1).tolist() == [[1.0]]  # a window of one event is all there is


def thresholds(value: float) -> Thresholds:
    return Thresholds("fixed", value, (Entry("*", value, 0.0, 1, TAIL),), {})


def compiled(model: float = 100.0, change: float = 1.0, level: float = 1.0) -> CompiledModel:
    """A model that returns its input, so that its own error is 0; ``level`` looks at the second feature alone."""
    window = keras.Input((LENGTH, SIZE))
    same = keras.Model(window, layers.Activation("linear")(window))
    partners = (
        Partner("change", Normal((), (0.5,) * SIZE), {"big": Normal((), (0.25,) * SIZE)}),
        Partner("level", Normal((1.0, 1.0), (0.5, 0.5)), {}, (False, True)),
    )
    errors = ErrorStatistics("newest", deviation=(1.0,) * SIZE, partners=partners)
    table = thresholds(model)
    table.partners.update(change=thresholds(change), level=thresholds(level))
    return CompiledModel(same, LENGTH, SCALER, errors, table, [16], "window", STRIDE)


def test_the_part_with_the_largest_score_is_told_with_its_error_and_threshold() -> None:
    values = np.ones((3, LENGTH, SIZE), np.float32)
    values[1, -2, 0] = 5  # of the newest three
    values[2, :, 1] = 3
    found = compiled(change=2.0).errors([""] * 3, values)
    assert found.names[1:] == ["change", "level"]
    assert found.error.tolist() == pytest.approx([0, (5 - 1) / 0.5 / 2, (3 - 1) / 0.5], abs=1e-5)
    assert found.threshold.tolist()[1:] == [2, 1]
    np.testing.assert_allclose(found.score, found.error / found.threshold)
    np.testing.assert_allclose(found.contributions[1], [1, 0], atol=1e-6)
    np.testing.assert_allclose(found.contributions[2], [0, 1], atol=1e-6)
    assert found.worst_step[1] == LENGTH - 2


def test_what_lasts_is_told_apart_from_the_other_parts() -> None:
    values = np.ones((4, LENGTH, SIZE), np.float32)
    values[1, -2, 0] = 5  # of the newest three
    values[2, :, 1] = 3
    values[3] = values[1] + values[2] - 1
    found = compiled(change=2.0, level=4 / 3).errors(["", "", "", "big"], values)
    assert found.lasting is not None
    np.testing.assert_allclose(found.lasting.score[:3], [0, 0, 3], atol=1e-5)
    others = found.lasting.others
    assert set(others.names[1:2]) == {"change"}
    alone = compiled(change=2.0, level=1e30).errors(["", "", "", "big"], values)
    for name in ("score", "error", "threshold", "contributions", "worst_step", "part"):
        np.testing.assert_allclose(getattr(others, name), getattr(alone, name), rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(np.maximum(found.lasting.score, others.score), found.score)


def test_without_a_part_that_lasts_nothing_is_told_apart() -> None:
    window = keras.Input((LENGTH, SIZE))
    same = keras.Model(window, layers.Activation("linear")(window))
    errors = ErrorStatistics("newest", deviation=(1.0,) * SIZE)
    found = CompiledModel(same, LENGTH, SCALER, errors, thresholds(1.0), [16], "window", STRIDE).errors(
        [""] * 2, np.ones((2, LENGTH, SIZE), np.float32)
    )
    assert found.lasting is None


def biased(offset: float, model: float = 100.0, ends: Ends | None = None) -> CompiledModel:
    """A model that expects the second feature to be the first, plus ``offset``, whose first nobody looks at."""
    window = keras.Input((LENGTH, SIZE))
    both = keras.Model(window, layers.Dense(SIZE, name="both")(window))
    both.get_layer("both").set_weights([np.array([[1, 1], [0, 0]], np.float32), np.array([0, offset], np.float32)])
    partners = (
        Partner(
            "bias",
            Normal((0.0, 0.5), (0.25, 0.25)),
            {"big": Normal((0.0, 0.0), (0.5, 0.5))},
            (False, True),
        ),
    )
    table = thresholds(model)
    table.partners.update(bias=thresholds(2.0))
    errors = ErrorStatistics("newest", deviation=(1.0,) * SIZE, ends=ends, partners=partners)
    return CompiledModel(both, LENGTH, SCALER, errors, table, [16], "window", STRIDE)


def test_features_that_no_longer_go_together_lie_beside_their_reconstruction() -> None:
    """However each of them moves: only how the second goes with the first counts."""
    values = np.random.default_rng(0).normal(size=(3, LENGTH, 1)).repeat(SIZE, axis=2).astype(np.float32)
    values[1, :, 1] -= 1  # below what the first says
    found = biased(0.5).errors([""] * 3, values)
    assert found.names[1] == "bias"
    np.testing.assert_allclose(found.error[1], 1 / 0.25, rtol=1e-4)
    np.testing.assert_allclose(found.score[1], 2, rtol=1e-4)
    np.testing.assert_allclose(found.contributions[1], [0, 1], atol=1e-6)
    assert found.worst_step[1] == LENGTH - 1
    np.testing.assert_allclose(found.score[[0, 2]], 0, atol=1e-2)
    expected = biased(0.5).expected([""], values[1:2], ["bias"])
    np.testing.assert_allclose(expected[0, :, 1], values[1, :, 0] + 0.5, rtol=1e-4)  # the model's, whichever part


def test_where_the_model_has_not_been_neither_its_error_nor_its_bias_counts() -> None:
    """How a model extrapolates says nothing of what it is shown."""
    values = np.zeros((3, LENGTH, SIZE), np.float32)
    values[:, -1, 1] = 3  # not as the first says
    values[1] += 50  # both
    values[2, :, 0] += 50  # one alone, which is enough
    ends = Ends((-10.0, -10.0), (10.0, 10.0), {"far": Ends((-10.0, -10.0), (60.0, 60.0))})
    found = biased(0.0, 0.5, ends).errors([""] * 3, values)
    assert found.names[0] == "model"
    assert found.score[0] > 2
    assert found.score[1:].tolist() == [0, 0]
    assert (biased(0.0, 0.5, ends).errors(["far"] * 3, values).score > 2).all(), "that sensor has been there"
    assert (biased(0.0, 0.5).errors([""] * 3, values).score > 2).all(), "without ends it counts anywhere"


def spreading(ends: Ends | None = None) -> CompiledModel:
    """A model that returns its input; the second feature usually swings by one, that of sensor "big" by two."""
    window = keras.Input((LENGTH, SIZE))
    same = keras.Model(window, layers.Activation("linear")(window))
    big = Normal((0.0, float(np.log(2))), (0.1, 0.1))
    partners = (Partner("spread", Normal((0.0, 0.0), (0.1, 0.1)), {"big": big}, (False, True)),)
    table = thresholds(100.0)
    table.partners.update(spread=thresholds(2.0))
    errors = ErrorStatistics("newest", deviation=(1.0,) * SIZE, ends=ends, partners=partners)
    return CompiledModel(same, LENGTH, SCALER, errors, table, [16], "window", STRIDE)


def swinging(size: float, other: float = 1.0) -> Float32:
    """A window (W, F) of a rhythm of two steps: of the first feature ``other`` large, of the second ``size``."""
    steps = np.tile(np.array([1, -1], np.float32), LENGTH // 2)[:, None]
    return steps * np.array([other, size], np.float32)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 20), st.floats(0, 20))
def test_a_rhythm_that_falls_is_told_and_one_that_rises_is_not(size: float, other: float) -> None:
    found = spreading().errors([""], swinging(size, other)[None])
    error = max(0.0, -np.log(np.hypot(size, FAINT)) / 0.1)  # nobody looks at the first feature
    np.testing.assert_allclose(found.error[0] if error > 1e-3 else found.score[0], min(error, MOST), atol=1e-2)
    if error > 1:
        assert found.names == ["spread"]
        np.testing.assert_allclose(found.contributions[0], [0, 1], atol=1e-6)
        assert found.lasting is not None
        np.testing.assert_allclose(found.lasting.score, found.score)


def test_a_spread_is_held_against_the_sensor_s_own_and_expects_no_value() -> None:
    usual = 100 + 10 * swinging(1.0)[None]  # half of what is usual of that sensor
    found = spreading().errors(["big", ""], np.concatenate([usual, swinging(1.0)[None]]))
    assert found.error[0] == pytest.approx(np.log(2) / 0.1, rel=0.01)
    assert found.score[1] == pytest.approx(0, abs=1e-2)
    expected = spreading().expected(["big", "big"], np.concatenate([usual, usual]), ["spread", "model"])
    assert np.isnan(expected[0]).all()
    np.testing.assert_allclose(expected[1], usual[0], rtol=1e-5)


def test_a_spread_counts_only_where_the_model_has_been() -> None:
    """A sensor that was put to another use may well be calm at it."""
    values = np.stack([swinging(0.0), swinging(0.0) + np.float32(50)])
    found = spreading(Ends((-10.0, -10.0), (10.0, 10.0))).errors(["", ""], values)
    assert found.score[0] > 2
    assert found.score[1] == 0


def test_each_event_is_new_in_one_window_only() -> None:
    """Windows at a stride of three over a spike: one of them alerts."""
    series = np.ones((40, SIZE), np.float32)
    series[20] = 9
    windows = np.stack([series[at : at + LENGTH] for at in range(0, 33, STRIDE)])
    found = compiled(level=1e6).errors([""] * len(windows), windows)
    held = [at // STRIDE for at in range(0, 33, STRIDE) if at + LENGTH - STRIDE <= 20 < at + LENGTH]
    assert np.flatnonzero(found.score >= found.score.max() - 1e-6).tolist() == held


def test_a_sensor_is_seen_in_its_own_scale() -> None:
    """The same shape, a hundred up and ten times as large."""
    small = np.random.default_rng(0).normal(size=(5, LENGTH, SIZE)).astype(np.float32)
    model = compiled(level=1e6)
    one, other = model.errors(["x"] * 5, small), model.errors(["big"] * 5, 100 + 10 * small)
    np.testing.assert_allclose(other.error, 2 * one.error, rtol=1e-4)  # whose jumps are usually half as large
    np.testing.assert_allclose(other.contributions, one.contributions, rtol=1e-3)


def test_what_each_part_expected() -> None:
    values = np.arange(3 * LENGTH * SIZE, dtype=np.float32).reshape(3, LENGTH, SIZE)
    found = compiled().expected(["x"] * 3, values, ["model", "change", "level"])
    np.testing.assert_allclose(found[0], values[0], rtol=1e-5)
    np.testing.assert_allclose(found[1, : LENGTH - STRIDE], values[1, : LENGTH - STRIDE], rtol=1e-5)
    np.testing.assert_allclose(found[1, -1], running(values[1], LENGTH - 1), rtol=1e-5)
    np.testing.assert_allclose(found[2], 1.0)
    far = compiled().expected(["big"], 100 + values[:1], ["level"])
    np.testing.assert_allclose(far, 110.0)  # 1 in the sensor's own scale


def test_drift_does_not_count_for_change_and_a_sudden_shift_does() -> None:
    slow = np.linspace(0, 50, 2_000, dtype=np.float32)[:, None].repeat(SIZE, axis=1)
    windows = np.stack([slow[at : at + LENGTH] for at in range(0, 1_900, STRIDE)])
    model = compiled(level=1e6)
    assert model.errors([""] * len(windows), windows).score.max() < 0.2
    windows[300, LENGTH - 1 :] += 2
    assert model.errors([""], windows[300:301]).score[0] > 2


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_absurd_values_make_no_other_window_s_score(value: float) -> None:
    values = np.ones((2, LENGTH, SIZE), np.float32)
    values[0, -1, 0] = value
    found = compiled().errors([""] * 2, values)
    assert not np.isfinite(found.score[0]) or found.score[0] >= 1
    assert found.score[1] < 1e-5


def test_partners_survive_the_bundle() -> None:
    one = Partner("level", Normal((1.0,), (0.5,)), {"s": Normal((2.0,), (0.25,))}, (True,))
    assert msgspec.json.decode(msgspec.json.encode(one), type=Partner) == one
