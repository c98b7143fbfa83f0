"""The demo: a small plant with faults, simulated, learnt, streamed, and what was found held against what was planted.

Training sees normal operation only, and nothing that judges sees the planted faults: they meet the alerts in the final
table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stream_detector.adapters.files.source import FileSource
from stream_detector.adapters.pictures.recorder import Recorder
from stream_detector.app import replay
from stream_detector.bundle import load_bundle
from stream_detector.codec import Decoder
from stream_detector.events import Alert
from stream_detector.pages import Showing
from stream_detector.settings import Columns, EventRules, Settings
from stream_detector.timestamps import parse, rfc3339
from training.data import read_to_end
from training.plant import FEATURES, UNITS, Fault, write_plant
from training.progress import shown
from training.train import TrainOptions, train

WINDOW, STRIDE, HOUR = 32, 4, 3_600_000


def demo(
    out: Path,
    seed: int,
    console: Console,
    heard: Callable[[Alert], None],
    opened: Callable[[str], None],
    *,
    stay: bool = False,
) -> None:
    """Run it all; data, bundle, results and ``report.html`` go to ``out``.

    The live page is open while events stream, and then, to ``stay``, until a signal comes.
    """
    console.rule("1  A small plant: six pumps, ten days of normal operation, then two days with faults")
    plant = write_plant(out / "data", train_days=10, seed=seed)
    console.print(f"wrote {plant.train} and {plant.stream}")

    console.rule("2  Learn what is normal")
    source = FileSource([plant.train], Decoder(FEATURES, Columns(), EventRules()))
    options = TrainOptions(length=WINDOW, stride=STRIDE, epochs=12, seed=seed)
    with shown() as progress:
        summary = train(read_to_end(source), FEATURES, options, out / "bundle", progress, units=UNITS)
    table = Table(show_header=False, box=None)
    for name, text in summary.table():
        table.add_row(name, text)
    console.print(table)

    console.rule("3  Stream the two days with faults; alerts as they come")
    alerts: list[Alert] = []

    def hear(alert: Alert) -> None:
        alerts.append(alert)
        heard(alert)

    def tell(recorder: Recorder) -> None:
        console.rule("4  Planted and found")
        hours = 0 if recorder.span is None else (recorder.span[1] - recorder.span[0]) / HOUR
        console.print(verdict(plant.faults, alerts, len(recorder.values) * hours / 24))
        console.print(f"pictures of every pump: {out / 'report.html'}")
        if stay:
            console.print("the live page stays; Ctrl-C ends it")

    settings = Settings()
    showing = Showing(settings.page, opened, stay, anywhere=True)
    replay([plant.stream], load_bundle(out / "bundle"), settings, out, heard=hear, done=tell, showing=showing)


def verdict(faults: Sequence[Fault], alerts: Sequence[Alert], sensor_days: float) -> Table:
    """Each planted fault with the first alert that began in it or was open when it began; then the false alarms.

    An alert that began within an hour after a fault is its aftermath, neither found nor false.
    """
    spans = _spans(alerts)
    table = Table("pump", "fault", "begins", "lasts", "found after", "blamed")
    claimed: set[str] = set()
    for fault in sorted(faults, key=lambda fault: fault.start):
        touching = [
            (max(start, fault.start), alert)
            for start, end, alert in spans
            if alert.sensor_id == fault.sensor and start <= fault.end + HOUR and end >= fault.start
        ]
        claimed.update(alert.id for _, alert in touching)
        within = [(start, alert) for start, alert in touching if start <= fault.end]
        first = min(within, key=lambda pair: pair[0], default=None)
        blamed = "" if first is None else max(first[1].contributions.items(), key=lambda item: item[1])[0]
        table.add_row(
            fault.sensor,
            fault.kind,
            _clock(fault.start),
            f"{(fault.end - fault.start) / HOUR:.1f} h",
            "[red]not found[/]" if first is None else f"[green]{(first[0] - fault.start) / HOUR:.1f} h[/]",
            blamed,
        )
    false = len({alert.id for _, _, alert in spans} - claimed)
    table.caption = f"{false} false alarms in {sensor_days:.0f} sensor days"
    return table


def _spans(alerts: Sequence[Alert]) -> list[tuple[int, int, Alert]]:
    """Start, end and first record of each alert; one that never ended goes on for ever."""
    first: dict[str, Alert] = {}
    ends: dict[str, int] = {}
    for alert in alerts:
        first.setdefault(alert.id, alert)
        if alert.ended_at is not None:
            ends[alert.id] = parse(alert.ended_at, UTC)
    return [(parse(alert.started_at, UTC), ends.get(id_, 2**62), alert) for id_, alert in first.items()]


def _clock(ms: int) -> str:
    return rfc3339(ms)[5:16].replace("T", " ")
