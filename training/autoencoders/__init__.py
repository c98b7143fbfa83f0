"""The autoencoders that can be trained, by the name that ``--model`` takes.

A name is that of an architecture, with wrappers before it if wanted: ``lstm``, ``denoising+dense``,
``denoising+sparse+dense``. A wrapper alone goes around the default, ``lstm``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stream_detector.contents import Output
from stream_detector.errors import SettingsError
from stream_detector.events import Float32
from training.autoencoders import dense, hybrid, lstm, lstm_context, rnn_classifier, seq2seq, stacked
from training.autoencoders.head import Top
from training.autoencoders.lesson import Lesson, plain
from training.autoencoders.wrappers import Wrapping, wrap

DEFAULT = "lstm"


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a kind of autoencoder is made and taught."""

    build: Callable[..., Any]  # (length, features, units=…, seed=…) to an uncompiled model of (n, W, F)
    units: tuple[int, ...]  # sizes of its layers where none are given
    scaling: str  # the values it takes; "standard" or "unit": mean 0 and deviation 1, or 0..1
    loss: str
    learning_rate: float
    metrics: tuple[str, ...] = ()  # measured beside the loss
    trainer: Callable[[Any], Any] = lambda model: model  # what is fitted; the model is what is scored
    lesson: Callable[[Any], Lesson] | None = None  # what the trainer goes by, for wrappers; None: by the loss alone
    wrapping: Wrapping | None = None  # what the names before it add to training
    shortest: int = 2  # events a window
    output: Output = "window"  # what the model makes of (n, W, F): that again, or a residual of its own (n, D)
    pretrain: Callable[..., Any] | None = None  # in place of `build`, from windows: (model, …), as `stacked.pretrain`
    pretrain_rate: float = 0.0  # its learning rate
    watch: Callable[[Any, Float32], Callable[[], Any]] | None = None  # before fitting; what it returns checks after
    top: Top = "code"  # what a head for labels stands on
    fewest: int = 1  # units that it takes


FAMILY: Mapping[str, Architecture] = {
    "lstm": Architecture(lstm.build, lstm.UNITS, lstm.SCALING, lstm.LOSS, lstm.LEARNING_RATE),
    "dense": Architecture(
        dense.build, dense.UNITS, dense.SCALING, dense.LOSS, dense.LEARNING_RATE, dense.METRICS, shortest=1
    ),
    "dense-l2": Architecture(
        dense.build_l2, dense.L2_UNITS, dense.L2_SCALING, dense.L2_LOSS, dense.L2_LEARNING_RATE, shortest=1
    ),
    "rnn-classifier": Architecture(
        rnn_classifier.build, rnn_classifier.UNITS, rnn_classifier.SCALING, rnn_classifier.LOSS,
        rnn_classifier.LEARNING_RATE, top="last_step",
    ),
    "seq2seq": Architecture(
        seq2seq.build, seq2seq.UNITS, seq2seq.SCALING, seq2seq.LOSS, seq2seq.LEARNING_RATE,
        trainer=seq2seq.trainer, lesson=seq2seq.lesson,
    ),
    "seq2seq-unit": Architecture(
        partial(seq2seq.build, values="unit"), seq2seq.UNITS, seq2seq.SCALINGS["unit"], seq2seq.LOSSES["unit"],
        seq2seq.LEARNING_RATE, seq2seq.METRICS, trainer=seq2seq.trainer, lesson=seq2seq.lesson,
    ),
    "aer": Architecture(
        hybrid.aer, hybrid.UNITS, hybrid.SCALING, hybrid.LOSS, hybrid.LEARNING_RATE,
        trainer=hybrid.aer_trainer, lesson=hybrid.aer_lesson, shortest=3,
    ),
    "forecast": Architecture(
        hybrid.forecast, hybrid.FORECAST_UNITS, hybrid.SCALING, hybrid.LOSS, hybrid.LEARNING_RATE
    ),
    "lstm-context": Architecture(
        lstm_context.build, lstm_context.UNITS, lstm_context.SCALING, lstm_context.LOSS, lstm_context.LEARNING_RATE,
        trainer=lstm_context.trainer, lesson=lstm_context.lesson, output=lstm_context.OUTPUT,
        watch=lstm_context.watch, fewest=2,
    ),
    "stacked": Architecture(
        stacked.build, stacked.UNITS, stacked.SCALING, stacked.LOSS, dense.LEARNING_RATE, stacked.METRICS,
        shortest=1, pretrain=stacked.pretrain, pretrain_rate=stacked.LEARNING_RATE,
    ),
}  # fmt: skip

WRAPPERS: Mapping[str, Mapping[str, float]] = {
    "denoising": {"noise": 0.1, "mask": 0.1},
    "sparse": {"sparse_weight": 1e-2},
    "contractive": {"contraction": 1e-3, "probes": 2},  # exactly would be a pass for each unit of the code
    "l2": {"activity": 1e-4},
}


def architecture(name: str, seed: int = 0, stop_gradient: bool = False) -> Architecture:
    """What ``--model`` asks for; ``seed`` is that of wrappers, ``stop_gradient`` see `lstm_context.trainer`.

    Raises `SettingsError` with the names that there are, or for an option that the model does not have.
    """
    *before, last = name.split("+")
    if last in WRAPPERS:
        before, last = [*before, last], DEFAULT
    unknown = [part for part in [*before, last] if part not in WRAPPERS and part not in FAMILY]
    if unknown or any(part not in WRAPPERS for part in before):
        known = f"one of {', '.join(FAMILY)}, with {', '.join(WRAPPERS)} before it, such as denoising+dense"
        raise SettingsError(f"model {name!r} is not known; use {known}")
    base = FAMILY[last]
    if stop_gradient:
        if last != "lstm-context":
            raise SettingsError(f"--stop-gradient is for lstm-context, whose target is learnt too, not for {name}")
        base = replace(
            base,
            trainer=partial(lstm_context.trainer, stop_gradient=True),
            lesson=partial(lstm_context.lesson, stop_gradient=True),
        )
    if not before:
        return base
    added: dict[str, float] = {}
    for part in before:
        added |= WRAPPERS[part]
    wrapping = Wrapping(**added)  # type: ignore[arg-type] # the whole number among them is one in the table
    lesson = base.lesson or plain
    return replace(base, trainer=lambda model: wrap(model, wrapping, seed, lesson(model)), wrapping=wrapping)
