"""The live plant: its past and present are one simulation, events come as time passes, faults from their moment on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from stream_detector.errors import SettingsError, Unavailable
from stream_detector.settings import Columns
from training.plant import MINUTE, Readings, simulate
from training.simulator import PAST, PRESENT, Plan, Simulation, Simulator, encode

NOW = 1_795_168_800_000  # epoch ms


@pytest.fixture(scope="module")
def life() -> Readings:
    """All of a plant's life, in its own time."""
    return simulate(2, PAST + PRESENT, MINUTE, 3)


@pytest.fixture
def simulation() -> Simulation:
    return Simulation(pumps=2, seed=3)


def test_past_and_present_are_the_life_of_one_plant(simulation: Simulation, life: Readings) -> None:
    past = simulation.past(10, NOW)
    simulation.start(NOW)
    present = simulation.due(NOW + 60_000)
    assert past.sensors + present.sensors == life.sensors[: len(past.sensors) + len(present.sensors)]
    np.testing.assert_array_equal(
        np.concatenate([past.values, present.values]), life.values[: len(past.sensors + present.sensors)]
    )
    assert past.timestamps[-1] < NOW <= present.timestamps[0]
    assert NOW - past.timestamps[0] == pytest.approx(PAST / 60, rel=0.001)


def test_some_days_of_the_past_are_its_last(simulation: Simulation) -> None:
    whole, last = simulation.past(10, NOW), simulation.past(2, NOW)
    np.testing.assert_array_equal(last.values, whole.values[-len(last.sensors) :])
    assert 0.19 < len(last.sensors) / len(whole.sensors) < 0.21


def test_events_come_once_as_time_passes(simulation: Simulation) -> None:
    simulation.start(NOW)
    parts = [simulation.due(NOW + passed) for passed in (1_000, 1_000, 1_500, 60_000, 300_000)]
    stamps = np.concatenate([part.timestamps for part in parts])
    sensors = [sensor for part in parts for sensor in part.sensors]
    assert len(parts[1].sensors) == 0
    assert all((part.timestamps <= NOW + 300_000).all() for part in parts)
    for sensor in ("pump-1", "pump-2"):
        own = stamps[[at for at, name in enumerate(sensors) if name == sensor]]
        assert (np.diff(own) > 0).all()
        assert 285 < len(own) <= 300  # one a second, but for those that never arrive


def test_a_fault_changes_its_sensor_from_its_moment_on() -> None:
    well, ill = Simulation(pumps=2, seed=3), Simulation(pumps=2, seed=3)
    for simulation in (well, ill):
        simulation.start(NOW)
    before = [simulation.due(NOW + 30_000) for simulation in (well, ill)]
    fault = ill.inject(0, "leak", NOW + 30_000, 60_000)
    after = [simulation.due(NOW + 90_000) for simulation in (well, ill)]
    assert (fault.sensor, fault.kind, fault.start, fault.end) == ("pump-1", "leak", NOW + 30_000, NOW + 90_000)
    np.testing.assert_array_equal(before[0].values, before[1].values)
    np.testing.assert_array_equal(after[0].timestamps, after[1].timestamps)
    rows = zip(after[0].values, after[1].values, strict=True)
    same = [np.allclose(one, other, equal_nan=True) for one, other in rows]
    found = dict.fromkeys(zip(after[0].sensors, same, strict=True))
    assert sorted(found) == [("pump-1", False), ("pump-2", True)]


def test_faults_go_from_pump_to_pump_and_leave_the_last_one_well() -> None:
    simulation = Simulation(pumps=3, seed=3)
    simulation.start(NOW)
    found = [simulation.inject(number, None, NOW, 1_000) for number in range(3)]
    assert [fault.sensor for fault in found] == ["pump-1", "pump-2", "pump-1"]
    assert len({fault.kind for fault in found}) == 3


def test_a_plant_that_has_lived_its_days_starts_over(simulation: Simulation) -> None:
    simulation.start(NOW)
    first = simulation.due(NOW + 10_000)
    end = NOW + PRESENT // 60
    simulation.due(end)
    again = simulation.due(end + 10_000)
    np.testing.assert_array_equal(again.values, first.values)
    np.testing.assert_array_equal(again.timestamps - end, first.timestamps - NOW)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Simulation(pumps=0), "--pumps 0"),
        (lambda: Simulation(pumps=1, speed=0), "--speed 0"),
        (lambda: Simulation(pumps=1, speed=float("nan")), "--speed nan"),
        (lambda: Simulation(pumps=1).past(11, NOW), "--days 11"),
    ],
)
def test_what_cannot_be_simulated_is_told(make: Callable[[], object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        make()


def test_an_event_is_what_the_settings_name() -> None:
    columns = Columns(sensor_id="device", timestamp="at", values="readings")
    values = np.full((1, 7), 1.23456)
    values[0, 1] = np.nan
    [(key, value)] = encode(Readings(["pump-1"], np.array([NOW + 7]), values), columns)
    event = json.loads(value)
    assert key == b"pump-1"
    assert (event["device"], event["at"]) == ("pump-1", "2026-11-20T10:00:00.007Z")
    assert event["readings"]["speed"] == 1.235
    assert event["readings"]["flow"] is None


class Flaky:
    """Takes events while it is there."""

    def __init__(self) -> None:
        self.away = 0
        self.taken: list[tuple[bytes, bytes]] = []

    def open(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the broker is away")

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        self.taken += messages

    def close(self) -> None:
        pass


class Clock:
    """Time that passes while somebody sleeps; at its moments something happens."""

    def __init__(self, happens: dict[float, Callable[[], None]]) -> None:
        self.seconds, self.happens, self.pauses = NOW / 1_000, dict(happens), list[float]()

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.pauses.append(seconds)
        for at in sorted(at for at in self.happens if self.seconds >= NOW / 1_000 + at):
            self.happens.pop(at)()


def test_nothing_is_lost_while_the_broker_is_away() -> None:
    sink, told = Flaky(), list[str]()
    clock = Clock({})
    simulator = Simulator(
        Simulation(pumps=2, seed=3), sink, Columns(), Plan(), told.append, now=clock.now, sleep=clock.sleep
    )

    def goes() -> None:
        sink.away = 4

    clock.happens = {10.0: goes, 30.0: lambda: simulator.stop(signal.SIGTERM)}
    assert simulator.run() == 143
    expected = Simulation(pumps=2, seed=3)
    expected.start(NOW)
    assert sink.taken == encode(expected.due(round(clock.seconds * 1_000) - 100), Columns())
    assert [pause for pause in clock.pauses if pause > 0.1] == [0.2, 0.4, 0.8, 1.6]


def test_faults_come_as_planned_and_when_asked_for() -> None:
    told = list[str]()
    clock = Clock({})
    plan = Plan(kind="leak", after=5_000, every=10_000, lasts=2_000)
    simulation = Simulation(pumps=2, seed=3)
    simulator = Simulator(simulation, Flaky(), Columns(), plan, told.append, now=clock.now, sleep=clock.sleep)
    clock.happens = {
        8.0: lambda: simulator.ask(signal.SIGUSR1),
        17.0: lambda: simulator.stop(signal.SIGINT),
    }
    assert simulator.run() == 130
    starts = [line.split(" from ")[1].split(" to ")[0][17:19] for line in told if line.startswith("leak at pump-1")]
    assert starts == ["05", "08", "15"]
