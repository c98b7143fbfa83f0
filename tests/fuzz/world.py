"""The real decoder and pipeline over fuzzed messages, and a check of each thing that comes out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.codec import REASONS, Decoder, Raw, dead_letter_headers, encode_alert, encode_score, rfc3339
from stream_detector.events import Alert, Errors, Float32, Model, Partition, Slice
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery, Lookback, Ownership
from stream_detector.sensors import Rules
from stream_detector.settings import Columns, EventRules, Settings
from tests.fuzz.event_time import EventTime, Filled
from tests.fuzz.messages import FEATURES, Maker
from tests.fuzz.oracle import Good, Outcome, doubtful, judge

PARTITION = Partition("events", 0)
START = 1_700_000_000_000  # epoch ms of the first event: past on any machine's clock
LENGTH, STRIDE, MEAN = 4, 2, 0.5
TTL, PAUSE = 600_000, 20_000  # ms: what a batch moves event time on, and after how much of it sensors are forgotten


COLUMNS, RULES = Columns(), EventRules(max_future=5_000)


class Wrong(AssertionError):
    """The service and the rules disagree."""


@dataclass(frozen=True)
class Profile:
    """Settings under which to run."""

    columns: Columns = COLUMNS
    rules: EventRules = RULES
    grace: int = 0
    max_sensors: int = 400
    reset: int | None = None  # window.clock_reset

    def window_rules(self) -> Rules:
        return Rules(
            FEATURES, LENGTH, STRIDE, (MEAN,) * len(FEATURES), self.rules.missing, self.grace,
            clock_reset=self.reset, ttl=TTL, max_sensors=self.max_sensors,
        )  # fmt: skip

    def event_time(self) -> EventTime:
        return EventTime(LENGTH, STRIDE, TTL, self.max_sensors, self.grace, self.reset, MEAN)


PROFILES: Mapping[str, Profile] = {
    "default": Profile(),
    "lenient": Profile(
        Columns(ignored=["site", "volume"], label="alarm"),
        EventRules(unknown_features="ignore", max_future=60_000),
        grace=500,
        reset=30_000,
    ),
    "strict": Profile(
        Columns(timezone="Europe/Berlin"),
        EventRules(missing="reject", max_bytes=300, max_sensor_id=20, max_future=0),
        grace=50,
        max_sensors=250,
    ),
}


class LargestScorer:
    """A stand-in for the device: the error of a window is its largest value."""

    features: tuple[str, ...] = FEATURES
    length = LENGTH
    device = "none"

    def load(self) -> None:
        """Nothing to load."""

    def warm(self) -> None:
        """Nothing to compile."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        codes: Float32 = values.mean(axis=1)
        return codes

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        count = len(values)
        error: Float32 = values.max(axis=(1, 2)) if count else np.zeros(0, np.float32)
        threshold = np.full(count, 10, np.float32)
        shares = np.full((count, len(FEATURES)), 1 / len(FEATURES), np.float32)
        return Errors(error / threshold, error, threshold, shares, np.zeros(count, np.int32))

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        return values * 0


class Expected:
    """What must still come out, by offset; everything that does is looked up here and crossed off."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.time = profile.event_time()
        self.rejects: dict[int, tuple[str, bytes | None, bytes | None]] = {}
        self.windows: dict[int, Filled] = {}
        self.reasons: Counter[str] = Counter()

    def judge(self, record: Raw, known: Good | None, found: Outcome) -> None:
        """Hold what the decoder made of a record against the rules, and note what must come of it."""
        if known is None or self.profile is not PROFILES["default"]:
            allowed = judge(
                record.key, record.value, record.arrival, FEATURES, self.profile.columns, self.profile.rules
            )
        else:
            allowed = (known,)
        if found not in allowed and not doubtful(record.value or b""):
            raise Wrong(f"{record!r:.2000}\nis by the rules {allowed}, but was taken for {found}")
        outcome = found if isinstance(found, str) else self.time.take(record.offset, found)
        if isinstance(outcome, str):
            self.reasons[outcome] += 1
            self.rejects[record.offset] = (outcome, record.key, record.value)
        elif outcome is not None:
            self.windows[record.offset] = outcome

    def delivered(self, delivery: Delivery) -> None:
        """Cross off what was published."""
        for partition, reject in delivery.rejects:
            wanted = self.rejects.pop(reject.offset, None)
            if wanted != (reject.reason, reject.key, reject.value):
                raise Wrong(f"dead letter {reject!r:.2000}\nwhere {wanted!r:.2000} was due")
            headers = dict(dead_letter_headers(partition, reject))
            if (
                not reject.message.isprintable()
                or len(reject.message) > 400
                or headers["errors.exception"] != reject.reason.encode()
            ):
                raise Wrong(f"not fit for headers: {reject!r:.2000}")
        for score in delivery.scores:
            due = self.windows.pop(score.source.last_offset, None)
            if due is None:
                raise Wrong(f"a score that is not due, or again: {score!r:.2000}")
            imputed = frozenset(FEATURES.index(name) for name in score.imputed)
            told = Filled(
                score.sensor_id,
                score.source.first_offset,
                due.started,
                due.ended,
                float(np.float32(score.error)),
                imputed,
            )
            times = rfc3339(due.started), rfc3339(due.ended)
            if told != due or (score.window_start, score.window_end) != times:
                raise Wrong(f"{score!r:.2000}\nwhere {due} was due")
            encode_score(score)
        for alert in delivery.alerts:
            encode_alert(alert)

    def nothing_left(self) -> None:
        """Everything that was due has come."""
        if self.rejects or self.windows:
            left = [*list(self.rejects.items())[:3], *list(self.windows.items())[:3]]
            raise Wrong(
                f"never came: {len(self.rejects)} dead letters, {len(self.windows)} scores, such as {left!r:.2000}"
            )


def outcomes(decoder: Decoder, records: Sequence[Raw]) -> tuple[Slice, list[Outcome]]:
    """The real decoder's answer as a slice, and by record as the oracle puts it."""
    decoded = decoder.decode(records)
    events, found = decoded.events, {reject.offset: reject.reason for reject in decoded.rejects}
    by_offset: dict[int, Outcome] = {**found}
    rows = (tuple(None if value != value else value for value in row) for row in events.values.tolist())
    columns = zip(events.offsets.tolist(), events.sensors, events.timestamps.tolist(), rows, strict=True)
    by_offset.update((offset, Good(sensor, stamp, values)) for offset, sensor, stamp, values in columns)
    if len(by_offset) != len(records) or len(decoded.rejects) + len(events) != len(records):
        raise Wrong(f"{len(records)} records became {len(decoded.rejects)} rejects and {len(events)} events")
    if not set(found.values()) <= set(REASONS):
        raise Wrong(f"reasons that are not documented: {set(found.values()) - set(REASONS)}")
    first = records[0].offset if records else 0
    part = Slice(PARTITION, first, first + len(records), events, decoded.rejects, decoded.raw)
    return part, [by_offset[record.offset] for record in records]


class FuzzSource:
    """An endless log that is made while it is read, judged before the pipeline sees it, and forgotten."""

    def __init__(self, maker: Maker, expected: Expected, batch: int) -> None:
        self.maker, self.expected, self.batch = maker, expected, batch
        self.decoder = Decoder(FEATURES, expected.profile.columns, expected.profile.rules)
        self.position = 0
        self.reading = False
        self.finished = False

    def open(self, ownership: Ownership) -> None:
        ownership.assigned([PARTITION])

    def poll(self, timeout: float) -> list[Slice]:
        if not self.reading or self.finished:
            return []
        messages = self.maker.batch(self.batch, PAUSE)
        records = [
            Raw(self.position + at, self.maker.now, message.key, message.value) for at, message in enumerate(messages)
        ]
        self.position += len(records)
        part, found = outcomes(self.decoder, records)
        for record, message, outcome in zip(records, messages, found, strict=True):
            self.expected.judge(record, message.known, outcome)
        return [part]

    def seek(self, partition: Partition, offset: int) -> None:
        self.reading = True

    def bounds(self, partition: Partition) -> tuple[int, int]:
        return 0, self.position

    def identity(self, partition: Partition) -> str:
        return ""

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        return before

    def pause(self, partitions: Collection[Partition]) -> None:
        """Never asked for: nothing fails here."""

    def lag(self) -> Mapping[Partition, int]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


class CheckingOutlet:
    """Checks what it is given, and forgets it."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.position = 0

    def open(self) -> None:
        """Nothing to connect."""

    def committed(self, partition: Partition) -> int | None:
        return None

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        return []

    def deliver(self, delivery: Delivery) -> None:
        if delivery.positions[PARTITION] <= self.position:
            raise Wrong(f"positions must rise: {delivery.positions} after {self.position}")
        self.position = delivery.positions[PARTITION]
        self.expected.delivered(delivery)

    def close(self) -> None:
        """Nothing is held."""


class World:
    """Decoder → pipeline → memory, over ``Maker``'s messages."""

    def __init__(self, seed: int, profile: str = "default", batch: int = 2_000) -> None:
        self.expected = Expected(PROFILES[profile])
        self.source = FuzzSource(Maker(seed, START), self.expected, batch)
        self.outlet = CheckingOutlet(self.expected)
        settings = Settings(events=self.expected.profile.rules)
        self.pipeline = Pipeline(
            self.source,
            MemoryStore(),
            LargestScorer(),
            self.outlet,
            Silent(),
            self.expected.profile.window_rules(),
            Model("m", "1"),
            settings,
            now_ms=lambda: 0.0,
        )
        self.source.open(self.pipeline)

    def turn(self) -> None:
        """One batch."""
        self.pipeline.turn()

    def end(self) -> None:
        """What is in flight is published, and then nothing may be due."""
        self.source.finished = True
        self.pipeline.drain()
        self.expected.nothing_left()
        self.close()

    def close(self) -> None:
        self.pipeline.close()
