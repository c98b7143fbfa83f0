"""The file outlet's own ways; what it shares with others is in tests/contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from stream_detector.adapters.files.outlet import FileOutlet
from stream_detector.adapters.files.source import FILES
from stream_detector.errors import DataError, Unavailable
from stream_detector.events import Reject
from stream_detector.ports import Delivery


def test_dead_letters_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    outlet = FileOutlet(tmp_path, durable=False)
    outlet.open()
    reject = Reject(7, "bad-encoding", "not UTF-8 at byte 0", "käy".encode(), b"\xff")
    outlet.deliver(Delivery([], [], [(FILES, reject)], {FILES: 8}))
    outlet.close()
    assert json.loads((tmp_path / "dead-letters.jsonl").read_text()) == {
        "key": "käy",
        "value_base64": "/w==",
        "errors.topic": "files",
        "errors.partition": "0",
        "errors.offset": "7",
        "errors.exception": "bad-encoding",
        "errors.message": "not UTF-8 at byte 0",
    }


def damage_position(folder: Path) -> None:
    (folder / "position.json").write_text("{")


def shorten(folder: Path) -> None:
    (folder / "dead-letters.jsonl").write_bytes(b"")


@pytest.mark.parametrize(("damage", "message"), [(damage_position, "is damaged"), (shorten, "was shortened")])
def test_a_folder_that_somebody_touched(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    outlet = FileOutlet(tmp_path)
    outlet.open()
    outlet.deliver(Delivery([], [], [(FILES, Reject(0, "empty", "…"))], {FILES: 1}))
    outlet.close()
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        FileOutlet(tmp_path).open()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="folder"):
        FileOutlet(tmp_path / "out").open()


def test_a_full_disk_is_unavailable_and_leaves_the_last_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = FileOutlet(tmp_path)
    outlet.open()
    outlet.deliver(Delivery([], [], [(FILES, Reject(0, "empty", "…"))], {FILES: 1}))

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(Unavailable, match="No space left"):
            outlet.deliver(Delivery([], [], [(FILES, Reject(1, "empty", "…"))], {FILES: 2}))
    outlet.open()
    assert outlet.committed(FILES) == 1
    assert len((tmp_path / "dead-letters.jsonl").read_bytes().splitlines()) == 1
    assert msgspec.json.decode((tmp_path / "position.json").read_bytes())["lengths"]["scores.jsonl"] == 0
