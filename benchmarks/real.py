"""Detection quality of the whole service on real data: ``python -m benchmarks.real --data FOLDER`` (`make real`).

The Skoltech Anomaly Benchmark: 15 runs of a water-circulation testbed are 15 sensors. ``stream-detector train`` learns
from the first 400 rows of each and from the clean run; the other rows go through a real Kafka broker, ``stream-detector
run`` and a real Redis. Then: did each row from the first full window on get exactly one score, and how good are the
alerts, next to what is published. Labels are used for that comparison alone, and nothing here is tuned on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaProducer
from rich.console import Console
from rich.table import Table

from benchmarks.service import Service, read_committed, run_command
from benchmarks.sets import TRAINING_ROWS, Outliers, Run, outliers, read_runs
from stream_detector.errors import DataError
from stream_detector.events import Bool
from tests.servers import KafkaBroker, RedisServer

WINDOW = 10  # rows; of the LSTM autoencoder that is published with the set, and what we compare with
GROUP = "skab"
TOPICS = {name: f"skab-{name}" for name in ("events", "scores", "alerts", "dead_letters")}
PARTITIONS = 4
RULES = {
    # The runs are of days up to a month apart, and come all at once: by the default of 7 days, the sensors of the
    # earliest would be forgotten as soon as one of the latest is heard on the same partition.
    "window": {"ttl": "365d", "max_gap": "off"},  # a score for each row, also where some are missing
}
SERVICE_SECONDS = 300.0
STOPPED = 143  # exit code after a SIGTERM that was handled cleanly
PUBLISHED = "LSTM-AE, published (34 runs, looks 8 rows ahead)", Outliers(0.74, 29.96, 25.92)
console = Console(width=None if sys.stdout.isatty() else 130)


@dataclass(frozen=True, slots=True)
class Stream:
    """The rows of a run that are scored, ``n`` of them, and what came of each."""

    run: Run
    sent: list[tuple[int, int]]  # (n) partition and offset
    windows: list[int]  # (n) scores that name the row as their last
    firing: Bool  # (n) the sensor's state at the row's window
    above: Bool  # (n) whether its score is 1 or more

    @property
    def stamps(self) -> list[str]:
        return self.run.stamps[TRAINING_ROWS:]

    @property
    def anomalous(self) -> Bool:
        assert self.run.anomalous is not None
        return self.run.anomalous[TRAINING_ROWS:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 if the service did not do what it must, 2 if the data are not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=str(__doc__).partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the SKAB set, or what holds it")
    folder: Path = parser.parse_args(arguments).data
    try:
        runs, clean = read_runs(folder)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        try:
            streams, alerts, letters, code = measure(Path(work), runs, clean)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    problems = check(streams, letters, code)
    report(streams, alerts)
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    if not problems:
        rows = sum(len(stream.sent) for stream in streams)
        print(f"{rows} rows in, exactly one score for each from row {WINDOW} of its run on, exit code {code}")
    return int(bool(problems))


def measure(work: Path, runs: list[Run], clean: list[Run]) -> tuple[list[Stream], list[Any], int, int]:
    """What came of each run, the alert records, the number of dead letters, and the service's exit code."""
    bundle = work / "bundle"
    files = write_training_files(work, runs, clean)
    run_command("train", *files, "--out", str(bundle), "--window", str(WINDOW), "--stride", "1")
    with KafkaBroker(lasting=True) as broker, RedisServer() as redis:
        broker.create_topics(dict.fromkeys(TOPICS.values(), PARTITIONS))
        streams = produce(broker.bootstrap, runs)
        settings = {
            "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": GROUP},
            "topics": TOPICS,
            "redis": {"url": redis.url},
            "bundle": {"path": str(bundle)},
            **RULES,
        }
        with Service(work, settings) as service:
            rows = sum(len(stream.sent) for stream in streams)
            service.wait_ready()
            service.wait_committed(broker.bootstrap, GROUP, rows, SERVICE_SECONDS)
            code = service.stop()
        place(streams, [json.loads(record.value) for record in read_committed(broker.bootstrap, TOPICS["scores"])])
        alerts = [json.loads(record.value) for record in read_committed(broker.bootstrap, TOPICS["alerts"])]
        letters = len(read_committed(broker.bootstrap, TOPICS["dead_letters"]))
    return streams, alerts, letters, code


def write_training_files(work: Path, runs: list[Run], clean: list[Run]) -> list[str]:
    """One file a sensor, without labels: the first rows of each run, the whole of each clean one."""
    files = []
    for run, rows in [*((run, TRAINING_ROWS) for run in runs), *((run, len(run.stamps)) for run in clean)]:
        lines = [",".join(("sensor_id", "timestamp", *run.features))]
        lines += [",".join((run.name, *row)) for row in _rows(run)[:rows]]
        file = work / f"{run.name}.csv"
        file.write_text("\n".join(lines) + "\n", "utf-8")
        files.append(str(file))
    return files


def _rows(run: Run) -> list[tuple[str, ...]]:
    return [(stamp, *cells) for stamp, cells in zip(run.stamps, run.cells, strict=True)]


def produce(bootstrap: str, runs: list[Run]) -> list[Stream]:
    """Send the rows to score, those of all runs in turn, as if they were live side by side."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    sent: list[list[Any]] = [[] for _ in runs]
    for row in range(TRAINING_ROWS, max(len(run.stamps) for run in runs)):
        for run, futures in zip(runs, sent, strict=True):
            if row < len(run.stamps):
                values = dict(zip(run.features, map(float, run.cells[row]), strict=True))
                event = {"sensor_id": run.name, "timestamp": run.stamps[row], "values": values}
                futures.append(producer.send(TOPICS["events"], json.dumps(event).encode(), run.name.encode()))
    producer.close()
    streams = []
    for run, futures in zip(runs, sent, strict=True):
        places = [(done.partition, done.offset) for done in (future.get(timeout=30) for future in futures)]
        count = len(places)
        streams.append(Stream(run, places, [0] * count, np.zeros(count, bool), np.zeros(count, bool)))
    return streams


def place(streams: list[Stream], scores: list[Any]) -> None:
    """Give each score to the row that it names as its window's last. Raises `RuntimeError` for one that fits none."""
    rows = {place: (stream, row) for stream in streams for row, place in enumerate(stream.sent)}
    for score in scores:
        last = score["source"]["partition"], score["source"]["last_offset"]
        stream, row = rows.get(last, (None, 0))
        fits = stream is not None and stream.run.name == score["sensor_id"]
        if stream is None or not fits or not _same(stream.stamps[row], score["window_end"]):
            raise RuntimeError(f"a score that belongs to no row: {score}")
        stream.windows[row] += 1
        stream.firing[row] = score["state"] == "firing"
        stream.above[row] = score["score"] >= 1


def check(streams: list[Stream], letters: int, code: int) -> list[str]:
    """What the service should have done and did not."""
    problems = []
    for stream in streams:
        wanted = [int(row >= WINDOW - 1) for row in range(len(stream.sent))]
        if stream.windows != wanted:
            wrong = [row for row, (got, want) in enumerate(zip(stream.windows, wanted, strict=True)) if got != want]
            first = f"row {wrong[0]} has {stream.windows[wrong[0]]}"
            problems.append(f"{stream.run.name}: {len(wrong)} rows without exactly their one score; {first}")
    if letters:
        problems.append(f"{letters} events were rejected")
    if code != STOPPED:
        problems.append(f"the service ended with exit code {code} after SIGTERM, not {STOPPED}")
    return problems


def report(streams: list[Stream], alerts: list[Any]) -> None:
    """Print what was found, by sensor and pooled."""
    lives: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for alert in sorted(alerts, key=lambda alert: alert["revision"]):
        lives[alert["sensor_id"]][alert["id"]].append(alert)
    table = Table(title="SKAB by sensor: alerts against the one labelled anomaly of each run")
    table.add_column("sensor")
    for name in ("rows", "windows", "anomalous", "alerts", "false"):
        table.add_column(name, justify="right")
    table.add_column("the one that caught it began")
    for name in ("fired after", "F1", "FAR", "MAR"):
        table.add_column(name, justify="right")
    for stream in streams:
        table.add_row(*_line(stream, list(lives[stream.run.name].values())))
    console.print(table)

    truth = [stream.anomalous for stream in streams]
    ours = [stream.firing for stream in streams]
    pooled = Table(title=f"SKAB, outliers: the {sum(map(len, truth))} rows of {len(streams)} runs pooled")
    pooled.add_column("a row is flagged if")
    for name in ("F1", "FAR %", "MAR %"):
        pooled.add_column(name, justify="right")
    for name, found in (
        (f"the alert is firing at its window (W {WINDOW}, rows up to this one only)", outliers(ours, truth)),
        ("the score of its window is 1 or more", outliers([stream.above for stream in streams], truth)),
        ("always", outliers([np.ones(len(row), bool) for row in truth], truth)),
        PUBLISHED,
    ):
        pooled.add_row(name, f"{found.f1:.2f}", f"{found.far:.2f}", f"{found.mar:.2f}")
    console.print(pooled)


def _line(stream: Stream, lives: list[list[Any]]) -> list[str]:
    """One sensor's row of the table. An alert is false if none of its rows is anomalous."""
    rows = {place: row for row, place in enumerate(stream.sent)}
    false, caught = 0, ""
    after = "missed"
    anomaly = np.flatnonzero(stream.anomalous)
    for life in sorted(lives, key=lambda life: rows[_last(life[0])]):
        fired = rows[_last(life[0])]
        ended = rows[_last(life[-1])] if life[-1]["status"] == "resolved" else len(stream.sent)
        if not stream.anomalous[fired:ended].any():
            false += 1
        elif after == "missed":
            begun = datetime.fromisoformat(life[0]["started_at"].removesuffix("Z"))
            wait = _seconds(stream.stamps[anomaly[0]], stream.stamps[fired])
            caught = f"{begun:%H:%M:%S}, {life[-1]['severity']}"
            after = f"{wait:+.0f} s" if fired >= anomaly[0] else f"fires since {-wait:.0f} s before"
    found = outliers([stream.firing], [stream.anomalous])
    counts = (len(stream.sent), sum(stream.windows), len(anomaly), len(lives), false)
    quality = (f"{found.f1:.2f}", f"{found.far:.1f}", f"{found.mar:.1f}")
    return [stream.run.name, *map(str, counts), caught, after, *quality]


def _same(stamp: str, published: str) -> bool:
    """Whether a time that names no zone is the published one; without a setting, it is taken as UTC."""
    return datetime.fromisoformat(f"{stamp}Z") == datetime.fromisoformat(published)


def _last(alert: Any) -> tuple[int, int]:
    return alert["source"]["partition"], alert["source"]["last_offset"]


def _seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


if __name__ == "__main__":
    sys.exit(main())
