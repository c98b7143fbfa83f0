"""A bundle is whole and unchanged, or a `BundleError` with one line says why not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from stream_detector import bundle as module
from stream_detector.bundle import check_fits, load_bundle, read_manifest, write_bundle
from stream_detector.contents import Ends, ErrorStatistics, Manifest, Novelty, Scaler
from stream_detector.errors import BundleError
from stream_detector.memories import Head, Memory, Peak
from stream_detector.thresholds import Entry, Tail, Thresholds

THIRD = 1 / 3
SCALER = Scaler((2.1, 1e300), (THIRD, 1e-300))
ERRORS = ErrorStatistics("mahalanobis", (0.1, 0.2), ((1.0, 0.0), (THIRD, 2.0)), 0.05)


def manifest(**changes: object) -> Manifest:
    plain = Manifest(
        name="pumps",
        kind="lstm",
        features=("pressure", "current"),
        length=8,
        stride=2,
        means=(2.1, THIRD),
        created="2026-11-20T10:00:00.123Z",
        seed=7,
        backend="tensorflow",
    )
    return msgspec.structs.replace(plain, **changes)


def write(
    target: Path,
    model: bytes = b"a model",
    scaler: Scaler = SCALER,
    errors: ErrorStatistics = ERRORS,
    **changes: object,
) -> Manifest:
    work = target.parent / "work"
    (work / "report").mkdir(parents=True, exist_ok=True)
    (work / "model.keras").write_bytes(model)
    (work / "report" / "summary.txt").write_text("fine")
    entry = Entry("*", 1.5, 0.1, 100, Tail(1.0, 0.1, 0.2, 20, 3.0))
    return write_bundle(
        target,
        manifest(**changes),
        model=work / "model.keras",
        scaler=scaler,
        errors=errors,
        thresholds=Thresholds("evt", 0.1, (entry,), {}),
        report=work / "report",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "pumps")
    return tmp_path / "pumps"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    for word in words:
        assert word in text


def test_what_is_written_is_read(path: Path) -> None:
    bundle = load_bundle(path)
    assert bundle.model == b"a model"
    assert bundle.scaler == SCALER  # floats are exact
    assert bundle.errors.whitening[1] == (THIRD, 2.0)
    assert bundle.manifest == read_manifest(path)
    assert bundle.manifest.version.startswith("20261120100000-")
    assert set(bundle.manifest.files) == {*module.FILES, "report/summary.txt"}


def test_a_bundle_of_an_earlier_version_is_read(path: Path) -> None:
    """It lacks fields that came later: they have their defaults, and the manifest's digest is that of the file."""
    told = msgspec.json.decode((path / "manifest.json").read_bytes())
    del told["output"], told["state"], told["groups"]
    for name in ("scaler.json", "thresholds.json"):
        part = msgspec.json.decode((path / name).read_bytes())
        del part["groups"]
        for entry in part.get("entries", ()):
            del entry["blocks"]
        (path / name).write_bytes(msgspec.json.encode(part))
        told["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    told["digest"] = hashlib.sha256(msgspec.json.encode(told | {"digest": ""})).hexdigest()
    (path / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1))
    found = load_bundle(path).manifest
    assert (found.output, found.state, found.groups) == ("window", "pretrained", {})
    assert load_bundle(path).scaler == SCALER
    (path / "manifest.json").write_bytes(msgspec.json.encode(told | {"seed": 8}))
    refused(path, "was changed")


def test_groups_that_something_is_known_of_are_named(tmp_path: Path) -> None:
    scaler = msgspec.structs.replace(SCALER, groups={"pumps": SCALER})
    write(tmp_path / "pumps", scaler=scaler, groups={"pumps": "pump-*"})
    assert load_bundle(tmp_path / "pumps").scaler == scaler
    with pytest.raises(BundleError, match="groups make no sense"):
        write(tmp_path / "pumps", scaler=scaler, groups={"fans": "fan-*"})
    narrow = msgspec.structs.replace(SCALER, groups={"pumps": Scaler((0.0,), (1.0,))})
    with pytest.raises(BundleError, match=r"scaler\.json: own does not fit 2 features"):
        write(tmp_path / "pumps", scaler=narrow, groups={"pumps": "pump-*"})


def test_what_the_model_returns_and_its_errors_must_fit(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="output and errors make no sense"):
        write(tmp_path / "pumps", output="probability", state="fine_tuned")
    write(tmp_path / "pumps", output="residual")  # of any width
    assert load_bundle(tmp_path / "pumps").manifest.output == "residual"


SOUND = Memory(Head(2, 2, 0, 3, 1, (Peak(0, 2.0), Peak(2, 1.0)), ()), np.ones(2, np.float32).tobytes())


@pytest.mark.parametrize(
    "memory",
    [
        Memory(SOUND.head, b"\0" * 7),
        Memory(SOUND.head, np.array([1, np.nan], np.float32).tobytes()),
        Memory(replace(SOUND.head, taken=1), SOUND.packed),
        Memory(replace(SOUND.head, compared=4), SOUND.packed),
        Memory(replace(SOUND.head, windows=2), SOUND.packed),
        Memory(replace(SOUND.head, scores=(Peak(0, 1.0), Peak(1, 2.0))), SOUND.packed),
        Memory(replace(SOUND.head, scores=(Peak(0, -1.0),)), SOUND.packed),
    ],
)
def test_what_it_remembers_of_training_must_be_what_windows_leave_behind(tmp_path: Path, memory: Memory) -> None:
    def remembering(own: Memory) -> None:
        errors = ErrorStatistics("mse", novelty=Novelty(9, 1, {"": 1}, {"a": own}))
        write(tmp_path / "load", features=("load",), means=(0.0,), scaler=Scaler((0.0,), (1.0,)), errors=errors)

    remembering(SOUND)
    novelty = load_bundle(tmp_path / "load").errors.novelty
    assert novelty is not None
    assert novelty.own == {"a": SOUND}
    with pytest.raises(BundleError, match="novelty make no sense"):
        remembering(memory)


@pytest.mark.parametrize("name", [*module.FILES, "manifest.json", "report/summary.txt"])
def test_a_changed_file_is_refused(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    digit = next((at for at, byte in enumerate(data) if chr(byte) in "123456789"), 0)
    data[digit] = ord("1") if data[digit] != ord("1") else ord("2")
    (path / name).write_bytes(data)
    refused(path)


@pytest.mark.parametrize("name", [*module.FILES, "manifest.json", "report/summary.txt"])
def test_a_missing_file_is_refused(path: Path, name: str) -> None:
    (path / name).unlink()
    refused(path, name)


@pytest.mark.parametrize("name", [*module.FILES, "manifest.json"])
def test_a_file_cut_short_is_refused(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:-3])
    refused(path, name)


def test_an_extra_file_is_refused(path: Path) -> None:
    (path / "model.pkl").write_bytes(b"\x80\x04.")
    refused(path, "model.pkl", "pickle", "remove it")
    (path / "model.pkl").rename(path / "notes.txt")
    refused(path, "notes.txt")


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "/etc/passwd", "report/../../secret.txt", "a/b.txt", "..", "report/", ".x", "a\\b"],
)
def test_a_manifest_cannot_lead_out_of_the_folder(path: Path, name: str) -> None:
    (path.parent / "secret.txt").write_text("secret")
    old = read_manifest(path)
    files = {**old.files, name: module._sha256(b"secret")}
    forged = msgspec.structs.replace(old, files=files)
    forged = msgspec.structs.replace(forged, digest=module._digest(forged))
    (path / "manifest.json").write_bytes(msgspec.json.encode(forged))
    refused(path, "no plain file name")


def test_links_and_folders_are_refused(path: Path) -> None:
    model = path / "model.keras"
    model.rename(path.parent / "elsewhere.keras")
    model.symlink_to(path.parent / "elsewhere.keras")
    refused(path, "model.keras", "link")
    model.unlink()
    model.mkdir()
    refused(path, "model.keras")


def test_another_format_is_told_from_damage(path: Path) -> None:
    (path / "manifest.json").write_bytes(b'{"format": 2, "new": []}')
    refused(path, "format 2", "train it again")


@pytest.mark.parametrize("found", ["nothing", "file", "folder"])
def test_no_bundle_there(tmp_path: Path, found: str) -> None:
    if found == "file":
        (tmp_path / "pumps").write_text("")
    elif found == "folder":
        (tmp_path / "pumps").mkdir()
    refused(tmp_path / "pumps", "no bundle there")


def test_parts_must_fit_each_other(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not fit 3 features"):
        write(tmp_path / "pumps", features=("a", "b", "c"))
    with pytest.raises(BundleError, match="features make no sense"):
        write(tmp_path / "pumps", features=("a", "a"))
    with pytest.raises(BundleError, match="ends does not fit 2 features"):
        write(tmp_path / "pumps", errors=ErrorStatistics("mse", ends=Ends((0.0, 0.0), (1.0,))))
    with pytest.raises(BundleError, match="ends make no sense"):
        write(tmp_path / "pumps", errors=ErrorStatistics("mse", ends=Ends((0.0, 0.0), (1.0, -1.0))))
    with pytest.raises(BundleError, match="partners' events make no sense"):
        write(tmp_path / "pumps", errors=ErrorStatistics("mse", ends=Ends((0.0, 0.0), (1.0, 1.0), events=10_000)))
    assert not (tmp_path / "pumps").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["work"]  # nothing is left behind


def test_a_bundle_replaces_an_older_one(path: Path) -> None:
    before = read_manifest(path)
    write(path, model=b"another")
    assert load_bundle(path).model == b"another"
    assert read_manifest(path).version != before.version
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["pumps", "work"]


def test_replacing_without_an_atomic_exchange(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    write(path, model=b"another")
    assert load_bundle(path).model == b"another"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["pumps", "work"]


@pytest.mark.parametrize("step", ["_seal", "_sync", "_publish", "_rename"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_old_bundle_survives_a_failed_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, kind: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise kind(28, "No space left on device")

    if step == "_rename":  # the second of two, where folders cannot be exchanged
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)
        real, calls = Path.rename, []

        def rename(self: Path, target: Path) -> Path:
            calls.append(target)
            return fail() if len(calls) == 2 else real(self, target)  # type: ignore[func-returns-value,return-value]

        monkeypatch.setattr(Path, "rename", rename)
    else:
        monkeypatch.setattr(module, step, fail)
    before = load_bundle(path)
    wanted = BundleError if kind is OSError else kind
    with pytest.raises(wanted):
        write(path, model=b"another")
    monkeypatch.undo()
    assert load_bundle(path) == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["pumps", "work"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "pumps").mkdir()
    (tmp_path / "pumps" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is not a bundle"):
        write(tmp_path / "pumps")
    assert (tmp_path / "pumps" / "thesis.tex").read_text() == "years of work"
    shutil.rmtree(tmp_path / "pumps")
    (tmp_path / "pumps").mkdir()
    write(tmp_path / "pumps")  # an empty folder will do
    load_bundle(tmp_path / "pumps")


def test_a_bundle_replaced_while_it_is_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.read_manifest
    calls = 0

    def meanwhile(where: Path) -> Manifest:
        nonlocal calls
        calls += 1
        found = real(where)
        if calls == 1:
            write(path, model=b"another")
        return found

    monkeypatch.setattr(module, "read_manifest", meanwhile)
    bundle = load_bundle(path)
    assert bundle.model == b"another"
    assert bundle.manifest == real(path)


def test_check_fits(path: Path) -> None:
    bundle = load_bundle(path)
    check_fits(bundle)
    check_fits(bundle.manifest, ["current", "pressure"], 8, 2)
    with pytest.raises(BundleError, match=r"lacks pressure and has also flow.*\[columns\]"):
        check_fits(bundle, ["current", "flow"])
    with pytest.raises(BundleError, match=r"window.length = 8, the settings say 9"):
        check_fits(bundle, length=9)
    with pytest.raises(BundleError, match=r"window.stride = 2, the settings say 1"):
        check_fits(bundle, stride=1)


def test_reading_needs_no_keras() -> None:
    code = "import sys, stream_detector.bundle; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
