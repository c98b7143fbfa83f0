"""Carries the alerts of one topic to one target: at least once, in order per alert, committed when done.

Alone in its group, its thread and its circuit, so that a target that is slow or dead holds up nobody else. Tries run
beside it; everything else happens in `turn`.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from stream_detector.codec import decode_alert
from stream_detector.events import Partition
from stream_detector.targets import Target, Webhooks
from stream_detector.text import visible
from stream_detector.webhooks.backlog import Backlog, Entry
from stream_detector.webhooks.circuit import Circuit
from stream_detector.webhooks.filters import wanted
from stream_detector.webhooks.ports import Alerts, Batch, DeadLetters, Outcome, Post, Record, Watcher
from stream_detector.webhooks.progress import Progress
from stream_detector.webhooks.schedule import Schedule

log = logging.getLogger(__name__)

COMMIT_EVERY = 1.0  # seconds
UNTRIED = 3_600.0  # seconds that what was never tried waits for an open circuit at least
FAREWELL = 5.0  # seconds that tries under way are given when we are told to stop
LETTERS = 500  # dead letters at a time

Start = Callable[[Callable[[], None]], None]


def in_thread(work: Callable[[], None]) -> None:
    """Beside us, and no reason for the process to stay."""
    threading.Thread(target=work, name="webhook", daemon=True).start()


class Courier:
    """`ports.Ownership` of its group's partitions."""

    def __init__(
        self,
        name: str,
        target: Target,
        settings: Webhooks,
        alerts: Alerts,
        post: Post,
        letters: DeadLetters,
        watcher: Watcher,
        *,
        now: Callable[[], float] = time.time,
        start: Start = in_thread,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.target, self.settings = name, target, settings
        self.alerts, self.post, self.letters, self.watcher = alerts, post, letters, watcher
        self.now, self.start = now, start
        self.schedule = Schedule([delay / 1_000 for delay in settings.retries], settings.jitter, draw)
        self.circuit = Circuit(settings.circuit_failures, target.concurrency, draw)
        self.backlog = Backlog()
        self._flying: set[Entry] = set()  # also of partitions that are no longer ours
        self._outcomes: queue.SimpleQueue[tuple[Entry, Outcome]] = queue.SimpleQueue()
        self._new: list[Partition] = []
        self._paused = False
        self._committed: dict[Partition, Progress] = {}
        self._last_commit = float("-inf")

    def open(self) -> None:
        """Join the group. Raises `Unavailable` or `Refused`."""
        self.alerts.open(self)

    def turn(self, timeout: float) -> None:
        """Once around; waits up to ``timeout`` seconds for something to happen.

        Raises `Unavailable` or `Fenced`: call again.
        """
        self._collect()
        self._launch()
        if self._flying and timeout > 0:
            self._land(timeout)  # what ends makes room for the next
            timeout = 0.0
        self._read(timeout)  # before what may fail: who was thrown out of the group comes back by it
        self._bury()
        if self.now() - self._last_commit >= COMMIT_EVERY:
            self._commit()
        self._tell()

    def close(self) -> None:
        """Wait a little for tries under way, say how far we are, leave. Raises like `turn`, but leaves in any case."""
        try:
            self._wait(None, FAREWELL)
            self._bury()
            self._commit()
        finally:
            self.alerts.close()
            self.letters.close()

    @property
    def owned(self) -> int:
        """Partitions that are read."""
        return len(self.backlog.reached)

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """See `ports.Ownership.assigned`."""
        self._new.extend(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """See `ports.Ownership.revoked`. A try that outlived this could overtake those of the next owner."""
        try:
            for partition in partitions:
                self._wait(partition, self.target.timeout / 1_000 + 1)
            self._commit([partition for partition in partitions if partition in self.backlog.reached])
        finally:
            self.lost(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """See `ports.Ownership.lost`."""
        for partition in partitions:
            self.backlog.drop(partition)
            self._committed.pop(partition, None)
            if partition in self._new:
                self._new.remove(partition)

    def _read(self, timeout: float) -> None:
        """More alerts, unless enough are waiting; the rebalances of the group happen in here."""
        full = len(self.backlog) >= self.settings.max_waiting
        if full and not self._paused:
            self.alerts.pause(list(self.backlog.reached))
            self._paused = True
        elif self._paused and not full:
            for partition, position in self.backlog.reached.items():
                self.alerts.seek(partition, position)
            self._paused = False
        for batch in self.alerts.poll(timeout):
            if batch.partition in self.backlog.reached:
                self._take(batch)
        while self._new:
            self._begin(self._new[0])
            self._new.pop(0)  # only now: if it failed, it is tried again
            self._paused = False  # it is read; if that is too much, all are paused next time

    def _begin(self, partition: Partition) -> None:
        """Go on where the last owner was; a new target begins as the settings say, a new partition at its first."""
        past = self.alerts.progress(partition)
        first, end = self.alerts.bounds(partition)
        if past is None:
            new = self.alerts.fresh()
            past = Progress(end if new and self.settings.start == "latest" else first)
            # At once: what comes from now on must not be forgotten if we die before anything is done.
            self.alerts.commit({partition: past})
        position = past.offset
        if not first <= position <= end:
            missed = max(0, first - position)
            log.warning("%s: %s no longer has offset %d; going on at %d", self.name, partition, position, first)
            self.watcher.missed(self.name, missed)
            past = Progress(first) if position > end else past
            position = first
        self.backlog.begin(partition, position, past)
        self.alerts.seek(partition, position)

    def _take(self, batch: Batch) -> None:
        entries = (self._entry(batch.partition, record) for record in batch.records)
        self.backlog.add(batch.partition, batch.end, [entry for entry in entries if entry is not None])

    def _entry(self, partition: Partition, record: Record) -> Entry | None:
        """What is to be delivered; None for what was, what the target does not want, and tombstones."""
        past = self.backlog.past(partition, record.offset)
        if past is None or record.value is None:
            return None
        alert, now = decode_alert(record.value), self.now()
        if alert is not None and not wanted(alert, self.target):
            return None
        published = record.timestamp / 1_000 if record.timestamp >= 0 else now
        entry = Entry(partition, record.offset, record.key, record.value, alert, published, past.since or now, now)
        if alert is None:
            entry.given_up = "unreadable", "the record is no alert"
        elif past.tried and past.since:
            entry.tried = True
            entry.due = self.schedule.next(entry.since, now) or now
        return entry

    def _launch(self) -> None:
        """Begin what is due, as far as the circuit allows."""
        now = self.now()
        if self.circuit.disabled:
            for entry in self.backlog:
                if not entry.flying and entry.given_up is None:
                    entry.given_up = "disabled", "the target answered 410 Gone earlier, and is disabled until a restart"
            return
        free = self.circuit.allows(now, len(self._flying))
        if not free:
            return
        busy = {entry.name for entry in self._flying}  # perhaps from before a partition went and came back
        for entry in [entry for entry in self.backlog.ready(now) if entry.name not in busy][:free]:
            if not entry.tried:
                entry.since, entry.tried = now, True
            entry.flying, entry.last, entry.tries = True, now, entry.tries + 1
            self._flying.add(entry)
            self.start(partial(self._try, entry))

    def _try(self, entry: Entry) -> None:
        """Beside the loop."""
        self._outcomes.put((entry, self.post(entry)))

    def _collect(self) -> None:
        """Draw conclusions from the tries that have ended."""
        while True:
            try:
                self._conclude(*self._outcomes.get_nowait())
            except queue.Empty:
                return

    def _conclude(self, entry: Entry, outcome: Outcome) -> None:
        entry.flying, now = False, self.now()
        self._flying.discard(entry)
        self.watcher.tried(self.name, outcome)
        if outcome.word == "delivered":
            recovered = self.circuit.state == "open"
            self.circuit.succeeded()
            self.backlog.done(entry)
            for other in self.backlog if recovered else ():  # whose next turn may be hours away
                other.due = min(other.due, now)
            self.watcher.delivered(self.name, max(0.0, now - entry.published))
            return
        log.warning("%s: alert %s, try %d: %s", self.name, entry.id, entry.tries, visible(outcome.message))
        if outcome.word == "gone":
            self.circuit.gone()
            entry.given_up = "gone", outcome.message
        elif outcome.word == "unsendable":
            entry.given_up = "unsendable", outcome.message
        else:
            self._postpone(entry, outcome, now)

    def _postpone(self, entry: Entry, outcome: Outcome, now: float) -> None:
        self.circuit.failed(now, outcome.retry_after, outcome.word == "busy")
        due = self.schedule.next(entry.since, now)
        if due is None:
            entry.given_up = "exhausted", outcome.message
        else:
            entry.due = max(due, now + (outcome.retry_after or 0.0))
        if self.circuit.state != "open":
            return
        for other in self.backlog:  # what fails now would have failed for them too
            patience = 0.0 if other.tried else max(0.0, UNTRIED - self.schedule.total)
            if other.given_up is None and not other.flying and self.schedule.over(other.since + patience, now):
                other.given_up = "exhausted", f"the circuit is open: {outcome.message}"

    def _bury(self) -> None:
        """What is given up goes to the dead letters, and is done when they have it."""
        while letters := self.backlog.given_up()[:LETTERS]:
            self.letters.send(self.name, letters)
            for entry in letters:
                self.backlog.done(entry)
                reason, message = entry.given_up or ("", "")
                self.watcher.died(self.name, reason)
                log.error("%s: alert %s is a dead letter (%s): %s", self.name, entry.id, reason, visible(message))

    def _commit(self, partitions: Sequence[Partition] | None = None) -> None:
        """What has changed since the last time."""
        chosen = list(self.backlog.reached) if partitions is None else partitions
        now = {partition: self.backlog.progress(partition) for partition in chosen}
        changed = {partition: so_far for partition, so_far in now.items() if self._committed.get(partition) != so_far}
        if changed:
            self.alerts.commit(changed)
            self._committed |= changed
        self._last_commit = self.now()

    def _wait(self, partition: Partition | None, seconds: float) -> None:
        """For tries under way, as long as that."""
        until = time.monotonic() + seconds
        while self._aloft(partition) and (left := until - time.monotonic()) > 0:
            self._land(left)

    def _land(self, seconds: float) -> None:
        """Wait for the next try that ends."""
        with suppress(queue.Empty):
            self._conclude(*self._outcomes.get(timeout=seconds))

    def _aloft(self, partition: Partition | None) -> bool:
        return any(partition in (None, entry.partition) for entry in self._flying)

    def _tell(self) -> None:
        self.watcher.standing(
            self.name,
            waiting=len(self.backlog),
            lag=self.alerts.lag(self.backlog.reached),
            flying=len(self._flying),
            state=self.circuit.state,
        )
