"""Embeddings of windows, where they are asked for: with the scores, once each, by a function that is compiled too."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream_detector.adapters.files.outlet import FileOutlet
from stream_detector.adapters.kafka.probe import _needs
from stream_detector.adapters.keras.scorer import KerasScorer, load_model
from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.bundle import load_bundle
from stream_detector.configured import fitted
from stream_detector.errors import BundleError, SettingsError
from stream_detector.events import Embedding, Float32, Model, Origin, Partition, Score
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery
from stream_detector.settings import Publish, Settings, load_settings
from tests.commandline import invoke, lines
from tests.simulated import RULES, SETTINGS, Broker, Record, SimulatedOutlet, SumScorer
from tests.stream_detector.test_configured import manifest
from tests.world import Crash, Topic
from training.autoencoders.codes import encoder
from training.plant import DAY, FEATURES, MINUTE, START, simulate, write_csv

LOG: list[Record] = [("ab"[at % 2], at, float(at)) for at in range(20)]
ASKED = SETTINGS.model_copy(update={"publish": Publish(embeddings=True)})


class Place:
    """A log, and workers on it one after the other."""

    def __init__(self, settings: Settings, scorer: SumScorer | None = None) -> None:
        self.broker, self.store, self.settings, self.scorer = Broker(LOG), MemoryStore(), settings, scorer
        self.start()

    def start(self) -> None:
        self.source = Topic(self.broker)
        self.outlet = SimulatedOutlet(self.broker, self.source, lambda: None)
        self.pipeline = Pipeline(
            self.source, self.store, self.scorer or SumScorer(), self.outlet, Silent(), RULES, Model("m", "1"),
            self.settings, now_ms=lambda: 0.0,
        )  # fmt: skip
        self.source.open(self.pipeline)

    def run(self) -> None:
        for _ in range(60):
            self.pipeline.turn()

    def told(self, kind: type[Score | Embedding]) -> list[str]:
        return [record.id for record in self.broker.published if isinstance(record, kind)]


def test_every_window_has_one_and_it_says_which() -> None:
    place = Place(ASKED)
    place.run()
    assert place.told(Embedding) == place.told(Score) != []
    first = next(record for record in place.broker.published if isinstance(record, Embedding))
    assert (first.sensor_id, first.model, first.source.first_offset, first.source.last_offset) == (
        "a", Model("m", "1"), 0, 4,
    )  # fmt: skip
    assert first.embedding == [2.0]
    assert (first.window_start, first.window_end) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.004Z")


def test_they_do_not_depend_on_which_scores_are_published() -> None:
    place = Place(SETTINGS.model_copy(update={"publish": Publish(scores="none", embeddings=True)}))
    place.run()
    assert place.told(Score) == []
    assert len(place.told(Embedding)) > 4


@pytest.mark.parametrize("where", ["deliver", "settle"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_each_is_published_once_whatever_dies(where: str, call: int) -> None:
    whole = Place(ASKED)
    whole.run()
    place = Place(ASKED)
    part = place.outlet if where == "deliver" else place.store
    kept, calls = getattr(part, where), [0]

    def crash(*arguments: object) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise Crash
        kept(*arguments)

    setattr(part, where, crash)
    with pytest.raises(Crash):
        place.run()
    setattr(part, where, kept)
    place.start()
    place.run()
    assert place.told(Embedding) == whole.told(Embedding)


class Unasked(SumScorer):
    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        raise AssertionError("nobody asked")


class Holed(SumScorer):
    """Fails on windows that hold the value 6."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        codes: Float32 = np.where((values == 6).any(axis=1), np.nan, values.mean(axis=1)).astype(np.float32)
        return codes


def test_they_are_not_made_unasked() -> None:
    place = Place(SETTINGS, Unasked())
    place.run()
    assert place.told(Score) != []
    assert place.told(Embedding) == []


def test_a_window_that_cannot_be_embedded_alone_has_none() -> None:
    place = Place(ASKED, Holed())
    place.run()
    lost = set(place.told(Score)) - set(place.told(Embedding))
    assert 0 < len(lost) < len(place.told(Score))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model whose code is a sequence, hence made flat, and a stretch to replay."""
    folder = tmp_path_factory.mktemp("embeddings")
    readings = simulate(1, DAY // 2, MINUTE, 4)
    write_csv(folder / "train.csv", readings)
    write_csv(folder / "stream.csv", readings.between(START + DAY // 4, START + DAY // 4 + 60 * MINUTE))
    options = ("--window", 8, "--stride", 2, "--epochs", 1, "--units", "5,3", "--model", "rnn-classifier")
    done = invoke("train", folder / "train.csv", "--out", folder / "bundle", *options)
    assert done.code == 0, done.err
    return folder


def test_the_service_s_code_is_the_model_s(made: Path) -> None:
    bundle = load_bundle(made / "bundle")
    assert bundle.manifest.code == "code"
    scorer = KerasScorer(bundle, 16, embeddings=True)
    scorer.load()
    scorer.warm()
    scaler = bundle.scaler
    seen = np.random.default_rng(1).uniform(0, 1, (20, 8, len(FEATURES))).astype(np.float32)
    raw = (seen * np.array(scaler.scale) + np.array(scaler.center)).astype(np.float32)
    codes = scorer.embed(["pump-9"] * 20, raw)
    assert codes.shape == (20, 8 * 3)
    np.testing.assert_allclose(codes, encoder(load_model(bundle)).predict(seen, verbose=0), atol=1e-4)
    assert scorer.embed([], raw[:0]).shape == (0, 24)


def test_a_replay_writes_them_if_asked(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("replay", made / "stream.csv", "--bundle", made / "bundle", "--out", made / "out")
    monkeypatch.setenv("STREAM_DETECTOR__PUBLISH__EMBEDDINGS", "true")
    assert invoke(*arguments).code == 0
    scores, embeddings = lines(made / "out" / "scores.jsonl"), lines(made / "out" / "embeddings.jsonl")
    shared = ("id", "sensor_id", "window_start", "window_end", "model", "source")
    assert [[one[key] for key in shared] for one in embeddings] == [[one[key] for key in shared] for one in scores]
    assert embeddings[0].keys() == {*shared, "embedding"}
    assert {len(one["embedding"]) for one in embeddings} == {24}
    assert json.loads((made / "out" / "position.json").read_text())["lengths"]["embeddings.jsonl"] > 0
    monkeypatch.delenv("STREAM_DETECTOR__PUBLISH__EMBEDDINGS")
    assert invoke(*arguments).code == 0
    assert not (made / "out" / "embeddings.jsonl").exists()


def test_of_seq2seq_they_are_the_encoder_s_final_state(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, options = made / "seq2seq", ("--window", 8, "--stride", 8, "--epochs", 1, "--units", 3, "--model", "seq2seq")
    assert invoke("train", made / "train.csv", "--out", out, *options).code == 0
    monkeypatch.setenv("STREAM_DETECTOR__PUBLISH__EMBEDDINGS", "true")
    assert invoke("replay", made / "stream.csv", "--bundle", out, "--out", made / "states").code == 0
    told = [one["embedding"] for one in lines(made / "states" / "embeddings.jsonl")]
    bundle = load_bundle(out)
    with (made / "stream.csv").open() as file:
        values = np.array([[float(row[name]) for name in FEATURES] for row in csv.DictReader(file)], np.float32)
    windows = values[: 8 * len(told)].reshape(-1, 8, len(FEATURES))  # none shares an event with another
    scaler = bundle.scaler.of("pump-1")
    seen = (windows - np.array(scaler.center, np.float32)) / np.array(scaler.scale, np.float32)
    states = encoder(load_model(bundle)).predict(seen, verbose=0)
    assert states.shape == (7, 2 * 3)  # of an LSTM: what it gives, and its cells
    np.testing.assert_allclose(told, states, atol=1e-4)


def test_a_bundle_must_say_which_layer_it_is(made: Path) -> None:
    with pytest.raises(SettingsError, match=r"^publish\.embeddings: bundle m does not say which layer .* train it"):
        fitted(Settings(publish=Publish(embeddings=True)), manifest(2, 8))
    bundle = load_bundle(made / "bundle")
    wrong = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, code="kernel"))
    with pytest.raises(BundleError, match="has no layer named kernel"):
        load_model(wrong)


def test_the_switch_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__PUBLISH__EMBEDDINGS", "perhaps")
    with pytest.raises(SettingsError, match=r"publish\.embeddings"):
        load_settings()


def test_their_topic_is_needed_only_if_asked_and_must_be_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sensor-embeddings" not in _needs(Settings())
    assert _needs(Settings(publish=Publish(embeddings=True)))["sensor-embeddings"] == ["WRITE"]
    monkeypatch.setenv("STREAM_DETECTOR__TOPICS__EMBEDDINGS", "sensor-scores")
    with pytest.raises(SettingsError, match="'sensor-scores' is given twice"):
        load_settings()


def test_a_replay_without_them_in_between_keeps_those_that_are_there(tmp_path: Path) -> None:
    here = Partition("files", 0)

    def deliver(end: int, embeddings: bool) -> None:
        outlet = FileOutlet(tmp_path, embeddings=embeddings)
        outlet.open()
        some = [Embedding(str(end), "a", "", "", [0.5], Model("m", "1"), Origin(*here, 0, end))] if embeddings else []
        outlet.deliver(Delivery([], [], [], {here: end}, some))
        outlet.close()

    for end, embeddings in ((1, True), (2, False), (3, True)):
        deliver(end, embeddings)
    assert [line["id"] for line in lines(tmp_path / "embeddings.jsonl")] == ["1", "3"]
