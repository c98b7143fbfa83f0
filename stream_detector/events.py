"""Value types that flow through the pipeline: events, windows, scores and alerts.

Whatever exists once per event or per window is a column in a NumPy array; whatever a user reads is a record.
Times are epoch milliseconds (UTC) inside the program and RFC 3339 strings in what it publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

Int64: TypeAlias = NDArray[np.int64]
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
PartName: TypeAlias = Literal["model", "change", "level", "bias", "spread", "novelty"]  # of the score

PARTS: tuple[PartName, ...] = get_args(PartName)
LASTING: tuple[PartName, ...] = ("level", "bias", "spread")  # stay high for as long as a shift lasts
LOCAL: tuple[PartName, ...] = ("model", "bias", "spread")  # count only where the model has been


class Partition(NamedTuple):
    """One ordered log of events: a Kafka topic partition, or a file read as one."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded events of one partition, in offset order. ``n`` events, ``F`` features."""

    sensors: list[str]  # (n)
    timestamps: Int64  # (n) event time, epoch ms
    values: Float32  # (n, F) NaN where the event has no value; never infinite
    offsets: Int64  # (n) strictly rising
    arrivals: Int64  # (n) the record's own timestamp at the broker, epoch ms; -1 where there is none

    def __len__(self) -> int:
        return len(self.sensors)

    def take(self, chosen: NDArray[np.intp] | Bool | slice) -> Events:
        """The chosen events, in their order."""
        rows = np.arange(len(self))[chosen]
        return Events(
            [self.sensors[row] for row in rows],
            self.timestamps[chosen],
            self.values[chosen],
            self.offsets[chosen],
            self.arrivals[chosen],
        )


def joined(parts: Sequence[Events]) -> Events:
    """One after the other; at least one part."""
    return Events(
        [sensor for part in parts for sensor in part.sensors],
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.arrivals for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Reject:
    """An event that cannot be used, with its raw bytes, for the dead-letter topic."""

    offset: int
    reason: str  # a short fixed word, fit as a metric label: "not-json", "late", …
    message: str  # one line for a person
    key: bytes | None = None
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """What one poll brought from one partition: its events, its rejects, and the positions around them.

    ``start`` is the position that was polled from and ``end`` the position after. They are not the first and last
    offsets: transaction markers and compaction leave gaps in a log.
    """

    partition: Partition
    start: int
    end: int
    events: Events
    rejects: list[Reject]
    raw: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)  # (key, value) of each event


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows that are ready to be scored. ``n`` windows of ``W`` events with ``F`` features."""

    sensors: list[str]  # (n)
    values: Float32  # (n, W, F) raw units, imputed where something was missing
    timestamps: Int64  # (n, 2) of the first and the last event
    offsets: Int64  # (n, 2) of the first and the last event
    imputed: Bool  # (n, F) whether any value of the feature was imputed
    confidence: Float32  # (n) share of the window's values that were measured, 0..1

    def __len__(self) -> int:
        return len(self.sensors)

    def in_turn(self, swept: Sequence[tuple[str, int]], forget: Callable[[str], object]) -> Iterator[int]:
        """The place of each window; before it, sensors that were ``swept`` after an earlier offset are forgotten.

        Windows are in the order of their offsets. Those that were swept after all windows are forgotten at the end.
        """
        leaving = sorted(swept, key=lambda one: one[1], reverse=True)  # the next one at the end
        for at, last in enumerate(self.offsets[:, 1].tolist()):
            while leaving and leaving[-1][1] < last:
                forget(leaving.pop()[0])
            yield at
        for sensor, _ in leaving:
            forget(sensor)

    def take(self, chosen: NDArray[np.intp]) -> Windows:
        """The chosen windows, in their order."""
        return Windows(
            [self.sensors[at] for at in chosen.tolist()],
            self.values[chosen],
            self.timestamps[chosen],
            self.offsets[chosen],
            self.imputed[chosen],
            self.confidence[chosen],
        )


@dataclass(frozen=True, slots=True)
class Errors:
    """What the device returns for ``n`` windows: no verdicts yet."""

    score: Float32  # (n) error / threshold, so that >= 1 is anomalous for every model
    error: Float32  # (n)
    threshold: Float32  # (n) the one that applied to the window's sensor
    contributions: Float32  # (n, F) share of each feature in the error; rows sum to 1
    worst_step: NDArray[np.int32]  # (n) the step of the window with the largest error, from 0
    part: NDArray[np.int8] | None = None  # (n) the part of the score that is largest, in `PARTS`; None: the model's
    expected: Float32 | None = None  # (n, W, F) raw units, what that part expected if it knows itself, else NaN
    strength: Float32 | None = None  # (n) the score by thresholds that do not move; None: these do not
    outside: Bool | None = None  # (n, F) features that lie where training saw none; None: nobody knows where it did
    lasting: Lasting | None = None  # None: no part of the score lasts, or what did was judged (`shifts`)
    accepted: Float32 | None = None  # (n) as `Alert.accepted`; None: nowhere

    def cut(self, start: int, stop: int) -> Errors:
        """Those of the windows ``start`` to ``stop``."""
        return self.take(slice(start, stop))

    def take(self, part: NDArray[np.intp] | slice) -> Errors:
        """Those of the chosen windows."""
        return Errors(
            self.score[part],
            self.error[part],
            self.threshold[part],
            self.contributions[part],
            self.worst_step[part],
            None if self.part is None else self.part[part],
            None if self.expected is None else self.expected[part],
            None if self.strength is None else self.strength[part],
            None if self.outside is None else self.outside[part],
            None if self.lasting is None else Lasting(self.lasting.score[part], self.lasting.others.take(part)),
            None if self.accepted is None else self.accepted[part],
        )

    @property
    def strengths(self) -> Float32:
        """(n) what compares with other windows', however thresholds moved since."""
        return self.score if self.strength is None else self.strength

    @property
    def names(self) -> list[PartName]:
        """(n) of the part of the score that is largest."""
        return ["model"] * len(self.score) if self.part is None else [PARTS[at] for at in self.part.tolist()]


@dataclass(frozen=True, slots=True)
class Lasting:
    """Of ``n`` windows: what the parts of the score that stay high for as long as a shift lasts say, and the others."""

    score: Float32  # (n) the highest of those parts
    others: Errors  # (n) without them


def gathered(every: Sequence[Errors]) -> Errors:
    """One after the other; at least one. Each window's part goes with it, whichever parts its model has."""
    parts = [np.zeros(len(some.score), np.int8) if some.part is None else some.part for some in every]
    shape = next((some.expected.shape[1:] for some in every if some.expected is not None), None)
    expected = None
    if shape is not None:
        expected = np.concatenate(
            [
                np.full((len(some.score), *shape), np.nan, np.float32) if some.expected is None else some.expected
                for some in every
            ]
        )
    outside = None
    if any(some.outside is not None for some in every):
        outside = np.concatenate(
            [np.zeros_like(some.contributions, bool) if some.outside is None else some.outside for some in every]
        )
    lasting = None
    if any(some.lasting is not None for some in every):
        each = [some.lasting or Lasting(np.zeros_like(some.score), some) for some in every]
        scores = np.concatenate([one.score for one in each])
        lasting = Lasting(scores, gathered([replace(one.others, lasting=None) for one in each]))
    accepted = None
    if any(some.accepted is not None for some in every):
        accepted = np.concatenate(
            [np.zeros_like(some.score) if some.accepted is None else some.accepted for some in every]
        )
    return Errors(
        np.concatenate([some.score for some in every]),
        np.concatenate([some.error for some in every]),
        np.concatenate([some.threshold for some in every]),
        np.concatenate([some.contributions for some in every]),
        np.concatenate([some.worst_step for some in every]),
        np.concatenate(parts),
        expected,
        np.concatenate([some.strengths for some in every]),
        outside,
        lasting,
        accepted,
    )


class Model(msgspec.Struct, frozen=True):
    """Which model judged."""

    name: str
    """The bundle's."""
    version: str
    """When it was made and a digest of it, as `models list` names it."""


class Origin(msgspec.Struct, frozen=True):
    """The events that a score came from."""

    topic: str
    """The events topic, or the file."""
    partition: int
    """Its partition."""
    first_offset: int
    """Of the window's first event."""
    last_offset: int
    """Of its last."""


State: TypeAlias = Literal["normal", "pending", "firing"]
Severity: TypeAlias = Literal["minor", "major", "critical"]


class Score(msgspec.Struct, frozen=True):
    """One record of the scores topic: one window."""

    id: str
    """32 hexadecimal digits: the same on every reading, another for every other window."""
    sensor_id: str
    """As events give it."""
    window_start: str
    """Time of the window's first event."""
    window_end: str
    """Time of its last."""
    events: int
    """How many it holds."""
    score: float
    """`error / threshold` of the part that is highest: 1 and above is anomalous."""
    threshold: float
    """What the error was held against; of this sensor where training saw enough of it."""
    error: float
    """How far the window is from normal, in the model's own measure."""
    state: State
    """Of the sensor after this window."""
    contributions: dict[str, float]
    """Share of each feature in the error; they sum to 1."""
    worst_step: int
    """The event of the window with the largest error, from 0."""
    confidence: float
    """Share of the window's values that were measured, from 0 to 1."""
    imputed: list[str]
    """Features of which a value was filled in."""
    model: Model
    """Which model judged."""
    source: Origin
    """The events that it came from."""
    part: PartName = "model"
    """Of the score: whose error, threshold and contributions these are."""


class Embedding(msgspec.Struct, frozen=True):
    """One record of the embeddings topic: what the model's code makes of one window."""

    id: str
    """That of the window's score."""
    sensor_id: str
    """As events give it."""
    window_start: str
    """Time of the window's first event."""
    window_end: str
    """Time of its last."""
    embedding: list[float]  # (D)
    """The model's code of the window."""
    model: Model
    """Whose code; embeddings of different models do not compare."""
    source: Origin
    """The events that it came from."""


FaultKind: TypeAlias = Literal["stuck", "out_of_range", "dropout"]


class Alert(msgspec.Struct, frozen=True):
    """One record of the alerts topic: one change of one alert's state."""

    id: str
    """Stays through the alert's life. Of an anomaly: the id of the window that opened it."""
    revision: int
    """Rises by one with each record of the alert, from 1."""
    status: Literal["firing", "resolved"]
    """`firing` also when it becomes worse."""
    kind: Literal["anomaly", "silence", "fault"]
    """`fault` is about the sensor itself; an anomaly may become one."""
    sensor_id: str
    """As events give it."""
    severity: Severity
    """By the highest score; never falls."""
    started_at: str
    """End of the first window that it is about, in event time; of a silence, the time of the last event."""
    ended_at: str | None
    """When it resolved; null before."""
    score: float
    """Of the window that changed it; of a silence 1."""
    peak_score: float
    """The highest so far."""
    threshold: float
    """What that window's error was held against; of a silence, the seconds that the sensor may be silent."""
    contributions: dict[str, float]
    """Share of each feature in that error; they sum to 1. Empty for a silence."""
    observed: dict[str, float]
    """What was measured at the window's worst step, raw units."""
    expected: dict[str, float]
    """What the model expected there; empty where it expects no values."""
    summary: str
    """One line for a person."""
    model: Model
    """Which model judged."""
    source: Origin
    """The events that it came from."""
    part: PartName = "model"
    """Of the score: whose threshold and contributions these are."""
    peak_strength: float = 0.0
    """The highest score so far by thresholds that do not move, those of training: what `alerts.limit` compares."""
    faults: dict[str, FaultKind] = {}
    """What is wrong with which feature, in that window; empty but for a `fault`."""
    accepted: float = 0.0
    """There is a shift that has lasted: up to so many times the threshold from training it is normal. 0: none."""


class Finding(NamedTuple):
    """One line of `stream-detector check`."""

    what: str
    ok: bool
    message: str  # says what to do if not ok
