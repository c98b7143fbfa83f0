"""What a sensor takes in the process: columns, and its name in a dictionary."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from stream_detector.events import Events
from stream_detector.sensors import Rules, Table
from stream_detector.windows import advance

SENSORS = 20_000


def table_of(count: int, width: int, batch: int = 10_000) -> Table:
    """One event each, as they come, in flight and then done."""
    table = Table(Rules(tuple(f"f{n}" for n in range(width)), 64, 8, (0.0,) * width))
    for start in range(0, count, batch):
        names = [f"plant-7/line-2/sensor-{number:06}" for number in range(start, min(start + batch, count))]
        size = len(names)
        values, none = np.ones((size, width), np.float32), np.full(size, -1, np.int64)
        offsets = np.arange(start, start + size)
        change = advance(table, Events(names, np.zeros(size, np.int64), values, offsets, none))
        table.settled(dict(zip(change.sensors, change.added, strict=True)))
    return table


@pytest.mark.parametrize("width", [1, 8])
def test_a_sensor_takes_a_few_hundred_bytes_of_the_process(width: int) -> None:
    tracemalloc.start()
    try:
        table = table_of(SENSORS, width)
        each = tracemalloc.get_traced_memory()[0] / SENSORS
    finally:
        tracemalloc.stop()
    assert len(table) == SENSORS
    # Columns double when they are full. Beside them: the name, its entry, the boxed slot, and a dictionary that was.
    assert each <= 2 * (32 + 4 * width) + 350


def test_sensors_that_come_and_go_leave_nothing() -> None:
    table = table_of(100, 1)
    column = len(table.newest)
    for start in range(0, 50_000, 100):
        for sensor in list(table.slots):
            table.forget(sensor)
        for number in range(100):
            table.add(f"passing-{start + number}")
    assert (len(table), len(table.newest), len(table.free)) == (100, column, 0)
