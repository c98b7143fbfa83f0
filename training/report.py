"""What a person looks at after training: plots and figures in the bundle's ``report/`` folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from stream_detector.events import Float32, Float64
from training.fit import History

ROWS = 8  # features that are drawn; those with the largest contributions


@dataclass(frozen=True, slots=True)
class Summary:
    """What a training came to."""

    name: str
    version: str  # empty in the report itself, which is part of what the version names
    kind: str
    features: list[str]
    length: int
    stride: int
    events: int
    sensors: int
    windows: dict[str, int]  # by part, as used
    left_out: int  # windows between parts, or beyond the caps
    epochs: int
    best_epoch: int  # from 1
    loss: float
    val_loss: float
    threshold: float  # of sensors without one of their own
    own_thresholds: int  # sensors with one of their own
    expected_alerts_per_day: float  # per sensor
    seconds: float
    notes: list[str] = field(default_factory=list)  # what a person should know before relying on it

    def table(self) -> list[tuple[str, str]]:
        """Rows of text, for a terminal."""
        windows = ", ".join(f"{count} {part}" for part, count in self.windows.items())
        return [
            ("bundle", f"{self.name} {self.version}".rstrip()),
            ("model", f"{self.kind}, windows of {self.length} events, stride {self.stride}"),
            ("features", ", ".join(self.features)),
            ("data", f"{self.events} events of {self.sensors} sensors"),
            ("windows", f"{windows}; {self.left_out} left out"),
            (
                "fit",
                f"{self.epochs} epochs, best {self.best_epoch}: loss {self.loss:.4g}, val_loss {self.val_loss:.4g}",
            ),
            ("threshold", f"{self.threshold:.4g}; {self.own_thresholds} sensors have their own"),
            ("false alarms", f"{self.expected_alerts_per_day:.3g} expected per sensor and day"),
            ("time", f"{self.seconds:.1f} s"),
            *(("note", note) for note in self.notes),
        ]


@dataclass(frozen=True, slots=True)
class Picture:
    """One window to draw."""

    title: str
    values: Float32  # (W, F) raw units
    expected: Float32  # (W, F) raw units
    contributions: Float32  # (F)
    worst_step: int


def write_report(
    folder: Path,
    summary: Summary,
    history: History,
    errors: Float64,
    pictures: Mapping[str, Picture],
) -> None:
    """Write ``loss.png``, ``errors.png``, one picture a window, ``summary.json`` and ``summary.txt``.

    ``errors`` (n) are those of the calibration windows. Raises `OSError` if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(_loss(history), folder / "loss.png")
    _save(_errors(errors, summary.threshold), folder / "errors.png")
    for name, picture in pictures.items():
        _save(_window(picture, summary.features), folder / f"{name}.png")
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(asdict(summary)), indent=1))
    text = "".join(f"{key:<14}{value}\n" for key, value in summary.table())
    (folder / "summary.txt").write_text(text, encoding="utf-8")


def _loss(history: History) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, len(history.loss) + 1)
    axes.plot(epochs, history.loss, label="fit")
    axes.plot(epochs, history.val_loss, label="validation")
    axes.axvline(history.best + 1, color="0.6", linestyle=":", label="kept")
    if min(history.loss + history.val_loss) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss (scaled units)", title="Loss")
    axes.legend()
    return figure


def _errors(errors: Float64, threshold: float) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(errors, bins=min(80, max(5, len(errors) // 5)), color="tab:blue")
    axes.axvline(threshold, color="tab:red", label=f"threshold {threshold:.4g}")
    axes.set_yscale("log")
    axes.set(xlabel="error", ylabel="windows", title=f"Errors of {len(errors)} calibration windows")
    axes.legend()
    return figure


def _window(picture: Picture, features: list[str]) -> Figure:
    chosen = np.argsort(-picture.contributions, kind="stable")[:ROWS]
    figure = Figure(figsize=(7, 1.2 + 1.5 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    for axes, index in zip(panels, chosen, strict=True):
        axes.plot(picture.values[:, index], color="black", label="measured")
        axes.plot(picture.expected[:, index], color="tab:orange", label="expected")
        axes.axvline(picture.worst_step, color="tab:red", linestyle=":")
        axes.set_title(f"{features[index]}: {picture.contributions[index]:.0%} of the error", fontsize="small")
    panels[0].legend(fontsize="small")
    panels[-1].set_xlabel("event of the window")
    figure.suptitle(picture.title)
    return figure


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=110, metadata={"Software": None})  # no version in the file: same data, same bytes
