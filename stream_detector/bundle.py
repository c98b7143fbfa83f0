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
from typing import Any, TypeVar

import msgspec

from stream_detector.contents import FORMAT, ErrorStatistics, Manifest, Scaler, misfits
from stream_detector.errors import BundleError
from stream_detector.thresholds import Thresholds

MANIFEST = "manifest.json"
FILES = ("model.keras", "scaler.json", "errors.json", "thresholds.json")
NAME = re.compile(r"(report/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # plain: cannot lead out of the folder
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")

Part = TypeVar("Part")


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
        _check(_bundle(staging, manifest, {name: (staging / name).read_bytes() for name in FILES}))
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
    _check(bundle)
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


def _check(bundle: Bundle) -> None:
    for wrong in misfits(bundle.manifest, bundle.scaler, bundle.errors, bundle.thresholds):
        raise BundleError(f"{bundle.path}: {wrong}; train the bundle again")


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
