"""Groups of sensors: which one a sensor is in, and what is its own there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 200_000  # sensors whose group is known; patterns are slow

T = TypeVar("T")
U = TypeVar("U")


class Grouping:
    """Which group each sensor is in: the first whose pattern fits its id. A function of both and of nothing else."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        """``patterns`` of sensor ids by the group's name, as in a shell."""
        self.patterns = dict(patterns)
        self._names = ("", *self.patterns)
        self._known: dict[str, int] = {}

    def of(self, sensor: str) -> int:
        """The group's place, from 1; 0 for none."""
        found = self._known.get(sensor)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            fitting = (at for at, pattern in enumerate(self.patterns.values(), 1) if fnmatchcase(sensor, pattern))
            found = self._known[sensor] = next(fitting, 0)
        return found

    def name(self, sensor: str) -> str:
        """The group's name; "" for none."""
        place = self.of(sensor) if self.patterns else 0
        return self._names[place]


class Grouped(Generic[T]):
    """A thing for each sensor: what is common, or its group's. Several groups may share one."""

    def __init__(self, grouping: Grouping, common: T, own: Sequence[T]) -> None:
        """``own`` of each group, in the grouping's order."""
        self.grouping, self.common, self.own = grouping, common, tuple(own)
        every = {id(thing): thing for thing in (common, *own)}
        self.things = list(every.values())  # each once, the common one first
        places = {key: at for at, key in enumerate(every)}
        self._place = [places[id(thing)] for thing in (common, *own)]

    def of(self, sensor: str) -> T:
        """The sensor's thing."""
        if len(self.things) == 1:
            return self.common
        return self.things[self._place[self.grouping.of(sensor)]]

    def parted(self, sensors: Sequence[str]) -> list[tuple[T, NDArray[np.intp]]]:
        """The things of ``n`` sensors, each with the places of its sensors, in their order; at least one thing."""
        if len(self.things) == 1:
            return [(self.common, np.arange(len(sensors)))]
        places = np.fromiter((self._place[self.grouping.of(name)] for name in sensors), np.intp, len(sensors))
        parts = [(thing, np.flatnonzero(places == at)) for at, thing in enumerate(self.things)]
        return [part for part in parts if len(part[1])] or parts[:1]

    def named(self) -> dict[str, T]:
        """What is common under "", and what differs from it by the group's name."""
        own = zip(self.grouping.patterns, self.own, strict=True)
        return {"": self.common} | {name: thing for name, thing in own if thing is not self.common}

    def each(self, made: Callable[[T], U]) -> Grouped[U]:
        """Something made of each thing, once."""
        found = {id(thing): made(thing) for thing in self.things}
        return Grouped(self.grouping, found[id(self.common)], [found[id(thing)] for thing in self.own])

    def replaced(self, old: T, new: T) -> Grouped[T]:
        """With another thing in the place of one."""
        common, *own = (new if thing is old else thing for thing in (self.common, *self.own))
        return Grouped(self.grouping, common, own)


def alike(thing: T) -> Grouped[T]:
    """The same for all sensors."""
    return Grouped(Grouping({}), thing, ())
