"""The composition root of `stream-detector webhooks`: a courier for each target, signals, health."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from stream_detector.adapters.kafka.alerts import KafkaAlerts, KafkaDeadLetters
from stream_detector.adapters.kafka.letters import letter_box, revisions
from stream_detector.adapters.prometheus.webhooks import WebhookMetrics
from stream_detector.adapters.webhook.request import HttpPost
from stream_detector.errors import Fenced, SettingsError, StreamDetectorError, Unavailable
from stream_detector.events import Finding
from stream_detector.settings import Settings
from stream_detector.webhooks.courier import Courier
from stream_detector.webhooks.replay import ENDS, replay

log = logging.getLogger(__name__)

POLL = 0.2  # seconds; how late the end of a try may be noticed
STALLED = 180.0  # seconds without a turn after which a courier is not alive; waiting for Kafka takes less
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts while Kafka is away
_opening = threading.Lock()  # while it connects, kafka-python's log is listened to: one at a time
LEAVING = 20.0  # seconds that couriers are given to leave their groups


def steady_clock() -> Callable[[], float]:
    """Epoch seconds that go on evenly when somebody sets the clock."""
    begun, started = time.time(), time.monotonic()
    return lambda: begun + time.monotonic() - started


class Route:
    """A courier in a thread of its own, which waits while Kafka is away."""

    def __init__(self, courier: Courier, stop: threading.Event, now: Callable[[], float] = time.monotonic) -> None:
        self.courier, self._stop, self._now = courier, stop, now
        self.trouble: str | None = "starting"
        self.failure: BaseException | None = None  # what ended it though nobody told it to stop
        self._last_turn = now()
        self._thread = threading.Thread(target=self._run, name=f"webhooks-{courier.name}", daemon=True)

    def begin(self) -> None:
        """Returns at once."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until it has left, but no longer than that."""
        self._thread.join(max(0.0, seconds))

    def live(self) -> bool:
        """Whether it turns."""
        return self._thread.is_alive() and self._now() - self._last_turn < STALLED

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # raised again where the couriers are watched
            self.failure = error
            self._stop.set()
        finally:
            try:
                self.courier.close()
            except (Unavailable, Fenced) as error:
                log.warning("%s: %s; what is not committed is sent again", self.courier.name, error)
            except StreamDetectorError as error:
                self.failure = self.failure or error

    def _loop(self) -> None:
        pause, opened = FIRST_PAUSE, False
        while not self._stop.is_set():
            try:
                if not opened:
                    with _opening:
                        self.courier.open()
                    opened = True
                self.courier.turn(POLL)
                pause, self.trouble = FIRST_PAUSE, None
            except (Unavailable, Fenced) as error:
                if not opened and self.trouble == "starting":
                    raise  # as `run` does: a wrong address is told at once
                log.warning("%s: %s; trying again in %.1f s", self.courier.name, error, pause)
                self.trouble = str(error)
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            self._last_turn = self._now()


class Dispatch:
    """All couriers of one process."""

    def __init__(self, couriers: Sequence[Courier]) -> None:
        self._stop = threading.Event()
        self.routes = [Route(courier, self._stop) for courier in couriers]
        self.stopped_by: int | None = None

    def run(self) -> int:
        """128 + the signal that stopped us. What one courier fails with ends all, and is raised."""
        for route in self.routes:
            route.begin()
        self._stop.wait()
        until = time.monotonic() + LEAVING
        for route in self.routes:
            route.join(until - time.monotonic())
        for route in self.routes:
            if route.failure is not None:
                raise route.failure
        return 0 if self.stopped_by is None else 128 + self.stopped_by

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler: the first signal sets a flag, the second ends the process at once."""
        if self.stopped_by is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stopped_by = number
        self._stop.set()

    def live(self) -> bool:
        """Whether every loop turns."""
        return all(route.live() for route in self.routes)

    def ready(self) -> tuple[bool, str]:
        """Whether alerts would be sent now, and if not, why."""
        for route in self.routes:
            if route.trouble is not None:
                return False, f"{route.courier.name}: {route.trouble}"
            if not route.courier.owned:
                return False, f"{route.courier.name}: no partitions assigned"
        return True, f"{len(self.routes)} targets"


def run_webhooks(settings: Settings) -> int:
    """`stream-detector webhooks`."""
    webhooks, now = settings.webhooks, steady_clock()
    _require_targets(settings)
    metrics = WebhookMetrics(webhooks.targets)
    couriers = []
    for name, target in webhooks.targets.items():
        post = HttpPost(name, target, webhooks)
        post.prepare()
        alerts = KafkaAlerts(settings, f"{webhooks.group_id}-{name}")
        couriers.append(Courier(name, target, webhooks, alerts, post, KafkaDeadLetters(settings), metrics, now=now))
    dispatch = Dispatch(couriers)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, dispatch.stop)
    access = settings.metrics.model_copy(update={"port": webhooks.metrics_port})
    try:
        server = metrics.serve(access, dispatch.live, dispatch.ready)
    except SettingsError as error:
        raise SettingsError(str(error).replace("metrics.port", "webhooks.metrics_port")) from None
    log.info("started: %d targets; metrics at port %d", len(couriers), server.port)
    try:
        return dispatch.run()
    finally:
        server.close()


def check_webhooks(settings: Settings) -> Iterator[Finding]:
    """Whether each target can be reached, as its settings stand; nothing is sent."""
    for name, target in settings.webhooks.targets.items():
        yield from HttpPost(name, target, settings.webhooks).findings()


def replay_letters(settings: Settings, only: str | None) -> Iterator[tuple[str, str, bool]]:
    """Send dead letters again; target, what became of how many, and whether all is well."""
    webhooks = settings.webhooks
    _require_targets(settings)
    if only is not None and only not in webhooks.targets:
        raise SettingsError(f"--target {only}: no such target; use one of: {', '.join(webhooks.targets)}")
    alerts = revisions(settings)
    for name, target in webhooks.targets.items():
        if only not in (None, name):
            continue
        post = HttpPost(name, target, webhooks)
        post.prepare()
        with letter_box(settings, name) as box:
            box.read()
            counts = replay(box, target, post, alerts)
        told = "; ".join(f"{counts[end]} {text}" for end, text in ENDS.items() if counts[end])
        yield name, told or "no dead letters", not counts["failed"] + counts["waits"]


def _require_targets(settings: Settings) -> None:
    if not settings.webhooks.targets:
        raise SettingsError("webhooks.targets: there are none; write [webhooks.targets.NAME] and url below it")
