"""One HTML page of `benchmarks.quality`: tables and pictures, with nothing to load from elsewhere."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream_detector.events import Bool, Float64
from training.baselines import Judged

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}p{color:#555}"
)
CURVES = 4  # columns of a stream that are drawn: those that move most


class Picture(NamedTuple):
    """A stream as it was judged."""

    title: str
    values: Float64  # (n, F)
    anomalous: Bool  # (n)
    judged: Judged  # (n)


def write_page(
    path: Path,
    tables: Mapping[str, Sequence[Sequence[str]]],
    *,
    heads: Sequence[str],
    published: Mapping[str, Sequence[str]],
    pictures: Sequence[Picture],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write it; ``tables`` has rows of a detector's name and its figures, by set, and ``about`` how each was run."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Detection quality</title><style>{STYLE}</style>"]
    parts.append("<h1>Detection quality on labelled real streams</h1>")
    for name, lines in tables.items():
        head = "".join(f"<th>{escape(text)}</th>" for text in ("detector", *heads))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
        parts.append(f"<h2>{escape(name)}</h2><p>{escape((about or {}).get(name, ''))}</p>")
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
        parts += [f"<p>published: {escape(line)}</p>" for line in published.get(name, ())]
    parts += [f"<h3>{escape(one.title)}</h3><img alt='' src='{_drawn(one)}'>" for one in pictures]
    path.write_text("\n".join(parts) + "</html>\n", "utf-8")


def _drawn(picture: Picture) -> str:
    os.environ.setdefault("MPLBACKEND", "agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(11, 4), sharex=True, layout="constrained")
    spread = np.maximum(picture.values.std(axis=0), 1e-9)
    moving = np.argsort(-np.ptp(picture.values, axis=0) / spread)[:CURVES]
    scaled = (picture.values[:, moving] - picture.values[:, moving].mean(axis=0)) / spread[moving]
    above.plot(scaled, linewidth=0.6)
    below.plot(np.maximum(picture.judged.score, 1e-3), linewidth=0.6, color="black")
    below.axhline(1, color="tab:red", linewidth=0.8)
    below.set_yscale("log")
    rows = np.arange(len(picture.values))
    for axes in (above, below):
        low, high = axes.get_ylim()
        axes.fill_between(rows, low, high, where=picture.anomalous, color="tab:orange", alpha=0.25, label="labelled")
        axes.fill_between(rows, low, high, where=picture.judged.firing, color="tab:red", alpha=0.15, label="alert")
        axes.set_ylim(low, high)
    above.legend(loc="upper left", fontsize="x-small")
    below.set_ylabel("score")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
