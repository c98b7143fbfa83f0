"""Other bundles while the service runs: noticed, loaded and compiled beside those that judge, then handed over.

The loop takes what is ready between two batches (`app.Service`), so that it never waits and no batch has two models for
the same sensors. A bundle that cannot be loaded, or is not for these windows, leaves everything as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stream_detector.adapters.registry import load_from, version_at
from stream_detector.bundle import Bundle
from stream_detector.configured import check_windows
from stream_detector.errors import StreamDetectorError
from stream_detector.groups import Grouped
from stream_detector.judging import Judge

log = logging.getLogger(__name__)

REMEDY = "restart the service for it, or promote another"


@dataclass(slots=True)
class Place:
    """Where a bundle comes from, and how the last look there went."""

    location: str
    groups: list[str]  # whose sensors it is for; "" for those of no other
    judge: Judge  # what judges, or is ready to
    ill: bool = False  # whether the last look came to nothing
    refused: str = ""  # why: told once, not each time

    @property
    def whose(self) -> str:
        """Before what is told of it."""
        return "".join(f"group {name}: " for name in self.groups if name)


class Reload:
    """Looks at places now and then, one after the other, in a thread of its own."""

    def __init__(
        self,
        locations: Mapping[str, str],
        judges: Grouped[Judge],
        prepare: Callable[[Bundle], Judge],
        failed: Callable[[str], None],
        recovered: Callable[[str], None],
        every: float,
    ) -> None:
        """``locations`` by group, "" for those of no other; ``judges`` as they are; ``every`` in seconds.

        ``prepare`` loads and warms. ``failed`` is told the group whose bundle will not do, ``recovered`` when the one
        that judges is there again after that.
        """
        self.judges, self.prepare, self.failed, self.recovered = judges, prepare, failed, recovered
        self.every = every
        places: dict[str, Place] = {}
        for name, judge in judges.named().items():
            places.setdefault(locations[name], Place(locations[name], [], judge)).groups.append(name)
        self.places = list(places.values())
        self._ready: Grouped[Judge] | None = None
        self._lock = threading.Lock()
        self._wake, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wake(self) -> None:
        """Look now, and say again what is wrong; safe in a signal handler."""
        for place in self.places:
            place.refused = ""
        self._wake.set()

    def close(self) -> None:
        """Look no more; what is being loaded is left to the end of the process."""
        self._over = True
        self._wake.set()

    def take(self) -> Grouped[Judge] | None:
        """What is ready, once."""
        if self._ready is None:  # asked in every turn of the loop
            return None
        with self._lock:
            ready, self._ready = self._ready, None
        return ready

    def look(self) -> None:
        """Make ready what is another version at its place; trouble at one place is none of the others'."""
        for place in self.places:
            if not self._over:
                self._look(place)

    def _look(self, place: Place) -> None:
        try:
            judge = self._found(place)
        except StreamDetectorError as error:
            self._refuse(place, str(error))
            return
        except Exception as error:  # a model that the device's library fails on must not end the service
            self._refuse(place, f"{place.location}: {type(error).__name__}: {error}")
            return
        if place.ill:
            for name in place.groups:
                self.recovered(name)
        place.ill, place.refused = False, ""
        if judge is not place.judge:
            with self._lock:
                self._ready = self.judges = self.judges.replaced(place.judge, judge)
            place.judge = judge

    def _found(self, place: Place) -> Judge:
        """What judges as the bundle that is there says: as before, if it is the same."""
        if version_at(place.location) == place.judge.model.version:
            return place.judge
        bundle = load_from(place.location)
        rules = self.judges.common.rules
        check_windows(bundle.manifest, rules.features, rules.length, rules.stride, REMEDY)
        return self.prepare(bundle)

    def _refuse(self, place: Place, why: str) -> None:
        place.ill = True
        if why != place.refused:
            place.refused = why
            for name in place.groups:
                self.failed(name)
            version = place.judge.model.version
            log.warning("%sanother bundle was not loaded, %s goes on judging: %s", place.whose, version, why)

    def _watch(self) -> None:
        while not self._over:
            self._wake.wait(self.every)
            self._wake.clear()
            if not self._over:
                self.look()
