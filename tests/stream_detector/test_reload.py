"""Another bundle takes over between two batches; one that will not do changes nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from stream_detector.app import Service
from stream_detector.bundle import Bundle
from stream_detector.contents import Manifest
from stream_detector.errors import BundleError
from stream_detector.events import Errors, Float32, Model, Score
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.judging import Judge
from stream_detector.reload import Reload
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.silence import Heartbeats
from tests.simulated import RULES, SETTINGS, SumScorer
from tests.stream_detector.test_app import LOG, Rig
from tests.stream_detector.test_bundle import manifest, write

MADE = Rules(("pressure", "current"), length=8, stride=2, means=(0.0, 0.0))  # what `write` makes bundles for


def judge(manifest: Manifest) -> Judge:
    return Judge(SumScorer(), Model(manifest.name, manifest.version), MADE, Settings(), None)


class Watcher:
    """A `Reload` of folders whose looks are called by hand; models are made of nothing."""

    def __init__(self, folder: Path, *groups: str) -> None:
        """Groups have a folder each beside the one of all others, and a pattern of their name."""
        self.folder, self.failures, self.recoveries = folder, list[str](), list[str]()
        self.folders = {"": folder} | {name: folder.parent / name for name in groups}
        judges = {name: judge(write(path)) for name, path in self.folders.items()}
        grouping = Grouping({name: f"{name}-*" for name in groups})
        every = Grouped(grouping, judges[""], [judges[name] for name in groups])
        places = {name: str(path) for name, path in self.folders.items()}
        self.reload = Reload(places, every, self.prepare, self.failures.append, self.recoveries.append, 3_600)
        self.broken: Exception | None = None

    def prepare(self, bundle: Bundle) -> Judge:
        if self.broken is not None:
            raise self.broken
        return judge(bundle.manifest)

    def look(self) -> Grouped[Judge] | None:
        self.reload.look()
        return self.reload.take()


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    return Watcher(tmp_path / "pumps")


def test_nothing_is_made_ready_while_the_bundle_is_the_same(watcher: Watcher) -> None:
    assert watcher.look() is None


def test_another_version_is_made_ready_once(watcher: Watcher) -> None:
    version = write(watcher.folder, b"another model").version
    found = watcher.look()
    assert found is not None
    assert found.common.model.version == version
    assert watcher.look() is None
    assert watcher.failures == []


def test_of_two_that_came_in_between_the_newest_is_taken(watcher: Watcher) -> None:
    write(watcher.folder, b"second")
    watcher.reload.look()
    version = write(watcher.folder, b"third").version
    found = watcher.look()
    assert found is not None
    assert found.common.model.version == version


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": ("pressure", "voltage")}, "has features pressure, voltage, the windows that are kept have"),
        ({"features": ("current", "pressure")}, "has features current, pressure"),  # their order is that of the rows
        ({"length": 16}, "has length 16, the windows that are kept have 8"),
        ({"stride": 4}, "has stride 4"),
    ],
)
def test_one_for_other_windows_is_refused_and_told_once(
    watcher: Watcher, changes: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(watcher.folder, b"another", **changes)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert watcher.look() is None
    assert watcher.failures == [""]
    [record] = caplog.records
    assert told in record.getMessage()
    assert "goes on judging" in record.getMessage()


@pytest.mark.parametrize("broken", [BundleError("no such layer"), RuntimeError("CUDA says no")])
def test_one_that_fails_to_load_is_tried_again(watcher: Watcher, broken: Exception) -> None:
    write(watcher.folder, b"another")
    watcher.broken = broken
    assert watcher.look() is None
    watcher.broken = None
    assert watcher.look() is not None
    assert watcher.failures == [""]


def test_going_back_to_the_one_that_judges_ends_the_trouble(watcher: Watcher, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(watcher.folder, before)
    write(watcher.folder, b"another", length=16)
    assert watcher.look() is None
    watcher.reload.wake()  # forgets what was told, not that it went wrong
    shutil.rmtree(watcher.folder)
    before.rename(watcher.folder)
    for _ in range(2):
        assert watcher.look() is None
    assert (watcher.failures, watcher.recoveries) == ([""], [""])


def test_a_bundle_that_is_gone_or_damaged_changes_nothing(watcher: Watcher) -> None:
    (watcher.folder / "model.keras").write_bytes(b"tampered")  # of the version that judges already: nothing to load
    assert watcher.look() is None
    assert watcher.failures == []
    version = write(watcher.folder, b"another").version
    (watcher.folder / "model.keras").write_bytes(b"tampered")
    assert watcher.look() is None
    assert watcher.failures == [""]
    (watcher.folder / "model.keras").write_bytes(b"another")
    found = watcher.look()
    assert found is not None
    assert found.common.model.version == version


def test_each_group_s_place_is_watched_and_trouble_at_one_is_none_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(tmp_path / "pumps", "fans", "motors")
    before = watcher.reload.judges
    version = write(watcher.folders["fans"], b"another").version
    write(watcher.folders["motors"], b"another", stride=4)
    with caplog.at_level(logging.WARNING):
        found = watcher.look()
    assert found is not None
    assert found.of("fans-1").model.version == version
    assert (found.of("pump-1"), found.of("motors-1")) == (before.of("pump-1"), before.of("motors-1"))
    assert watcher.failures == ["motors"]
    assert "group motors: another bundle was not loaded" in caplog.text
    assert "has stride 4, the windows that are kept have 2" in caplog.text
    common = write(watcher.folder, b"another").version
    again = write(watcher.folders["motors"], b"a third").version
    found = watcher.look()
    assert found is not None
    names = ("pump-1", "fans-1", "motors-1")
    assert [found.of(name).model.version for name in names] == [common, version, again]
    assert (watcher.failures, watcher.recoveries) == (["motors"], ["motors"])
    assert watcher.look() is None


def test_groups_that_share_a_bundle_change_together(tmp_path: Path) -> None:
    shared, others = judge(write(tmp_path / "fans")), judge(write(tmp_path / "pumps"))
    every = Grouped(Grouping({"a": "a*", "b": "b*"}), others, [shared, shared])
    folder, prepared = str(tmp_path / "fans"), list[Bundle]()

    def prepare(bundle: Bundle) -> Judge:
        prepared.append(bundle)
        return judge(bundle.manifest)

    told: list[str] = []
    places = {"": str(tmp_path / "pumps"), "a": folder, "b": folder}
    reload = Reload(places, every, prepare, told.append, told.append, 3_600)
    write(tmp_path / "fans", b"another")
    reload.look()
    found = reload.take()
    assert found is not None
    assert found.of("a1") is found.of("b1") is not shared
    assert found.of("c1") is others
    assert len(prepared) == 1
    write(tmp_path / "fans", b"a third", length=16)
    reload.look()
    assert told == ["a", "b"]


def test_the_thread_looks_when_it_is_woken(watcher: Watcher) -> None:
    version = write(watcher.folder, b"another").version
    watcher.reload.start()
    watcher.reload.wake()
    found = None
    while found is None:  # pytest's own timeout ends this if it never comes
        found = watcher.reload.take()
    assert found.common.model.version == version
    watcher.reload.close()
    watcher.reload._thread.join(10)
    assert not watcher.reload._thread.is_alive()


class Other(SumScorer):
    """Another model: twice the error."""

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        found = super().score(sensors, values)
        return replace(found, score=2 * found.score, error=2 * found.error)

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        return values * 0 + 7


class Ready:
    """Stands in for `Reload`: something is ready before the third turn."""

    def __init__(self, judges: Grouped[Judge], turn: int) -> None:
        self.judges, self.turn, self.turns, self.closed = judges, turn, 0, False

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> Grouped[Judge] | None:
        self.turns += 1
        return self.judges if self.turns == self.turn else None


def run(turn: int) -> tuple[Rig, list[Mapping[str, Model]]]:
    """A whole log, with another model from that turn on."""
    rig, told = Rig(LOG), list[Mapping[str, Model]]()
    other = Judge(Other(), Model("m", "2"), replace(RULES, means=(1.0,)), SETTINGS, Heartbeats((("a", 60.0),)))
    reload = Ready(alike(other), turn)
    rig.service = Service(
        rig.pipeline,
        rig.scorer,
        reload=cast(Any, reload),
        served=told.append,
        now=rig.clock.now,
        sleep=rig.clock.sleep,
    )
    assert rig.service.run() == 0
    assert reload.closed
    return rig, told


@pytest.mark.parametrize("turn", [1, 2, 4, 6, 9])
def test_each_window_is_judged_once_by_the_model_that_its_score_names(turn: int) -> None:
    plain = Rig()
    assert plain.service.run() == 0
    rig, told = run(turn)
    assert told == [{"": Model("m", "2")}]
    before, after = (
        {record.id: record for record in one.broker.published if isinstance(record, Score)} for one in (plain, rig)
    )
    assert before.keys() == after.keys()  # none missing, none twice
    assert len(after) == sum(isinstance(record, Score) for record in rig.broker.published)
    for name, record in after.items():
        factor = {"1": 1, "2": 2}[record.model.version]
        assert record.score == pytest.approx(factor * before[name].score)
    versions = [record.model.version for record in rig.broker.published if isinstance(record, Score)]
    assert versions == sorted(versions)  # the old one, then the new one: what was in flight keeps its model


def test_an_alert_of_the_batch_in_flight_is_told_by_the_model_that_scored_it() -> None:
    seen = []
    for turn in range(1, 30):
        for record in run(turn)[0].broker.published:
            if not isinstance(record, Score) and hasattr(record, "status") and record.status == "firing":
                expected = {"1": 0.0, "2": 7.0}[record.model.version]
                assert np.allclose(list(record.expected.values()), expected)
                seen.append(record.model.version)
    assert set(seen) == {"1", "2"}


def test_versions_are_those_of_the_manifest() -> None:
    assert manifest().version == ""  # `write` gives each its own, or the tests above would compare nothing
