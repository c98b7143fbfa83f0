"""Detection quality of a bundle on files: what the service says of them against labels, next to simple baselines.

The service's own replay judges the data; the baselines see the same rows and are held to the same budget and policy.
Labels meet alerts in the metrics alone. Without labels it is a back-test: alerts over history against the budget.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path
from string import Template
from typing import Literal

import msgspec
import numpy as np
from rich.box import SIMPLE
from rich.markup import escape as plain
from rich.table import Table

from stream_detector.app import replay
from stream_detector.bundle import Bundle
from stream_detector.configured import fitted
from stream_detector.errors import DataError
from stream_detector.events import Bool, Float64
from stream_detector.settings import Settings
from stream_detector.text import visible
from stream_detector.timestamps import parse
from training.baselines import History, Judged, available, judge
from training.labels import Labels, Per, Stream, read_labelled, read_streams
from training.metrics import average_precision, events, rows, spans_of, vus_pr

LEAST = 0.01  # false alarms a sensor and day that baselines are held to, at least
LARGEST_BUFFER = 256  # rows; the time that VUS-PR takes grows with it
NOT_TRAINED = "the baselines are left out: give --train DATA, normal operation for them to learn from"


@dataclass(frozen=True, slots=True)
class Source:
    """Files to judge, and how to read them."""

    paths: Sequence[str]
    names: Sequence[str] | None = None  # of columns, for files without a header
    period: int | None = None  # ms between rows, for files without timestamps


class Line(msgspec.Struct, frozen=True):
    """One detector's figures; NaN (``null`` in the file) where there is nothing to tell from."""

    name: str
    alerts: int
    alerts_per_day: float  # per sensor
    false_alarms_per_day: float = math.nan  # per sensor and day of normal operation; alerts on no anomalous row
    precision: float = math.nan  # of rows under alert, or of sensors with an alert
    recall: float = math.nan
    f1: float = math.nan
    far: float = math.nan  # percent of normal rows (or sensors) under alert
    event_precision: float = math.nan
    event_recall: float = math.nan
    event_f1: float = math.nan
    delay_rows: float = math.nan  # median, from a segment's first row to the first under alert in it
    pr_auc: float = math.nan
    vus_pr: float = math.nan


class Evaluation(msgspec.Struct, frozen=True):
    """What ``evaluation.json`` holds."""

    model: str
    labels_per: Literal["row", "sensor", "none"]
    sensors: int
    rows: int
    sensor_days: float
    anomalous: int  # rows, or sensors
    segments: int
    budget_per_day: float  # false alarms per sensor that were asked for, or that the bundle expects
    lines: tuple[Line, ...]  # of the bundle first
    notes: tuple[str, ...]


class _Scored(msgspec.Struct):
    """What is read of a record of ``scores.jsonl``."""

    sensor_id: str
    window_end: str
    score: float
    state: str


def evaluate(
    source: Source,
    bundle: Bundle,
    settings: Settings,
    *,
    labels: str | None = None,
    per: Per = "auto",
    train: Sequence[str] = (),
    out: Path | None = None,
) -> Evaluation:
    """Judge the files, compare with the labels, write ``evaluation.json`` and ``evaluation.html`` to ``out`` if given.

    The replay's own results go there too. See `labels.read_labelled` for ``labels`` and ``per``; ``train`` are files of
    normal operation for the baselines. Raises `DataError` where files or labels do not fit.
    """
    manifest = bundle.manifest
    files = (source.paths, manifest.features, settings)
    found = read_labelled(*files, labels, per, names=source.names, period=source.period)
    with tempfile.TemporaryDirectory() as folder:
        work = out or Path(folder)
        judged = {f"{manifest.name} ({manifest.kind})": _replayed(source, bundle, settings, found, work)}
    notes = _notes(found)
    if train:
        learnt = read_streams(train, manifest.features, settings, names=source.names, period=source.period)
        usable, missing = available()
        notes += missing
        for baseline in usable:
            judged[baseline.name] = judge(
                baseline.fit,
                _histories(learnt),
                _histories(found.streams),
                budget=_budget(bundle, settings),
                policy=settings.alerts,
            )
    else:
        notes.append(NOT_TRAINED)
    buffer = min(manifest.length, LARGEST_BUFFER)
    streams = found.streams
    anomalous = [bool(stream.truth.any()) for stream in streams.values()]
    evaluation = Evaluation(
        f"{manifest.name} {manifest.version}",
        found.per,
        len(streams),
        sum(len(stream.times) for stream in streams.values()),
        sum(_days(stream) for stream in streams.values()),
        sum(anomalous) if found.per == "sensor" else sum(int(stream.truth.sum()) for stream in streams.values()),
        sum(len(spans_of(stream.truth)) for stream in streams.values()) if found.per == "row" else 0,
        _asked(bundle, settings) or manifest.expected_alerts_per_day,
        tuple(measure(name, streams, said, found.per, buffer) for name, said in judged.items()),
        tuple(notes),
    )
    if out is not None:
        _write(evaluation, out)
    return evaluation


def measure(
    name: str,
    streams: Mapping[str, Stream],
    said: Mapping[str, Judged],
    per: Literal["row", "sensor", "none"],
    buffer: int,
) -> Line:
    """One detector's figures: ``said`` of each stream, row by row; ``buffer`` in rows is that of VUS-PR."""
    pairs = [(stream, said[sensor]) for sensor, stream in streams.items()]
    truth = [stream.truth for stream, _ in pairs]
    alarms = [spans_of(judged.firing) for _, judged in pairs]
    count, days = sum(map(len, alarms)), sum(_days(stream) for stream, _ in pairs)
    if per == "none":
        return Line(name, count, count / days)
    false = sum(
        not stream.truth[a : b + 1].any() for (stream, _), spans in zip(pairs, alarms, strict=True) for a, b in spans
    )
    normal = sum(_days(stream) * float((~stream.truth).mean()) for stream, _ in pairs)
    told = (name, count, count / days, false / normal if normal else math.nan)
    if per == "sensor":
        sick = np.array([flags.any() for flags in truth])
        by_row = rows([np.array([judged.firing.any() for _, judged in pairs])], [sick])
        return Line(*told, *by_row[:4], pr_auc=average_precision([np.array([j.score.max() for _, j in pairs])], [sick]))
    by_row = rows([judged.firing for _, judged in pairs], truth)
    by_event = events([judged.firing for _, judged in pairs], truth)
    scores = [judged.score for _, judged in pairs]
    return Line(
        *told,
        *by_row[:4],
        event_precision=by_event.precision,
        event_recall=by_event.recall,
        event_f1=by_event.f1,
        delay_rows=by_event.delay,
        pr_auc=average_precision(scores, truth),
        vus_pr=vus_pr(scores, truth, buffer),
    )


def table(evaluation: Evaluation) -> Table:
    """The figures, a line a detector."""
    heads, lines = cells(evaluation)
    shown = Table(box=SIMPLE, padding=0, show_edge=False)
    for place, head in enumerate(heads):
        shown.add_column(head, justify="right" if place else "left", min_width=5 if place else 16)
    for line in lines:
        shown.add_row(*(plain(visible(cell)) for cell in line))
    return shown


def about(evaluation: Evaluation) -> str:
    """One line on the data and the budget."""
    what = {
        "row": f"{evaluation.anomalous:,} of {evaluation.rows:,} rows anomalous in {evaluation.segments:,} segments",
        "sensor": f"{evaluation.anomalous:,} of {evaluation.sensors:,} sensors anomalous",
        "none": f"no labels, {evaluation.rows:,} rows",
    }[evaluation.labels_per]
    return (
        f"{evaluation.model}: {what}, {evaluation.sensors:,} sensors, {evaluation.sensor_days:,.1f} sensor days; "
        f"budget {evaluation.budget_per_day:.3g} false alarms per sensor and day"
    )


def cells(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table, as text."""
    picked: dict[str, list[tuple[str, str, str]]] = {
        "none": [("alerts", "alerts", ",.0f"), ("alerts a day", "alerts_per_day", ".3f")],
        "sensor": [
            ("F1", "f1", ".3f"),
            ("prec.", "precision", ".3f"),
            ("recall", "recall", ".3f"),
            ("alerts a day", "alerts_per_day", ".3f"),
            ("false a day", "false_alarms_per_day", ".3f"),
            ("PR-AUC", "pr_auc", ".3f"),
        ],
        "row": [
            ("F1", "f1", ".3f"),
            ("prec.", "precision", ".3f"),
            ("recall", "recall", ".3f"),
            ("FAR %", "far", ".2f"),
            ("event F1", "event_f1", ".3f"),
            ("false a day", "false_alarms_per_day", ".3f"),
            ("delay, rows", "delay_rows", ",.0f"),
            ("PR-AUC", "pr_auc", ".3f"),
            ("VUS-PR", "vus_pr", ".3f"),
        ],
    }
    columns = picked[evaluation.labels_per]
    lines = [
        [line.name, *(_text(getattr(line, field), form) for _, field, form in columns)] for line in evaluation.lines
    ]
    return ["detector", *(head for head, _, _ in columns)], lines


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _replayed(source: Source, bundle: Bundle, settings: Settings, found: Labels, work: Path) -> dict[str, Judged]:
    """What the service says: each row has score and state of the last window that ended by it."""
    columns = settings.columns.model_copy(update={"label": found.column or settings.columns.label})
    publish = settings.publish.model_copy(update={"scores": "all"})
    told = settings.model_copy(update={"columns": columns, "publish": publish})
    replay(source.paths, bundle, told, work, names=source.names, period=source.period)
    ends: dict[str, list[tuple[int, float, bool]]] = {}
    decoder = msgspec.json.Decoder(_Scored)
    with (work / "scores.jsonl").open("rb") as lines:
        for line in lines:
            record = decoder.decode(line)
            one = parse(record.window_end, UTC), record.score, record.state == "firing"
            ends.setdefault(record.sensor_id, []).append(one)
    if not ends:
        least = bundle.manifest.length
        raise DataError(f"no sensor has the {least} events without a gap that a window needs; give more data")
    return {sensor: _spread(ends.get(sensor, []), stream) for sensor, stream in found.streams.items()}


def _spread(ends: list[tuple[int, float, bool]], stream: Stream) -> Judged:
    """Windows, by their ends, as rows: before the first, the score is 0."""
    if not ends:
        return Judged(np.zeros(len(stream.times)), np.zeros(len(stream.times), bool))
    ends = sorted(ends, key=lambda end: end[0])  # stable: of several with one time the last counts
    times, score, state = (np.array(column) for column in zip(*ends, strict=True))
    last = np.searchsorted(times, stream.times, side="right") - 1
    seen: Bool = last >= 0
    spread: Float64 = np.where(seen, score[np.maximum(last, 0)], 0.0)
    return Judged(spread, seen & state[np.maximum(last, 0)])


def _histories(streams: Mapping[str, Stream]) -> dict[str, History]:
    return {sensor: History(stream.values, stream.times) for sensor, stream in streams.items()}


def _days(stream: Stream) -> float:
    return History(stream.values, stream.times).days


def _asked(bundle: Bundle, settings: Settings) -> float:
    """False alarms per sensor and day that thresholds fall to spend; 0 where nobody asked."""
    asked = fitted(settings, bundle.manifest).alerts.budget
    return asked if isinstance(asked, float) else 0.0


def _budget(bundle: Bundle, settings: Settings) -> float:
    """Those that were asked for, or are expected where thresholds were set otherwise."""
    if asked := _asked(bundle, settings):
        return asked
    if bundle.thresholds.method == "evt" and bundle.errors.novelty is None:  # whose thresholds are in no table
        return sum(part.parameter for part in (bundle.thresholds, *bundle.thresholds.partners.values()))
    return max(bundle.manifest.expected_alerts_per_day, LEAST)


def _notes(found: Labels) -> list[str]:
    total = sum(len(stream.times) for stream in found.streams.values())
    notes = []
    if found.per != "none" and found.labelled < total:
        notes.append(f"{total - found.labelled:,} of {total:,} rows have no label and count as normal")
    if found.per != "none" and not any(stream.truth.any() for stream in found.streams.values()):
        notes.append("no row is labelled as anomalous: recall and areas cannot be told")
    return notes


def _write(evaluation: Evaluation, out: Path) -> None:
    heads, lines = cells(evaluation)
    body = "".join(f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in line)}</tr>" for line in lines)
    page = PAGE.substitute(
        about=_html(about(evaluation)),
        head="".join(f"<th>{_html(head)}</th>" for head in heads),
        lines=body,
        notes="".join(f"<p>{_html(note)}</p>" for note in evaluation.notes),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_bytes(msgspec.json.format(msgspec.json.encode(evaluation)) + b"\n")
        (out / "evaluation.html").write_text(page, "utf-8")
    except OSError as error:
        raise DataError(f"{out}: {error.strerror or error}; give a folder to write to") from error


def _html(text: str) -> str:
    return escape(visible(text))


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation · stream-detector</title>
<style>
:root { color-scheme: light }
body { margin: 0; background: #f5f6f8; color: #1f2430; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.01em }
p { color: #5b6270; margin: .4rem 0; font-size: .88rem; overflow-wrap: anywhere }
.wide { overflow-x: auto; background: #fff; border: 1px solid #e3e6eb; border-radius: 10px; margin: 1rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
th, td { text-align: right; padding: .5rem .8rem; border-bottom: 1px solid #eef0f3 }
th { color: #5b6270; font-weight: 600 }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
tr:last-child td { border-bottom: 0 }
td { font-variant-numeric: tabular-nums }
</style></head>
<body><main>
<h1>Evaluation</h1>
<p>$about</p>
<div class="wide"><table><tr>$head</tr>$lines</table></div>
$notes
<p>Rows (or sensors) under alert count as flagged. Alerts, and false ones, are per sensor and day. An event is a
labelled segment; alert rows at most ten apart are one alarm, and one that touches no segment counts once for each sixty
rows. The baselines have thresholds from the same budget and the same alert policy. What the service published is in
report.html beside this file.</p>
</main></body></html>
""")
