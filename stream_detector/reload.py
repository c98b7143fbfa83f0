"""Another bundle while the service runs: noticed, loaded and compiled beside the one that judges, then handed over.

The loop takes what is ready between two batches (`app.Service`), so that it never waits and no batch has two models. A
bundle that cannot be loaded, or is not for these windows, leaves everything as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from stream_detector.adapters.registry import load_from, version_at
from stream_detector.bundle import Bundle
from stream_detector.errors import BundleError, StreamDetectorError
from stream_detector.events import Model
from stream_detector.ports import Scorer
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.silence import Heartbeats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judging:
    """All that a bundle brings to the pipeline."""

    scorer: Scorer  # loaded and warm
    model: Model
    rules: Rules
    settings: Settings  # with what the bundle knows
    heartbeats: Heartbeats | None


class Reload:
    """Looks at ``location`` now and then, in a thread of its own."""

    def __init__(
        self,
        location: str,
        judging: str,
        rules: Rules,
        prepare: Callable[[Bundle], Judging],
        failed: Callable[[], None],
        recovered: Callable[[], None],
        every: float,
    ) -> None:
        """``judging`` is the version that does; ``every`` in seconds.

        ``failed`` is called for one that will not do, ``recovered`` when the one that judges is there again after that.
        """
        self.location, self.judging, self.rules = location, judging, rules
        self.prepare, self.failed, self.recovered, self.every = prepare, failed, recovered, every
        self.ill = False  # whether the last look came to nothing
        self.refused = ""  # why the last look came to nothing: told once, not each time
        self._ready: Judging | None = None
        self._lock = threading.Lock()
        self._wake, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wake(self) -> None:
        """Look now, and say again what is wrong; safe in a signal handler."""
        self.refused = ""
        self._wake.set()

    def close(self) -> None:
        """Look no more; what is being loaded is left to the end of the process."""
        self._over = True
        self._wake.set()

    def take(self) -> Judging | None:
        """What is ready, once."""
        if self._ready is None:  # asked in every turn of the loop
            return None
        with self._lock:
            ready, self._ready = self._ready, None
        return ready

    def look(self) -> None:
        """Make ready what is there if it is another version."""
        try:
            version = version_at(self.location)
            if version == self.judging:
                if self.ill:
                    self.recovered()
                self.ill, self.refused = False, ""
                return
            bundle = load_from(self.location)
            self._check(bundle)
            ready = self.prepare(bundle)
        except StreamDetectorError as error:
            self._refuse(str(error))
            return
        except Exception as error:  # a model that the device's library fails on must not end the service
            self._refuse(f"{self.location}: {type(error).__name__}: {error}")
            return
        with self._lock:
            self._ready, self.judging = ready, bundle.manifest.version
            self.ill, self.refused = False, ""

    def _check(self, bundle: Bundle) -> None:
        made, rules = bundle.manifest, self.rules
        for what, new, old in (
            ("features", ", ".join(made.features), ", ".join(rules.features)),
            ("length", made.length, rules.length),
            ("stride", made.stride, rules.stride),
        ):
            if new != old:
                raise BundleError(
                    f"bundle {made.name} {made.version} has {what} {new}, the windows that are kept have {old}; "
                    "restart the service for it, or promote another"
                )

    def _refuse(self, why: str) -> None:
        self.ill = True
        if why != self.refused:
            self.refused = why
            self.failed()
            log.warning("another bundle was not loaded, %s goes on judging: %s", self.judging, why)

    def _watch(self) -> None:
        while not self._over:
            self._wake.wait(self.every)
            self._wake.clear()
            if not self._over:
                self.look()
