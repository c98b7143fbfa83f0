"""How far a partition is done, as it is committed: an offset, and in its metadata what was not done in order.

Alerts are delivered side by side, and one may wait for days. The committed offset is the first that is not done; the
metadata lists those that wait beyond it, up to where was read, so that a restart repeats none of the others. (The idea
is Confluent's parallel consumer's.) What is not in the metadata, or cannot be read, is delivered again.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST = 3_900  # characters; brokers take 4,096 (offset.metadata.max.bytes)
VERSION = 1


class Waiting(NamedTuple):
    """An alert that is not done."""

    since: int  # epoch seconds: its first try or, before that, when it was read; 0: not known
    tried: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one partition: everything before ``reached`` that is not in ``waiting`` is done."""

    reached: int
    waiting: Mapping[int, Waiting] = field(default_factory=dict)  # by offset, rising

    @property
    def offset(self) -> int:
        """The first that is not done: what is committed."""
        return min(self.waiting, default=self.reached)

    def done(self, offset: int) -> bool:
        """Whether the record there need not be delivered."""
        return offset < self.reached and offset not in self.waiting


def encode(progress: Progress) -> str:
    """Metadata of a commit at ``progress.offset``; shortened until it fits, at the price of repeats after a restart."""
    offsets, waiting = list(progress.waiting), dict(progress.waiting)
    known, reached = len(offsets), progress.reached
    while True:
        text = _text(offsets, waiting, known, reached, progress.offset)
        if len(text) <= LONGEST or not offsets:
            return text if len(text) <= LONGEST else ""
        if known:
            known //= 2  # first the times of the newest: they begin anew
        else:
            reached = offsets[len(offsets) // 2]  # then what was done beyond: it comes again
            offsets = offsets[: len(offsets) // 2]


def decode(offset: int, text: str) -> Progress:
    """What was committed at ``offset``; metadata of others, or damaged, says nothing."""
    try:
        version, ahead, gaps, times = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
        if version != VERSION:
            return Progress(offset)
        waiting, at, second = {}, offset, 0
        for place, gap in enumerate(gaps):
            at += int(gap)
            since, tried = times[place] if place < len(times) else (None, False)
            second += int(since or 0)
            waiting[at] = Waiting(0, False) if since is None else Waiting(second, bool(tried))
        return Progress(offset + int(ahead), waiting)
    except (binascii.Error, zlib.error, ValueError, TypeError, UnicodeError):
        return Progress(offset)


def _text(offsets: list[int], waiting: Mapping[int, Waiting], known: int, reached: int, base: int) -> str:
    """Offsets and times as differences, which compress well."""
    gaps = [at - before for before, at in zip([base, *offsets], offsets, strict=False)]
    sinces = [waiting[at].since for at in offsets[:known]]
    steps = [now - before for before, now in zip([0, *sinces], sinces, strict=False)]
    times = [(step, int(waiting[at].tried)) for step, at in zip(steps, offsets, strict=False)]
    packed = json.dumps([VERSION, reached - base, gaps, times], separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(packed, 9)).decode()
