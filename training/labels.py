"""Events of files as one stream a sensor, and what is known to be wrong with them: labels in three forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

import numpy as np

from stream_detector.adapters.files.formats import discover_features, name_sensors, sample
from stream_detector.adapters.files.source import FileSource
from stream_detector.codec import Decoder
from stream_detector.errors import DataError
from stream_detector.events import Bool, Events, Float64, Int64, Reject
from stream_detector.settings import Settings
from stream_detector.timestamps import parse
from training.data import read_to_end

Per: TypeAlias = Literal["auto", "row", "sensor"]
PERS: tuple[Per, ...] = get_args(Per)


@dataclass(frozen=True, slots=True)
class Stream:
    """The rows of one sensor, ``n`` of them, in time order and one for each time."""

    times: Int64  # (n) epoch ms
    values: Float64  # (n, F) NaN where a value is missing
    truth: Bool  # (n) rows that are labelled as anomalous


@dataclass(frozen=True, slots=True)
class Labels:
    """What was found of them."""

    streams: dict[str, Stream]
    per: Literal["row", "sensor", "none"]  # what they say something of
    column: str | None = None  # of the data files, if they stand there
    labelled: int = 0  # rows that have a label; the others count as normal


def read_labelled(
    paths: Sequence[str],
    features: Sequence[str],
    settings: Settings,
    labels: str | None,
    per: Per = "auto",
    *,
    names: Sequence[str] | None = None,
    period: int | None = None,
) -> Labels:
    """The streams of data files with their labels.

    ``labels`` is a column of the data, a CSV file ``sensor_id,timestamp,label``, a JSON file of intervals
    ``{sensor: [[first, last], …]}`` (both ends included), or None. Labels that are the same on every row of a sensor
    are taken to be of the sensor. Raises `DataError` with one line that says what does not fit.
    """
    if labels is None:
        return Labels(read_streams(paths, features, settings, names=names, period=period), "none")
    columns = _columns(paths, settings, names)
    if labels in columns:
        streams = read_streams(paths, features, settings, names=names, period=period, label=labels)
        found = Labels(streams, "row", labels, sum(len(stream.times) for stream in streams.values()))
    elif Path(labels).is_file():
        streams = read_streams(paths, features, settings, names=names, period=period)
        found = (_from_intervals if labels.endswith(".json") else _from_rows)(Path(labels), streams, settings)
    else:
        known = ", ".join(name for name in columns if name not in features)
        raise DataError(f"--labels {labels}: neither a file nor a column of the data; other columns there: {known}")
    return replace(found, per=_per(found.streams) if per == "auto" else per)


def read_streams(
    paths: Sequence[str],
    features: Sequence[str],
    settings: Settings,
    *,
    names: Sequence[str] | None = None,
    period: int | None = None,
    label: str | None = None,
) -> dict[str, Stream]:
    """The events of files by sensor; rows that cannot be used are left out, of several with one time the first stays.

    ``label`` is the column that says which rows are anomalous: 1 or above 0; without a value, a row is normal. Raises
    `DataError` if no row can be used, or a label is no number.
    """
    own = (*features, label) if label is not None else tuple(features)
    rules = settings.events.model_copy(update={"unknown_features": "ignore"})
    decoder = Decoder(own, settings.columns.model_copy(update={"label": None}), rules)
    pieces: list[Events] = []
    rejects: list[Reject] = []
    for part in read_to_end(FileSource(list(paths), decoder, names=names, period=period)):
        pieces.append(part.events)
        rejects += part.rejects
    wrong = next((reject for reject in rejects if label is not None and repr(label) in reject.message), None)
    if wrong is not None:
        raise DataError(f"--labels {label}: row {wrong.offset}: {wrong.message}; labels are 0 or 1")
    sensors = [sensor for piece in pieces for sensor in piece.sensors]
    if not sensors:
        raise DataError(f"no row can be used{f': {rejects[0].message}' if rejects else ''}; check the column names")
    times = np.concatenate([piece.timestamps for piece in pieces])
    values = np.concatenate([piece.values for piece in pieces]).astype(np.float64)
    found = {}
    known, which = np.unique(np.asarray(sensors, np.str_), return_inverse=True)
    order = np.lexsort((times, which))  # stable
    for sensor, rows in zip(known.tolist(), np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True):
        first = rows[np.diff(times[rows], prepend=times[rows[0]] - 1) > 0]
        truth = np.nan_to_num(values[first, -1]) > 0 if label is not None else np.zeros(len(first), bool)
        found[sensor] = Stream(times[first], values[first, : len(features)], truth)
    return found


def _columns(paths: Sequence[str], settings: Settings, names: Sequence[str] | None) -> list[str]:
    """All of the first rows of the files, but for sensor and time."""
    about = {settings.columns.sensor_id, settings.columns.timestamp}
    rows = [row for file in name_sensors(paths, names, None) for row in sample(file, settings.columns)[:1]]
    return list(dict.fromkeys(name for row in rows for name in row if name not in about))


def _from_rows(path: Path, streams: dict[str, Stream], settings: Settings) -> Labels:
    bare = settings.model_copy(update={"columns": settings.columns.model_copy(update={"label": None})})
    columns = discover_features([path], bare.columns)
    column = "label" if "label" in columns else columns[0]
    if len(columns) > 1 and column != "label":
        raise DataError(f"{path}: which column is the label? Call it label, or leave the others out: {columns}")
    told = read_streams([str(path)], (), bare, label=column)
    if len(told) == len(streams) == 1:  # a file without a sensor column is one sensor, named after the file
        told = dict(zip(streams, told.values(), strict=True))
    labelled = 0
    found = {}
    for sensor, stream in streams.items():
        truth = np.zeros(len(stream.times), bool)
        if sensor in told:
            place = np.minimum(np.searchsorted(told[sensor].times, stream.times), len(told[sensor].times) - 1)
            same = told[sensor].times[place] == stream.times
            truth = same & told[sensor].truth[place]
            labelled += int(same.sum())
        found[sensor] = replace(stream, truth=truth)
    if not labelled:
        raise DataError(f"{path}: no row has the sensor and the time of a row of the data")
    return Labels(found, "row", None, labelled)


def _from_intervals(path: Path, streams: dict[str, Stream], settings: Settings) -> Labels:
    zone = Decoder(("value",), settings.columns.model_copy(update={"label": None}), settings.events).zone
    try:
        body = json.loads(path.read_text("utf-8"))
        spans = {
            str(name): [(parse(first, zone), parse(last, zone)) for first, last in pairs]
            for name, pairs in body.items()
        }
    except (OSError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not {{sensor: [[first, last], …]}} as JSON: {error}") from None
    named = _named(spans, streams)
    if not named:
        raise DataError(f"{path}: names no sensor of the data; they are {', '.join(list(streams)[:5])}")
    found = {}
    for sensor, stream in streams.items():
        truth = np.zeros(len(stream.times), bool)
        for first, last in spans[named[sensor]] if sensor in named else ():
            truth |= (stream.times >= first) & (stream.times <= last)
        found[sensor] = replace(stream, truth=truth)
    return Labels(found, "row", None, sum(len(streams[sensor].times) for sensor in named))


def _named(spans: Mapping[str, object], streams: Mapping[str, Stream]) -> dict[str, str]:
    """The name in the file of each sensor: its own, or a path that ends in it, as of the files of a set."""
    stems = {PurePosixPath(name.removesuffix(".gz")).stem: name for name in spans}
    own = {sensor: sensor if sensor in spans else stems.get(sensor, "") for sensor in streams}
    return {sensor: name for sensor, name in own.items() if name}


def _per(streams: Mapping[str, Stream]) -> Literal["row", "sensor"]:
    """Of the sensor, if each has one label throughout and some are anomalous, some not."""
    whole = [stream.truth.all() for stream in streams.values()]
    none = [not stream.truth.any() for stream in streams.values()]
    return "sensor" if all(a or b for a, b in zip(whole, none, strict=True)) and any(whole) and any(none) else "row"
