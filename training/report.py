"""What a person looks at after training: plots and figures in the bundle's ``report/`` folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stream_detector.events import Float32, Float64
from training.fit import History
from training.portrait import Layer, Portrait

ROWS = 8  # features that are drawn; those with the largest contributions
FEW = 4  # features of generated windows that are drawn; those that vary most
BEST = 0.98  # share of the scores that colours tell apart: one huge score would make all others look alike


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
    parameters: int = 0
    layers: list[Layer] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # beside the loss, of the best epoch: "mse", "val_mse"
    code: str = ""  # which layer it is, and whether windows can be made from it

    def table(self) -> list[tuple[str, str]]:
        """Rows of text, for a terminal."""
        windows = ", ".join(f"{count} {part}" for part, count in self.windows.items())
        figures = {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        return [
            ("bundle", f"{self.name} {self.version}".rstrip()),
            ("model", f"{self.kind}, windows of {self.length} events, stride {self.stride}"),
            *self._inside(),
            ("features", ", ".join(self.features)),
            ("data", f"{self.events} events of {self.sensors} sensors"),
            ("windows", f"{windows}; {self.left_out} left out"),
            ("fit", f"{self.epochs} epochs, best {self.best_epoch}: {told}"),
            ("threshold", f"{self.threshold:.4g}; {self.own_thresholds} sensors have their own"),
            ("false alarms", f"{self.expected_alerts_per_day:.3g} expected per sensor and day"),
            ("time", f"{self.seconds:.1f} s"),
            *(("note", note) for note in self.notes),
        ]

    def _inside(self) -> list[tuple[str, str]]:
        if not self.layers:
            return []
        each = ", ".join(f"{layer.name} {layer.parameters:,}" for layer in self.layers if layer.parameters)
        return [("parameters", f"{self.parameters:,}: {each}"), ("code", self.code)]


@dataclass(frozen=True, slots=True)
class Picture:
    """One window to draw."""

    title: str
    values: Float32  # (W, F) raw units
    expected: Float32  # (W, F) raw units; NaN where the model expects nothing
    contributions: Float32  # (F)
    worst_step: int


def write_report(
    folder: Path,
    summary: Summary,
    history: History,
    errors: Float64,
    pictures: Mapping[str, Picture] | None,
    portrait: Portrait | None = None,
) -> None:
    """Write ``loss.png``, ``errors.png``, one picture a window, ``summary.json`` and ``summary.txt``.

    With a portrait also ``model.png``, ``codes.png`` and, of a model that can generate, ``generated.png``. ``errors``
    (n) are those of the calibration windows. With ``pictures`` None only the summary is written. Raises `OSError` if
    the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if pictures is not None:
        _save(_loss(history), folder / "loss.png")
        _save(_errors(errors, summary.threshold), folder / "errors.png")
        for name, picture in pictures.items():
            _save(_window(picture, summary.features), folder / f"{name}.png")
        if portrait is not None:
            _save(_model(portrait.layers, portrait.code), folder / "model.png")
            _save(_codes(portrait), folder / "codes.png")
            if len(portrait.generated):
                _save(_generated(portrait, summary.features), folder / "generated.png")
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(_told(summary)), indent=1))
    text = "".join(f"{key:<14}{value}\n" for key, value in summary.table())
    (folder / "summary.txt").write_text(text, encoding="utf-8")


def _told(summary: Summary) -> dict[str, object]:
    return asdict(summary) | {"layers": [layer._asdict() for layer in summary.layers]}


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
        if not np.isnan(picture.expected[:, index]).all():  # models of a residual or a probability expect nothing
            axes.plot(picture.expected[:, index], color="tab:orange", label="expected")
        axes.axvline(picture.worst_step, color="tab:red", linestyle=":")
        axes.set_title(f"{features[index]}: {picture.contributions[index]:.0%} of the error", fontsize="small")
    panels[0].legend(fontsize="small")
    panels[-1].set_xlabel("event of the window")
    figure.suptitle(picture.title)
    return figure


def _codes(portrait: Portrait) -> Figure:
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    x, y = portrait.points.T
    if portrait.shade == "label":
        for label, color, name in ((0, "tab:blue", "normal"), (1, "tab:red", "anomalous")):
            mine = portrait.shades == label
            axes.scatter(x[mine], y[mine], s=12, color=color, alpha=0.6, label=f"{name} ({mine.sum()})")
        axes.legend()
    else:
        order = np.argsort(portrait.shades, kind="stable")  # the highest on top
        most = float(np.quantile(portrait.shades, BEST)) if len(order) else 1.0
        drawn = axes.scatter(x[order], y[order], s=12, c=portrait.shades[order], cmap="viridis", vmin=0, vmax=most)
        figure.colorbar(drawn, ax=axes, label="score", extend="max")
    first, second = (f"{share:.0%} of the variance" for share in portrait.shares)
    axes.set(xlabel=f"first main axis, {first}", ylabel=f"second main axis, {second}")
    axes.set_title(f"Codes of {len(x)} windows: {portrait.width} values each, on two axes", fontsize="medium")
    return figure


def _generated(portrait: Portrait, features: Sequence[str]) -> Figure:
    chosen = np.argsort(-portrait.real.std(axis=(0, 1)), kind="stable")[:FEW]
    figure = Figure(figsize=(9, 1.2 + 1.6 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), 2, sharex=True, sharey="row", squeeze=False)
    marker = "." if portrait.real.shape[1] < 3 else ""  # so short a line would not be seen
    for row, index in zip(panels, chosen, strict=True):
        for axes, windows in zip(row, (portrait.real, portrait.generated), strict=True):
            axes.plot(windows[:, :, index].T, linewidth=1, marker=marker)
        row[0].set_title(features[index], fontsize="small", loc="left")
    for axes, name in zip(panels[-1], ("real", "generated"), strict=True):
        axes.set_xlabel(f"event of the window; {len(portrait.real)} {name} ones")
    figure.suptitle("Windows, and windows decoded from codes drawn like theirs (scaled units)", fontsize="medium")
    return figure


def _model(layers: Sequence[Layer], code: str) -> Figure:
    """The layers as a column of boxes, in the model's order; arcs for what does not go to the next one."""
    places = {layer.name: -at for at, layer in enumerate(layers)}
    figure = Figure(figsize=(8, 1.0 + 0.55 * len(layers)), layout="constrained")
    axes = figure.subplots()
    for layer in layers:
        y = places[layer.name]
        shape = " × ".join("n" if size is None else str(size) for size in layer.shape)
        count = f"{layer.parameters:,}" if layer.parameters else "–"
        edge = {"facecolor": "tab:orange" if layer.name == code else "0.93", "edgecolor": "0.4", "alpha": 0.9}
        axes.text(0, y, f"{layer.name}  ({layer.kind})", ha="center", va="center", bbox=edge, fontsize=9)
        axes.text(1.15, y, shape, ha="center", va="center", fontsize=9)
        axes.text(1.85, y, count, ha="right", va="center", fontsize=9)
        for source in layer.inputs:
            _arrow(axes, places[source], y)
    total = f"{sum(layer.parameters for layer in layers):,}"
    for x, text, side in ((0, "layer", "center"), (1.15, "output", "center"), (1.85, "parameters", "right")):
        axes.text(x, 1, text, ha=side, va="center", fontsize=9, weight="bold")
    axes.text(1.85, -len(layers), f"{total} in all", ha="right", va="center", fontsize=9, weight="bold")
    axes.set(xlim=(-1.3, 2.0), ylim=(-len(layers) - 0.6, 1.6))
    axes.set_axis_off()
    return figure


def _arrow(axes: Axes, start: float, end: float) -> None:
    """Down to the next layer, on the left past others, and back up, dashed, into one that is used again."""
    step = start - end
    if step == 1:
        style = {"arrowstyle": "->", "color": "0.4"}
        axes.annotate("", xy=(0, end + 0.28), xytext=(0, start - 0.28), arrowprops=style)
        return
    style = {"arrowstyle": "->", "color": "0.5", "connectionstyle": f"arc3,rad={0.35 if step > 0 else -0.35}"}
    style |= {} if step > 0 else {"linestyle": "--"}
    axes.annotate("", xy=(-0.5, end), xytext=(-0.5, start), arrowprops=style)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=110, metadata={"Software": None})  # no version in the file: same data, same bytes
