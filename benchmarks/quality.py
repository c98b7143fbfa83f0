"""Detection quality on labelled real streams: ``python -m benchmarks.quality --data FOLDER`` (`make quality`).

Each set's training rows go through `training.train`, the bundle and the rows to score through the service's own
replay; simple baselines see the same rows and are held to the same budget and alert policy. One default configuration:
only what stands in `PLANS` differs between sets. Labels meet alerts in the metrics and nowhere else. Prints tables,
and writes ``quality.json`` and ``quality.html`` with pictures.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.pages import Picture, write_page
from benchmarks.published import PUBLISHED
from benchmarks.sets import Stream, read_set
from stream_detector.app import replay
from stream_detector.bundle import load_bundle
from stream_detector.errors import StreamDetectorError
from stream_detector.events import Bool, Events
from stream_detector.policy import DAY, Alerts, closest
from stream_detector.settings import Settings
from stream_detector.timestamps import parse, rfc3339
from training.baselines import History, Judged, available, judge
from training.calibrate import BUDGET
from training.metrics import changepoints, events, hit_rate, nab, rows, spans_of, vus_pr
from training.options import ALONE, Session, TrainOptions
from training.report import Summary
from training.train import train

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0)  # alerts per sensor and day, to see whether the promise holds
CUTS = 3  # normal stretches that are cut out of each stream, to see whether row numbers matter
CLEAN_SHARE = 0.7  # of a clean run, to learn from
BUFFER = 64  # rows at most at either side of a segment that VUS-PR forgives
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that differs between sets."""

    window: int = 16
    stride: int = 1
    settings: Mapping[str, Mapping[str, str]] = field(
        # Streams are of days up to years apart and come side by side: none may be forgotten for another's clock.
        default_factory=lambda: {"window": {"ttl": "10000d"}}
    )


PLANS: Mapping[str, Plan] = {"skab": Plan(), "asd": Plan(), "smd": Plan(), "nab": Plan(window=48)}


class Figures(NamedTuple):
    """What a detector reached on a set; NaN where the set has no such figure."""

    f1: float
    precision: float
    recall: float
    far: float  # percent of normal rows under alert
    false_per_day: float  # alerts that begin on a normal row, per sensor and day of normal rows
    delay: float  # rows, median
    standard: float  # of NAB's profiles: by windows on nab, by changepoints on skab
    low_fp: float
    vus_pr: float
    mar: float = math.nan  # percent of anomalous rows without alert; skab alone
    hits: float = math.nan  # share of the columns to blame for a segment that its alert names first; asd and smd


class _Scored(msgspec.Struct):
    sensor_id: str
    window_end: str
    score: float
    state: str
    contributions: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=str(__doc__).partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds the sets")
    parser.add_argument("--sets", default=",".join(PLANS), help="some of them, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--model", default="lstm", help="kind of autoencoder")
    parser.add_argument("--epochs", type=int, default=TrainOptions().epochs)
    parser.add_argument("--quick", action="store_true", help="without baselines, budgets and cut streams")
    parser.add_argument("--out", type=Path, default=Path("quality-out"), metavar="DIR")
    given = parser.parse_args(arguments)
    if unknown := set(given.sets.split(",")) - set(PLANS):
        parser.error(f"--sets {', '.join(sorted(unknown))}: give some of {', '.join(PLANS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[Figures]]] = {}
    pictures: list[Picture] = []
    about: dict[str, str] = {}
    days: dict[str, float] = {}
    try:
        for name in given.sets.split(","):
            streams = read_set(name, given.data)
            about[name] = configured(name, streams)
            days[name] = sum(normal_days(one) for one in streams if len(one.test))
            console.print(about[name])
            found[name] = measure(name, streams, given, pictures)
            show(name, found[name])
        if not given.quick:
            console.print(promised(found, days))
    except StreamDetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plain = {name: {who: [one._asdict() for one in each] for who, each in of.items()} for name, of in found.items()}
    (given.out / "quality.json").write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=1))
    tables = {name: [(who, *cells(name, each)) for who, each in of.items()] for name, of in found.items()}
    write_page(given.out / "quality.html", tables, heads=HEADS, published=PUBLISHED, pictures=pictures, about=about)
    console.print(f"see {given.out / 'quality.html'}")
    return 0


def configured(name: str, streams: Sequence[Stream]) -> str:
    """What a set was judged with, in a line."""
    plan, learnt = PLANS[name], sum(len(stream.train) for stream in streams)
    asked = ", ".join(f"{part}.{key} = {value}" for part, keys in plan.settings.items() for key, value in keys.items())
    told = f"{name}: windows of {plan.window}, stride {plan.stride}; {learnt:,} rows to learn from"
    return f"{told}; as on every set {asked}, all else by default"


def promised(found: Mapping[str, Mapping[str, Sequence[Figures]]], days: Mapping[str, float]) -> str:
    """How many false alarms a sensor and day came of each budget, over the normal days of all sets, in a line."""
    told = []
    for budget in BUDGETS:
        seeds = [next(each for who, each in of.items() if who.startswith(_asked(budget))) for of in found.values()]
        came = [np.median([one.false_per_day for one in each]) for each in seeds]
        told.append(f"{np.average(came, weights=[days[name] for name in found]):.2g} for {budget:g}")
    return f"all sets by sensor days: false alarms a sensor and day {', '.join(told)}"


def _asked(budget: float) -> str:
    return f"… asked for {budget:g} a day"


def measure(
    name: str, streams: Sequence[Stream], given: argparse.Namespace, pictures: list[Picture]
) -> dict[str, list[Figures]]:
    """What each detector reached on a set, and what else is asked of it: figures of each seed."""
    plan = PLANS[name]
    scored = [stream for stream in streams if len(stream.test)]
    found: dict[str, list[Figures]] = {"stream-detector": []}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory(prefix="quality-") as folder:
            work, started = Path(folder), time.monotonic()
            options = TrainOptions(
                kind=given.model, length=plan.window, stride=plan.stride, epochs=given.epochs, seed=seed
            )
            # What is asked for comes after learning, which is kept.
            learned = Session(work / "checkpoints", resume=True, keep=True, pictures=False)
            learn(streams, options, work / "bundle", learned)
            taught = time.monotonic() - started
            judged = stream_through(work / "bundle", scored, plan, work)
            found["stream-detector"].append(figures(name, scored, judged))
            took = time.monotonic() - started - taught
            console.print(f"{name}, seed {seed}: trained in {taught:.0f} s, streamed in {took:.0f} s")
            if not seed:
                pictures += [
                    Picture(f"{name}: {one.name}", one.test, one.anomalous, judged[one.name]) for one in scored[:3]
                ]
                errors = load_bundle(work / "bundle").errors
                parts = ["model", *(one.name for one in errors.partners), *(["novelty"] if errors.novelty else [])]
                console.print(f"{name}: the score's parts are {', '.join(parts)}")
            if given.quick:
                continue
            cut = found.setdefault("… normal stretches cut out, others with each seed", [])
            cut.append(cut_out(name, scored, plan, work, seed))
            if name == "skab":
                found.setdefault("… clean run, the last 30 %", []).append(clean(streams, options, plan, work))
            for budget in BUDGETS:
                learn(streams, replace(options, budget=budget), work / "asked", learned)
                said = stream_through(work / "asked", scored, plan, work)
                most = spendable(budget, scored, plan)
                less = "" if math.isclose(most, budget) else f", {most:.2g} can be had"
                found.setdefault(f"{_asked(budget)}{less}", []).append(figures(name, scored, said))
    if not given.quick:
        found |= baselines(name, streams, scored, plan, given.seeds)
    return found


def learn(streams: Sequence[Stream], options: TrainOptions, out: Path, session: Session = ALONE) -> Summary:
    """A bundle from the training rows of all streams; each is a sensor."""
    parts = []
    for stream in streams:
        count = len(stream.train)
        parts.append(
            Events(
                [stream.name] * count,
                stream.train_times,
                stream.train.astype(np.float32),
                np.arange(count),
                np.full(count, -1),
            )
        )
    return train(parts, streams[0].columns, options, out, session=session)


def stream_through(bundle: Path, streams: Sequence[Stream], plan: Plan, work: Path) -> dict[str, Judged]:
    """Score and alert state at each row, by the service's replay, as of the last window that ended by its time.

    Before the first there are none. Where no window ends for a while, as after a gap, an open alert goes on.
    """
    files = []
    for number, stream in enumerate(streams):
        file = work / f"stream-{number}.csv"
        with file.open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(("sensor_id", "timestamp", *stream.columns))
            for stamp, values in zip(stream.test_times.tolist(), stream.test.tolist(), strict=True):
                writer.writerow((stream.name, rfc3339(stamp), *values))
        files.append(str(file))
    (work / "replay").mkdir(exist_ok=True)
    replay(files, load_bundle(bundle), Settings.model_validate(dict(plan.settings)), work / "replay")
    found: dict[str, list[_Scored]] = {stream.name: [] for stream in streams}
    decoder = msgspec.json.Decoder(_Scored)
    with (work / "replay" / "scores.jsonl").open("rb") as lines:
        for line in lines:
            record = decoder.decode(line)
            found[record.sensor_id].append(record)
    return {stream.name: _spread(found[stream.name], stream) for stream in streams}


def _spread(records: Sequence[_Scored], stream: Stream) -> Judged:
    """Windows, by their ends, as rows."""
    ends = np.array([parse(one.window_end, UTC) for one in records], np.int64)
    order = np.argsort(ends, kind="stable")  # of several with one time the last counts
    last = np.searchsorted(ends[order], stream.test_times, side="right") - 1
    place = np.append(order, len(records))[last]  # before the first, that of none

    def column(values: Sequence[object], none: object) -> NDArray[Any]:
        found: NDArray[Any] = np.array([*values, none])[place]
        return found

    shares = [list(one.contributions.values()) for one in records]  # in the order of the features
    return Judged(
        column([one.score for one in records], 0.0),
        column([one.state == "firing" for one in records], False),
        column(shares, [0.0] * len(stream.columns)),
    )


def figures(name: str, streams: Sequence[Stream], judged: Mapping[str, Judged]) -> Figures:
    """The set's own metric, and what is told of all sets."""
    firing = [judged[stream.name].firing for stream in streams]
    truth = [stream.anomalous for stream in streams]
    scores = [judged[stream.name].score for stream in streams]
    onsets = [np.diff(one.astype(np.int8), prepend=0) == 1 for one in firing]
    days = sum(map(normal_days, streams))
    false = sum(int((onset & ~anomalous).sum()) for onset, anomalous in zip(onsets, truth, strict=True)) / days
    by_event, by_row = events(firing, truth), rows(firing, truth)
    standard = low_fp = math.nan
    if name == "nab":
        profiles = nab(onsets, [stream.windows for stream in streams])
        standard, low_fp = profiles.standard, profiles.low_fp
    elif name == "skab":
        changes = [_known(stream.changes) for stream in streams]
        profiles = changepoints(firing, [stream.test_times for stream in streams], changes)
        standard, low_fp = profiles.standard, profiles.low_fp
    area, hits = vus_pr(scores, truth, BUFFER), explained(streams, judged)
    if name == "skab":
        return Figures(by_row.f1, by_row.precision, by_row.recall, by_row.far, false, by_event.delay, standard, low_fp,
                       area, by_row.mar, hits)  # fmt: skip
    return Figures(by_event.f1, by_event.precision, by_event.recall, by_event.far, false, by_event.delay, standard,
                   low_fp, area, hits=hits)  # fmt: skip


def normal_days(stream: Stream) -> float:
    """Of its normal rows, by their usual distance."""
    return float(np.median(np.diff(stream.test_times))) * int((~stream.anomalous).sum()) / DAY


def spendable(budget: float, streams: Sequence[Stream], plan: Plan) -> float:
    """How much of a budget the streams can have, by their normal days: see `stream_detector.policy.closest`."""
    apart = [closest(Alerts(), plan.stride * float(np.median(np.diff(one.test_times)))) / DAY for one in streams]
    return float(np.average([min(budget, 1 / one) for one in apart], weights=[normal_days(one) for one in streams]))


def explained(streams: Sequence[Stream], judged: Mapping[str, Judged]) -> float:
    """How often an alert names the columns that the set's authors blame, see `training.metrics.hit_rate`.

    Of each labelled segment with an alert, the row with the highest score under alert counts.
    """
    named, blamed = list[list[str]](), list[tuple[str, ...]]()
    for stream in streams:
        one = judged[stream.name]
        if one.contributions is None:
            continue
        for cause in stream.causes:
            rows_of = np.arange(cause.span[0], cause.span[1] + 1)
            under = rows_of[one.firing[rows_of]]
            if not len(under):
                continue
            order = np.argsort(-one.contributions[under[one.score[under].argmax()]], kind="stable")
            named.append([stream.columns[at] for at in order.tolist()])
            blamed.append(cause.columns)
    return hit_rate(named, blamed)


def cut_out(name: str, streams: Sequence[Stream], plan: Plan, work: Path, draw: int) -> Figures:
    """The same bundle on streams with stretches of normal rows missing: no row number may matter."""
    rng, shorter = np.random.default_rng(draw), []
    for stream in streams:
        keep = np.ones(len(stream.test), bool)
        for _ in range(CUTS):
            length = int(rng.integers(1, max(2, len(keep) // 20)))
            start = int(rng.integers(0, len(keep) - length))
            keep[start : start + length] &= stream.anomalous[start : start + length]
        rows_kept = np.cumsum(keep) - 1
        windows = [
            (int(rows_kept[max(0, first)]), int(rows_kept[min(last, len(keep) - 1)])) for first, last in stream.windows
        ]
        shorter.append(
            replace(
                stream,
                test=stream.test[keep],
                test_times=stream.test_times[keep],
                anomalous=stream.anomalous[keep],
                windows=tuple(windows),
                changes=None if stream.changes is None else stream.changes[keep],
                causes=(),  # rows that are no longer where they were
            )
        )
    return figures(name, shorter, stream_through(work / "bundle", shorter, plan, work))


def clean(streams: Sequence[Stream], options: TrainOptions, plan: Plan, work: Path) -> Figures:
    """A run without anomalies: learn from its first part, and see how much of the rest is under alert."""
    runs = []
    for stream in streams:
        if len(stream.test):
            continue
        cut = int(CLEAN_SHARE * len(stream.train))
        runs.append(
            replace(
                stream,
                train=stream.train[:cut],
                train_times=stream.train_times[:cut],
                test=stream.train[cut:],
                test_times=stream.train_times[cut:],
                anomalous=np.zeros(len(stream.train) - cut, bool),
            )
        )
    learn(runs, options, work / "clean")
    judged = stream_through(work / "clean", runs, plan, work)
    under = np.concatenate([judged[run.name].firing for run in runs])
    onsets = sum(len(spans_of(judged[run.name].firing)) for run in runs)
    days = sum(History(run.test, run.test_times).days for run in runs)
    none = math.nan
    return Figures(none, none, none, 100 * float(under.mean()), onsets / days, none, none, none, none)


def baselines(
    name: str, streams: Sequence[Stream], scored: Sequence[Stream], plan: Plan, seeds: int
) -> dict[str, list[Figures]]:
    """What simple detectors reach under the same rules: the same rows, budget, alert policy, and seeds."""
    learnt = {stream.name: History(stream.train, stream.train_times) for stream in streams}
    given = {stream.name: History(stream.test, stream.test_times) for stream in scored}
    held = sum(history.days for history in learnt.values()) / 5  # the share that thresholds are fitted on
    usable, missing = available()
    for line in missing:
        console.print(line)
    found: dict[str, list[Figures]] = {}
    for one in usable:
        for seed in range(seeds if one.chance else 1):
            fit = one.seeded(seed)
            said = judge(fit, learnt, given, budget=max(BUDGET, 1 / held), policy=Settings().alerts)
            found.setdefault(one.name, []).append(figures(name, scored, said))
    return found


HEADS = ("F1", "precision", "recall", "FAR %", "false/day", "delay", "NAB", "NAB low FP", "VUS-PR", "MAR %", "hits")


def cells(name: str, each: Sequence[Figures]) -> list[str]:
    """The median of each figure over the seeds, and their range."""
    told = []
    for column in zip(*each, strict=True):
        values = np.array(column)
        if np.isnan(values).all():
            told.append("")
            continue
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        text = f"{float(np.nanmedian(values)):.3g}"
        told.append(text if len(values) == 1 or low == high else f"{text} ({low:.3g}–{high:.3g})")
    return told


def show(name: str, found: Mapping[str, Sequence[Figures]]) -> None:
    """Print a set's table, with what is published of it."""
    table = Table(title=f"{name}: median (range) over seeds; by {'rows' if name == 'skab' else 'events'}")
    table.add_column("detector")
    for head in HEADS:
        table.add_column(head, justify="right")
    for who, each in found.items():
        table.add_row(who, *cells(name, each))
    console.print(table)
    for line in PUBLISHED[name]:
        console.print(f"  published: {line}", highlight=False)


def _known(changes: Bool | None) -> Bool:
    if changes is None:
        raise ValueError("SKAB's streams have changepoints")
    return changes


if __name__ == "__main__":
    sys.exit(main())
