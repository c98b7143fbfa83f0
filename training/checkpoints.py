"""Checkpoints of a training that goes on after its process died: one file a stage, replaced whole after each epoch.

Keras' `BackupAndRestore` keeps neither the best weights nor how long they have been the best, and writes its two files
in place; here one file has all that the next epoch depends on, and its rename is what makes it the newest. It holds
plain arrays and JSON: nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError, SettingsError

SUFFIX = ".checkpoint.npz"


@dataclass(frozen=True, slots=True)
class State:
    """What the epochs after this one depend on. ``e`` epochs are over."""

    loss: list[float]  # (e)
    val_loss: list[float]  # (e)
    variables: list[NDArray[Any]]  # of the model and its random generators, then of the optimiser
    best: list[NDArray[Any]]  # the model's weights after the epoch with the lowest validation loss
    metrics: dict[str, list[float]] = field(default_factory=dict)  # (e) what is measured beside the losses


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A folder of checkpoints, and what must be the same for its training to go on.

    ``about`` are options and the like by name; data are told apart by their digest. The number of epochs and what is
    learnt after fitting may differ.
    """

    folder: Path
    about: Mapping[str, str]

    def path(self, stage: str) -> Path:
        """The file of a stage such as "fit" or "pretrain 1"."""
        return self.folder / (stage.replace(" ", "-") + SUFFIX)

    def save(self, stage: str, state: State, data: str) -> None:
        """Put the state in the place of the one before; a process that is killed meanwhile leaves that one whole.

        Raises `DataError` if it cannot be written.
        """
        path = self.path(stage)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        told = {"loss": state.loss, "val_loss": state.val_loss, "metrics": state.metrics}
        about = {**self.about, "data": data, **told}
        arrays = {f"variables-{at}": array for at, array in enumerate(state.variables)}
        arrays |= {f"best-{at}": array for at, array in enumerate(state.best)}
        try:
            with partial.open("wb") as file:
                np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync(self.folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"cannot write the checkpoint {path}: {error.strerror}") from error

    def load(self, stage: str, data: str) -> State | None:
        """The newest state of a stage, None if there is none.

        Raises `SettingsError` if it is of another training, `DataError` if it cannot be read.
        """
        path = self.path(stage)
        try:
            with np.load(path, allow_pickle=False) as file:
                found = json.loads(file["about"].tobytes())
                arrays = {name: file[name] for name in file.files}
            losses = [float(value) for value in found.pop("loss")], [float(value) for value in found.pop("val_loss")]
            measured = found.pop("metrics", {}).items()
            metrics = {str(name): [float(value) for value in values] for name, values in measured}
        except FileNotFoundError:
            return None
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a checkpoint that can be read; delete it to begin anew") from error
        wanted = {**self.about, "data": data}
        other = [name for name in wanted | found if wanted.get(name) != found.get(name)]
        if other:
            raise SettingsError(
                f"{path} is of a training with other {', '.join(sorted(other))}; "
                "resume with what it was begun with, or give another folder"
            )
        return State(*losses, _numbered(arrays, "variables"), _numbered(arrays, "best"), metrics)

    def clear(self) -> None:
        """Remove the checkpoints: what they led to is finished."""
        for path in self.folder.glob("*" + SUFFIX):
            path.unlink(missing_ok=True)


def open_checkpoints(folder: Path, about: Mapping[str, str], resume: bool) -> Checkpoints:
    """The folder, made if it is not there; what died writing there is cleaned away.

    Raises `SettingsError` if it holds a training that one does not want to ``resume``, or cannot be a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"checkpoints cannot go to {folder}: {error.strerror}") from error
    if not resume and any(folder.glob("*" + SUFFIX)):
        raise SettingsError(
            f"{folder} has the checkpoints of an unfinished training; give --resume to go on with it, or another folder"
        )
    for partial in folder.glob(".*" + SUFFIX + ".*"):
        partial.unlink(missing_ok=True)
    return Checkpoints(folder, about)


def digest(arrays: Sequence[NDArray[Any]]) -> str:
    """What tells these arrays from others: shapes, types and all values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _numbered(arrays: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    count = sum(key.startswith(name + "-") for key in arrays)
    return [arrays[f"{name}-{at}"] for at in range(count)]


def _sync(folder: Path) -> None:
    """Make a rename last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
