"""The simulated plant, live: its past as training data, its present as events that come as time passes.

The plant lives faster than the clock (`SPEED`): one reading of a pump is a minute of its life, and comes each second.
Events carry the clock's time, so that latencies and silences are what they seem. Past and present are one simulation:
what was learnt from the one is about the same pumps as the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import Any, Protocol

import msgspec
import numpy as np

from stream_detector.errors import SettingsError, Unavailable
from stream_detector.settings import Columns
from stream_detector.timestamps import rfc3339
from training.plant import DAY, FEATURES, KINDS, MINUTE, START, Fault, Kind, Readings, simulate

log = logging.getLogger(__name__)

SPEED = 60.0  # times the clock's: a reading of each pump a second
PAST, PRESENT = 10 * DAY, 30 * DAY  # ms of its life; after 12 hours (at `SPEED`) the present begins anew
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts while the broker is away
TURN = 0.1  # seconds from look to look


class Sink(Protocol):
    """Where events go."""

    def open(self) -> None: ...

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """When faults begin, of which kind, and for how long; ms of the clock."""

    kind: Kind | None = None  # None: all kinds in turn
    after: int | None = None  # the first; None: only those that are asked for by a signal
    every: int | None = None  # from one to the next; None: there is one
    lasts: int = 60_000


class Simulation:
    """One plant, the same for the same pumps and seed."""

    def __init__(self, pumps: int = 6, speed: float = SPEED, seed: int = 7) -> None:
        if pumps < 1:
            raise SettingsError(f"--pumps {pumps}: give 1 or more")
        if not 0 < speed <= 6_000:
            raise SettingsError(f"--speed {speed:g}: give up to 6000 times the clock's, more than 0")
        self.pumps, self.speed, self.seed = pumps, speed, seed
        self.began = 0  # the clock's time when the present began, ms
        self.sent = 0  # readings of the present that were given out
        self.faults: list[Fault] = []  # in the plant's time
        self.readings = self._simulate()

    def past(self, days: float, end: int) -> Readings:
        """The last ``days`` of the plant's life before the present, as if they had ended at ``end``; nothing wrong."""
        if not 0 < days * DAY <= PAST:
            raise SettingsError(f"--days {days:g}: give up to {PAST // DAY}, more than 0")
        readings = self.readings.between(START + PAST - round(days * DAY), START + PAST)
        stamps = end + np.floor((readings.timestamps - START - PAST) / self.speed).astype(np.int64)
        return Readings(readings.sensors, stamps, readings.values)

    def start(self, now: int) -> None:
        """The present begins."""
        self.began = now
        if self.faults:
            self.faults = []
            self.readings = self._simulate()
        self.sent = int(np.searchsorted(self.readings.timestamps, START + PAST))

    def due(self, now: int) -> Readings:
        """What was measured since the last call, with the clock's times."""
        upto = int(np.searchsorted(self.readings.timestamps, self._plants(now), side="right"))
        rows, self.sent = slice(self.sent, max(self.sent, upto)), max(self.sent, upto)
        stamps = self.began + np.floor((self.readings.timestamps[rows] - START - PAST) / self.speed).astype(np.int64)
        due = Readings(self.readings.sensors[rows], stamps, self.readings.values[rows])
        if self._plants(now) >= START + PAST + PRESENT:
            log.warning("the plant has lived its %d days and starts over", PRESENT // DAY)
            self.start(now)
        return due

    def inject(self, number: int, kind: Kind | None, now: int, lasts: int) -> Fault:
        """Something is wrong from now on, with one pump after the other but the last; the fault in the clock's time.

        What happened before stays as it was.
        """
        sensor = f"pump-{number % max(1, self.pumps - 1) + 1}"
        chosen = KINDS[number % len(KINDS)] if kind is None else kind
        begin, end = self._plants(now), self._plants(now + lasts)
        self.faults = [fault for fault in self.faults if fault.sensor != sensor or fault.end <= begin]
        self.faults.append(Fault(sensor, chosen, begin, end))
        self.readings = self._simulate()
        return Fault(sensor, chosen, now, now + lasts)

    def _plants(self, now: int) -> int:
        """The plant's time."""
        return START + PAST + round((now - self.began) * self.speed)

    def _simulate(self) -> Readings:
        return simulate(self.pumps, PAST + PRESENT, MINUTE, self.seed, self.faults)


class Simulator:
    """Sends the present of a plant until it is told to stop."""

    def __init__(
        self,
        simulation: Simulation,
        sink: Sink,
        columns: Columns,
        plan: Plan,
        tell: Callable[[str], None],
        *,
        now: Callable[[], float],  # seconds since 1970
        sleep: Callable[[float], None],
    ) -> None:
        self.simulation, self.sink, self.columns, self.plan, self.tell = simulation, sink, columns, plan, tell
        self.now, self.sleep = now, sleep
        self.stopped_by: int | None = None  # the signal
        self.wanted = False  # a fault, by a signal
        self.numbers = count()

    def run(self) -> int:
        """Exit code: 128 + the signal that stopped it. Errors that do not pass by themselves pass through."""
        try:
            if self._patiently(self.sink.open):
                self.simulation.start(self._clock())
                self.tell(f"{self.simulation.pumps} pumps send events from {rfc3339(self._clock())} on")
                self._loop()
        finally:
            self.sink.close()
        return 128 + (self.stopped_by or 0)

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler."""
        self.stopped_by = number

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler: a fault is wanted now."""
        self.wanted = True

    def _loop(self) -> None:
        first = self.plan.after
        following = None if first is None else self._clock() + first
        while self.stopped_by is None:
            now = self._clock()
            if self.wanted or (following is not None and now >= following):
                if not self.wanted:
                    following = None if self.plan.every is None else now + self.plan.every
                self.wanted = False
                fault = self.simulation.inject(next(self.numbers), self.plan.kind, now, self.plan.lasts)
                self.tell(f"{fault.kind} at {fault.sensor} from {rfc3339(fault.start)} to {rfc3339(fault.end)}")
            messages = encode(self.simulation.due(now), self.columns)
            if messages:
                self._patiently(lambda messages=messages: self._send(messages))  # type: ignore[misc] # bound right here
            self.sleep(TURN)

    def _send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        self.sink.open()
        self.sink.send(messages)

    def _patiently(self, attempt: Callable[[], None]) -> bool:
        """Try until it works, or until stopped; whether it worked."""
        pause = FIRST_PAUSE
        while self.stopped_by is None:
            try:
                attempt()
                return True
            except Unavailable as error:
                log.warning("%s; trying again in %.1f s", error, pause)
                self.sink.close()
                self.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        return False

    def _clock(self) -> int:
        return round(self.now() * 1_000)


def encode(readings: Readings, columns: Columns) -> list[tuple[bytes, bytes]]:
    """Key and value of each reading as an event; a missing value is null."""
    messages = []
    for sensor, at, row in zip(readings.sensors, readings.timestamps.tolist(), readings.values.tolist(), strict=True):
        values = {name: None if value != value else round(value, 3) for name, value in zip(FEATURES, row, strict=True)}
        event: dict[str, Any] = {columns.sensor_id: sensor, columns.timestamp: rfc3339(at), columns.values: values}
        messages.append((sensor.encode(), msgspec.json.encode(event)))
    return messages
