"""``train`` and ``evaluate``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from rich.table import Table

from stream_detector.commands.terminal import (
    Columns,
    Config,
    Data,
    Period,
    err,
    import_keras,
    out,
    period_of,
    read_settings,
)
from stream_detector.errors import DataError, SettingsError
from stream_detector.text import visible

NUMBERED: Mapping[Method, float] = {"quantile": 0.999, "fixed": 3.5}  # methods that want a number
LABEL = re.compile(r"(^|[_ -])(labels?|anomaly|outlier|changepoint)$", re.IGNORECASE)  # what labels are called

if TYPE_CHECKING:
    from stream_detector.contents import ErrorKind
    from stream_detector.events import Reject, Slice
    from stream_detector.settings import Settings
    from stream_detector.thresholds import Method
    from training.autoencoders.head import Head
    from training.devices import Precision
    from training.scaling import Scaling


def train(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA…", help="Files, or one topic: kafka://host:port/topic?from=…&to=…")
    ],
    out_: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="Where the bundle goes.")],
    model: Annotated[str, typer.Option(help="Which autoencoder, such as lstm, dense, aer, denoising+dense.")] = "lstm",
    window: Annotated[int | None, typer.Option(help="Events a window (64).")] = None,
    stride: Annotated[int | None, typer.Option(help="Events from window to window (an eighth of the window).")] = None,
    epochs: Annotated[int, typer.Option(help="At most; training stops early when it no longer helps.")] = 10,
    units: Annotated[
        str | None, typer.Option(help="Units of each encoder layer, comma-separated; as suits the model if absent.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam; as suits the model if absent, lower for --fine-tune that diverges.")
    ] = None,
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss before training stops.")] = 5,
    batch: Annotated[int, typer.Option(help="Windows a step of learning.")] = 128,
    stop_gradient: Annotated[
        bool, typer.Option("--stop-gradient", help="Of lstm-context: only the prediction learns, not its target.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="False alarms to spend, per sensor and day; else 0.5, or as few as the data can tell of."),
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="evt or conformal, for the budget; quantile:0.999, of normal errors; fixed:3.5, of the model alone.",
        ),
    ] = "evt",
    error: Annotated[
        str | None, typer.Option(help="Of the model: newest, mahalanobis, mse or mae; as suits it if absent.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--no-partners", help="The model alone: a score without parts beside its error.")
    ] = False,
    scaling: Annotated[
        str, typer.Option(help="standard, or robust: by quantiles, which wild values in training do not move.")
    ] = "standard",
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
    max_windows: Annotated[
        int, typer.Option(metavar="N", help="Windows to learn from; of more, as many are drawn from all of the data.")
    ] = 20_000,
    config: Config = None,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """Learn what is normal from files or a topic, calibrate thresholds, write a model bundle."""
    settings = read_settings(config)
    if label is not None:
        settings = settings.model_copy(update={"columns": settings.columns.model_copy(update={"label": label})})
    if resume and checkpoints is None:
        raise SettingsError("--resume needs --checkpoints DIR, where the training left them")
    method, parameter = _threshold(threshold, budget)
    import_keras()
    from stream_detector.configured import max_gap_of
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
        error=cast("ErrorKind | None", error),
        partners=not alone,
        threshold=method,
        budget=parameter,
        groups=tuple((name, group.sensors) for name, group in settings.groups.items()),
        scaling=cast("Scaling", scaling),
        max_windows=max_windows,
        learning_rate=learning_rate,
        patience=patience,
        batch=batch,
        stop_gradient=stop_gradient,
        seed=seed,
        missing=settings.events.missing,
        grace=settings.window.grace,
        duplicates=settings.window.duplicates,
        max_gap=max_gap_of(settings.window),
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
    for name in features:
        if LABEL.search(name):
            told = f"{name} is learnt as a feature; if it is a label, say --label {name}, or ignore it in [columns]"
            err.print(f"[yellow]{escape(visible(told))}[/]", highlight=False)
    refused = _Refused()
    with shown() as progress:
        summary = train(refused.without(events), features, options, out_, progress, session=session)
    table = Table(show_header=False, box=None)
    for row in summary.table():
        table.add_row(*map(escape, row))
    out.print(table)
    if (first := refused.first) is not None:
        told = (
            f"{refused.count} events were left out; the first, number {first.offset}: {first.reason}, {first.message}"
        )
        out.print(f"[yellow]{escape(visible(told))}[/]", highlight=False)
    out.print(f"wrote {escape(str(out_))}; plots are in {escape(str(out_ / 'report'))}", highlight=False)


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
    settings = read_settings(config)
    from training.labels import PERS

    per = next((per for per in PERS if per == labels_per), None)
    if per is None:
        raise SettingsError(f"--labels-per {labels_per}: give one of {', '.join(PERS)}")
    import_keras()
    from stream_detector.adapters.registry import open_bundle
    from training.evaluate import Source, about, evaluate, table

    source = Source(data, columns.split(",") if columns else None, period_of(period))
    found = evaluate(
        source, open_bundle(settings, bundle), settings, labels=labels, per=per, train=train or (), out=out_
    )
    out.print(escape(visible(about(found))), highlight=False)
    out.print(table(found))
    for note in found.notes:
        out.print(escape(visible(note)), highlight=False)
    if out_ is not None:
        out.print(f"wrote {escape(str(out_ / 'evaluation.html'))}", highlight=False)


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
    from stream_detector.adapters.files.formats import discover_features
    from stream_detector.adapters.files.source import FileSource
    from training.data import read_to_end

    names = columns.split(",") if columns else None
    features = discover_features(data, settings.columns, names)
    return features, read_to_end(FileSource(data, decoder(features), names=names, period=period_of(period)))


class _Refused:
    """Counts the rejects of slices and holds the first: there may be as many as events."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Reject | None = None

    def without(self, slices: Iterable[Slice]) -> Iterator[Slice]:
        """The slices as they are."""
        for part in slices:
            self.count += len(part.rejects)
            known = [*([self.first] if self.first is not None else []), *part.rejects]
            self.first = min(known, key=lambda reject: reject.offset, default=None)
            yield part


def _threshold(text: str, budget: float | None) -> tuple[Method, float | None]:
    """The method of ``--threshold``, and what it is for: the budget, or the number that stands with it."""
    from stream_detector.thresholds import BUDGETED

    name, colon, number = text.partition(":")
    method = next((method for method in (*BUDGETED, *NUMBERED) if method == name), None)
    if method is None:
        raise SettingsError(f"--threshold {text}: give evt, conformal, quantile:0.999 or fixed:3.5")
    if method in BUDGETED:
        if colon:
            raise SettingsError(f"--threshold {text}: {name} takes no number; how many alerts there may be is --budget")
        return method, budget
    if budget is not None:
        raise SettingsError(f"--threshold {text} and --budget {budget:g}: only evt and conformal spend a budget")
    try:
        return method, float(number)
    except ValueError:
        raise SettingsError(f"--threshold {text}: give a number with it, such as {name}:{NUMBERED[method]}") from None


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
