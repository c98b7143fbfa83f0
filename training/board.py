"""Losses and metrics for TensorBoard, in the folders and under the names that Keras' own callback gives them.

That callback needs the package tensorboard to write; TensorFlow alone can write events, and so only who wants to look
at them needs the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from stream_detector.errors import SettingsError

FOLDERS = ("train", "validation")


class Board(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Writes what each epoch came to, as ``epoch_loss`` and the like, to a folder each of training and validation."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Raises `SettingsError` if the folder cannot be written to."""
        import tensorflow as tf

        try:
            self.writers = {at: tf.summary.create_file_writer(str(self.folder / at)) for at in FOLDERS}
        except tf.errors.OpError as error:
            raise SettingsError(f"TensorBoard's files cannot go to {self.folder}: {error.message}") from error

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Called by Keras, after validation."""
        import tensorflow as tf

        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        for name, value in logs.items():
            at = "validation" if name.startswith("val_") else "train"
            with self.writers[at].as_default():
                tf.summary.write(f"epoch_{name.removeprefix('val_')}", tf.constant(float(value)), epoch, metadata)
        for writer in self.writers.values():
            writer.flush()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Called by Keras."""
        for writer in self.writers.values():
            writer.close()
