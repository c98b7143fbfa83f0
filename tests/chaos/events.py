"""Seeded events: several sensors a partition, stretches of anomalies; some are late, repeated or unreadable."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

PARTITIONS, SENSORS = 4, 3
FEATURES = ("a", "b")
START = 1_700_000_000_000
STEP, GAP, MAX_GAP = 1_000, 100_000, 60_000  # ms between a sensor's events; now and then a gap that starts windows over
UNREADABLE = (b"{not json", b"\xff\xfe", b"", b'{"timestamp": 1, "values": {"a": 1}}', b'{"sensor_id": "x"}')


class Message(NamedTuple):
    partition: int
    key: bytes
    value: bytes


class Sensor:
    def __init__(self, name: str, rng: random.Random) -> None:
        self.name, self.rng = name, rng
        self.time, self.level, self.left = START, 0.3, 0

    def event(self) -> bytes:
        rng = self.rng
        if self.left == 0:  # calm and trouble in turn; trouble in steps, so that alerts worsen
            trouble = self.level > 1
            worse = trouble and rng.random() < 0.5
            self.level = self.level * 2.5 if worse else 0.3 if trouble else rng.uniform(1.2, 2.0)
            self.left = rng.randint(8, 30) if self.level > 1 else rng.randint(15, 60)
        self.left -= 1
        odd = rng.random()
        if odd < 0.01:
            return rng.choice(UNREADABLE)
        time = self.time
        if odd < 0.02:
            time -= rng.randint(1, 20) * STEP  # late
        elif odd < 0.03:
            time = 4_000_000_000_000  # far in the future
        elif odd >= 0.04:  # else a duplicate of the event before
            self.time = time = time + (GAP if odd < 0.043 else STEP)
        values = {name: round(rng.gauss(self.level, 0.1 * self.level), 4) for name in FEATURES}
        if rng.random() < 0.02:
            del values["b"]
        return json.dumps({"sensor_id": self.name, "timestamp": time, "values": values}).encode()


def generate(seed: int) -> Iterator[Message]:
    """Events without end; the same for the same seed."""
    rng = random.Random(seed)
    sensors = [[Sensor(f"p{number}-s{at}", rng) for at in range(SENSORS)] for number in range(PARTITIONS)]
    while True:
        number = rng.randrange(PARTITIONS)
        sensor = rng.choice(sensors[number])
        yield Message(number, sensor.name.encode(), sensor.event())
