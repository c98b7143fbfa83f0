"""What learns on: what a metric has not shown lately is told, once; the same in whatever batches it comes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector import memories as module
from stream_detector.contents import Novelty, Scaler
from stream_detector.criteria import Criteria
from stream_detector.errors import Damaged
from stream_detector.events import Errors, Float32, Partition, Windows
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.memories import Memories
from stream_detector.novelty import Learner, expected_by, learn
from stream_detector.policy import Alerts
from stream_detector.verdicts import judge

W = 8
PERIOD = 12
UNIT = Scaler((0.0,), (1.0,))


def learner(stride: int = 1, events: int = 200, neighbours: int = 3, windows: int = 100) -> Learner:
    return Learner(Novelty(events, neighbours, {"": windows}), UNIT, W, stride)


def windows_of(values: Float32, stride: int = 1, sensor: str = "a", start: int = 0) -> Windows:
    """Windows of a sensor whose events come one a second; their offsets are their numbers."""
    ends = np.arange(W, len(values) + 1, stride)
    spans = np.stack([ends - W, ends - 1], axis=1) + start
    seen = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), W)[ends - W]  # (n, W)
    count = len(ends)
    return Windows(
        [sensor] * count,
        seen[:, :, None].copy(),
        spans * 1_000,
        spans,
        np.zeros((count, 1), bool),
        np.ones(count, np.float32),
    )


def errors_of(windows: Windows, scores: float | Float32 = 0.1) -> Errors:
    count = len(windows)
    score = np.broadcast_to(np.asarray(scores, np.float32), count)
    return Errors(
        score, score * 2, np.full(count, 2.0, np.float32), np.ones((count, 1), np.float32), np.zeros(count, np.int32)
    )


def wave(count: int) -> Float32:
    noise = np.random.default_rng(0).normal(0, 0.05, count)
    return (np.sin(np.arange(count) * 2 * np.pi / PERIOD) + noise).astype(np.float32)


def told(values: Float32, by: Learner | None = None, stride: int = 1) -> Errors:
    by = by or learner(stride)
    windows = windows_of(values, stride)
    return by.judge(Memories(), windows, errors_of(windows))[0]


def test_what_was_never_shown_is_told_and_what_comes_again_is_known() -> None:
    values = wave(900)
    shape = np.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0], np.float32)
    for at in (500, 560):
        values[at : at + len(shape)] += shape
    found = told(values)
    ends = np.arange(len(found.score)) + W - 1  # the event that each window ends with
    first, again = (found.score[(ends >= at) & (ends < at + len(shape) + W)] for at in (500, 560))
    assert first.max() >= 3
    assert again.max() < 1
    assert (found.score[(ends > 300) & (ends < 500)] >= 1).sum() <= 5, "a wave goes on as it was"
    chosen = found.take(np.flatnonzero(found.score >= 3))
    assert set(chosen.names) == {"novelty"}
    assert (chosen.contributions == 1).all()


def test_a_new_level_is_told_until_it_is_what_the_metric_shows() -> None:
    values = wave(1_500)
    values[600:] += 5
    found = told(values)
    high = np.flatnonzero(found.score >= 1) + W - 1
    after = high[high >= 600]
    assert 600 <= after[0] < 600 + W
    assert len(after[after > 700]) <= 0.04 * 800, "as before: one of a hundred is the highest"


def test_it_expects_what_was_shown_in_raw_units() -> None:
    values = 1_000 + 50 * wave(600)
    values[500] += 400
    scaler = Scaler((1_000.0,), (35.0,))
    windows = windows_of(values)
    found, _ = replace(learner(), scaler=scaler).judge(Memories(), windows, errors_of(windows))
    assert found.expected is not None
    at = 500 - 3  # the window's step 3 … its last is 4 later
    assert found.names[at] == "novelty"
    assert int(found.worst_step[at]) == 3
    expected = expected_by(found, np.zeros((len(windows), W, 1), np.float32))
    assert 930 < expected[at, 3, 0] < 1_070, "where it usually is"
    assert (expected[found.part == 0] == 0).all(), "others expect what they do"
    assert found.score[at] == pytest.approx(found.error[at] / found.threshold[at], rel=1e-6)


def test_thresholds_of_other_parts_rise_to_what_they_told() -> None:
    windows = windows_of(np.zeros(400, np.float32))
    scores = np.full(len(windows), 0.1, np.float32)
    scores[[50, 90, 130, 190]] = 3.0, 2.0, 4.0, 3.0
    found, _ = learner(windows=2_000).judge(Memories(), windows, errors_of(windows, scores))
    assert set(found.names) == {"model"}, "until enough is known"
    told_by_model = {at: float(found.score[at]) for at in (50, 90, 130, 190)}
    assert told_by_model == pytest.approx({50: 3.0, 90: 2 / 3, 130: 4 / 3, 190: 3 / 4}, rel=1e-5)
    assert found.threshold[90] == pytest.approx(6.0, rel=1e-5)


def test_once_enough_is_known_the_model_has_no_say() -> None:
    windows = windows_of(wave(400))
    found, _ = learner(windows=200).judge(Memories(), windows, errors_of(windows, 50.0))
    names = np.array(found.names)
    ready = int(np.flatnonzero(names == "novelty")[0])
    assert 50 <= ready < 100
    assert set(names[ready:]) == {"novelty"}
    assert found.score[0] == 50
    assert found.score[ready:].max() < 3


def test_just_the_same_again_is_known() -> None:
    """Also where the events that showed it are forgotten, as long as its distance is not."""
    values = np.zeros(900, np.float32)
    values[[300, 600]] = 5.0  # 300 windows apart, with the last 200 events to compare with
    found = told(values, learner(windows=500))
    assert found.score[300 - W + 1 : 301].max() >= 3
    assert found.score[301:].max() < 1
    scores = np.full(len(windows_of(values)), 0.1, np.float32)
    scores[[300, 600]] = 1.5
    again, _ = learner(windows=5_000).judge(Memories(), windows_of(0 * values), errors_of(windows_of(values), scores))
    assert again.score[300] == 1.5
    assert again.score[600] < 1


def test_what_is_worse_than_all_before_is_told_whatever_the_limit() -> None:
    """Scores by thresholds that rise with what was told do not compare; how far windows are from all known does."""
    values = wave(2_400)
    heights = {500: 5.0, 900: -10.0, 1_300: 20.0, 1_700: -40.0, 2_100: 80.0}
    for at, height in heights.items():
        values[at] += height
    windows = windows_of(values)
    by = learner(events=300, windows=1_000)
    errors, _ = by.judge(Memories(), windows, errors_of(windows))
    policy = Alerts(limit=2, limit_within=10_000_000)
    judged = judge(Partition("t", 0), windows, errors, {}, Criteria(alike(policy)), lambda some, _: some.values)
    fired = [int(windows.offsets[at, 1]) for at, told, _ in judged.changes if told.change == "fired"]
    for at in heights:
        assert any(at <= end < at + W for end in fired), f"the one at {at}"
    strengths = [told.incident.strength for _, told, _ in judged.changes if told.change == "resolved"]
    assert max(strengths) == pytest.approx(80 / np.sqrt(W), rel=0.2), "in deviations, where training showed none"


def test_one_of_so_many_is_the_highest() -> None:
    """Windows that share no event and are like those before them: conformal, whatever their distribution."""
    rng = np.random.default_rng(1)
    values = rng.standard_t(3, 40_000).astype(np.float32)
    by = learner(stride=W, events=400, neighbours=3, windows=50)
    found = told(values, by, stride=W)
    rate = (found.score[200:] >= 1).mean()
    assert 0.5 / 50 <= rate <= 1.5 / 50


def test_a_metric_that_never_moves_is_not_told_of_rounding() -> None:
    values = np.full(600, 3.0, np.float32)
    values[400] += 1e-4
    values[500] += 1.0
    found = told(values)
    assert (found.score[: 500 - W + 1] < 1).all()
    assert found.score[500 - W + 1 : 500 + 1].max() > 5


def test_values_that_are_absurd_are_scored() -> None:
    values = wave(600)
    values[400:403] = 3e38, -3e38, 3e38
    found = told(values)
    assert np.isfinite(found.score).all()
    assert found.score[400 - W + 1 : 404].max() > 10


def test_nothing_is_told_before_enough_was_seen() -> None:
    values = np.random.default_rng(2).normal(0, 1, 2_000).astype(np.float32)
    by = learner(events=200, windows=400)
    found = told(values, by)
    known = W + by.novelty.neighbours - 1  # events before the first that there is something to compare with
    assert set(found.names[: known + 100]) == {"model"}
    assert "novelty" in found.names


def test_training_is_remembered() -> None:
    values = wave(900)
    values[400:406] += 4
    values[700:706] += 4
    past, now = windows_of(values[:600]), windows_of(values[600:], start=600)
    by, memories = learner(events=500, windows=1_000), Memories()
    by.judge(memories, past, errors_of(past))
    with_own = replace(by, novelty=Novelty(500, 3, {"": 1_000}, memories.known))
    seen, _ = with_own.judge(Memories(), now, errors_of(now))
    anew, _ = learner(events=500, windows=100).judge(Memories(), now, errors_of(now))
    whole = windows_of(values)
    at_once, _ = by.judge(Memories(), whole, errors_of(whole))
    np.testing.assert_array_equal(seen.score[W:], at_once.score[-len(seen.score) + W :])
    assert seen.score.max() < 1 < anew.score.max()


@st.composite
def batches(draw: st.DrawFn) -> tuple[Float32, int, list[int]]:
    count = draw(st.integers(60, 160))
    seed, stride = draw(st.integers(0, 5)), draw(st.sampled_from([1, 3, W]))
    values = np.random.default_rng(seed).normal(0, 1, count).astype(np.float32)
    windows = len(np.arange(W, count + 1, stride))
    return values, stride, sorted(draw(st.lists(st.integers(0, windows), max_size=6)))


@given(batches())
def test_batches_change_nothing_and_what_is_stored_is_what_is_known(given_: tuple[Float32, int, list[int]]) -> None:
    values, stride, cuts = given_
    by = learner(stride, events=40, neighbours=2, windows=12)
    windows = windows_of(values, stride)
    at_once, known = by.judge(Memories(), windows, errors_of(windows))[0], Memories()
    by.judge(known, windows, errors_of(windows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        memories, kept = Memories(), dict[str, bytes]()
        scores, expected = [], []
        for first, last in zip([0, *cuts], [*cuts, len(windows)], strict=True):
            part = windows.take(np.arange(first, last))
            errors, touched = by.judge(memories, part, errors_of(part))
            scores.append(errors.score)
            expected.append(errors.expected)
            changed = memories.changed(touched)
            kept = {name: packed for name, packed in {**kept, **changed}.items() if packed is not None}
            memories = Memories.load(kept)  # another process goes on
    np.testing.assert_array_equal(np.concatenate(scores), at_once.score)
    assert at_once.expected is not None
    np.testing.assert_array_equal(np.concatenate([one for one in expected if one is not None]), at_once.expected)
    head, other = memories.known["a"].head, known.known["a"].head
    assert msgspec.structs.replace(head, kept=other.kept) == other
    length = min(head.taken, 40 + W)
    np.testing.assert_array_equal(memories.known["a"].values[-length:], known.known["a"].values[-length:])
    assert len(memories.known["a"].values) < 40 + W + 16, "no more is kept than is needed, and the rest of a chunk"


def test_only_what_changed_is_stored_again() -> None:
    by, memories = learner(), Memories()
    values = wave(600)
    windows = windows_of(values)
    by.judge(memories, windows.take(np.arange(len(windows) - 1)), errors_of(windows).take(slice(0, -1)))
    first = memories.changed(["a"])
    assert len(first) > 2
    by.judge(memories, windows.take(np.array([len(windows) - 1])), errors_of(windows).take(slice(-1, None)))
    again = memories.changed(["a"])
    assert set(again) == {"head:a", f"{(len(values) - 1) // module.CHUNK}:a"}
    assert memories.changed(["b"]) == {}


def test_a_sensor_that_is_gone_is_forgotten_where_it_went() -> None:
    by, memories = learner(), Memories()
    values = wave(400)
    windows = windows_of(values)
    kept = Memories()
    by.judge(kept, windows, errors_of(windows))
    stored = kept.changed(["a"])
    _, touched = by.judge(kept, windows.take(np.arange(0)), errors_of(windows).take(slice(0, 0)), [("a", 399)])
    assert kept.changed(touched) == dict.fromkeys(stored)
    anew, touched = by.judge(memories, windows, errors_of(windows), [("a", 199)])
    later = windows_of(values[193:], start=193)
    alone, _ = by.judge(Memories(), later, errors_of(later))
    np.testing.assert_array_equal(anew.score[-len(alone.score) :], alone.score)
    assert touched == {"a"}


@pytest.mark.parametrize("lost", ["oldest", "newest"])
def test_values_that_are_missing_are_noticed(lost: str) -> None:
    by, memories = learner(), Memories()
    windows = windows_of(wave(600))
    by.judge(memories, windows, errors_of(windows))
    stored = {name: packed for name, packed in memories.changed(["a"]).items() if packed is not None}
    chunks = sorted(name for name in stored if name != "head:a")
    assert Memories.load(stored).known == memories.known
    del stored[chunks[0 if lost == "oldest" else -1]]
    with pytest.raises(Damaged, match="missing"):
        Memories.load(stored)


def test_each_sensor_is_judged_as_its_group_says() -> None:
    values = wave(400)
    values[300] += 5
    mine, others = windows_of(values), windows_of(values, sensor="b")
    order = np.argsort(np.concatenate([mine.offsets[:, 1], others.offsets[:, 1]]), kind="stable")
    both = Windows(
        mine.sensors + others.sensors,
        np.concatenate([mine.values, others.values]),
        np.concatenate([mine.timestamps, others.timestamps]),
        np.concatenate([mine.offsets, others.offsets]),
        np.concatenate([mine.imputed, others.imputed]),
        np.concatenate([mine.confidence, others.confidence]),
    ).take(order)
    by = learner()
    grouped: Grouped[Learner | None] = Grouped(Grouping({"quiet": "b"}), by, [None])
    found, touched = learn(grouped, Memories(), both, errors_of(both))
    alone, _ = by.judge(Memories(), mine, errors_of(mine))
    is_mine = np.array([sensor == "a" for sensor in both.sensors])
    np.testing.assert_array_equal(found.score[is_mine], alone.score)
    np.testing.assert_array_equal(found.score[~is_mine], np.float32(0.1))
    assert touched == {"a"}
    nobody: Grouped[Learner | None] = alike(None)
    same = errors_of(both)
    assert learn(nobody, Memories(), both, same, [("a", 0)]) == (same, set())
    left = Memories()
    by.judge(left, mine, errors_of(mine))
    assert learn(nobody, left, both, same, [("a", 0)])[1] == {"a"}, "what an earlier bundle left goes with its sensor"
    assert left.known == {}
    none = both.take(np.arange(0))
    assert learn(grouped, Memories(), none, errors_of(none), [("a", 0)])[1] == {"a"}
