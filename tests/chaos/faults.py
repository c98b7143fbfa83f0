"""A seeded history of faults over a `World`, up to so many deaths; then calm, and the comparison."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.chaos.compare import Outputs, differences, repeated, weakly
from tests.chaos.spec import POINTS, Break, Failpoint
from tests.chaos.world import DEADLINE, SESSION, Worker, World, looks

RedisFault = Literal["restart", "kill", "rollback", "flush"]
# Seconds without a death after which somebody is killed anyway, and the logs are kept with everybody's stacks: a
# worker hangs, or partitions belong to nobody. That breaks no promise about what is published, so it is no failure.
STALLED = 30.0
AHEAD = 500  # events that wait to be read, at most: the log must not end before the chaos does


@dataclass(frozen=True)
class Scenario:
    """What is to happen in one history."""

    name: str
    kills: int = 15
    points: Sequence[str] = POINTS  # where; drawn at random, a name that stands here twice twice as often
    zombies: int = 0
    zombie_points: Sequence[str] = ("before-append", "after-append", "before-commit", "after-commit")
    random_kills: float = 0.1  # share of the workers that are killed at any moment instead
    workers: int = 2
    static: bool = False  # workers have names, and are replaced under them
    stride: int = 1
    mode: Literal["exactly_once", "at_least_once"] = "exactly_once"
    transaction_timeout: str = "3s"
    redis: Sequence[RedisFault] = ()  # spread over the deaths
    broker: Literal["shared", "leader killed", "restarted"] = (
        "shared"  # one that stays, or what becomes of one of three
    )
    broker_faults: int = 0
    broken: Break | None = None


@dataclass
class Outcome:
    scenario: Scenario
    seed: int
    problems: list[str]
    deaths: Counter[str]
    cases: Counter[str]
    faults: Counter[str]
    events: int
    seconds: float
    logs: Path | None  # of the workers, where something is to be looked into

    def __str__(self) -> str:
        deaths = ", ".join(f"{name} {count}" for name, count in sorted(self.deaths.items()))
        cases = ", ".join(f"{name} {count}" for name, count in sorted(self.cases.items()))
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())) or "none"
        verdict = "equal" if not self.problems else f"{len(self.problems)} DIFFERENCES: {'; '.join(self.problems[:3])}"
        logs = f"; logs: {self.logs}" if self.logs else ""
        return (
            f"{self.scenario.name} seed {self.seed}: {verdict}; {self.events} events in {self.seconds:.0f} s;"
            f" deaths: {deaths}; servers: {faults}; partitions found: {cases}{logs}"
        )


Strike = Callable[[World], str]  # does something to the broker, and says what


def run(bootstrap: str, scenario: Scenario, seed: int, strike: Strike | None = None) -> Outcome:
    """One history; `strike` does something to the broker."""
    begun = time.monotonic()
    with World(
        bootstrap,
        seed,
        stride=scenario.stride,
        mode=scenario.mode,
        transaction_timeout=scenario.transaction_timeout,
        replicas=1 if scenario.broker == "shared" else 3,
        broken=scenario.broken,
    ) as world:
        history = History(world, scenario, random.Random(seed), strike)
        try:
            history.play()
            world.finish()
            problems = compare(scenario, world.calm(), world.wild())
        except AssertionError as error:
            if scenario.broken is None:
                raise AssertionError(f"{scenario.name} seed {seed}: {error}") from error
            problems = [f"it broke down: {str(error)[:300]}"]
        deaths, cases, events = world.deaths(), world.cases(), sum(world.fed.values())
        logs: Path | None = world.folder
        if scenario.broken is not None or not (problems or history.done["stall"]):
            shutil.rmtree(world.folder, ignore_errors=True)
            logs = None
    return Outcome(scenario, seed, problems, deaths, cases, history.done, events, time.monotonic() - begun, logs)


def compare(scenario: Scenario, calm: Outputs, wild: Outputs) -> list[str]:
    """What breaks the promise that the scenario's settings give."""
    assert calm.scores, "the calm run published nothing"
    assert calm.alerts, "the calm run raised no alert"
    assert not repeated(calm), "the calm run repeats itself"
    if scenario.mode == "at_least_once":
        # Repeats are allowed, and must say the same.
        return [*differences(calm, wild.once()), *differences(calm, wild.once(last=True))]
    if scenario.stride > 1 and "flush" in scenario.redis:
        return weakly(calm, wild)
    return differences(calm, wild)


class History:
    """Workers under their failpoints, zombies that wake up, Redis that comes and goes: until enough have died."""

    def __init__(self, world: World, scenario: Scenario, rng: random.Random, strike: Strike | None) -> None:
        self.world, self.scenario, self.rng, self.strike = world, scenario, rng, strike
        self.zombies_left = scenario.zombies
        self.done = Counter[str]()
        total = scenario.kills + scenario.zombies
        faults: list[str] = [*scenario.redis, *["broker"] * scenario.broker_faults]
        rng.shuffle(faults)
        # (deaths after which it happens, what)
        self.faults = [(total * (at + 1) // (len(faults) + 1), what) for at, what in enumerate(faults)]

    def play(self) -> None:
        scenario, deaths, latest = self.scenario, 0, 0.0
        for since in looks(DEADLINE):
            self.tend()
            died = sum(self.world.deaths().values())
            if died != deaths:
                deaths, latest = died, since
            while self.faults and self.faults[0][0] <= deaths:
                self.fault(self.faults.pop(0)[1])
            undead = any(worker.stopped is not None for worker in self.world.workers)
            if deaths >= scenario.kills + scenario.zombies and not self.faults and not undead:
                break
            if since - latest > STALLED:  # nobody comes to where it would die
                self.done["stall"] += 1
                self.world.dump()
                self.kill()
                latest = since
            elif self.rng.random() < 0.05 * scenario.random_kills:
                self.kill()
        else:
            raise AssertionError(f"after {DEADLINE:.0f} s only {self.world.deaths()} have died")
        self.world.feed(AHEAD // 2)  # so that harm which was done shows

    def tend(self) -> None:
        """Replace who is gone, wake who was overtaken, and let there be something to read."""
        for worker in self.world.reap():
            self.replace(worker)
        while len(self.world.workers) < self.scenario.workers:
            self.start()
        self.wake()
        committed = self.world.committed()
        if committed is not None and sum(self.world.fed.values()) - committed < AHEAD:
            self.world.feed(AHEAD // 2)

    def start(self, name: str | None = None) -> None:
        rng, scenario = self.rng, self.scenario
        if scenario.static and name is None:
            taken = {worker.name for worker in self.world.workers if worker.stopped is None}
            name = next(name for at in range(scenario.workers + 1) if (name := f"worker-{at}") not in taken)
        zombie = self.zombies_left > 0 and rng.random() < scenario.zombies / (scenario.kills + scenario.zombies)
        if zombie or (self.zombies_left and not scenario.kills):
            self.zombies_left -= 1
            plan = Failpoint(rng.choice(scenario.zombie_points), rng.randint(2, 6), "stop")
        else:
            plan = Failpoint(rng.choice(scenario.points), rng.randint(1, 5))
        self.world.spawn(plan, name=name)

    def replace(self, gone: Worker) -> None:
        """A static member comes back under its name, unless a zombie's successor has it already."""
        names = {worker.name for worker in self.world.workers}
        if gone.name is not None and gone.name not in names and len(self.world.workers) < self.scenario.workers:
            self.start(gone.name)

    def kill(self) -> None:
        awake = [worker for worker in self.world.workers if worker.stopped is None or worker.woken is not None]
        if awake:
            self.world.kill(self.rng.choice(awake))

    def wake(self) -> None:
        """See which workers have stopped themselves; wake those whom the others have overtaken."""
        now = time.monotonic()
        for worker in list(self.world.workers):
            if worker.woken is not None:
                if now - worker.woken > 2 * SESSION:  # long enough to do harm or to join again
                    self.world.kill(worker)
            elif worker.stopped is None:
                if worker.state() == "T":
                    worker.stopped, worker.committed = now, self.world.committed() or 0
                    self.start(worker.name)  # under its name, if it has one
            else:
                asleep = now - worker.stopped
                overtaken = asleep > 1.3 * SESSION and (self.world.committed() or 0) > worker.committed + AHEAD // 4
                if overtaken or asleep > 4 * SESSION:
                    os.kill(worker.pid, signal.SIGCONT)
                    worker.woken = now

    def fault(self, what: str) -> None:
        store = self.world.redis
        if what == "broker":
            assert self.strike is not None
            what = self.strike(self.world)
        elif what == "flush":
            store.flush()
        elif what == "restart":
            store.restart()
        elif what == "kill":
            store.kill()
            store.start()
        else:
            self.roll_back()
        self.done[what] += 1

    def roll_back(self) -> None:
        """Redis comes back without its last writes. A killed server loses none, since the system holds its pages, so
        files copied while the group was further back take their place.
        """
        store = self.world.redis
        files, copy = store.folder / "appendonlydir", self.world.folder / "appendonlydir"
        shutil.copytree(files, copy)  # a tail that was half written is cut off when it is loaded
        before = self.world.committed() or 0
        for _ in looks(20):
            self.tend()
            if (self.world.committed() or 0) > before + AHEAD // 4:
                break
        store.kill()
        shutil.rmtree(files)
        shutil.move(copy, files)
        store.start()
