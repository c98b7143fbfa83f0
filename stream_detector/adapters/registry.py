"""Where bundles come from: a folder, or a registry of versions of one; on a disk, or wherever fsspec reaches.

A registry is a folder with the bundles in ``versions/VERSION/`` and a pointer to the one that judges::

    pumps/current.json                          {"version": "20261120100000-1f2e3d4c", "before": ["20261113…"]}
    pumps/versions/20261120100000-1f2e3d4c/     manifest.json, model.keras, …

Versions are never changed. Whoever follows the pointer sees one whole bundle or another: the pointer is one small file,
written at once, and a version counts only once its manifest is there, which is written last.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import msgspec

from stream_detector.bundle import MANIFEST, Bundle, load_bundle, read_manifest
from stream_detector.configured import check_windows, checked, located, locations
from stream_detector.contents import Manifest
from stream_detector.errors import BundleError, SettingsError, StreamDetectorError
from stream_detector.settings import Settings

CURRENT = "current.json"
VERSIONS = "versions"
VERSION = re.compile(r"\d{14}-[0-9a-f]{8}")
KEPT = 50  # versions that the pointer remembers to have pointed to
REMEDY = "train it on such windows as that of [bundle], or run a service of their own for these sensors"
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}


class Pointer(msgspec.Struct, frozen=True):
    """The version that judges, and those that did before it, newest first."""

    version: str
    before: tuple[str, ...] = ()


class Registry:
    """Versions of a bundle under ``location``, a folder or a URL; methods raise `BundleError`."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self.files, self.root = _files(self.location)

    def current(self) -> Pointer | None:
        """The pointer; None if nothing has been promoted yet."""
        with _told(self.location):
            if not self.files.exists(self._path(CURRENT)):
                return None
            data = self.files.cat_file(self._path(CURRENT))
        try:
            pointer = msgspec.json.decode(data, type=Pointer)
        except msgspec.DecodeError as error:
            raise BundleError(f"{self.location}: {CURRENT} cannot be read: {error}; promote a version again") from error
        _check(pointer.version)
        return pointer

    def versions(self) -> list[Manifest]:
        """What there is, newest first."""
        with _told(self.location):
            self.files.invalidate_cache()
            folder = self._path(VERSIONS)
            found = self.files.ls(folder, detail=False) if self.files.exists(folder) else []
            names = sorted((PurePosixPath(path).name for path in found), reverse=True)
            whole = [
                name
                for name in names
                if VERSION.fullmatch(name) and self.files.exists(self._path(VERSIONS, name, MANIFEST))
            ]
        return [self.manifest(name) for name in whole]

    def manifest(self, version: str) -> Manifest:
        """What a version is."""
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            return self._fetch_manifest(version, Path(folder))

    def load(self, version: str) -> Bundle:
        """A version, verified."""
        where = f"{self.location}, version {version}"
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder, _named(folder, where):
            manifest = self._fetch_manifest(version, Path(folder))
            (Path(folder) / "report").mkdir()
            for name in manifest.files:  # whatever else lies there is not even fetched
                with _told(where):
                    (Path(folder) / name).write_bytes(self.files.cat_file(self._path(VERSIONS, version, name)))
            return replace(load_bundle(folder), path=Path(f"{self.location}/{VERSIONS}/{version}"))

    def add(self, path: Path) -> Manifest:
        """Put a bundle among the versions; it judges once it is promoted. One that is there already stays."""
        manifest = load_bundle(path).manifest
        target = self._path(VERSIONS, manifest.version)
        with _told(self.location):
            if self.files.exists(f"{target}/{MANIFEST}"):
                return manifest
            local = "file" in _protocols(self.files)
            staging = self._path(VERSIONS, f".{manifest.version}.{secrets.token_hex(4)}") if local else target
            for name in (*manifest.files, MANIFEST):  # the manifest last: what lacks it does not count
                self.files.makedirs(os.path.dirname(f"{staging}/{name}"), exist_ok=True)
                self.files.pipe_file(f"{staging}/{name}", (path / name).read_bytes())
            if local:
                Path(staging).rename(target)
        return manifest

    def promote(self, version: str) -> Pointer:
        """Let a version judge, after it was verified."""
        self.load(version)
        now = self.current()
        if now is not None and now.version == version:
            return now
        before = () if now is None else (now.version, *now.before)[:KEPT]
        return self._point(Pointer(version, before))

    def rollback(self) -> Pointer:
        """Let the version judge that did before this one."""
        now = self.current()
        if now is None or not now.before:
            raise BundleError(f"{self.location}: no version has judged before this one; promote one")
        self.load(now.before[0])
        return self._point(Pointer(now.before[0], now.before[1:]))

    def _point(self, pointer: Pointer) -> Pointer:
        target = self._path(CURRENT)
        data = msgspec.json.format(msgspec.json.encode(pointer), indent=1) + b"\n"
        with _told(self.location):
            if "file" not in _protocols(self.files):  # object stores show a new object at once or not at all
                self.files.pipe_file(target, data)
                return pointer
            partial = Path(self._path(f".{CURRENT}.{secrets.token_hex(4)}"))
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        return pointer

    def _fetch_manifest(self, version: str, folder: Path) -> Manifest:
        _check(version)
        with _told(self.location):
            if not self.files.exists(self._path(VERSIONS, version, MANIFEST)):
                raise BundleError(f"{self.location}: no version {version}; `stream-detector models list` shows them")
            (folder / MANIFEST).write_bytes(self.files.cat_file(self._path(VERSIONS, version, MANIFEST)))
        with _named(str(folder), f"{self.location}, version {version}"):
            manifest = read_manifest(folder)
        if manifest.version != version:
            raise BundleError(f"{self.location}: version {version} holds {manifest.version}; add that bundle again")
        return manifest

    def _path(self, *names: str) -> str:
        return "/".join([self.root.rstrip("/"), *names])


def open_bundle(settings: Settings, path: str | None = None, version: str | None = None) -> Bundle:
    """The verified bundle that settings name and are for; ``path`` (from ``--bundle``) wins.

    Of a registry it is the current one, or the ``version`` asked for. Raises `BundleError` or `SettingsError`.
    """
    return checked(settings, load_from(located(settings, path), version))


def open_bundles(settings: Settings, path: str | None = None) -> dict[str, Bundle]:
    """`open_bundle` for all sensors: those of groups by the group's name, that of the others under "".

    Groups that name the same place have the same bundle. What is raised names the group that it is about.
    """
    common, places = open_bundle(settings, path), locations(settings, path)
    opened = {places[""]: common}
    for name, location in places.items():
        if location not in opened:
            try:
                opened[location] = open_beside(common, settings, location)
            except (BundleError, SettingsError) as error:
                raise type(error)(f"groups.{name}.bundle: {error}") from error
    return {name: opened[location] for name, location in places.items()}


def open_beside(common: Bundle, settings: Settings, location: str) -> Bundle:
    """`open_bundle` of a group; it must be for the same windows as that of the other sensors."""
    bundle, made = open_bundle(settings, location), common.manifest
    check_windows(bundle.manifest, made.features, made.length, made.stride, REMEDY)
    return bundle


def load_from(location: str, version: str | None = None) -> Bundle:
    """The bundle in a folder, or a version of a registry (the current one). See `open_bundle` for what it raises."""
    registry = _registry(location)
    if registry is None:
        return load_bundle(location)
    return registry.load(version or _current(registry))


def version_at(location: str) -> str:
    """The version that `load_from` would give, at the cost of reading one small file."""
    registry = _registry(location)
    return read_manifest(Path(location)).version if registry is None else _current(registry)


def _current(registry: Registry) -> str:
    pointer = registry.current()
    if pointer is None:
        raise BundleError(
            f"{registry.location}: no version has been promoted; `stream-detector models promote VERSION` does"
        )
    return pointer.version


def _registry(location: str) -> Registry | None:
    """None for a folder that is a bundle itself, or nothing at all."""
    if "://" in location:
        return Registry(location)
    folder = Path(location)
    known = (folder / CURRENT).exists() or (folder / VERSIONS).is_dir()
    return Registry(location) if known else None


def _check(version: str) -> None:
    """Raise `BundleError` for what is no version: such names become paths."""
    if not VERSION.fullmatch(version):
        raise BundleError(
            f"{version!r} is no version, which is like 20261120100000-1f2e3d4c; see `stream-detector models list`"
        )


def _files(location: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Raises `SettingsError` for a URL that it cannot open."""
    protocol = location.partition("://")[0] if "://" in location else "file"
    try:
        files, root = fsspec.core.url_to_fs(location)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        needed = f"pip install 'stream-detector[{extra}]'" if extra else str(error)
        raise SettingsError(f"{location}: {protocol} needs a package that is not here: {needed}") from error
    except ValueError as error:
        raise SettingsError(f"{location}: {error}; give a folder, or a URL such as s3://bucket/models") from error
    return files, root


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Whatever a file system raises, in a line: each has errors of its own."""
    try:
        yield
    except StreamDetectorError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{where}: {said}; check the address, and who may read it") from error


@contextmanager
def _named(folder: str, where: str) -> Iterator[None]:
    """Errors name where a bundle came from, not where it was put for a moment."""
    try:
        yield
    except BundleError as error:
        raise BundleError(str(error).replace(folder, where)) from error
