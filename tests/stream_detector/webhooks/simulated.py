"""A topic, a target and a clock in memory, around the real courier: what dies, and when, is up to the test."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from stream_detector.errors import Fenced, Unavailable
from stream_detector.events import Partition
from stream_detector.ports import Ownership
from stream_detector.targets import Target, Webhooks
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.circuit import State
from stream_detector.webhooks.courier import COMMIT_EVERY, Courier
from stream_detector.webhooks.ports import Batch, Outcome, Record
from stream_detector.webhooks.progress import Progress, decode, encode
from tests.receiver import SECRET

PARTITION = Partition("alerts", 0)


class World:
    """What outlives a courier: the log, what is committed, the target, the dead letters, the time."""

    def __init__(self, **webhooks: object) -> None:
        given = {"retries": ["5s", "1m", "10m"], "start": "earliest", "circuit_failures": 3, "max_waiting": 6}
        target = {"url": "https://hooks.example/", "secrets": [SECRET], "concurrency": 3}
        self.settings = Webhooks.model_validate({"targets": {"ops": target}, **given, **webhooks})
        self.random = random.Random(1)
        self.time = 1_000_000.0
        self.log: list[tuple[bytes, bytes | None]] = []  # offsets are twice the places: markers lie between
        self.first = 0  # retention
        self.committed: tuple[int, str] | None = None
        self.answer: Callable[[Entry], Outcome] = lambda entry: Outcome("delivered", "")
        self.tried: list[str] = []
        self.accepted: list[str] = []
        self.dead: list[tuple[str, str]] = []  # id, reason
        self.finished: set[int] = set()  # offsets
        self.failing = 0  # how many of the next calls to Kafka fail
        self.died_of: list[Outcome] = []
        self.missed_records = 0
        self.state: str = "ok"

    @property
    def target(self) -> Target:
        return self.settings.targets["ops"]

    def write(self, *records: tuple[bytes, bytes | None]) -> None:
        self.log += records

    def kafka(self) -> None:
        """Called before anything is asked of Kafka."""
        if self.failing > 0:
            self.failing -= 1
            raise Unavailable("Kafka is away")

    def post(self, entry: Entry) -> Outcome:
        """`ports.Post`."""
        self.tried.append(entry.id)
        outcome = self.answer(entry)
        if outcome.word == "delivered":
            self.accepted.append(entry.id)
            self.finished.add(entry.offset)
        return outcome

    # `ports.DeadLetters`; named by what it does to the world
    def send(self, target: str, entries: Sequence[Entry]) -> None:
        self.kafka()
        for entry in entries:
            self.dead.append((entry.id, (entry.given_up or ("", ""))[0]))
            self.finished.add(entry.offset)

    def close(self) -> None:
        """Nothing to let go of."""

    # `ports.Watcher`
    def died(self, target: str, reason: str) -> None: ...

    def delivered(self, target: str, seconds: float) -> None:
        assert seconds >= 0

    def missed(self, target: str, records: int) -> None:
        self.missed_records += records

    def standing(self, target: str, *, waiting: int, lag: int, flying: int, state: State) -> None:
        self.state = state


class Topic:
    """`ports.Alerts` over the world's log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner: Ownership | None = None
        self.position: int | None = None
        self.assigned = False
        self.closed = False
        self.thrown_out = False  # of the group; the next poll tells, and joins again

    def open(self, ownership: Ownership) -> None:
        self.owner = ownership

    def poll(self, timeout: float) -> list[Batch]:
        self.world.kafka()
        assert self.owner is not None
        if self.thrown_out:
            self.thrown_out = False
            self.owner.lost([PARTITION])
            self.assigned, self.position = False, None
        if not self.assigned:
            self.assigned = True
            self.owner.assigned([PARTITION])
            return []
        if self.position is None:
            return []
        start, end = self.position, min(self.position + 2 * self.world.random.randint(1, 4), 2 * len(self.world.log))
        if start >= end:
            return []
        records = [
            Record(2 * place, int(self.world.time * 1_000), *self.world.log[place])
            for place in range((start + 1) // 2, (end + 1) // 2)
        ]
        self.position = end
        return [Batch(PARTITION, end, records)]

    def progress(self, partition: Partition) -> Progress | None:
        self.world.kafka()
        return None if self.world.committed is None else decode(*self.world.committed)

    def fresh(self) -> bool:
        return self.world.committed is None

    def bounds(self, partition: Partition) -> tuple[int, int]:
        self.world.kafka()
        return self.world.first, 2 * len(self.world.log)

    def seek(self, partition: Partition, offset: int) -> None:
        self.position = offset

    def pause(self, partitions: Collection[Partition]) -> None:
        self.position = None

    def commit(self, progress: Mapping[Partition, Progress]) -> None:
        self.world.kafka()
        if self.thrown_out:
            raise Fenced("no longer a member")
        [(_, so_far)] = progress.items()
        self.world.committed = so_far.offset, encode(so_far)

    def lag(self, positions: Mapping[Partition, int]) -> int:
        return sum(2 * len(self.world.log) - position for position in positions.values())

    def close(self) -> None:
        self.closed = True


class Life:
    """One process: a courier whose tries are under way until the test lets them end."""

    def __init__(self, world: World) -> None:
        self.world, self.topic = world, Topic(world)
        self.flights: list[partial[None]] = []
        self.courier = Courier(
            "ops",
            world.target,
            world.settings,
            self.topic,
            world.post,
            world,
            self,
            now=lambda: world.time,
            start=self.take_off,
            draw=world.random.random,
        )
        self.courier.open()

    def tried(self, target: str, outcome: Outcome) -> None:
        """`ports.Watcher.tried`; the rest of it is the world's."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        found: Callable[..., None] = getattr(self.world, name)
        return found

    def land_all(self) -> None:
        """Every try that is under way ends."""
        while self.flights:
            self.land()

    def turn(self) -> None:
        with suppress(Unavailable, Fenced):  # the loop calls again
            self.courier.turn(0.0)

    def take_off(self, flight: Callable[[], None]) -> None:
        """A try begins; two of one alert at a time could change places."""
        assert isinstance(flight, partial)
        [entry] = flight.args
        assert entry.name not in {other.args[0].name for other in self.flights}, f"{entry.id} beside an earlier one"
        self.flights.append(flight)

    def land(self) -> None:
        """One try that is under way ends."""
        if self.flights:
            self.flights.pop(self.world.random.randrange(len(self.flights)))()

    def run(self, turns: int = 10) -> None:
        """Turns with all tries ending at once."""
        for _ in range(turns):
            self.turn()
            self.land_all()
        self.turn()

    def rest(self) -> None:
        """Long enough for a commit."""
        self.world.time += COMMIT_EVERY
        self.turn()

    def kill(self) -> None:
        """SIGKILL: of what was under way, some had reached the target."""
        for flight in self.flights:
            if self.world.random.random() < 0.5:
                flight()
        self.flights.clear()
