"""How `train` is told what an error and a threshold are; what makes no sense is one line before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_detector import load_bundle
from stream_detector.bundle import Bundle
from tests.commandline import Done, invoke
from training.plant import Plant

SMALL = ("--model", "dense", "--window", 8, "--stride", 4, "--epochs", 1, "--units", "2")


def trained(plant: Plant, out: Path, *options: object) -> tuple[Bundle, Done]:
    done = invoke("train", plant.train, "--out", out, *SMALL, *options)
    assert done.code == 0, done.err
    return load_bundle(out), done


def test_conformal_thresholds_of_every_part_share_the_budget(plant: Plant, tmp_path: Path) -> None:
    bundle, done = trained(plant, tmp_path / "bundle", "--threshold", "conformal", "--budget", "12")
    parts = (bundle.thresholds, *bundle.thresholds.partners.values())
    assert len(parts) > 1
    assert {part.method for part in parts} == {"conformal"}
    assert sum(part.parameter for part in parts) == pytest.approx(12.0)
    assert all(entry.blocks for part in parts for entry in part.entries)
    assert bundle.manifest.budget == 12.0, "as with evt, thresholds fall while nothing happens"
    assert bundle.manifest.expected_alerts_per_day > 12.0, "the model's share is too small for its few windows"
    assert "conformal thresholds are of too few blocks of 7 windows" in done.out


def test_a_quantile_of_a_model_alone(plant: Plant, tmp_path: Path) -> None:
    options = ("--threshold", "quantile:0.9", "--error", "mse", "--no-partners", "--scaling", "robust")
    bundle, _ = trained(plant, tmp_path / "bundle", *options)
    assert (bundle.thresholds.method, bundle.thresholds.parameter) == ("quantile", 0.9)
    assert bundle.thresholds.partners == {}
    assert bundle.errors.partners == ()
    assert bundle.errors.kind == "mse"
    assert bundle.manifest.budget == 0


def test_a_fixed_threshold(plant: Plant, tmp_path: Path) -> None:
    bundle, done = trained(plant, tmp_path / "bundle", "--threshold", "fixed:3.5", "--error", "mahalanobis")
    assert bundle.thresholds.values.tolist() == [3.5]
    assert bundle.errors.kind == "mahalanobis"
    assert "3.5; 0 sensors have their own" in done.out


def test_several_files_are_learnt_from_as_one_is_on_the_processor(plant: Plant, tmp_path: Path) -> None:
    """Split by sensors, in two files, and on the device that was asked for."""
    header, *rows = plant.train.read_text().splitlines()
    sensors = sorted({row.partition(",")[0] for row in rows})
    for name, mine in (("some", sensors[::2]), ("others", sensors[1::2])):
        chosen = [row for row in rows if row.partition(",")[0] in mine]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *chosen]) + "\n")
    whole, _ = trained(plant, tmp_path / "whole", "--device", "cpu")
    options = ("--out", tmp_path / "both", *SMALL, "--device", "cpu")
    done = invoke("train", tmp_path / "some.csv", tmp_path / "others.csv", *options)
    assert done.code == 0, done.err
    both = load_bundle(tmp_path / "both")
    assert both.manifest.sensors == whole.manifest.sensors == tuple(sensors)
    assert both.scaler == whole.scaler
    assert both.manifest.metrics.keys() == whole.manifest.metrics.keys()


def test_a_label_that_nobody_named_is_not_learnt_silently(plant: Plant, tmp_path: Path) -> None:
    lines = plant.train.read_text().splitlines()
    table = tmp_path / "table.csv"
    table.write_text("\n".join([f"{lines[0]},10_days_alert_label", *(f"{line},0" for line in lines[1:])]) + "\n")
    told = "10_days_alert_label is learnt as a feature; if it is a label, say --label 10_days_alert_label"
    for options, warned in (((), True), (("--label", "10_days_alert_label"), False)):
        done = invoke("train", table, "--out", tmp_path / "bundle", *SMALL, *options)
        assert done.code == 0, done.err
        assert (told in " ".join(done.err.split())) is warned
        features = load_bundle(tmp_path / "bundle").manifest.features
        assert ("10_days_alert_label" in features) is warned


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--threshold", "pot"), "--threshold pot: give evt, conformal, quantile:0.999 or fixed:3.5"),
        (("--threshold", "quantile"), "--threshold quantile: give a number with it, such as quantile:0.999"),
        (("--threshold", "fixed:high"), "--threshold fixed:high: give a number with it, such as fixed:3.5"),
        (("--threshold", "evt:0.5"), "evt takes no number; how many alerts there may be is --budget"),
        (("--threshold", "fixed:1", "--budget", "2"), "only evt and conformal spend a budget"),
        (("--threshold", "quantile:1"), "give a quantile between 0 and 1"),
        (("--threshold", "fixed:nan"), "give a number above 0"),
        (("--threshold", "conformal", "--budget", "0"), "give a number above 0"),
        (("--error", "rmse"), "error = rmse will not do; give newest, mahalanobis, mse or mae"),
        (("--error", "probability"), "error = probability is that of fine-tuned models"),
        (("--error", "mse", "--fine-tune", "--label", "x"), "error = mse is not for --fine-tune"),
        (("--error", "newest", "--model", "lstm-context"), "error = newest is not for lstm-context"),
        (("--scaling", "minmax"), "scaling = minmax will not do; give standard or robust"),
    ],
)
def test_nonsense_is_one_line(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = invoke("train", tmp_path / "not-there.csv", "--out", tmp_path / "bundle", *options)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: ")
    assert told in done.err
