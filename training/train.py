"""Training, from top to bottom: events → windows → parts → scaler → model → fit → calibrate → bundle."""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np

from stream_detector.adapters.keras.compilers import prepare_backend
from stream_detector.bundle import check_target, write_bundle
from stream_detector.contents import Manifest, Output, Scaler, State
from stream_detector.errors import DataError
from stream_detector.events import Events, Float32, Slice
from stream_detector.sensors import Rules
from stream_detector.timestamps import rfc3339
from training.autoencoders import Architecture, architecture
from training.autoencoders.codes import code_layer
from training.autoencoders.head import classifier, fine_tune
from training.calibrate import Calibration, calibrate
from training.checkpoints import open_checkpoints
from training.data import Data, read
from training.devices import in_policy, policy
from training.fit import History, fit
from training.notes import notes_of
from training.options import ALONE, Session, check_options
from training.options import TrainOptions as TrainOptions  # it is part of what is called here
from training.portrait import Portrait, portray
from training.progress import Progress, silent
from training.report import Picture, Summary, write_report
from training.scaling import fit_own_scalers, fit_scaler, scale_values
from training.split import Part

ENOUGH = 100  # windows: of as many that are alike, the next is the longest once in a hundred
PORTRAYED = 2_000  # windows whose codes are drawn
AFTER = ("epochs", "patience", "error", "partners", "threshold", "budget")  # options that no step of learning sees
LIBRARIES = ("keras", "numpy", "tensorflow", "jax", "scipy")


def train(
    events: Iterable[Events | Slice],
    features: Sequence[str],
    options: TrainOptions,
    out: Path,
    progress: Progress = silent,
    units: Mapping[str, str] | None = None,
    now: datetime | None = None,
    session: Session = ALONE,
) -> Summary:
    """Learn from events of normal operation, and from labels if there are any, and write a bundle to ``out``.

    ``events`` come in the order of their log (slices: of as many logs as they have partitions), their columns
    in the order of ``features``, with the label after them if one is named, and are held (`data.read`). A window is
    anomalous if its last event is labelled so; windows with any anomalous event have no part in what is learnt
    as normal, nor in statistics and thresholds. The same events, options and machine give the same weights.

    With checkpoints in the ``session`` a killed training goes on where it was, to the same weights; they are removed
    once the bundle is written, unless it keeps them.

    Sets the process's random seeds. Raises `DataError` if the data are too few or hold nothing, or for labels
    that are none, `SettingsError` for options that make no sense, `BundleError` if ``out`` cannot be written.
    """
    started = time.monotonic()
    check_options(options)
    check_target(out.resolve())
    prepare_backend()
    room = (session.memory, out.resolve().parent)
    data = read(events, _rules(features, options), options.seed, options.label, options.fine_tune, *room)
    sensors, values = data.gather(Part.FIT, options.max_windows, options.seed)  # (n), (n, W, F) raw
    others, validation = data.gather(Part.VALIDATION, options.held_out, options.seed)
    kind = architecture(options.kind, options.seed, options.stop_gradient)
    scaler = fit_scaler(values, kind.scaling, options.scaling)
    own, groups = fit_own_scalers(data, kind.scaling, scaler, options.scaling, options.grouping)
    scaler = msgspec.structs.replace(scaler, own=own, groups=groups)
    keras.utils.set_random_seed(options.seed)
    seen = [
        _targets(scale_values(scaler, part, names, options.grouping), kind)
        for names, part in ((sensors, values), (others, validation))
    ]
    precision = policy(options.precision)
    aside = _aside(session, features, options, precision)
    model = _untaught(kind, seen, options, progress, aside)
    if precision != "float32":
        model = in_policy(model, precision)
    check = None if kind.watch is None else kind.watch(model, seen[1])
    learning: dict[str, Any] = {
        "epochs": options.epochs,
        "batch": options.batch,
        "learning_rate": options.learning_rate or kind.learning_rate,
        "patience": options.patience,
        "seed": options.seed,
        "progress": progress,
        **aside,
    }
    history = fit(kind.trainer(model), *seen, loss=kind.loss, metrics=kind.metrics, **learning)
    if check is not None:
        check()
    output: Output = kind.output
    state: State = "pretrained"
    taught = None
    if options.fine_tune:
        most = {Part.FIT: options.max_windows, Part.VALIDATION: options.held_out}
        taught = [data.gather_labelled(part, limit, options.seed) for part, limit in most.items()]
        model, history = _fine_tuned(model, scaler, kind, taught, options, learning)
        output, state = "probability", "fine_tuned"
    if precision != "float32":
        model = in_policy(model, "float32")
    found = calibrate(model, scaler, data, options, progress, output)
    made = output, state, code_layer(model)
    manifest = _manifest(out, data, options, history, found, units or {}, now or datetime.now(UTC), *made)
    portrait = _portrait(model, scaler, data, found, options)
    summary = replace(
        _summary(manifest, data, history, found, len(values), len(validation), options),
        parameters=portrait.parameters,
        layers=portrait.layers,
        code=portrait.about(),
        notes=notes_of(data, values, found, options, taught),
        seconds=time.monotonic() - started,
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bare = keras.models.clone_model(model)  # without the optimizer's state, twice the size of the weights
        bare.set_weights(model.get_weights())
        bare.save(work / "model.keras")
        pictures = _pictures(data, found) if session.pictures else None
        write_report(work / "report", summary, history, found.errors[~np.isnan(found.errors)], pictures, portrait)
        written = write_bundle(
            out,
            manifest,
            model=work / "model.keras",
            scaler=scaler,
            errors=found.statistics,
            thresholds=found.thresholds,
            report=work / "report",
        )
    if aside["checkpoints"] is not None and not session.keep:
        aside["checkpoints"].clear()
    progress("report", 1, 1, {})
    return replace(summary, version=written.version)


def _aside(session: Session, features: Sequence[str], options: TrainOptions, precision: str) -> dict[str, Any]:
    """What fitting does beside learning. Checkpoints are of these options, but for those that come in after it."""
    found: dict[str, Any] = {"tensorboard": session.tensorboard, "checkpoints": None}
    if session.checkpoints is not None:
        about = {name: repr(value) for name, value in asdict(options).items() if name not in AFTER}
        about |= {"features": repr(tuple(features)), "backend": keras.backend.backend(), "precision": precision}
        found["checkpoints"] = open_checkpoints(session.checkpoints, about, session.resume)
    return found


def _untaught(
    kind: Architecture, seen: list[Float32], options: TrainOptions, progress: Progress, aside: dict[str, Any]
) -> Any:
    """The model before its whole learns, from windows (n, W, F) and (m, W, F) if it is stacked layer by layer."""
    units = options.units or kind.units
    if kind.pretrain is None:
        return kind.build(*seen[0].shape[1:], units=units, seed=options.seed)
    return kind.pretrain(
        *seen,
        units,
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.learning_rate or kind.pretrain_rate,
        patience=options.patience,
        seed=options.seed,
        progress=progress,
        wrapping=kind.wrapping,
        **aside,
    )[0]


def _fine_tuned(
    model: Any,
    scaler: Scaler,
    kind: Architecture,
    taught: Sequence[tuple[list[str], Float32, Any]],
    options: TrainOptions,
    learning: dict[str, Any],
) -> tuple[Any, History]:
    """A classifier that goes on from the model's weights, taught with windows (n, W, F) in raw units and labels (n)."""
    scaled = [(scale_values(scaler, values, sensors, options.grouping), labels) for sensors, values, labels in taught]
    if not scaled[1][1].any() or scaled[1][1].all():
        raise DataError("validation needs normal and anomalous windows late in time; give more labelled data")
    judge = classifier(model, options.head, kind.top, options.seed)
    return judge, fine_tune(judge, *scaled[0], validation=scaled[1], **learning)


def _rules(features: Sequence[str], options: TrainOptions) -> Rules:
    return Rules(
        features=tuple(features),
        length=options.length,
        stride=options.step,
        means=(0.0,) * len(features),  # until the data tell
        missing=options.missing,
        grace=options.grace,
        duplicates=options.duplicates,
        max_gap=options.max_gap,
        ttl=2**62,  # all of the data count, however long a sensor was silent
        max_sensors=2**62,
    )


def _targets(scaled: Float32, kind: Architecture) -> Float32:
    """What to learn from; a cross-entropy has no bound where a value lies outside of 0..1."""
    return scaled if kind.scaling == "standard" else np.clip(scaled, 0, 1)


def _intervals(data: Data) -> dict[str, float]:
    """The usual time between events, ms, of each sensor and (under "") of all: how long a sensor may be silent."""
    return {sensor: round(interval, 1) for sensor, interval in data.periods.items()} | {
        "": round(float(np.median(list(data.periods.values()))), 1)
    }


def _longest_windows(data: Data) -> dict[str, int]:
    """What each sensor's windows lasted at most, ms, of those with `ENOUGH` of them: rates may differ widely."""
    lasted, counts = np.ptp(data.timestamps, axis=1), np.bincount(data.which, minlength=len(data.names))
    longest = np.zeros(len(data.names), np.int64)
    np.maximum.at(longest, data.which, lasted)
    return {name: int(longest[at]) for at, name in enumerate(data.names) if counts[at] >= ENOUGH}


def _manifest(
    out: Path,
    data: Data,
    options: TrainOptions,
    history: History,
    found: Calibration,
    units: Mapping[str, str],
    now: datetime,
    output: Output,
    state: State,
    code: str,
) -> Manifest:
    errors = found.errors[~np.isnan(found.errors)]
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the two backends may be missing
    return Manifest(
        name=out.resolve().name,
        kind=options.kind,
        features=data.rules.features,
        length=options.length,
        stride=options.step,
        means=data.rules.means,
        created=rfc3339(round(now.timestamp() * 1000)),
        seed=options.seed,
        backend=keras.backend.backend(),
        span=(rfc3339(int(data.timestamps[:, 0].min())), rfc3339(int(data.timestamps[:, 1].max()))),
        sensors=tuple(data.names),
        intervals=_intervals(data),
        longest_window=int(np.ptp(data.timestamps, axis=1).max()),
        longest_windows=_longest_windows(data),
        still=data.still,
        units=dict(units),
        libraries=installed,
        metrics={
            **history.kept,
            "calibration_windows": float(len(errors)),
            "calibration_error_median": float(np.median(errors)),
            "calibration_error_max": float(np.max(errors)),
        },
        expected_alerts_per_day=found.expected,
        budget=found.asked or 0.0,
        output=output,
        state=state,
        code=code,
        groups=dict(options.groups),
    )


def _summary(
    manifest: Manifest,
    data: Data,
    history: History,
    found: Calibration,
    fitted: int,
    validated: int,
    options: TrainOptions,
) -> Summary:
    used = {
        "fit": fitted,
        "validation": validated,
        "statistics": min(int((data.parts == Part.STATISTICS).sum()), options.held_out),
        "thresholds": int((~np.isnan(found.errors)).sum()),
    }
    return Summary(
        name=manifest.name,
        version="",
        kind=manifest.kind if manifest.state == "pretrained" else f"{manifest.kind}, fine-tuned",
        features=list(manifest.features),
        length=manifest.length,
        stride=manifest.stride,
        events=data.events,
        sensors=len(manifest.sensors),
        windows=used,
        left_out=len(data.which) - sum(used.values()),
        epochs=len(history.loss),
        best_epoch=history.best + 1,
        loss=history.loss[history.best],
        val_loss=history.val_loss[history.best],
        metrics={name: values[history.best] for name, values in history.metrics.items()},
        threshold=found.thresholds.entries[0].threshold,
        own_thresholds=len(found.thresholds.sensors),
        expected_alerts_per_day=found.expected,
        seconds=0.0,
    )


def _pictures(data: Data, found: Calibration) -> dict[str, Picture]:
    """The calibration windows with the median and with the largest error."""
    places = np.flatnonzero(~np.isnan(found.errors))
    ranked = places[np.argsort(found.errors[places], kind="stable")]
    pictures = {}
    for name, place in (("window-normal", ranked[len(ranked) // 2]), ("window-worst", ranked[-1])):
        chosen = np.zeros(len(data.parts), bool)
        chosen[place] = True
        _, values = next(data.values(chosen))  # (1, W, F)
        (sensor,) = data.sensors(np.array([place]))
        told = found.judge.errors([sensor], values)
        score = float(told.score[0])
        end = rfc3339(int(data.timestamps[place, 1]))
        pictures[name] = Picture(
            f"{name}: {sensor} until {end}, score {score:.3g}",
            values[0],
            found.judge.expected([sensor], values, told.names)[0],
            told.contributions[0],
            int(told.worst_step[0]),
        )
    return pictures


def _portrait(model: Any, scaler: Scaler, data: Data, found: Calibration, options: TrainOptions) -> Portrait:
    """The model with some windows' codes: labelled ones, anomalies first, else those of the calibration."""
    labelled = (data.labels == 1).any()
    known = data.labels >= 0 if labelled else ~np.isnan(found.errors)
    places = np.random.default_rng(options.seed).permutation(np.flatnonzero(known))
    if labelled:  # what is rare comes first, up to one half
        odd = places[data.labels[places] == 1]
        usual = places[data.labels[places] == 0]
        odd = odd[: max(PORTRAYED // 2, PORTRAYED - len(usual))]
        places = np.concatenate([odd, usual[: PORTRAYED - len(odd)]])
    places = np.sort(places[:PORTRAYED])
    chosen = np.zeros(len(data.parts), bool)
    chosen[places] = True
    values = np.concatenate([part for _, part in data.values(chosen)])  # (m, W, F) raw
    sensors = data.sensors(places)
    shades = data.labels[places].astype(np.float64) if labelled else found.scores[places]
    scaled = scale_values(scaler, values, sensors, options.grouping)
    return portray(model, scaled, shades, "label" if labelled else "score", options.seed)
