"""A training that was killed goes on to where it would have come."""

from __future__ import annotations

import json
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import load_model
from stream_detector.bundle import load_bundle
from stream_detector.errors import DataError, SettingsError
from tests import forked
from tests.service import DEADLINE, environment
from tests.training.killed import trained
from training.autoencoders import architecture
from training.checkpoints import Checkpoints, State, digest, open_checkpoints
from training.fit import History, fit

WINDOWS = np.random.default_rng(3).random((330, 8, 2)).astype(np.float32)
LEARN, CHECK = WINDOWS[:270], WINDOWS[270:]


def taught(
    folder: Path | None = None, epochs: int = 6, kind: str = "denoising+dense", **more: Any
) -> tuple[Any, History]:
    family = architecture(kind)
    model = family.build(8, 2, units=(6,), seed=1)
    about = Checkpoints(folder, {"kind": kind}) if folder else None
    options = {"epochs": epochs, "batch": 50, "seed": 2, "checkpoints": about, "metrics": family.metrics, **more}
    history = fit(family.trainer(model), LEARN, CHECK, **options)
    return model, history


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("kind", ["denoising+dense", "lstm"])  # one draws noise as it learns
def test_going_on_gives_the_weights_of_an_undisturbed_training(kind: str, tmp_path: Path) -> None:
    whole, history = taught(kind=kind)
    taught(tmp_path, epochs=2, kind=kind)
    resumed, past = taught(tmp_path, kind=kind)
    assert past == history
    assert same(whole, resumed)
    again, _ = taught(tmp_path, kind=kind)  # of a stage that was finished, nothing is learnt again
    assert same(whole, again)


def test_patience_and_the_best_weights_outlive_the_process(tmp_path: Path) -> None:
    """The best epoch is before the interruption, and the end comes as early as it would have."""
    rates: dict[str, Any] = {"learning_rate": 0.5, "patience": 2, "kind": "dense"}
    whole, history = taught(epochs=30, **rates)
    assert len(history.loss) < 30
    taught(tmp_path, epochs=len(history.loss) - 1, **rates)
    resumed, past = taught(tmp_path, epochs=30, **rates)
    assert past == history
    assert same(whole, resumed)


def test_each_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from training.fit import _batches

    rows = np.arange(10)

    def orders(epochs: range) -> list[list[int]]:
        found = [np.asarray(part[0]).tolist() for part in _batches([rows], 4, 7, epochs)]
        assert [len(part) for part in found] == [4, 4, 2] * len(epochs)
        return [[*chain.from_iterable(found[at : at + 3])] for at in range(0, len(found), 3)]

    first = orders(range(3))
    assert all(sorted(order) == rows.tolist() for order in first)
    assert first[0] != first[1] != first[2]
    assert orders(range(2, 3)) == first[2:]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")  # the same on both backends
    assert orders(range(3)) == first


@pytest.mark.parametrize(("kind", "strike"), [("lstm", "fit 2"), ("stacked", "pretrain 2 3"), ("dense", "fine-tune 1")])
def test_killed_between_epochs(kind: str, strike: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    line = [kind, str(tmp_path / "killed"), str(folder), strike]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = forked.start("tests.training.killed", line, environment(), out, err, Path.cwd())
        code = process.wait(DEADLINE)
    assert code == -signal.SIGKILL, (tmp_path / "err").read_text()
    assert strike in (tmp_path / "out").read_text().splitlines()
    assert not (tmp_path / "killed").exists()
    again: list[str] = []
    trained(kind, tmp_path / "killed", folder, lambda stage, done, *_: again.append(f"{stage} {done}"))
    assert strike not in again  # it was not learnt again
    trained(kind, tmp_path / "whole", None)
    whole, resumed = (load_model(load_bundle(tmp_path / name)) for name in ("whole", "killed"))
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    assert not list(folder.iterdir())  # nothing is left to resume


def state(value: float = 1.0) -> State:
    return State([value], [value], [np.full((2, 3), value, np.float32), np.array(7, np.uint32)], [np.zeros(2)])


def test_what_is_saved_comes_back_and_other_trainings_are_refused(tmp_path: Path) -> None:
    made = open_checkpoints(tmp_path / "new" / "folder", {"units": "(6,)", "kind": "lstm"}, resume=False)
    assert made.load("fit", "abc") is None
    made.save("fit", state(), "abc")
    found = made.load("fit", "abc")
    assert found is not None
    assert (found.loss, found.val_loss) == ([1.0], [1.0])
    assert [array.dtype for array in found.variables] == [np.float32, np.uint32]
    with pytest.raises(SettingsError, match=r"a training with other data, units; resume with what"):
        Checkpoints(made.folder, {"units": "(7,)", "kind": "lstm"}).load("fit", "abd")
    with pytest.raises(SettingsError, match="give --resume to go on"):
        open_checkpoints(made.folder, {}, resume=False)
    assert open_checkpoints(made.folder, made.about, resume=True).load("fit", "abc") is not None


def test_a_write_that_dies_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_checkpoints(tmp_path, {}, resume=False)
    made.save("fit", state(1.0), "abc")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(DataError, match=r"cannot write the checkpoint .*: No space left on device"):
            made.save("fit", state(2.0), "abc")
    found = made.load("fit", "abc")
    assert found is not None
    assert found.loss == [1.0]
    (tmp_path / ".fit.checkpoint.npz.1").write_bytes(b"half")  # as a killed process leaves it
    open_checkpoints(tmp_path, {}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint.npz"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_one_line(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "fit.checkpoint.npz").write_bytes(damage)
    with pytest.raises(DataError, match="delete it to begin anew"):
        Checkpoints(tmp_path, {}).load("fit", "abc")


def test_pickles_are_refused(tmp_path: Path) -> None:
    about = np.frombuffer(json.dumps({"data": "abc", "loss": [], "val_loss": []}).encode(), np.uint8)
    hostile = np.array([{"a": 1}], object)
    np.savez(tmp_path / "fit.checkpoint.npz", about=about, **{"best-0": hostile})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="delete it"):
        Checkpoints(tmp_path, {}).load("fit", "abc")


def test_a_digest_tells_shapes_types_and_values_apart() -> None:
    rows = np.arange(6, dtype=np.float32)
    found = {digest([one]) for one in (rows, rows.reshape(2, 3), rows.astype(np.int32), rows[::-1])}
    assert len(found) == 4
    assert digest([rows, rows]) != digest([rows])
