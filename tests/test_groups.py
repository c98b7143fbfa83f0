"""Groups of sensors with bundles of their own, by the commands: each sensor as if its bundle judged alone."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.adapters.registry import Registry, open_bundles
from stream_detector.bundle import load_bundle, write_bundle
from stream_detector.checks import findings
from stream_detector.contents import Manifest
from stream_detector.errors import BundleError, SettingsError
from stream_detector.events import Finding
from stream_detector.groups import Grouped, Grouping
from stream_detector.judging import Scorers
from stream_detector.ports import Scorer
from stream_detector.settings import load_settings
from tests.commandline import Done, invoke, lines
from tests.servers import KafkaBroker
from tests.service import RunningService, committed_records, json_values, produce, wait_for, write_config
from training.plant import DAY, FEATURES, MINUTE, START, Plant, simulate, write_csv

ROOT = Path(__file__).parent.parent
WINDOW = ("--window", 8, "--stride", 2, "--epochs", 1)
OWN = "pump-2"  # the sensor whose group has a bundle of its own
ASKED = "[publish]\nembeddings = true\n[device]\nmax_batch_windows = 16\n"
HOLES = 7  # each so-many-th row of the first column is empty


@dataclass(frozen=True)
class Made:
    """Two bundles, events of three pumps with holes, and settings that give one pump the second bundle."""

    folder: Path
    config: Path
    stream: Path

    @property
    def common(self) -> Path:
        return self.folder / "common"

    @property
    def own(self) -> Path:
        return self.folder / "own"

    def replay(self, name: str, bundle: Path, *options: object) -> Path:
        done = invoke("replay", self.stream, "--bundle", bundle, "--out", self.folder / name, *options)
        assert done.code == 0, done.err
        return self.folder / name


def settings(config: Path, text: str) -> Path:
    config.write_text(text)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("groups")
    readings = simulate(3, DAY // 2, MINUTE, 4)
    write_csv(folder / "train.csv", readings)
    write_csv(folder / "stream.csv", readings.between(START + DAY // 4, START + DAY // 4 + 90 * MINUTE))
    rows = (folder / "stream.csv").read_text().splitlines()
    for at in range(1, len(rows), HOLES):
        sensor, time, first, *rest = rows[at].split(",")
        rows[at] = ",".join([sensor, time, "" if at % 2 else f"{float(first) * 3}", *rest])
    (folder / "stream.csv").write_text("\n".join(rows) + "\n")
    (folder / "own.csv").write_text(
        "".join(row for row in (folder / "train.csv").open() if row.startswith(("sensor_id", OWN)))
    )
    for name, data, options in (
        ("common", "train.csv", ("--model", "dense", "--units", "6,4")),
        ("own", "own.csv", ("--model", "rnn-classifier", "--units", "5,3")),
    ):
        done = invoke("train", folder / data, "--out", folder / name, *WINDOW, *options)
        assert done.code == 0, done.err
    config = settings(
        folder / "detector.toml",
        f'{ASKED}[bundle]\npath = "{folder / "common"}"\n'
        f'[groups.own]\nsensors = "{OWN}"\nbundle = "{folder / "own"}"\nmajor = 3.0\n',
    )
    made = Made(folder, config, folder / "stream.csv")
    made.replay("both", made.common, "--config", config)
    return made


def remade(path: Path, target: Path, **changes: Any) -> Manifest:
    """The same bundle with another manifest, so that it is another version."""
    found = load_bundle(path)
    model = target.with_suffix(".keras")
    model.write_bytes(found.model)
    parts: dict[str, Any] = {"scaler": found.scaler, "errors": found.errors, "thresholds": found.thresholds}
    return write_bundle(target, replace(found.manifest, **changes), model=model, **parts)


def test_each_sensor_is_judged_as_if_its_bundle_judged_alone(made: Made) -> None:
    both, plain = made.folder / "both", settings(made.folder / "alone.toml", ASKED)
    alone = {name: made.replay(f"{name}-alone", made.folder / name, "--config", plain) for name in ("common", "own")}
    names = {name: load_bundle(made.folder / name).manifest for name in alone}
    for file in ("scores.jsonl", "alerts.jsonl", "embeddings.jsonl"):
        found = lines(both / file)
        assert {one["sensor_id"] == OWN for one in found} == {True, False}, f"{file}: no test of anything"
        expected = [one for one in lines(alone["common"] / file) if one["sensor_id"] != OWN]
        expected += [one for one in lines(alone["own"] / file) if one["sensor_id"] == OWN]
        assert {one["id"] for one in found} == {one["id"] for one in expected}
        assert len(found) == len(expected)
        wanted = {(one["id"], one.get("revision")): one for one in expected}
        for one in found:
            alike_one = wanted[one["id"], one.get("revision")]
            manifest = names["own" if one["sensor_id"] == OWN else "common"]
            assert one["model"] == alike_one["model"] == {"name": manifest.name, "version": manifest.version}
            numbers = [key for key, value in one.items() if isinstance(value, (float, dict, list)) and key != "model"]
            for key in set(numbers) - {"source", "imputed"}:
                assert one[key] == pytest.approx(alike_one[key], rel=1e-5, abs=1e-6), key
            assert all(one[key] == alike_one[key] for key in one.keys() - set(numbers) - {"summary", "severity"})
    widths = {one["sensor_id"] == OWN: len(one["embedding"]) for one in lines(both / "embeddings.jsonl")}
    assert widths[True] != widths[False]
    page = (both / "report.html").read_text()
    assert all(f"{one.name} {one.version}" in page for one in names.values())


def test_a_mix_of_sensors_scores_as_each_bundle_alone(made: Made) -> None:
    scorers: list[Scorer] = [KerasScorer(load_bundle(path), 16) for path in (made.common, made.own)]
    routed = Scorers(Grouped(Grouping({"own": OWN}), scorers[0], scorers[1:]))
    routed.load()
    rng = np.random.default_rng(1)
    for count in (0, 1, 5, 40):
        sensors = [f"pump-{number}" for number in rng.integers(1, 4, count)]
        values = rng.normal(2, 1, (count, 8, len(FEATURES))).astype(np.float32)
        found = routed.score(sensors, values)
        expected = routed.expect(sensors, values, found.names)
        for scorer, mine in zip(scorers, (False, True), strict=True):
            places = [at for at, sensor in enumerate(sensors) if (sensor == OWN) == mine]
            names = [sensors[at] for at in places]
            alone = scorer.score(names, values[places])
            part = found.take(np.array(places, np.intp))
            assert part.names == alone.names
            for column in ("score", "error", "threshold", "contributions", "worst_step"):
                np.testing.assert_allclose(getattr(part, column), getattr(alone, column), rtol=1e-6)
            view = scorer.expect(names, values[places], alone.names)
            np.testing.assert_allclose(expected[places], view, rtol=1e-6)


def explained(made: Made, id_: str, *options: object) -> Done:
    alerts = made.folder / "both" / "alerts.jsonl"
    given = ("--config", made.config, "--data", made.stream, "--alerts", alerts, "--out", made.folder / "explained")
    return invoke("explain", id_, *given, *options)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("mine", [True, False])
def test_an_alert_is_explained_by_its_sensor_s_bundle(made: Made, mine: bool, given: bool) -> None:
    id_ = next(one["id"] for one in lines(made.folder / "both" / "alerts.jsonl") if (one["sensor_id"] == OWN) == mine)
    done = explained(made, id_, *(("--bundle", made.common) if given else ()))
    assert (done.code, done.err) == (0, "")
    assert "the verdict holds" in done.out


def test_a_bundle_that_no_sensor_has_any_more_is_asked_for(made: Made, tmp_path: Path) -> None:
    alerts = lines(made.folder / "both" / "alerts.jsonl")
    id_ = next(one["id"] for one in alerts if one["sensor_id"] == OWN)
    other = Made(made.folder, settings(tmp_path / "detector.toml", f'[bundle]\npath = "{made.common}"\n'), made.stream)
    done = explained(other, id_)
    assert done.code == 2
    assert "give --bundle that version" in done.err
    assert len(done.err.splitlines()) == 1
    assert explained(other, id_, "--bundle", made.own).code == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stride": 4}, "has stride 4, the windows that are kept have 2; train it on such windows as that of [bundle]"),
        ({"features": tuple(reversed(FEATURES))}, f"has features {', '.join(reversed(FEATURES))}, the windows"),
        ({"code": ""}, "publish.embeddings: bundle"),
        (None, "no bundle there"),
    ],
)
def test_a_bundle_that_is_not_for_these_windows_is_one_line(
    made: Made, tmp_path: Path, changes: dict[str, Any] | None, told: str
) -> None:
    if changes is not None:
        remade(made.own, tmp_path / "other", **changes)
    config = settings(
        tmp_path / "detector.toml", made.config.read_text().replace(str(made.own), str(tmp_path / "other"))
    )
    done = invoke("replay", made.stream, "--bundle", made.common, "--config", config, "--out", tmp_path / "out")
    assert done.code == 2
    assert told in done.err
    assert "groups.own.bundle: " in done.err
    assert len(done.err.splitlines()) == 1
    [found] = [one for one in checked(config) if one.what == "bundle of group own"]
    assert not found.ok
    assert told in found.message


def checked(config: Path) -> Iterator[Finding]:
    """What `check` finds about bundles; the servers, which come after, are not asked."""
    for found in findings(load_settings(config), None):
        if found.what.startswith("redis"):
            return
        yield found


def test_every_bundle_is_checked(made: Made) -> None:
    found = list(checked(made.config))
    assert [one.what for one in found] == ["settings", "bundle", "device", "bundle of group own"]
    assert all(one.ok for one in found)
    own = load_bundle(made.own).manifest
    assert found[-1].message.startswith(f"{own.name} {own.version}: rnn-classifier, windows of 8 events, stride 2")


def test_groups_that_name_the_same_place_share_a_bundle(made: Made, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.promote(registry.add(made.own).version)
    more = f'[groups.a]\nsensors = "a*"\nbundle = "{registry.location}"\n'
    more += f'[groups.b]\nsensors = "b*"\nbundle = "{registry.location}"\n[groups.c]\nsensors = "c*"\n'
    more += f'[groups.d]\nsensors = "d*"\nbundle = "{made.common}"\n'
    opened = open_bundles(load_settings(settings(tmp_path / "detector.toml", made.config.read_text() + more)))
    assert list(opened) == ["", "own", "a", "b", "d"]
    assert opened["a"] is opened["b"] is not opened["own"]
    assert opened["d"] is opened[""]
    shutil.rmtree(registry.location)
    with pytest.raises(BundleError, match=r"^groups\.a\.bundle: .*no bundle there"):
        open_bundles(load_settings(settings(tmp_path / "detector.toml", made.config.read_text() + more)))


def test_a_pattern_is_needed_and_a_place_has_a_name(tmp_path: Path) -> None:
    for text, told in (('bundle = "x"', r"groups\.a\.sensors"), ('sensors = "a*"\nbundle = ""', r"groups\.a\.bundle")):
        with pytest.raises(SettingsError, match=told):
            load_settings(settings(tmp_path / "detector.toml", f"[groups.a]\n{text}\n"))


def test_the_document_does_what_it_says(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sensors(path: Path) -> list[str]:
        return path.read_text().replace("pump-2", "fan-2").splitlines(keepends=True)

    header, *rows = sensors(plant.train)
    for name in ("pump", "fan"):
        (tmp_path / f"{name}s.csv").write_text("".join([header, *(row for row in rows if row.startswith(name))]))
    (tmp_path / "today.csv").write_text("".join(sensors(plant.stream)))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "groups.md").read_text("utf-8")
    for name, config in re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", text, re.DOTALL):
        Path(name).write_text(config)
    commands = re.findall(r"<!-- runs -->\n```bash\n(.*?)```", text, re.DOTALL)
    for line in "".join(commands).splitlines():
        done = invoke(*shlex.split(line)[1:])
        assert done.code == 0, done.err
    models = {one["sensor_id"]: one["model"]["version"] for one in lines(Path("results/scores.jsonl"))}
    assert models == {
        "pump-1": load_bundle("models/pumps").manifest.version,
        "fan-2": load_bundle("models/fans").manifest.version,
    }
    assert set(load_bundle("models/plant").scaler.groups) == {"pumps", "fans"}
    assert lines(Path("results-plant/scores.jsonl"))


def test_a_version_for_one_group_takes_over_while_the_others_keep_theirs(
    kafka_broker: KafkaBroker, redis_url: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "grouped"
    topics = {f"{name}-{kind}": 2 for kind in ("events", "scores", "alerts", "dead_letters")}
    kafka_broker.create_topics(topics)
    registry = Registry(str(tmp_path / "registry"))
    first = registry.add(made.own)
    remade(made.own, tmp_path / "second", created="2030-01-01T00:00:00.000Z")
    remade(made.own, tmp_path / "odd", stride=4)
    second, odd = registry.add(tmp_path / "second"), registry.add(tmp_path / "odd")
    registry.promote(first.version)
    common = load_bundle(made.common).manifest
    groups: dict[str, Any] = {"groups.own": {"sensors": OWN, "bundle": registry.location}}
    monkeypatch.setenv("STREAM_DETECTOR__BUNDLE__RELOAD", "100ms")
    monkeypatch.setenv("STREAM_DETECTOR__DEVICE__MAX_BATCH_WINDOWS", "16")
    config = write_config(tmp_path, name, kafka_broker.bootstrap, redis_url, made.common, **groups)
    with made.stream.open() as file:
        rows = list(csv.DictReader(file))
    events = []
    for row in rows:
        sensor, time = row.pop("sensor_id"), row.pop("timestamp")
        values = {feature: float(text) for feature, text in row.items() if text}
        event = {"sensor_id": sensor, "timestamp": time, "values": values}
        events.append((sensor.encode(), json.dumps(event).encode()))

    def told(text: str) -> bool:
        return text in service.get("/metrics")[1]

    def serves(group: str, model: Manifest) -> bool:
        labels = f'group="{group}",name="{model.name}",version="{model.version}"'
        return told(f"stream_detector_model_info{{{labels}}} 1.0")

    def send(chosen: slice) -> None:
        produce(kafka_broker.bootstrap, f"{name}-events", events[chosen], 2)
        wait_for(lambda: told(f"stream_detector_events_total {float(chosen.stop)}"), "the events", service)

    third = len(events) // 3
    with RunningService(config) as service:
        service.wait_ready()
        assert serves("", common)
        assert serves("own", first)
        send(slice(0, third))
        registry.promote(odd.version)
        refused = 'stream_detector_bundle_last_reload_successful{group="own"} 0.0'
        wait_for(lambda: told(refused), "another stride to be refused", service)
        assert told('stream_detector_bundle_last_reload_successful{group=""} 1.0')
        assert "group own: another bundle was not loaded" in service.tail()
        send(slice(third, 2 * third))
        registry.promote(second.version)
        wait_for(lambda: serves("own", second), "the second version", service)
        assert serves("", common)
        send(slice(2 * third, len(events)))
        assert service.terminate() == 143
    scores = json_values(committed_records(kafka_broker.bootstrap, f"{name}-scores"))
    assert len({score["id"] for score in scores}) == len(scores)
    versions: dict[str, list[str]] = {}
    for score in sorted(scores, key=lambda one: str(one["window_end"])):
        versions.setdefault(score["sensor_id"], []).append(score["model"]["version"])
    own = versions.pop(OWN)
    assert own == sorted(own, key=[first.version, second.version].index)
    assert set(own) == {first.version, second.version}
    assert {version for each in versions.values() for version in each} == {common.version}
    replayed = lines(made.folder / "both" / "scores.jsonl")
    assert sorted((one["sensor_id"], one["window_end"]) for one in scores) == sorted(
        (one["sensor_id"], one["window_end"]) for one in replayed
    )
