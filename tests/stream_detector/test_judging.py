"""Several bundles judge as each would alone, its own sensors: a function of their ids and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream_detector import groups
from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.configured import fitted, heartbeats_of, model_of, rules_of
from stream_detector.criteria import grouping_of
from stream_detector.embeddings import embedded, embedding_records
from stream_detector.events import Alert, Errors, Events, Float32, Model, Partition, PartName, Score
from stream_detector.groups import Grouped, Grouping
from stream_detector.judging import Judge, Scorers, criteria_for, heartbeats_for, rules_for, scorer_of
from stream_detector.pipeline import Pipeline
from stream_detector.settings import Settings
from stream_detector.windows import Rolling
from tests.simulated import RULES, SETTINGS, Broker, Record, SimulatedOutlet, SumScorer
from tests.stream_detector.test_app import LOG, Rig
from tests.stream_detector.test_configured import manifest
from tests.world import Topic

NAN = float("nan")
SENSORS = st.lists(st.sampled_from(["pump-1", "pump-2", "pump-20", "fan-1", "fan-2", "pit", "[x]"]), max_size=40)
PATTERNS = st.lists(st.sampled_from(["pump-*", "pump-2*", "fan-?", "*-1", "*", "none"]), unique=True, max_size=4)


class Scaled(SumScorer):
    """A model with errors so many times as large and codes so wide, which may tell a part of the score."""

    def __init__(self, factor: float, wide: int = 1, parts: bool = True) -> None:
        self.factor, self.wide, self.parts = factor, wide, parts
        self.calls = 0

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        self.calls += 1
        found = super().score(sensors, values)
        part = np.arange(len(values)).astype(np.int8) * 0 + np.int8(self.wide) if self.parts else None
        score = np.where(values.max(axis=(1, 2)) > 90, np.float32(np.nan), found.score * self.factor)
        return replace(found, score=score, error=found.error * self.factor, part=part)

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        first = np.where(values[:, :1, 0] > 90, np.float32(np.nan), values[:, :1, 0] * self.factor)
        return np.repeat(first, self.wide, axis=1).astype(np.float32)

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        assert len(parts) in (0, len(values))
        return (values * self.factor + (len(parts) > 0)).astype(np.float32)


def test_the_first_group_whose_pattern_fits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "REMEMBERED", 2)
    grouping = Grouping({"a": "pump-1?", "b": "pump-*", "c": "*-1"})
    for _ in range(2):
        assert [grouping.of(name) for name in ("pump-12", "pump-1", "fan-1", "fan-2", "pump-12")] == [1, 2, 3, 0, 1]


@hypothesis_settings(deadline=None)
@given(st.data(), PATTERNS, SENSORS)
def test_the_scores_of_any_mix_are_each_model_s_own_in_their_order(
    data: st.DataObject, patterns: list[str], sensors: list[str]
) -> None:
    models = [Scaled(1), Scaled(2, 2), Scaled(3, 3, parts=False)]
    own = data.draw(st.lists(st.sampled_from(models), min_size=len(patterns), max_size=len(patterns)))
    routed = Scorers(Grouped(Grouping({str(at): text for at, text in enumerate(patterns)}), models[0], own))
    count = len(sensors)
    number = st.sampled_from([0.0, 1.5, 7.25, 12.0, 99.0])
    rows = data.draw(st.lists(number, min_size=3 * count, max_size=3 * count))
    values = np.array(rows, np.float32).reshape(count, 3, 1)
    parts: list[PartName] = data.draw(st.sampled_from([[], ["level"] * count]))
    found, codes = routed.score(sensors, values), routed.embed(sensors, values)
    expected = routed.expect(sensors, values, parts)
    assert len(found.score) == len(codes) == len(expected) == count
    used = set()
    for at, sensor in enumerate(sensors):  # alone, by whatever pattern fits it first
        model = next((model for text, model in zip(patterns, own, strict=True) if fnmatchcase(sensor, text)), models[0])
        used.add(id(model))
        window = values[at : at + 1]
        alone, mine = Scaled(model.factor, model.wide, model.parts).score([sensor], window), found.cut(at, at + 1)
        for column in ("score", "error", "threshold", "contributions", "worst_step"):
            np.testing.assert_array_equal(getattr(mine, column), getattr(alone, column))
        assert mine.names == alone.names
        code = model.embed([sensor], window)[0]
        np.testing.assert_array_equal(codes[at], np.r_[code, [NAN] * (codes.shape[1] - model.wide)].astype(np.float32))
        np.testing.assert_array_equal(expected[at : at + 1], model.expect([sensor], window, parts[:1]))
    for model in models:
        assert model.calls == (id(model) in used or (not count and model is models[0]))  # one call a batch


def test_codes_of_several_widths_are_published_as_wide_as_they_are() -> None:
    rolling = Rolling(RULES)
    names, offsets = ["a", "b", "c"] * 3, np.arange(9, dtype=np.int64)
    values = np.array([[1], [2], [99]] * 3, np.float32)
    windows = rolling.push(Events(names, offsets, values, offsets, offsets * 0 - 1))[0]
    models = Grouped(Grouping({"b": "b"}), Model("one", "1"), [Model("two", "1")])
    codes = Scorers(models.each(lambda model: Scaled(1, 3 if model.name == "two" else 1))).embed(
        windows.sensors, windows.values
    )
    chosen = np.flatnonzero(embedded(codes))
    records = embedding_records(Partition("t", 0), windows, codes, chosen, models)
    assert [(one.sensor_id, one.embedding, one.model.name) for one in records] == [
        ("a", [1.0], "one"),
        ("b", [2.0, 2.0, 2.0], "two"),
    ]


def test_one_bundle_is_asked_as_if_there_were_no_groups() -> None:
    judge = Judge(SumScorer(), Model("m", "1"), RULES, SETTINGS, None)
    judges = Grouped(Grouping({"a": "a*"}), judge, [judge])
    assert scorer_of(judges) is judge.scorer
    assert rules_for(judges) is RULES
    assert heartbeats_for(judges) is None


def two(**sections: object) -> Grouped[Judge]:
    """Sensors "fan-*" have a bundle of their own, which learnt from other sensors, values and intervals."""
    quick = {"sensors": "*-0", "cooldown": "1m", "limit_within": "3d"}
    own = {"groups": {"quick": quick, "fans": {"sensors": "fan-*", "bundle": "fans"}}}
    settings = Settings.model_validate({**own, **sections})
    pumps = msgspec.structs.replace(
        manifest(1, 3), means=(5.0,), sensors=("pump-1", "fan-1"), still=(1,), name="pumps",
        expected_alerts_per_day=1.5, longest_window=200, intervals={"": 60_000.0, "fan-1": 1.0, "pump-1": 120_000.0},
        longest_windows={"pump-1": 150, "fan-1": 10},
    )  # fmt: skip
    fans = msgspec.structs.replace(
        manifest(1, 3), means=(9.0,), sensors=("fan-1", "fan-2", "pump-2"), still=(0,), name="fans", longest_window=90,
        intervals={"": 10_000.0, "fan-2": 20_000.0, "pump-1": 1.0}, longest_windows={"fan-2": 30, "pump-1": 20},
    )  # fmt: skip
    made = []
    for one in (pumps, fans):
        asked = fitted(settings, one)
        made.append(Judge(SumScorer(), model_of(one), rules_of(one, asked), asked, heartbeats_of(one, asked)))
    return Grouped(grouping_of(settings), made[0], [made[0], made[1]])


def test_a_sensor_is_known_if_its_own_bundle_knows_it() -> None:
    assert rules_for(two()).known is None
    assert rules_for(two(events={"unknown_sensors": "reject"})).known == frozenset({"pump-1", "fan-1", "fan-2"})


def test_a_window_goes_on_over_a_silence_that_its_own_bundle_knows_of_the_sensor_or_any_of_others() -> None:
    learned = rules_for(two())
    assert (learned.max_gap, learned.own_gaps) == (200, {"pump-1": 150, "fan-2": 30})
    for asked, gap in (("1m", 60_000), ("off", None)):
        rules = rules_for(two(window={"max_gap": asked}))
        assert (rules.max_gap, rules.own_gaps) == (gap, {})
    judges = two()
    fans = judges.things[1]
    unknown = judges.replaced(fans, replace(fans, rules=replace(fans.rules, max_gap=None)))
    assert rules_for(unknown).max_gap is None


@pytest.mark.parametrize("missing", ["last", "mean"])
def test_what_was_never_measured_is_imputed_as_its_own_bundle_says(missing: str) -> None:
    rolling = Rolling(rules_for(two(events={"missing": missing})))
    names = ["pump-1", "fan-1", "fan-2"] * 3
    offsets = np.arange(9, dtype=np.int64)
    values = np.array([NAN, NAN, NAN, 1, NAN, 2, NAN, 3, NAN], np.float32)[:, None]
    windows, _ = rolling.push(Events(names, offsets, values, offsets, offsets * 0 - 1))
    found = dict(zip(windows.sensors, windows.values[:, :, 0].tolist(), strict=True))
    last = missing == "last"
    assert found == {
        "pump-1": [5.0, 1.0, 1.0 if last else 5.0],
        "fan-1": [9.0, 9.0, 3.0],
        "fan-2": [9.0, 2.0, 2.0 if last else 9.0],
    }


def test_how_long_a_sensor_may_be_silent_is_learnt_by_its_own_bundle() -> None:
    beats = heartbeats_for(two(silence={"after": "learned", "factor": 2, "at_least": "1s", "sensors": {"x*": "3s"}}))
    assert beats is not None
    limits = {name: beats.of(name).limit(name) for name in ("pump-1", "pump-3", "fan-1", "fan-2", "x1", "fan-0")}
    assert limits == {"pump-1": 240, "pump-3": 120, "fan-1": 20, "fan-2": 40, "x1": 3, "fan-0": 120}
    assert heartbeats_for(two()) is None


def test_values_are_equal_for_too_long_as_its_own_bundle_says() -> None:
    judges = two()
    criteria, rolling = criteria_for(judges), Rolling(rules_for(judges))
    names, offsets = ["fan-1", "pump-1", "fan-0"] * 3, np.arange(9, dtype=np.int64)
    windows, _ = rolling.push(Events(names, offsets, np.ones((9, 1), np.float32), offsets, offsets * 0 - 1))
    signs = criteria.look(windows)
    assert signs is not None
    assert windows.sensors == names[:3]
    assert signs.odd == [False, True, True]  # that of fans does not know how long is normal
    assert signs.still[:, 0].tolist() == signs.odd
    assert not signs.faulty.any()
    assert criteria.alerts.of("fan-0").cooldown == 60_000
    assert criteria.alerts.of("fan-1").cooldown == 0
    off = two(faults={"stuck": "off"})
    assert criteria_for(off).look(windows) is None


def test_features_are_judged_as_the_sensor_s_group_asks() -> None:
    """What a group does not say is as for all; the bundle of pumps has learnt that three equal values are a fault."""
    name = manifest(1, 3).features[0]
    own = {name: {"range": [0, 20], "direction": "above_expected"}}
    plain, wide = {"sensors": "pit", "min_windows": 2}, {"sensors": "pump-2*", "features": own}
    fans = {"sensors": "fan-*", "bundle": "fans", "features": {name: {"range": [0, 5], "stuck_events": 2}}}
    asked = {"range": [0, 10], "direction": "below_expected", "min_deviation": 0.5}
    criteria = criteria_for(two(features={name: asked}, groups={"quick": plain, "fans": fans}))
    assert len(criteria.limits.things) == 2  # those of no group and of groups that ask nothing share theirs
    judges = two(features={name: asked}, groups={"quick": wide, "fans": fans})
    criteria = criteria_for(judges)
    found = {}
    for sensor in ("pump-1", "pump-2", "fan-1"):
        limits, deviations = criteria.limits.of(sensor), criteria.deviations.of(sensor)
        assert limits is not None
        assert deviations is not None
        found[sensor] = (limits.high[0], limits.events[0], deviations.sign[0], deviations.least[0])
    assert found == {"pump-1": (10, 3, -1, 0.5), "pump-2": (20, 3, 1, 0.5), "fan-1": (5, 2, -1, 0.5)}
    rolling = Rolling(rules_for(judges))
    names, offsets = ["fan-1", "pump-1", "pump-2"] * 3, np.arange(9, dtype=np.int64)
    values = np.array([[1], [1], [1], [2], [2], [2], [12], [12], [12]], np.float32)
    windows, _ = rolling.push(Events(names, offsets, values, offsets, offsets * 0 - 1))
    signs = criteria.look(windows)
    assert signs is not None
    assert signs.faulty[:, 0].tolist() == [True, True, False]
    ones = np.ones(3, np.float32)
    errors = Errors(2 * ones, ones, ones, ones[:, None], np.full(3, 2, np.int32))
    above = criteria.counted(windows, errors, lambda some, _: some.values - 1)
    assert above.tolist() == [0, 0, 2]
    below = criteria.counted(windows, errors, lambda some, _: some.values + 1)
    assert below.tolist() == [2, 2, 0]


def test_the_limit_of_alerts_is_that_of_its_own_bundle() -> None:
    """The bundle of pumps expects 1.5 alerts a day, and its windows come once a minute; that of fans none."""
    alerts = criteria_for(two()).alerts
    assert (alerts.of("pump-1").limit, alerts.of("pump-1").limit_within) == (2, 60_000_000)
    assert (alerts.of("fan-0").limit, alerts.of("fan-0").limit_within) == (5, 3 * 86_400_000)
    assert (alerts.of("fan-1").limit, alerts.of("fan-1").limit_within) == (2, 10_000_000)
    asked = criteria_for(two(alerts={"limit": "off", "limit_within": "1h"})).alerts
    assert (asked.of("fan-1").limit, asked.of("fan-1").limit_within) == ("off", 3_600_000)


class Hall:
    """A log of the sensors "a" and "b", read by a pipeline whose "b" has a model of its own."""

    def __init__(self, log: list[Record], settings: Settings = SETTINGS) -> None:
        self.broker = Broker(log)
        self.source = Topic(self.broker)
        outlet = SimulatedOutlet(self.broker, self.source, lambda: None)
        self.pipeline = Pipeline(
            self.source, MemoryStore(), SumScorer(), outlet, Silent(), RULES, Model("one", "1"), settings,
            now_ms=lambda: 0.0,
        )  # fmt: skip
        self.judges = of_b(Judge(Scaled(2, parts=False), Model("two", "1"), RULES, settings, None), settings)
        self.pipeline.judge_by(self.judges)
        self.source.open(self.pipeline)

    def turn(self, times: int = 60) -> None:
        for _ in range(times):
            self.pipeline.turn()

    def scores(self) -> list[Score]:
        return [record for record in self.broker.published if isinstance(record, Score)]


def of_b(judge: Judge, settings: Settings = SETTINGS) -> Grouped[Judge]:
    common = Judge(SumScorer(), Model("one", "1"), RULES, settings, None)
    return Grouped(Grouping({"b": "b"}), common, [judge])


def test_each_record_names_the_model_of_its_sensor() -> None:
    log: list[Record] = [("ab"[at % 2], at, 9.0 if 20 <= at < 30 else 1.0) for at in range(60)]
    alone, hall = Rig(log), Hall(log)
    assert alone.service.run() == 0
    hall.turn()
    plain = {record.id: record for record in alone.broker.published if isinstance(record, Score)}
    assert [one.id for one in hall.scores()] == list(plain)
    for score in hall.scores():
        name, factor = ("one", 1) if score.sensor_id == "a" else ("two", 2)
        assert score.model == Model(name, "1")
        assert score.score == pytest.approx(factor * plain[score.id].score)
    alerts = [record for record in hall.broker.published if isinstance(record, Alert)]
    assert {(alert.sensor_id, alert.model.name) for alert in alerts} == {("a", "one"), ("b", "two")}


@pytest.mark.parametrize("turns", range(1, 12))
def test_another_model_of_one_group_leaves_the_others_theirs(turns: int) -> None:
    whole, hall = Hall(LOG), Hall(LOG)
    whole.turn()
    hall.turn(turns)
    new = Judge(Scaled(3, parts=False), Model("two", "2"), RULES, SETTINGS, None)
    hall.pipeline.judge_by(hall.judges.replaced(hall.judges.of("b"), new))
    hall.turn()
    before = {score.id: score for score in whole.scores()}
    assert [score.id for score in hall.scores()] == list(before)
    for score in hall.scores():
        factor = {("one", "1"): 1, ("two", "1"): 1, ("two", "2"): 1.5}[score.model.name, score.model.version]
        assert score.model.name == ("one" if score.sensor_id == "a" else "two")
        assert score.score == pytest.approx(factor * before[score.id].score)
    versions = [score.model.version for score in hall.scores() if score.sensor_id == "b"]
    assert versions == sorted(versions)


def test_the_look_back_is_enough_for_each_bundle() -> None:
    learnt = fitted(Settings(), msgspec.structs.replace(manifest(1, 60), features=("x",), still=(20,))).features
    assert learnt["x"].stuck_events == 60
    long = SETTINGS.model_copy(update={"features": learnt})
    hall = Hall([])
    plain = hall.pipeline.lookback.events
    hall.pipeline.judge_by(of_b(Judge(SumScorer(), Model("two", "1"), RULES, long, None)))
    assert hall.pipeline.lookback.events == plain + 60
