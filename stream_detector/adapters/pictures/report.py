"""``report.html`` of a replay: one static page, offline and without JavaScript.

Sensor ids and feature names come from outside and may be hostile: all text is escaped, pictures are embedded
as images (in which nothing runs), and the page forbids scripts to itself.
"""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from stream_detector.adapters.pictures.recorder import ALERTS, SENSORS, Recorder
from stream_detector.errors import DataError
from stream_detector.events import Alert
from stream_detector.text import visible
from stream_detector.timestamps import parse, rfc3339

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = 24
LINES = 8  # features in one picture
FLOOR = 0.01  # scores below are drawn as this, on a logarithmic axis
FRACTIONS = re.compile(rb"([ML] -?\d+\.\d\d)\d*( -?\d+\.\d\d)\d*")  # of a line's points: nobody sees them
FONT, LETTERS = "DejaVu Sans", 8.5  # points high
ABOVE, BELOW, BETWEEN, BEFORE, AFTER, NUMBERS = 0.17, 0.42, 0.17, 0.08, 0.2, 0.7  # inches around what is drawn
SPAN, LINE, SCORE, LIMIT = "#d64545", "#2b5c8a", "#3b3f46", "#b3261e"


def write_report(path: str | Path, recorder: Recorder, *, pictures: int = PICTURES) -> None:
    """Write the page, replacing an older one whole. Raises `DataError` if the file cannot be written."""
    order = _order(recorder)
    drawn = order[:pictures]
    page = PAGE.substitute(
        about=_about(recorder),
        tiles="".join(_tile(*tile) for tile in _tiles(recorder)),
        rejects=_rejects(recorder),
        alerts=_alerts(recorder, {sensor: place for place, sensor in enumerate(drawn)}),
        note=_note(recorder, len(drawn), len(order)),
        sensors="".join(_section(recorder, place, sensor) for place, sensor in enumerate(drawn)),
    )
    target = Path(path)
    temporary = target.with_name(f".{target.name}.new")
    try:
        temporary.write_text(page, "utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target}: {error.strerror or error}; give a folder to write to") from error


def _order(recorder: Recorder) -> list[str]:
    """Sensors with alerts first, the most first; then by peak score."""
    alerts = Counter(alert.sensor_id for alert in recorder.alerts.values())
    return sorted(recorder.values, key=lambda sensor: (-alerts[sensor], -recorder.peaks.get(sensor, 0.0), sensor))


def _draw(recorder: Recorder, sensor: str) -> bytes:
    """The picture of one sensor, as SVG: its features one below the other, and its score."""
    import matplotlib as mpl  # half a second that only a report should pay
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    shown = _blamed(recorder, sensor)
    times, low, high = recorder.values[sensor].lines()
    style: dict[Any, Any] = {
        "font.size": LETTERS,
        "font.family": FONT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#c3c8cf",
        "axes.labelcolor": "#3b3f46",
        "xtick.color": "#6b7280",
        "ytick.color": "#6b7280",
        "svg.hashsalt": "stream-detector",  # the same picture for the same data
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a feature's name may be in a script that the font lacks
        names = [_plain(feature) for feature in shown]
        figure, axes, labels = _panels([*names, "scores"])  # as wide as the bold word
        for axis, feature, name in zip(axes, shown, names, strict=False):
            column, clock = recorder.features.index(feature), times.astype("datetime64[ms]")
            axis.fill_between(clock, low[:, column], high[:, column], color=LINE, alpha=0.35, linewidth=0)
            axis.plot(clock, (low[:, column] + high[:, column]) / 2, color=LINE, linewidth=0.9)
            axis.set_ylabel(name, rotation=0, ha="right", va="center", parse_math=False)
            axis.locator_params(axis="y", nbins=3)
            axis.margins(x=0.01, y=0.12)
        bottom = axes[-1]
        if sensor in recorder.scores:
            ends, _, peaks = recorder.scores[sensor].lines()
            clock, score = ends.astype("datetime64[ms]"), np.clip(np.nan_to_num(peaks[:, 0]), FLOOR, None)
            bottom.plot(clock, score, color=SCORE, linewidth=0.9)
            bottom.fill_between(clock, 1, score, where=score >= 1, color=SPAN, alpha=0.5, linewidth=0, interpolate=True)
        bottom.axhline(1, color=LIMIT, linewidth=0.9, linestyle=(0, (4, 3)))
        bottom.set_yscale("log")
        bottom.set_ylim(bottom=min(0.1, *bottom.get_ylim()), top=max(2.0, bottom.get_ylim()[1]))
        bottom.set_ylabel("score", rotation=0, ha="right", va="center", fontweight="bold")
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.yaxis.set_minor_formatter("")
        for alert in recorder.alerts.values():
            if alert.sensor_id == sensor:
                start, end = np.array(_ends(recorder, alert), "datetime64[ms]")
                for axis in axes:
                    axis.axvspan(start, end, color=SPAN, alpha=0.13, linewidth=0)
        if len(np.unique(times)) == 1:  # an axis needs a width
            bottom.set_xlim(*(times[0] + np.array([-60_000, 60_000])).astype("datetime64[ms]"))
        locator = AutoDateLocator(maxticks=9)  # type: ignore[no-untyped-call] # matplotlib is half typed
        bottom.xaxis.set_major_locator(locator)
        bottom.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call] # likewise
        for axis in axes:
            axis.grid(axis="x", color="#e8eaee", linewidth=0.7)
            axis.set_axisbelow(True)
            axis.tick_params(length=2.5)
            axis.yaxis.set_label_coords(labels, 0.5)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return FRACTIONS.sub(rb"\1\2", written.getvalue())


def _panels(names: Sequence[str]) -> tuple[Figure, Any, float]:
    """A figure, its axes one below the other, the last one higher, and where their ``names`` end, in their widths.

    Placed here, since matplotlib's own layouts draw all axes several times more.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font, rows = FontProperties(family=FONT, size=LETTERS), len(names)
    lengths = [text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] for name in names]
    width, height = 9, 0.5 + 0.8 * rows
    left, right = (max(lengths) / 72 + NUMBERS + BEFORE) / width, 1 - AFTER / width
    top, bottom = 1 - ABOVE / height, BELOW / height
    between = BETWEEN * rows / (height - ABOVE - BELOW - BETWEEN * (rows - 1))
    place = {"left": left, "right": right, "top": top, "bottom": bottom, "hspace": between}
    figure, heights = Figure(figsize=(width, height)), [*[1] * (rows - 1), 1.6]
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights, gridspec_kw=place)[:, 0]
    return figure, axes, -NUMBERS / ((right - left) * width)


def _ends(recorder: Recorder, alert: Alert) -> tuple[int, int]:
    """When an alert began and ended, epoch ms; one that is still firing ends with the data."""
    start = parse(alert.started_at, UTC)
    end = parse(alert.ended_at, UTC) if alert.ended_at else (recorder.span or (start, start))[1]
    return start, max(start, end)


def _blamed(recorder: Recorder, sensor: str) -> list[str]:
    """Which features to draw, in their order: all, or those that contributed most."""
    features = recorder.features
    if len(features) <= LINES:
        return list(features)
    blame = recorder.blame.get(sensor, np.zeros(len(features)))
    return [features[place] for place in sorted(np.argsort(-blame, kind="stable")[:LINES].tolist())]


def _plain(name: str) -> str:
    """A name fit for a label: short, and without what no font has."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= 22 else f"{shown[:21]}…"


def _visible(text: str) -> str:
    """Text escaped for HTML, with control characters and the like made visible."""
    return escape(visible(text))


def _when(text: str) -> str:
    return escape(text[:19].replace("T", " "))


def _tiles(recorder: Recorder) -> list[tuple[str, str]]:
    counts, rejected = recorder.counts, sum(recorder.rejects.values())
    return [
        ("sensors", f"{len(recorder.values):,}{'+' if len(recorder.values) >= SENSORS else ''}"),
        ("events", f"{counts['events']:,}"),
        ("rejected", f"{rejected:,}"),
        ("windows", f"{counts['windows']:,}"),
        ("anomalous", f"{100 * counts['anomalous'] / max(1, counts['windows']):.1f} %"),
        ("alerts", f"{counts['alerts']:,}"),
    ]


def _tile(name: str, number: str) -> str:
    return f"<div><b>{number}</b><span>{name}</span></div>"


def _about(recorder: Recorder) -> str:
    if recorder.span is None:
        return "No events were read."
    start, end = (_when(rfc3339(moment)) for moment in recorder.span)
    model = f" · model {_visible(', '.join(sorted(recorder.models)))}" if recorder.models else ""
    return f"{start} to {end} UTC{model}"


def _rejects(recorder: Recorder) -> str:
    if not recorder.rejects:
        return ""
    reasons = ", ".join(f"{escape(reason)} {count:,}" for reason, count in recorder.rejects.most_common())
    return f'<p class="note">Rejected: {reasons}. Each is in dead-letters.jsonl with its reason.</p>'


def _alerts(recorder: Recorder, places: dict[str, int]) -> str:
    if not recorder.alerts:
        return '<p class="note">None.</p>'
    rows = [_row(alert, places.get(alert.sensor_id)) for alert in list(recorder.alerts.values())[:ALERTS]]
    left = recorder.counts["alerts"] - len(rows)
    more = f'<p class="note">{left:,} more are in alerts.jsonl.</p>' if left > 0 else ""
    heads = ("sensor", "severity", "began (UTC)", "ended", "peak score", "what")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>{more}'


def _row(alert: Alert, place: int | None) -> str:
    sensor = _visible(alert.sensor_id)
    linked = sensor if place is None else f'<a href="#sensor-{place}">{sensor}</a>'
    ended = _when(alert.ended_at) if alert.ended_at else "<i>still firing</i>"
    main = sorted(alert.contributions.items(), key=lambda pair: -pair[1])[:2]
    shares = ", ".join(f"{_visible(name)} {share:.0%}" for name, share in main)
    kind = "" if alert.kind == "anomaly" else f"{escape(alert.kind)}: "
    cells = (
        linked,
        f'<em class="{escape(alert.severity)}">{escape(alert.severity)}</em>',
        _when(alert.started_at),
        ended,
        f"{alert.peak_score:,.2f}",
        f"{kind}{_visible(alert.summary)}<small>{shares}</small>",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _note(recorder: Recorder, drawn: int, known: int) -> str:
    if known <= drawn:
        return ""
    seen = f"more than {SENSORS:,}" if known >= SENSORS else f"{known:,}"
    text = f"{drawn} of {seen} sensors are drawn: those with alerts first, then by peak score."
    return f'<p class="note">{text}</p>'


def _section(recorder: Recorder, place: int, sensor: str) -> str:
    picture = base64.b64encode(_draw(recorder, sensor)).decode()
    alerts = sum(alert.sensor_id == sensor for alert in recorder.alerts.values())
    about = f"peak score {recorder.peaks[sensor]:,.2f}" if sensor in recorder.peaks else "no window was full"
    about += f" · {alerts} alert{'' if alerts == 1 else 's'}" if alerts else ""
    if len(recorder.features) > LINES:
        about += f" · {LINES} of {len(recorder.features)} features: those that contributed most"
    name = _visible(sensor)
    return (
        f'<section id="sensor-{place}"><h3>{name}</h3><p class="note">{about}</p><div class="wide">'
        f'<img src="data:image/svg+xml;base64,{picture}" alt="values and score of {name}" loading="lazy">'
        "</div></section>"
    )


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Replay report · stream-detector</title>
<style>
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #f5f6f8; color: #1f2430; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.01em }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere }
.note { color: #5b6270; margin: .2rem 0 .6rem; font-size: .88rem; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)) }
.tiles { gap: .6rem; margin: 1.2rem 0 .8rem }
.tiles div, section, .wide:has(table) { background: #fff; border: 1px solid #e3e6eb; border-radius: 10px }
.tiles div { padding: .7rem .9rem }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; line-height: 1.2 }
.tiles span { color: #5b6270; font-size: .82rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
th, td { text-align: left; padding: .5rem .8rem; border-bottom: 1px solid #eef0f3; vertical-align: top }
th { color: #5b6270; font-weight: 600; white-space: nowrap }
tr:last-child td { border-bottom: 0 }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; min-width: 6rem }
td:nth-child(5), th:nth-child(5) { text-align: right }
td:last-child { min-width: 16rem }
td small { display: block; color: #5b6270 }
a { color: #2b5c8a }
em { font-style: normal; font-weight: 600; padding: .05rem .5rem; border-radius: 99px; font-size: .8rem }
.minor { background: #fff3cd; color: #7a5b00 } .major { background: #ffe0cc; color: #8a3c00 }
.critical { background: #fbd5d5; color: #8f1d1d }
section { padding: .9rem 1rem .6rem; margin: .9rem 0 }
img { display: block; width: 100%; min-width: 620px; height: auto }
</style></head>
<body><main>
<h1>Replay report</h1>
<p class="note">$about</p>
<div class="tiles">$tiles</div>
$rejects
<h2>Alerts</h2>
$alerts
<h2>Sensors</h2>
<p class="note">Lines are values (a band where several share a point); the lowest is the score, anomalous from 1
(dashed) on; shaded spans are alerts.</p>
$note
$sensors
</main></body></html>
""")
