"""A registry gives whole, verified versions and one pointer, on a disk and in an object store alike."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from stream_detector.adapters.registry import KEPT, Pointer, Registry, load_from, open_bundle, version_at
from stream_detector.errors import BundleError, SettingsError
from stream_detector.settings import load_settings
from tests.commandline import invoke
from tests.stream_detector.test_bundle import write


@pytest.fixture(params=["folder", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty registry."""
    if request.param == "folder":
        yield str(tmp_path / "registry")
        return
    name = f"memory://{uuid.uuid4().hex}/models"
    yield name
    fsspec.filesystem("memory").rm("/" + name.split("/")[2], recursive=True)


def bundle(folder: Path, day: int) -> Path:
    """A bundle made on that day of November 2026."""
    write(folder / f"bundle-{day}", b"model of day %d" % day, created=f"2026-11-{day:02}T10:00:00.000Z")
    return folder / f"bundle-{day}"


def filled(location: str, folder: Path, days: int = 3) -> tuple[Registry, list[str]]:
    registry = Registry(location)
    return registry, [registry.add(bundle(folder, day)).version for day in range(1, days + 1)]


def test_what_was_added_can_be_listed_promoted_and_loaded(location: str, tmp_path: Path) -> None:
    registry, versions = filled(location, tmp_path)
    assert [made.version for made in registry.versions()] == versions[::-1]  # newest first
    assert registry.current() is None
    with pytest.raises(BundleError, match="no version has been promoted"):
        load_from(location)
    assert registry.promote(versions[1]) == Pointer(versions[1])
    assert version_at(location) == versions[1]
    found = load_from(location)
    assert (found.manifest.version, found.model) == (versions[1], b"model of day 2")
    assert load_from(location, versions[2]).model == b"model of day 3"
    assert registry.load(versions[0]).model == b"model of day 1"
    assert registry.manifest(versions[2]).created == "2026-11-03T10:00:00.000Z"


def test_what_judged_before_judges_again_after_a_rollback(location: str, tmp_path: Path) -> None:
    registry, versions = filled(location, tmp_path)
    for version in (*versions, versions[2]):  # the last one changes nothing
        registry.promote(version)
    assert registry.current() == Pointer(versions[2], (versions[1], versions[0]))
    assert registry.rollback() == Pointer(versions[1], (versions[0],))
    assert registry.rollback() == Pointer(versions[0])
    with pytest.raises(BundleError, match="no version has judged before"):
        registry.rollback()
    assert version_at(location) == versions[0]


def test_the_pointer_forgets_what_is_long_gone(location: str, tmp_path: Path) -> None:
    registry, versions = filled(location, tmp_path, 2)
    for turn in range(KEPT + 5):
        registry.promote(versions[turn % 2])
    pointer = registry.current()
    assert pointer is not None
    assert len(pointer.before) == KEPT


def test_adding_again_changes_nothing(location: str, tmp_path: Path) -> None:
    registry, versions = filled(location, tmp_path, 1)
    assert registry.add(tmp_path / "bundle-1").version == versions[0]
    assert len(registry.versions()) == 1


@pytest.mark.parametrize("version", ["../../etc", "20261101100000-0123456", "", "20261101100000-01234567/..", "a\nb"])
def test_what_is_no_version_reaches_no_path(location: str, version: str, tmp_path: Path) -> None:
    registry, _ = filled(location, tmp_path, 1)
    for ask in (registry.promote, registry.load, registry.manifest):
        with pytest.raises(BundleError, match="is no version"):
            ask(version)


def test_a_version_that_is_not_there(location: str, tmp_path: Path) -> None:
    registry, _ = filled(location, tmp_path, 1)
    with pytest.raises(BundleError, match=r"no version 20200101000000-00000000; `stream-detector models list` shows"):
        registry.promote("20200101000000-00000000")


def test_damaged_versions_are_never_promoted(location: str, tmp_path: Path) -> None:
    registry, versions = filled(location, tmp_path)
    registry.promote(versions[0])
    files = registry.files
    files.pipe_file(registry._path("versions", versions[1], "model.keras"), b"another model")
    with pytest.raises(BundleError, match=rf"{re.escape(location)}, version {versions[1]}: model.keras was changed"):
        registry.promote(versions[1])
    files.rm(registry._path("versions", versions[2], "scaler.json"))
    with pytest.raises(BundleError, match=r"scaler\.json"):
        registry.promote(versions[2])
    files.rm(registry._path("versions", versions[2], "manifest.json"))  # as one that is still being written
    assert [made.version for made in registry.versions()] == [versions[1], versions[0]]
    assert registry.current() == Pointer(versions[0])
    registry.promote(versions[0])
    files.pipe_file(registry._path("current.json"), b'{"version": "../../x"}')
    with pytest.raises(BundleError, match="is no version"):
        version_at(location)
    files.pipe_file(registry._path("current.json"), b"{")
    with pytest.raises(BundleError, match=r"current\.json cannot be read: .*; promote a version again"):
        version_at(location)


def test_whoever_reads_while_others_promote_sees_one_version_or_the_other(tmp_path: Path) -> None:
    registry, versions = filled(str(tmp_path / "registry"), tmp_path, 2)
    registry.promote(versions[0])
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(load_from(registry.location).manifest.version)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        registry.promote(versions[turn % 2])
    over.set()
    reader.join()
    assert seen <= set(versions)
    assert seen
    assert not list((tmp_path / "registry").glob(".*"))  # nothing half written stays


def test_addresses_that_cannot_be_opened_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"s3 needs a package that is not here: pip install 'stream-detector\[s3\]'"
    ):
        Registry("s3://bucket/models")
    with pytest.raises(SettingsError, match="give a folder, or a URL such as"):
        Registry("nothing://here")
    with pytest.raises(BundleError, match="no bundle there"):
        load_from(str(tmp_path))


def test_settings_name_a_registry_or_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, versions = filled(str(tmp_path / "registry"), tmp_path, 2)
    registry.promote(versions[0])
    for path, version in ((tmp_path / "bundle-2", versions[1]), (tmp_path / "registry", versions[0])):
        monkeypatch.setenv("STREAM_DETECTOR__BUNDLE__PATH", str(path))
        assert open_bundle(load_settings()).manifest.version == version
        assert version_at(str(path)) == version
    assert open_bundle(load_settings(), str(tmp_path / "bundle-2")).manifest.version == versions[1]


def test_the_commands(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def models(*arguments: object) -> str:
        done = invoke("models", *arguments)
        assert done.code == 0, done.err
        return done.out

    made = bundle(tmp_path, 1), bundle(tmp_path, 2)
    monkeypatch.setenv("STREAM_DETECTOR__BUNDLE__PATH", location)
    assert "no versions; `stream-detector models add BUNDLE` adds one" in models("list")
    first = models("add", made[0], "--promote").split()[2]
    second = models("add", made[1]).split()[2]
    lines = models("list", "--registry", location).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[second, "pumps"], ["*", first]]
    assert f'"version": "{second}"' in models("show", second)
    assert models("promote", second) == f"{second} judges from now on\n"
    assert models("rollback") == f"{first} judges from now on\n"
    for arguments, told in (
        (("rollback",), "no version has judged before this one"),
        (("show", "latest"), "'latest' is no version"),
        (("add", tmp_path / "nothing"), "no bundle there"),
    ):
        done = invoke("models", *arguments)
        assert done.code == 2
        assert told in done.err
        assert len(done.err.splitlines()) == 1
    monkeypatch.delenv("STREAM_DETECTOR__BUNDLE__PATH")
    assert "no registry: give --registry DIR or a URL" in invoke("models", "list").err
