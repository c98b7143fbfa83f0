"""A small picture of an alert, drawn from its record alone: what was observed, what was expected, how high the score.

The record holds one step of the window, the worst, so this is no curve over time.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from stream_detector.events import Alert
from stream_detector.text import visible
from stream_detector.webhooks.bodies import guiltiest

FEATURES = 6  # the guiltiest; more would not be legible
COLOURS = 16  # of the palette: small files
DOTS = 72  # an inch
_drawing = threading.Lock()  # matplotlib keeps fonts and texts in caches that are not made for threads


def draw(alert: Alert) -> bytes:
    """A PNG of some kilobytes."""
    # Here: it takes half a second, which most targets need not spend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _drawing:
        figure = Figure(figsize=(5.2, 2.6), dpi=DOTS, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        values, score = figure.subplots(1, 2, width_ratios=(3, 1))
        _values(values, alert)
        _score(score, alert)
        figure.suptitle(_short(alert.sensor_id, 40), fontsize=9, parse_math=False)
        canvas.draw()  # type: ignore[no-untyped-call]
        return _small(canvas.buffer_rgba())  # type: ignore[no-untyped-call]


def _values(axes: Any, alert: Alert) -> None:
    """Each feature on a scale of its own: how far it is from what was expected, as a share of the larger of both."""
    names = [name for name in guiltiest(alert, FEATURES) if name in alert.observed]
    for place, name in enumerate(names):
        observed, expected = alert.observed[name], alert.expected.get(name)
        scale = max(abs(observed), abs(expected or 0.0)) or 1.0
        axes.barh([place], [observed / scale], height=0.7, color="#d98a8d")
        told = f"{observed:.4g}"
        if expected is not None:
            axes.plot([expected / scale] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
            told += f" where {expected:.4g} was expected"
        axes.text(0, place, f" {told}", fontsize=7, va="center", ha="left", parse_math=False)
    shares = [f"{alert.contributions[name]:.0%}" if name in alert.contributions else "" for name in names]
    axes.set_yticks(
        range(len(names)), [f"{_short(name, 18)} {share}" for name, share in zip(names, shares, strict=True)]
    )
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)


def _score(axes: Any, alert: Alert) -> None:
    axes.bar([0], [alert.score], width=0.5, color="#c44e52" if alert.score >= 1 else "#55a868")
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks([])
    axes.set_xlim(-0.6, 0.6)
    axes.set_title(f"score {alert.score:.3g}", fontsize=7)
    axes.tick_params(labelsize=7)


def _small(pixels: Any) -> bytes:
    """A palette takes a fifth of what true colours do."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.asarray(pixels)[..., :3]).quantize(COLOURS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _short(text: str, most: int) -> str:
    text = visible(text)
    return text if len(text) <= most else text[: most - 1] + "…"
