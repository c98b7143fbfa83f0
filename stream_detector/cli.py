"""Commands. Whatever is heavy is imported inside the command that needs it, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_detector import models
from stream_detector.errors import DataError, SettingsError, StreamDetectorError, UserError
from stream_detector.text import visible

if TYPE_CHECKING:
    from stream_detector.events import Alert, Reject, Slice
    from stream_detector.explain import Explanation
    from stream_detector.settings import Settings
    from training.autoencoders.head import Head
    from training.devices import Precision

app = typer.Typer(
    name="stream-detector",
    help="Anomaly detection on sensor streams: Kafka in, Redis windows, batched autoencoder scoring, alerts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML); the environment wins over it.")]
BundlePath = Annotated[
    str | None, typer.Option("--bundle", help="Bundle or registry, a folder or a URL; wins over bundle.path.")
]
Data = Annotated[list[str], typer.Argument(metavar="DATA…", help="CSV (also .gz), JSON Lines or Parquet files.")]
Columns = Annotated[
    str | None, typer.Option(help="Comma-separated column names, for files without a header.", metavar="NAMES")
]
Period = Annotated[
    str | None, typer.Option(help='Time between rows, for files without timestamps: "5m", "1s".', metavar="DURATION")
]


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        app()
    except StreamDetectorError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _import_keras() -> None:
    """Import Keras and its backend; what TensorFlow's C++ side says before it can be told to be quiet goes nowhere."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            importlib.import_module("stream_detector.adapters.keras")
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _fail(error: StreamDetectorError) -> NoReturn:
    err.print(f"[red]error:[/] {escape(visible(str(error)))}", highlight=False)
    sys.exit(2 if isinstance(error, UserError) else 1)


@app.command()
def train(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA…", help="Files, or one topic: kafka://host:port/topic?from=…&to=…")
    ],
    out_: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="Where the bundle goes.")],
    model: Annotated[str, typer.Option(help="Which autoencoder, such as lstm, dense, aer, denoising+dense.")] = "lstm",
    window: Annotated[int | None, typer.Option(help="Events a window (64).")] = None,
    stride: Annotated[int | None, typer.Option(help="Events from window to window (an eighth of the window).")] = None,
    epochs: Annotated[int, typer.Option(help="At most; training stops early when it no longer helps.")] = 30,
    units: Annotated[
        str | None, typer.Option(help="Units of each encoder layer, comma-separated; as suits the model if absent.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="False alarms to accept, per sensor and day; 0.5, or as few as the data can tell of."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same bundle.")] = 0,
    label: Annotated[
        str | None, typer.Option(help="Column of labels, 0 or 1 (anomalous); wins over columns.label.", metavar="NAME")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Learn the labels too; without it, anomalies are left out.")
    ] = False,
    head: Annotated[str, typer.Option(help="What labels are learnt with: softmax or sigmoid.")] = "softmax",
    checkpoints: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkpoint after each epoch goes there.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoints, to the same weights.")] = False,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, gpu, or one such as gpu:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, or mixed for a GPU; bundles score in float32.")] = "float32",
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Losses for TensorBoard go there.")] = None,
    max_memory: Annotated[
        str, typer.Option(metavar="SIZE", help='Of events; more of them go to a file beside BUNDLE: "500MB", "8GB".')
    ] = "2GB",
    config: Config = None,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """Learn what is normal from files or a topic, calibrate thresholds, write a model bundle."""
    settings = _settings(config)
    if label is not None:
        settings = settings.model_copy(update={"columns": settings.columns.model_copy(update={"label": label})})
    if resume and checkpoints is None:
        raise SettingsError("--resume needs --checkpoints DIR, where the training left them")
    _import_keras()
    from training.devices import ON_CPU, choose_device, policy
    from training.options import Session, TrainOptions, check_options
    from training.progress import shown
    from training.train import train

    options = TrainOptions(
        kind=model,
        length=window if window is not None else settings.window.length or TrainOptions().length,
        stride=stride if stride is not None else settings.window.stride,
        epochs=epochs,
        units=None if units is None else _numbers("--units", units),
        budget=budget,
        seed=seed,
        missing=settings.events.missing,
        grace=settings.window.grace,
        duplicates=settings.window.duplicates,
        max_gap=settings.window.max_gap,
        label=settings.columns.label,
        fine_tune=fine_tune,
        head=cast("Head", head),
        precision=cast("Precision", precision),
    )
    check_options(options)  # before anything is read
    session = Session(checkpoints, resume, tensorboard=tensorboard, memory=_size("--max-memory", max_memory))
    choose_device(device)
    if precision == "mixed" and policy("mixed") == "float32":
        err.print(f"[yellow]{ON_CPU}[/]", highlight=False)
    features, events = _events(data, settings, columns, period)
    rejects: list[Reject] = []
    with shown() as progress:
        summary = train(_without(rejects, events), features, options, out_, progress, session=session)
    table = Table(show_header=False, box=None)
    for row in summary.table():
        table.add_row(*map(escape, row))
    out.print(table)
    if rejects:
        first = min(rejects, key=lambda reject: reject.offset)
        told = f"{len(rejects)} events were left out; the first, number {first.offset}: {first.reason}, {first.message}"
        out.print(f"[yellow]{escape(visible(told))}[/]", highlight=False)
    out.print(f"wrote {escape(str(out_))}; plots are in {escape(str(out_ / 'report'))}", highlight=False)


@app.command()
def run(
    config: Config = None,
    bundle: BundlePath = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; their ports count up from metrics.port and page.port.")
    ] = 1,
) -> None:
    """The service: Kafka → Redis → device → Kafka, with Prometheus metrics and health."""
    settings = _settings(config)
    if workers > 1:
        sys.exit(_supervise(settings, workers))
    logging.getLogger("stream_detector").setLevel(logging.INFO)
    _import_keras()
    from stream_detector.adapters.registry import open_bundle
    from stream_detector.app import run_service
    from stream_detector.configured import located

    sys.exit(run_service(settings, open_bundle(settings, bundle), located(settings, bundle)))


@app.command()
def replay(
    data: Data,
    bundle: Annotated[str, typer.Option("--bundle", help="Bundle or registry, a folder or a URL.")],
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")],
    speed: Annotated[float | None, typer.Option(help="Event time per real time; as fast as can be if absent.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the live page meanwhile, and after the end until Ctrl-C.")
    ] = False,
    config: Config = None,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """The same pipeline over files, without a server; writes JSON Lines and report.html."""
    settings = _settings(config)
    if speed is not None and not 0 < speed < float("inf"):
        raise SettingsError(f"--speed {speed}: give a number above 0, or leave it out for as fast as can be")
    _import_keras()
    from stream_detector.adapters.recorder import Recorder
    from stream_detector.adapters.registry import open_bundle
    from stream_detector.app import replay
    from stream_detector.pages import Showing

    def tell(result: Recorder) -> None:
        counts, rejected = result.counts, sum(result.rejects.values())
        told = f"{counts['events']} events, {counts['windows']} windows, {counts['alerts']} alerts, {rejected} rejected"
        out.print(f"{told}; see {escape(str(out_ / 'report.html'))}", highlight=False)
        if serve:
            out.print("the live page stays; Ctrl-C ends it", highlight=False)

    replay(
        data,
        open_bundle(settings, bundle),
        settings,
        out_,
        names=columns.split(",") if columns else None,
        period=_period(period),
        speed=speed,
        heard=_print_alert,
        done=tell,
        showing=Showing(settings.page, _print_address, stay=True) if serve else None,
    )


@app.command()
def evaluate(
    data: Data,
    bundle: Annotated[str, typer.Option("--bundle", help="Bundle or registry, a folder or a URL.")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="A column of the data, a CSV file sensor_id,timestamp,label, or a JSON file of intervals "
            "{sensor: [[first, last], …]}; without it, alerts are counted against the budget.",
        ),
    ] = None,
    labels_per: Annotated[str, typer.Option(help="What a label is of: row, sensor, or auto.")] = "auto",
    train: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="DATA", help="Normal operation, for the baselines; repeatable."),
    ] = None,
    out_: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where evaluation.json and .html go.")
    ] = None,
    config: Config = None,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """Detection quality on files: the service's alerts against labels, next to simple baselines."""
    settings = _settings(config)
    from training.labels import PERS

    per = next((per for per in PERS if per == labels_per), None)
    if per is None:
        raise SettingsError(f"--labels-per {labels_per}: give one of {', '.join(PERS)}")
    _import_keras()
    from stream_detector.adapters.registry import open_bundle
    from training.evaluate import Source, about, evaluate, table

    source = Source(data, columns.split(",") if columns else None, _period(period))
    found = evaluate(
        source, open_bundle(settings, bundle), settings, labels=labels, per=per, train=train or (), out=out_
    )
    out.print(escape(visible(about(found))), highlight=False)
    out.print(table(found))
    for note in found.notes:
        out.print(escape(visible(note)), highlight=False)
    if out_ is not None:
        out.print(f"wrote {escape(str(out_ / 'evaluation.html'))}", highlight=False)


@app.command()
def check(config: Config = None, bundle: BundlePath = None) -> None:
    """Preflight: settings, bundle, device, Kafka, Redis; one line each, exit code 1 if any fails."""
    settings = _settings(config)
    _import_keras()
    from stream_detector.checks import findings

    failed = False
    for what, ok, message in findings(settings, bundle):
        failed |= not ok
        _print_finding(what, ok, message)
    sys.exit(int(failed))


@app.command()
def webhooks(
    config: Config = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look whether targets can be reached; nothing is sent.")
    ] = False,
    replay_dead_letters: Annotated[
        bool, typer.Option("--replay-dead-letters", help="Only send what is in the dead letters again, once each.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --replay-dead-letters: of this target alone.")
    ] = None,
) -> None:
    """Deliver alerts from the alerts topic to webhook targets, at least once each, in order per alert."""
    settings = _settings(config)
    if check and replay_dead_letters:
        raise SettingsError("--check, --replay-dead-letters: give one of them")
    if target is not None and not replay_dead_letters:
        raise SettingsError("--target is for --replay-dead-letters alone")
    logging.getLogger("stream_detector").setLevel(logging.INFO)
    from stream_detector.dispatch import check_webhooks, replay_letters, run_webhooks

    failed = False
    if check:
        for what, ok, message in check_webhooks(settings):
            failed |= not ok
            _print_finding(what, ok, message)
        sys.exit(int(failed))
    if replay_dead_letters:
        for name, told, ok in replay_letters(settings, target):
            failed |= not ok
            out.print(f"{name}: {told}", highlight=False, markup=False)
        sys.exit(int(failed))
    sys.exit(run_webhooks(settings))


@app.command()
def explain(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID", help="The id of an alert: 32 hexadecimal digits.")],
    config: Config = None,
    bundle: BundlePath = None,
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the picture goes.")] = Path("explained"),
    alerts: Annotated[
        str | None,
        typer.Option(metavar="TOPIC|FILE", help="Where the alert is: topics.alerts; with --data, alerts.jsonl."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="FILE", help="Files of the replay that alerted, instead of a topic; repeatable."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help='Look at alerts since then: "2d" ago, or an RFC 3339 time.')
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far numbers may be apart, relatively: more between CPU and GPU.")
    ] = 1e-5,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """Read an alert's events again, score them again, and say whether it holds; exit code 1 if not."""
    settings = _settings(config)
    if re.fullmatch("[0-9a-f]{32}", alert_id) is None:
        raise SettingsError(f"{alert_id!r:.60} is no alert's id; give the 32 hexadecimal digits of its `id`")
    if not 0 <= tolerance < 1:
        raise SettingsError(f"--tolerance {tolerance}: give a number from 0 to 1, such as 1e-5")
    since_ms = _moment(since)
    if data and alerts is None:
        raise SettingsError("--data needs --alerts FILE, the alerts.jsonl of that replay")
    _import_keras()
    from stream_detector.adapters.drawing import draw_explanation
    from stream_detector.adapters.registry import open_bundle
    from stream_detector.codec import Decoder
    from stream_detector.explain import alerts_of_file, alerts_of_topic, explain, reading_files, reading_topic

    if data:
        found = alerts_of_file(Path(alerts or ""), alert_id)
    else:
        found = alerts_of_topic(settings, alerts or settings.topics.alerts, alert_id, since_ms)
    opened = open_bundle(settings, bundle, found[-1].model.version)
    decoder = Decoder(opened.manifest.features, settings.columns, settings.events)
    if data:
        read = reading_files(data, decoder, columns.split(",") if columns else None, _period(period))
    else:
        read = reading_topic(settings, decoder)
    explanations = explain(found, opened, settings, read)
    worst = max(explanations, key=lambda one: one.alert.score)
    out.print(f"alert {alert_id}: {escape(visible(worst.alert.summary))}", highlight=False)
    for one in explanations:
        out.print(_claims(one, one is worst, tolerance))
        if one.imputed_blindly:
            out.print(
                "a missing value was last measured before what is still there: it may have been imputed otherwise"
            )
    picture = out_ / f"{alert_id}.png"
    draw_explanation(picture, worst)
    holds = all(one.holds(tolerance) for one in explanations)
    out.print(f"picture: {escape(str(picture))}", highlight=False)
    out.print("[green]the verdict holds[/]" if holds else "[red]the verdict does not hold[/]")
    sys.exit(0 if holds else 1)


@app.command()
def demo(
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where bundle, data and report go.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int, typer.Option(help="Of the plant, its faults and the training.")] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Let the live page stay after the end, until Ctrl-C.")] = False,
) -> None:
    """Simulate a small plant with faults, train, stream, and say what was found. No server needed."""
    _settings(None)  # the environment counts here too, and a mistake in it is told as everywhere
    _import_keras()
    from training.demo import demo

    demo(out_, seed, out, _print_alert, _print_address, stay=serve)


@app.command()
def topics(
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic: as many as you may ever want workers.")] = 4,
    replicas: Annotated[int, typer.Option(min=1, help="Of each partition; 3 where there are as many brokers.")] = 1,
    config: Config = None,
) -> None:
    """Create the topics that the settings use and that are missing; leave the others as they are."""
    settings = _settings(config)
    from stream_detector.adapters.kafka import create_topics

    created = create_topics(settings, partitions, replicas)
    told = f"created: {', '.join(created)}" if created else "all topics are there already"
    out.print(escape(visible(told)), highlight=False)


@app.command()
def simulate(
    out_: Annotated[
        Path | None, typer.Option("--out", metavar="CSV", help="Write the plant's past there instead, to train on.")
    ] = None,
    days: Annotated[float, typer.Option(help="With --out: so many days of the plant's life, at most 10.")] = 5,
    pumps: Annotated[int, typer.Option(help="Sensors of the plant.")] = 6,
    speed: Annotated[float, typer.Option(help="Life of the plant per clock; 60: an event a second and pump.")] = 60,
    fault: Annotated[str | None, typer.Option(help="Kind of the faults; all in turn if absent.")] = None,
    fault_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="When the first fault begins; by SIGUSR1 alone if absent.")
    ] = None,
    fault_every: Annotated[str | None, typer.Option(metavar="DURATION", help="From fault to fault; one only.")] = None,
    fault_lasts: Annotated[str, typer.Option(metavar="DURATION", help="How long each lasts.")] = "1m",
    seed: Annotated[int, typer.Option(help="The same seed and number of pumps are the same plant.")] = 7,
    config: Config = None,
) -> None:
    """Send a simulated plant's events to the events topic as time passes, with faults; or write its past to a file."""
    settings = _settings(config)
    from stream_detector.settings import duration
    from training.plant import KINDS, write_csv
    from training.simulator import Plan, Simulation, Simulator

    kind = next((kind for kind in KINDS if kind == fault), None)
    if kind is None and fault is not None:
        raise SettingsError(f"--fault {fault}: give one of {', '.join(KINDS)}")
    every, lasts = duration("--fault-every", fault_every), duration("--fault-lasts", fault_lasts)
    if every == 0 or not lasts:
        raise SettingsError("--fault-every, --fault-lasts: give more than 0")
    if every is not None and fault_after is None:
        raise SettingsError("--fault-every needs --fault-after too: when the first one begins")
    plan = Plan(kind, duration("--fault-after", fault_after), every, lasts)
    simulation = Simulation(pumps, speed, seed)
    if out_ is not None:
        readings = simulation.past(days, round(time.time() * 1_000))
        try:
            write_csv(out_, readings)
        except OSError as error:
            raise DataError(f"{out_}: {error.strerror or error}; give a file that can be written") from error
        out.print(f"wrote {len(readings.sensors)} events to {escape(str(out_))}", highlight=False)
        return
    from stream_detector.adapters.kafka import Feed

    def tell(line: str) -> None:
        out.print(line, highlight=False, markup=False)

    simulator = Simulator(simulation, Feed(settings), settings.columns, plan, tell, now=time.time, sleep=time.sleep)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, simulator.stop)
    signal.signal(signal.SIGUSR1, simulator.ask)
    sys.exit(simulator.run())


@app.command()
def size(
    sensors: Annotated[int, typer.Option(help="How many there are.")],
    rate: Annotated[float, typer.Option(help="Events a second, of all sensors together.")],
    window: Annotated[int, typer.Option(help="Events a window.")] = 64,
    stride: Annotated[int | None, typer.Option(help="Events from window to window (an eighth of the window).")] = None,
    features: Annotated[int, typer.Option(help="Values an event.")] = 8,
) -> None:
    """How many partitions and workers, and how much memory, a load takes; from measured constants."""
    from stream_detector.sizing import Load, size

    load = Load(sensors, rate, window, stride if stride is not None else max(1, window // 8), features)
    table = Table(show_header=False, box=None)
    for row in size(load).table():
        table.add_row(*map(escape, row))
    out.print(table)


def _settings(config: Path | None) -> Settings:
    from stream_detector.settings import load_settings

    return load_settings(config)


def _period(text: str | None) -> int | None:
    from stream_detector.settings import duration

    period = duration("--period", text)
    if period == 0:
        raise SettingsError(f"--period {text}: give the time between two rows, more than 0")
    return period


def _print_finding(what: str, ok: bool, message: str) -> None:
    mark = "[green]ok  [/]" if ok else "[red]FAIL[/]"
    out.print(f"{mark} {escape(what)}: {escape(message)}", highlight=False)


def _moment(text: str | None) -> int | None:
    """Epoch ms of a time, or of a duration before now."""
    from datetime import UTC

    from stream_detector.settings import duration
    from stream_detector.timestamps import parse

    if text is None:
        return None
    try:
        return parse(text, UTC)
    except ValueError:
        return int(time.time() * 1_000) - (duration("--since", text) or 0)


def _claims(explanation: Explanation, whole: bool, tolerance: float) -> Table:
    """What a record says beside what comes out; of a record that is not the ``whole`` story, what differs."""
    alert = explanation.alert
    held = "holds" if explanation.holds(tolerance) else "does not hold"
    title = f"revision {alert.revision}, {alert.status} {alert.severity}, window ends {_utc(explanation)}: {held}"
    table = Table("", "published", "again", "", title=title, title_justify="left", box=None)
    for number, claim in enumerate(explanation.claims):
        good = claim.holds(tolerance)
        if whole or not good or number == 0:
            mark = "[green]same[/]" if good else "[red]differs[/]"
            table.add_row(escape(visible(claim.name)), _number(claim.published), _number(claim.again), mark)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.9g}"


def _utc(explanation: Explanation) -> str:
    from stream_detector.timestamps import rfc3339

    return rfc3339(int(explanation.ends[-1]))


def _print_address(address: str) -> None:
    out.print(f"live page: {escape(address)}", highlight=False)


def _print_alert(alert: Alert) -> None:
    when = alert.ended_at or alert.started_at
    line = f"{when[:19].replace('T', ' ')}  {alert.status:8}  {alert.severity:8}  {visible(alert.summary)}"
    out.print(line, style="green" if alert.status == "resolved" else "red", highlight=False, markup=False)


def _events(
    data: Sequence[str], settings: Settings, columns: str | None, period: str | None
) -> tuple[tuple[str, ...], Iterable[Slice]]:
    """Feature names and events of files or of one topic; if there is a label, it follows the features."""
    from stream_detector.codec import Decoder

    label = settings.columns.label

    def decoder(features: Sequence[str]) -> Decoder:
        if label is None:
            return Decoder(features, settings.columns, settings.events)
        # An event whose label alone is missing is an event like others: `training.data.read` knows what is what.
        rules = settings.events.model_copy(update={"missing": "last"})
        return Decoder((*features, label), settings.columns, rules)

    if any(path.startswith("kafka://") for path in data):
        from stream_detector.adapters.kafka import discover_topic_features, parse_topic_url, read_span

        if len(data) > 1:
            raise DataError("give one topic, or files, not both")
        span = parse_topic_url(data[0])
        features = tuple(discover_topic_features(settings, span, settings.columns))
        return features, read_span(settings, span, decoder(features))
    from stream_detector.adapters.file import FileSource, discover_features
    from training.data import read_to_end

    names = columns.split(",") if columns else None
    features = discover_features(data, settings.columns, names)
    return features, read_to_end(FileSource(data, decoder(features), names=names, period=_period(period)))


def _without(rejects: list[Reject], slices: Iterable[Slice]) -> Iterator[Slice]:
    """The slices as they are, their rejects put aside, without the raw bytes."""
    for part in slices:
        rejects.extend(replace(reject, key=None, value=None) for reject in part.rejects)
        yield part


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"{option} {text}: give whole numbers, separated by commas") from None


def _size(option: str, text: str) -> int:
    """Bytes of a size such as ``"8GB"``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)i?B", text)
    if found is None:
        raise SettingsError(f'{option} {text}: give a number and kB, MB, GB or TB, such as "8GB"')
    return int(float(found[1]) * 1024 ** " kMGT".index(found[2] or " "))


def _supervise(settings: Settings, workers: int) -> int:
    """Run ``workers`` processes of this command with one worker each; when one ends, end all."""
    from stream_detector.workers import supervise

    return supervise(sys.argv[1:], workers, settings.metrics.port, settings.page.port)
