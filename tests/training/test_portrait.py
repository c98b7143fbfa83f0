"""What is drawn of a model: layers, codes on a plane, windows from other codes; for every kind, and every head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from stream_detector.events import Float32
from training.autoencoders import FAMILY, architecture
from training.autoencoders.codes import code_layer, decoder, encoder
from training.autoencoders.head import classifier
from training.fit import History
from training.portrait import DRAWN, Layer, layers_of, like, plane, portray
from training.report import Picture, Summary, write_report

SMALL = {"lstm-context": (6, 5, 4), "stacked": (8, 4), "rnn-classifier": (6, 3), "dense": (8, 4)}
MUTE = {"forecast": "it predicts from the events", "lstm-context": "it gives a residual"}  # make no window of a code
SUMMARY = Summary(
    "pumps", "", "lstm", ["a", "b"], 6, 2, 100, 1, {"fit": 3}, 0, 1, 1, 0.1, 0.2, 0.5, 0, 0.1, 1.0
)  # fmt: skip


def made(name: str) -> keras.Model:
    kind = FAMILY[name]
    return kind.build(6, 2, units=SMALL.get(name, (4,)), seed=1)


def windows(count: int = 40) -> Float32:
    return np.random.default_rng(0).uniform(0, 1, (count, 6, 2)).astype(np.float32)


@pytest.mark.parametrize("name", FAMILY)
def test_every_kind_has_a_code_and_generates_or_says_why_not(name: str) -> None:
    model = made(name)
    codes = encoder(model).predict(windows(), verbose=0)
    assert codes.ndim == 2
    found = portray(model, windows(), np.arange(40.0), "score")
    assert (found.code, found.width) == (code_layer(model), codes.shape[1])
    assert found.points.shape == (40, 2)
    assert found.parameters == model.count_params()
    assert found.real.shape == (DRAWN, 6, 2)
    if name in MUTE:
        assert MUTE[name] in found.reason
        assert not len(found.generated)
    else:
        assert found.generated.shape == (DRAWN, 6, 2)
        back = decoder(model).predict(codes, verbose=0)
        np.testing.assert_allclose(back, model.predict(windows(), verbose=0), atol=1e-5)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", FAMILY)
def test_below_a_head_the_code_is_what_it_was_and_nothing_is_generated(name: str, head: str) -> None:
    model = made(name)
    judge = classifier(model, head, FAMILY[name].top)  # type: ignore[arg-type] # one of the two
    codes = [encoder(one).predict(windows(), verbose=0) for one in (model, judge)]
    np.testing.assert_allclose(codes[0], codes[1], atol=1e-6)
    assert "the probability of an anomaly" in portray(judge, windows(), np.zeros(40), "label").reason


def test_wrappers_leave_the_code_where_it_is() -> None:
    kind = architecture("denoising+sparse+dense")
    model = kind.build(6, 2, units=(8, 3))
    kind.trainer(model)
    assert (code_layer(model), encoder(model).output_shape) == ("code", (None, 3))


def test_the_plane_holds_what_varies_most() -> None:
    rng = np.random.default_rng(2)
    along, across = rng.normal(0, 5, 300), rng.normal(0, 1, 300)
    codes = np.outer(along, [0.6, 0, 0.8]) + np.outer(across, [0, 1, 0])
    points, shares = plane(codes.astype(np.float32))
    assert abs(np.corrcoef(points[:, 0], along)[0, 1]) > 0.999
    assert shares[0] == pytest.approx(25 / 26, abs=0.02)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (4, 3)])
def test_codes_that_say_nothing_have_a_place_too(shape: tuple[int, int]) -> None:
    points, shares = plane(np.full(shape, 3.0, np.float32))
    assert points.shape == (shape[0], 2)
    assert (points == 0).all()
    assert shares == (0.0, 0.0)


def test_draws_have_the_codes_mean_and_covariance() -> None:
    rng = np.random.default_rng(3)
    codes = rng.multivariate_normal([1, -2], [[2, 0.8], [0.8, 1]], 500).astype(np.float32)
    drawn = like(codes, 20_000, rng)
    np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.08)
    assert (like(codes[:1], 3, rng) == codes[0]).all()


def test_layers_tell_where_they_take_from_also_those_that_are_used_again() -> None:
    found = {layer.name: layer for layer in layers_of(FAMILY["seq2seq"].build(3, 2, units=(4,)))}
    assert found["window"] == Layer("window", "InputLayer", (None, 3, 2), 0, ())
    assert found["encoder_1"].parameters == 4 * (4 * (2 + 4 + 1))
    assert found["decoder_1"].inputs[0] == "start"
    assert "features" in found["decoder_1"].inputs  # each step's output is the next one's input
    assert "decoder_1" in found["features"].inputs


def test_the_report_shows_and_counts_the_model(tmp_path: Path) -> None:
    model = made("seq2seq")
    portrait = portray(model, windows(), np.arange(40.0) % 2, "label")
    told = replace(SUMMARY, parameters=portrait.parameters, layers=portrait.layers, code=portrait.about())
    write_report(tmp_path, told, History([1.0], [1.0]), np.ones(9), {}, portrait)
    assert {"codes.png", "model.png", "generated.png"} <= {file.name for file in tmp_path.iterdir()}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["parameters"] == sum(layer["parameters"] for layer in written["layers"]) == model.count_params()
    assert written["layers"][0] == {
        "name": "window", "kind": "InputLayer", "shape": [None, 6, 2], "parameters": 0, "inputs": [],
    }  # fmt: skip
    text = (tmp_path / "summary.txt").read_text()
    assert f"parameters    {model.count_params():,}: encoder_1 " in text
    assert "code          layer code, 8 values a window; new windows are decoded from it" in text


def test_models_that_generate_nothing_have_no_such_picture(tmp_path: Path) -> None:
    portrait = portray(made("lstm-context"), windows(), np.ones(40), "score")
    write_report(tmp_path, SUMMARY, History([1.0], [1.0]), np.ones(9), {}, portrait)
    assert not (tmp_path / "generated.png").exists()
    assert (tmp_path / "codes.png").stat().st_size > 5_000


def test_where_nothing_is_expected_no_line_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    plain = Axes.plot

    def noted(axes: Axes, *arguments: Any, **options: Any) -> list[Line2D]:
        drawn.append(str(options.get("label")))
        return plain(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    values = windows(1)[0]
    some = Picture("window", values, np.full_like(values, np.nan), np.array([0.5, 0.5], np.float32), 2)
    for picture, labels in ((some, {"measured"}), (replace(some, expected=values), {"measured", "expected"})):
        drawn.clear()
        write_report(tmp_path, SUMMARY, History([1.0], [1.0]), np.ones(9), {"window": picture})
        assert set(drawn) - {"fit", "validation"} == labels
