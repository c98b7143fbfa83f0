"""How to train: options, and which of them make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from stream_detector.contents import ErrorKind
from stream_detector.errors import SettingsError
from stream_detector.groups import Grouping
from stream_detector.thresholds import BUDGETED, Method, check_method
from training.autoencoders import DEFAULT, architecture
from training.autoencoders.head import Head
from training.data import MEMORY
from training.devices import Precision
from training.scaling import Scaling

UNMIXED = ("dense-l2",)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. The defaults suit a CPU."""

    kind: str = DEFAULT  # see `autoencoders`
    length: int = 64  # events a window
    stride: int | None = None  # None: an eighth of the length, so that each event is judged eight times
    units: tuple[int, ...] | None = None  # None: what suits the kind
    epochs: int = 10  # with 30, verdicts differ much from seed to seed: docs/quality.md
    patience: int = 5  # epochs without a better validation error
    batch: int = 128
    learning_rate: float | None = None  # None: what suits the kind
    stop_gradient: bool = False  # of lstm-context: its target has no part in the gradient
    error: ErrorKind | None = None  # None: what suits the model; of a fine-tuned model always "probability"
    partners: bool = True  # whether the score has parts beside the model's: see `adapters.keras.partners`
    threshold: Method = "evt"
    # Alerts per sensor and day; of quantile and fixed: that. None: `BUDGET`, or as few as the data can tell of
    # (`training.calibrate`).
    budget: float | None = None
    groups: tuple[tuple[str, str], ...] = ()  # names, and patterns of sensor ids: whose sensors share what is learnt
    scaling: Scaling = "standard"  # or by quantiles: docs/models.md
    max_windows: int = 20_000  # to fit on; a seventh of it each for validation and for statistics
    seed: int = 0
    missing: Literal["last", "mean", "reject"] = "last"
    grace: int = 0  # ms
    duplicates: Literal["drop", "keep"] = "drop"
    max_gap: int | None = None  # ms
    label: str | None = None  # column of labels, which events then carry after their features: 0, 1 or NaN
    fine_tune: bool = False  # go on with the labels after learning without; otherwise they leave anomalies out
    head: Head = "softmax"  # what the labels are learnt with; "sigmoid" is its equivalent
    precision: Precision = "float32"  # to learn in; what is saved scores in float32

    @property
    def step(self) -> int:
        """The stride in effect."""
        return self.stride if self.stride is not None else max(1, self.length // 8)

    @property
    def grouping(self) -> Grouping:
        """Of sensors."""
        return Grouping(dict(self.groups))

    @property
    def held_out(self) -> int:
        """Windows to validate on at most, and as many for statistics."""
        return max(1, self.max_windows // 7)


@dataclass(frozen=True, slots=True)
class Session:
    """How a process goes about it. Nothing of it changes what the bundle judges."""

    checkpoints: Path | None = None  # a folder to write to after each epoch
    resume: bool = False  # go on with what is there
    keep: bool = False  # checkpoints, when the bundle is written: to calibrate again without learning again
    tensorboard: Path | None = None  # a folder for losses
    pictures: bool = True  # in the report; they take seconds, which many small trainings can do without
    memory: int = MEMORY  # bytes of events to hold; beyond that they go to a file beside the bundle


ALONE = Session()


def check_options(options: TrainOptions) -> None:
    """Raise `SettingsError` for options that make no sense."""
    kind = architecture(options.kind, options.seed, options.stop_gradient)
    least = {
        "window": (options.length, kind.shortest),
        "stride": (options.step, 1),
        "epochs": (options.epochs, 1),
        "patience": (options.patience, 0),
        "batch": (options.batch, 1),
        "max_windows": (options.max_windows, 1),
        "seed": (options.seed, 0),
        "units": (1 if options.units is None else min(options.units, default=0), 1),
        "number of units": (len(options.units or kind.units), kind.fewest),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise SettingsError(f"{name} = {value} will not do; give {smallest} or more")
    if options.budget is not None:
        check_method(options.threshold, options.budget)
    elif options.threshold not in BUDGETED:
        raise SettingsError(f"threshold method {options.threshold!r} needs a number; give budget")
    if options.fine_tune and options.label is None:
        raise SettingsError("--fine-tune needs labels; name their column by --label or columns.label")
    if options.head not in get_args(Head):
        raise SettingsError(f"head = {options.head} will not do; give {' or '.join(get_args(Head))}")
    if options.error == "probability":
        raise SettingsError("error = probability is that of fine-tuned models; give newest, mahalanobis, mse or mae")
    if options.error is not None:
        if options.error not in get_args(ErrorKind):
            raise SettingsError(f"error = {options.error} will not do; give newest, mahalanobis, mse or mae")
        if options.fine_tune:
            raise SettingsError(f"error = {options.error} is not for --fine-tune, which judges by a probability")
        if options.error == "newest" and kind.output != "window":
            raise SettingsError(f"error = newest is not for {options.kind}, whose residual has no steps in time")
    if options.precision not in get_args(Precision):
        raise SettingsError(f"precision = {options.precision} will not do; give {' or '.join(get_args(Precision))}")
    if options.precision == "mixed" and (kind.wrapping is not None or options.kind in UNMIXED):
        raise SettingsError(f"precision mixed is not for {options.kind}, whose penalties need float32")
    if options.scaling not in get_args(Scaling):
        raise SettingsError(f"scaling = {options.scaling} will not do; give {' or '.join(get_args(Scaling))}")
    if options.learning_rate is not None and not 0 < options.learning_rate < math.inf:
        raise SettingsError(f"learning_rate = {options.learning_rate} will not do; give a number above 0")
