"""The picture of an explanation: what was measured, what was expected, and the scores up to the alert."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stream_detector.errors import DataError
from stream_detector.events import Alert, Float32, Int64
from stream_detector.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 8  # features, those that were blamed most
VALUE, EXPECTED, SCORE, LIMIT = "#1d2430", "#d97706", "#2b5c8a", "#b3261e"


class Drawable(Protocol):
    """What is drawn; see `explain.Explanation`."""

    @property
    def alert(self) -> Alert: ...
    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def times(self) -> Int64: ...
    @property
    def measured(self) -> Float32: ...
    @property
    def values(self) -> Float32: ...
    @property
    def expected(self) -> Float32: ...
    @property
    def worst_step(self) -> int: ...
    @property
    def ends(self) -> Int64: ...
    @property
    def scores(self) -> Float32: ...


def draw_explanation(path: Path, explained: Drawable) -> None:
    """Write a PNG. Raises `DataError` if it cannot be written."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    alert = explained.alert
    shares = np.array([alert.contributions.get(name, 0.0) for name in explained.features])
    chosen = np.argsort(-shares, kind="stable")[:LINES]
    figure = Figure(figsize=(8, 2.6 + 1.3 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen) + 1, 1, squeeze=False, height_ratios=[1.6, *[1] * len(chosen)])[:, 0]
    top = panels[0]
    top.plot(_dates(explained.ends), explained.scores, color=SCORE)
    top.plot(_dates(explained.ends[-1:]), explained.scores[-1:], "o", color=SCORE)
    top.axhline(1, color=LIMIT, linestyle="--", linewidth=1)
    top.set_ylim(bottom=0)
    _title(top, "score of the windows that end there; the last is the alert's, 1 is the threshold")
    times = _dates(explained.times)
    for axes, index in zip(panels[1:], chosen.tolist(), strict=True):
        axes.plot(times, explained.values[:, index], color=VALUE, alpha=0.35, linewidth=1)  # with what was imputed
        axes.plot(times, explained.measured[:, index], color=VALUE, marker=".", markersize=3, label="measured")
        if np.isfinite(explained.expected[:, index]).any():
            axes.plot(times, explained.expected[:, index], color=EXPECTED, label="expected")
        axes.axvline(times[explained.worst_step], color=LIMIT, linestyle=":", linewidth=1)
        _title(axes, f"{_plain(explained.features[index])}: {shares[index]:.0%} of the score")
        axes.sharex(panels[1])
    panels[1].legend(fontsize="small", loc="upper left", frameon=False)
    for axes in panels:
        axes.xaxis.set_major_formatter(ConciseDateFormatter(AutoDateLocator()))  # type: ignore[no-untyped-call] # matplotlib's
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize="small")
    for axes in panels[1:-1]:  # they share the last one's
        axes.tick_params(labelbottom=False)
        axes.xaxis.get_offset_text().set_visible(False)
    figure.suptitle(_plain(alert.summary), fontsize="medium")
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", dpi=110)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give --out a folder to write to") from error


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize="small", loc="left")


def _plain(text: str) -> str:
    """A text from outside; matplotlib takes dollar signs for formulas."""
    return visible(text if len(text) <= 120 else f"{text[:120]}…").replace("$", r"\$")


def _dates(times: Int64) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return np.asarray(times, "datetime64[ms]")
