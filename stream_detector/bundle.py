"""The model bundle: a folder that holds all that scoring needs and travels whole.

::

    pumps/
      manifest.json      what it is and fits, and the SHA-256 of every other file
      model.keras        architecture and weights, no code
      scaler.json        centre and scale of each feature
      errors.json        how reconstruction errors of normal windows are distributed
      thresholds.json    from which error on a window is anomalous, by sensor
      report/            plots and figures for people; optional

A bundle is published by one atomic rename. Reading verifies every file and keeps what it verified in memory,
so that a bundle which is replaced meanwhile is never mixed with its successor. Digests guard against damage,
not against somebody who may write the folder. Nothing here needs Keras: `adapters.keras.scorer` turns the model's
bytes into a model.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np

from stream_detector.errors import BundleError
from stream_detector.memories import Memory
from stream_detector.thresholds import Thresholds

FORMAT = 1
MANIFEST = "manifest.json"
FILES = ("model.keras", "scaler.json", "errors.json", "thresholds.json")
NAME = re.compile(r"(report/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # plain: cannot lead out of the folder
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")

ErrorKind: TypeAlias = Literal["newest", "mahalanobis", "mse", "mae", "probability"]
Output: TypeAlias = Literal["window", "residual", "probability"]
State: TypeAlias = Literal["pretrained", "fine_tuned"]
Part = TypeVar("Part")


class Scaler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``(value - center) / scale``; no scale is 0, also for constant features."""

    center: tuple[float, ...]  # (F) raw units
    scale: tuple[float, ...]  # (F) raw units
    own: dict[str, Scaler] = {}  # of sensors with a history of their own; the others share what stands above


class Normal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is normal of a window's contrast, in scaled units."""

    center: tuple[float, ...]  # (F) where it lies; empty: at 0
    deviation: tuple[float, ...]  # (F)
    low: tuple[float, ...] = ()  # (F) lowest and …
    high: tuple[float, ...] = ()  # (F) … highest mean of a window where the part counts; empty: anywhere


class Partner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the score beside the model's: see `adapters.keras.partners`."""

    name: Literal["change", "level", "bias"]
    common: Normal
    own: dict[str, Normal] = {}  # by sensor
    counts: tuple[bool, ...] = ()  # (F) which features it looks at; empty: all


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the score that learns on, of a single metric: see `novelty`."""

    events: int  # of a sensor before a window, among which windows like it are looked for
    neighbours: int  # windows that are nearest
    windows: dict[str, int]  # that a threshold is the highest of: of sensors, under "" of those that are not named
    own: dict[str, Memory] = {}  # by sensor: what it showed at the end of training


class ErrorStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Residuals of normal windows, in scaled units; see `adapters.keras.programs` for how they make an error.

    ``D`` is the number of features for models that return a window, the model's own width for others.
    """

    kind: ErrorKind
    mean: tuple[float, ...] = ()  # (D) mean residual; mahalanobis only
    whitening: tuple[tuple[float, ...], ...] = ()  # (D, D) L with L Lᵀ the inverse covariance; mahalanobis only
    shrinkage: float = 0.0  # of the correlations towards none, 0..1
    deviation: tuple[float, ...] = ()  # (D) of a step's jump; newest only
    own: dict[str, tuple[float, ...]] = {}  # the same by sensor
    partners: tuple[Partner, ...] = ()
    novelty: Novelty | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle is. ``version``, ``files`` and ``digest`` are filled in by `write_bundle`."""

    name: str
    kind: str  # of autoencoder: "lstm", …
    features: tuple[str, ...]  # in the order of the model's input
    length: int  # events a window
    stride: int  # events from one window to the next
    means: tuple[float, ...]  # (F) raw units, to impute with
    created: str  # RFC 3339
    seed: int
    backend: str
    span: tuple[str, str] = ("", "")  # event time of the training data, RFC 3339
    sensors: tuple[str, ...] = ()  # that it was trained on
    intervals: dict[str, float] = {}  # ms between events: the median of each sensor, under "" that of all
    longest_window: int = 0  # ms from the first event to the last, at most, in training; 0: not known
    units: dict[str, str] = {}
    libraries: dict[str, str] = {}
    metrics: dict[str, float] = {}
    expected_alerts_per_day: float = 0.0  # per sensor, on data like that of the calibration
    budget: float = 0.0  # alerts per sensor and day that were asked for; 0: nobody said
    still: tuple[int, ...] = ()  # (F) longest run of equal values in training, in events; 0 or empty: not known
    output: Output = "window"  # of the model: its reconstruction, a residual of its own, or a probability of anomaly
    state: State = "pretrained"  # learnt without labels, or taught with them afterwards
    code: str = ""  # the layer of the model whose output is a window's embedding; empty: not known
    format: int = FORMAT
    version: str = ""
    files: dict[str, str] = {}  # name → SHA-256
    digest: str = ""  # SHA-256 of this manifest with an empty digest


class _Format(msgspec.Struct):
    """Read before the rest, so that a later format is told from a damaged file."""

    format: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    path: Path
    manifest: Manifest
    scaler: Scaler
    errors: ErrorStatistics
    thresholds: Thresholds
    model: bytes = field(repr=False)  # contents of model.keras


def check_target(target: Path) -> None:
    """Raise `BundleError` if there is something at ``target`` that a bundle must not replace."""
    empty = target.is_dir() and not any(target.iterdir())
    if _exists(target) and not empty and not (target / MANIFEST).is_file():
        raise BundleError(f"{target}: exists and is not a bundle; choose another --out or remove it")


def write_bundle(
    target: Path,
    manifest: Manifest,
    *,
    model: Path,
    scaler: Scaler,
    errors: ErrorStatistics,
    thresholds: Thresholds,
    report: Path | None = None,
) -> Manifest:
    """Write a bundle beside ``target`` and publish it there by rename; the manifest as written.

    ``model`` is a saved ``.keras`` file, ``report`` a folder of plain files. An older bundle at the target is
    replaced; anything else there raises `BundleError`, as does a folder that cannot be written. Whatever
    fails, an older bundle stays as it was.
    """
    target = target.resolve()
    check_target(target)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        staging.mkdir(parents=True)
        shutil.copyfile(model, staging / "model.keras")
        for name, part in (("scaler.json", scaler), ("errors.json", errors), ("thresholds.json", thresholds)):
            (staging / name).write_bytes(msgspec.json.format(msgspec.json.encode(part), indent=1))
        if report is not None:
            shutil.copytree(report, staging / "report")
        manifest = _seal(manifest, {name: _sha256((staging / name).read_bytes()) for name in sorted(_names(staging))})
        (staging / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        _check(staging, _bundle(staging, manifest, {name: (staging / name).read_bytes() for name in FILES}))
        for file in [*staging.rglob("*"), staging]:
            _sync(file)
        _publish(staging, target)
        _sync(target.parent)
    except OSError as error:
        raise BundleError(f"{target}: cannot write the bundle: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest alone, checked in itself; raises `BundleError`."""
    try:
        data = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: no bundle there ({MANIFEST}: {error.strerror}); train one first") from error
    told = _decode(path, MANIFEST, data, _Format).format
    if told != FORMAT:
        raise BundleError(f"{path}: bundle format {told}, this version reads format {FORMAT}; train it again")
    manifest = _decode(path, MANIFEST, data, Manifest)
    # Of the file as it is: one that an earlier version wrote lacks fields that the manifest here has.
    written = _decode(path, MANIFEST, data, dict[str, Any])
    if manifest.digest != _sha256(msgspec.json.encode(written | {"digest": ""})):
        raise BundleError(f"{path}: {MANIFEST} was changed after it was written; train or copy the bundle again")
    for name in manifest.files:
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{path}: {MANIFEST} names {name!r}, which is no plain file name; do not use this bundle")
    missing = [name for name in FILES if name not in manifest.files]
    if missing:
        raise BundleError(f"{path}: {MANIFEST} does not name {missing[0]}; train the bundle again")
    return manifest


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a whole bundle; raises `BundleError` with one line that says what is wrong.

    Every file must be there, unchanged and nothing besides. If another bundle is published at the path while
    this reads, it starts over with that one.
    """
    path = Path(path)
    for _ in range(3):
        manifest = read_manifest(path)
        try:
            return _read(path, manifest)
        except BundleError:
            if not _replaced(path, manifest):
                raise
    raise BundleError(f"{path}: was replaced again and again while it was read; try again")


def check_fits(
    bundle: Bundle | Manifest,
    features: Sequence[str] | None = None,
    length: int | None = None,
    stride: int | None = None,
) -> None:
    """Raise `BundleError` unless the bundle is for these features (in any order), length and stride."""
    manifest = bundle.manifest if isinstance(bundle, Bundle) else bundle
    if features is not None and set(features) != set(manifest.features):
        lacks = sorted(set(manifest.features) - set(features))
        extra = sorted(set(features) - set(manifest.features))
        told = [f"{text} {', '.join(names)}" for text, names in (("lacks", lacks), ("has also", extra)) if names]
        raise BundleError(
            f"bundle {manifest.name} wants the features {', '.join(manifest.features)}, "
            f"the data {' and '.join(told)}; map the columns in [columns], or train a bundle on such data"
        )
    for key, wanted, made in (("length", length, manifest.length), ("stride", stride, manifest.stride)):
        if wanted is not None and wanted != made:
            raise BundleError(
                f"bundle {manifest.name} was trained with window.{key} = {made}, the settings say {wanted}; "
                f"remove window.{key} or train with that {key}"
            )


def _read(path: Path, manifest: Manifest) -> Bundle:
    found = _names(path) - {MANIFEST}
    for name in sorted(found - manifest.files.keys()):
        kind = "a pickle or weights file, which is never loaded" if name.lower().endswith(PICKLES) else "not part of it"
        raise BundleError(f"{path}: {name} is {kind}; remove it")
    for name in manifest.files:
        if name not in found:
            raise BundleError(f"{path}: {name} is missing; copy or train the bundle again")
    contents = {}
    for name, digest in manifest.files.items():
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: {name} cannot be read: {error.strerror}") from error
        if _sha256(data) != digest:
            raise BundleError(f"{path}: {name} was changed after it was written; copy or train the bundle again")
        if name in FILES:
            contents[name] = data
    bundle = _bundle(path, manifest, contents)
    _check(path, bundle)
    return bundle


def _bundle(path: Path, manifest: Manifest, contents: dict[str, bytes]) -> Bundle:
    return Bundle(
        path,
        manifest,
        _decode(path, "scaler.json", contents["scaler.json"], Scaler),
        _decode(path, "errors.json", contents["errors.json"], ErrorStatistics),
        _decode(path, "thresholds.json", contents["thresholds.json"], Thresholds),
        contents["model.keras"],
    )


def _check(path: Path, bundle: Bundle) -> None:
    """What digests cannot tell: that the parts fit each other."""
    size, manifest, errors = len(bundle.manifest.features), bundle.manifest, bundle.errors
    table = bundle.thresholds
    tables = (table, *table.partners.values())
    # A residual's width is the model's own: what it must be is seen when the model is loaded.
    wide = (len(errors.mean) or len(errors.deviation)) if manifest.output == "residual" else size
    whitening = (wide,) * 2 if errors.kind == "mahalanobis" else (0,)
    jumps = wide if errors.kind == "newest" else 0
    normals = [normal for one in errors.partners for normal in (one.common, *one.own.values())]
    centers = [one.center for one in normals if one.center]
    shapes = {
        "manifest.json: means": (np.shape(manifest.means), (size,)),
        "scaler.json: center": (np.shape(bundle.scaler.center), (size,)),
        "scaler.json: scale": (np.shape(bundle.scaler.scale), (size,)),
        "errors.json: mean": (np.shape(errors.mean), whitening[:1]),
        "errors.json: whitening": (tuple(map(len, errors.whitening)), whitening[:1] * whitening[0]),
        "errors.json: deviation": ({len(errors.deviation), *map(len, errors.own.values())}, {jumps}),
        "errors.json: partners": ({size, *(len(one.deviation) for one in normals), *map(len, centers)}, {size}),
        "errors.json: counts": ({size, *(len(one.counts) for one in errors.partners if one.counts)}, {size}),
        "scaler.json: own": (
            {size, *(len(part) for own in bundle.scaler.own.values() for part in (own.center, own.scale))},
            {size},
        ),
    }
    for where, (shape, wanted) in shapes.items():
        if shape != wanted:
            raise BundleError(f"{path}: {where} does not fit {size} features; train the bundle again")
    sane = {
        "features": size > 0 and len(set(manifest.features)) == size,
        "budget": 0 <= manifest.budget < np.inf,
        "length or stride": manifest.length >= 1 and manifest.stride >= 1,
        "output and errors": (manifest.output == "probability") == (errors.kind == "probability"),
        "residual's width": wide > 0 or errors.kind != "mahalanobis",
        "scale": all(0 < scale < np.inf for one in (bundle.scaler, *bundle.scaler.own.values()) for scale in one.scale),
        "deviations": all(
            0 < deviation < np.inf
            for row in (errors.deviation, *errors.own.values(), *(one.deviation for one in normals))
            for deviation in row
        ),
        "thresholds": all(0 < entry.threshold < np.inf for part in tables for entry in part.entries)
        and all(part.entries for part in tables),
        "thresholds' sensors": all(0 <= row < len(part.entries) for part in tables for row in part.sensors.values()),
        "novelty": errors.novelty is None
        or (
            size == 1
            and min(errors.novelty.events - manifest.length, errors.novelty.neighbours) >= 1
            and min(errors.novelty.windows.values(), default=0) >= 1
            and "" in errors.novelty.windows
            and all(memory.sound for memory in errors.novelty.own.values())
        ),
        "partners' thresholds": set(table.partners) == {one.name for one in errors.partners},
    }
    for what, good in sane.items():
        if not good:
            raise BundleError(f"{path}: its {what} make no sense; train the bundle again")


def _seal(manifest: Manifest, files: dict[str, str]) -> Manifest:
    stamp = re.sub(r"[^0-9]", "", manifest.created)[:14]
    version = f"{stamp}-{_sha256(msgspec.json.encode(files))[:8]}"
    manifest = msgspec.structs.replace(manifest, files=files, version=version, digest="")
    return msgspec.structs.replace(manifest, digest=_digest(manifest))


def _digest(manifest: Manifest) -> str:
    return _sha256(msgspec.json.encode(msgspec.structs.replace(manifest, digest="")))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _decode(path: Path, name: str, data: bytes, kind: type[Part]) -> Part:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {name} cannot be read: {error}; copy or train the bundle again") from error


def _names(path: Path) -> set[str]:
    """Every file in the folder, relative to it. Raises `BundleError` for anything that is no plain file."""
    names = set()
    try:
        for folder, prefix in ((path, ""), (path / "report", "report/")):
            if prefix and not _exists(folder):
                continue
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False) and not prefix and entry.name == "report":
                    continue
                if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                    raise BundleError(f"{path}: {prefix}{entry.name} is a link or a folder; a bundle has plain files")
                names.add(prefix + entry.name)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    return names


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _replaced(path: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(path).digest != manifest.digest
    except BundleError:
        return False


def _publish(staging: Path, target: Path) -> None:
    """Let the target be the staged folder; what was there ends up at the staging path."""
    if not _exists(target):
        staging.rename(target)
    elif not _exchange(staging, target):
        aside = staging.with_suffix(".old")  # elsewhere than on Linux there is a moment without a bundle
        target.rename(aside)
        try:
            staging.rename(target)
        except BaseException:  # an interrupt as well
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can: Linux, ``renameat2`` with ``RENAME_EXCHANGE``."""
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    """Have a file or folder on disk before it is published."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
