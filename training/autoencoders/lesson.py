"""How a model learns where that is not plainly by what it makes of a window: its lesson, and the model that is fitted.

A lesson tells the window that the model is shown from the clean one, so that training can corrupt what is shown
(`autoencoders.wrappers`) and compare with what is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any  # of whichever backend runs


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model says while it learns, and what that costs.

    ``restore`` takes windows as they are shown and as they are, both (n, W, F) and the same tensor where nothing is
    corrupted, and whether this is training.
    """

    restore: Callable[[Tensor, Tensor, bool], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor] | None = None  # of target and what was said, in place of the compiled one


def plain(model: Any) -> Lesson:
    """The lesson of a model that is compared with its input."""
    return Lesson(lambda shown, _, training: model(shown, training=training))


class Taught(keras.Model):  # type: ignore[misc] # Keras ships no annotations
    """A model in training. It shares the scoring model's layers and is never saved itself."""

    def __init__(self, model: Any, lesson: Lesson) -> None:
        super().__init__(name=f"taught_{model.name}")
        self.base = model
        self.lesson = lesson
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """What the lesson has the model say of windows (n, W, F)."""
        return self.lesson.restore(inputs, inputs, training)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The lesson's loss, or the one that was compiled."""
        if self.lesson.loss is not None:
            return self.lesson.loss(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)
