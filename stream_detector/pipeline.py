"""The hot path and the reconciliation: events in, each counted exactly once, whatever dies.

The commit point is the outlet's delivery, which holds the results and the input positions. The window store is a
function of its position and is moved by compare-and-set alone. ``ARCHITECTURE.md`` follows one event through here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stream_detector.criteria import with_longest_memory
from stream_detector.embeddings import embedded, embedding_records
from stream_detector.errors import Damaged, Moved
from stream_detector.events import Errors, Float32, Int64, Model, Partition, Reject, Slice, Windows
from stream_detector.groups import Grouped, alike
from stream_detector.judging import Judge, criteria_for, heartbeats_for, rules_for, scorer_of
from stream_detector.levels import fall
from stream_detector.novelty import Learner, expected_by, learn
from stream_detector.ports import Delivery, Observer, Outlet, Scorer, Source, Update, WindowStore
from stream_detector.recall import Recall
from stream_detector.reconcile import Owned, Work, lookback_of, reconcile
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.shifts import accept
from stream_detector.sieve import sift
from stream_detector.silence import EVERY, Heartbeats, Watch, begin, ended, silence_record
from stream_detector.verdicts import alert_records, judge, score_records, without_unscored
from stream_detector.waiting import pack_waiting
from stream_detector.windows import advance, assemble

log = logging.getLogger(__name__)

EXPECTED = ("fresh", "resumed", "ahead")  # the other cases say that something was lost or changed


@dataclass(slots=True)
class Flight:
    """The batch that the device works on, and what judges all of it."""

    works: list[Work]
    scorer: Scorer
    models: Grouped[Model]
    learners: Grouped[Learner | None]
    errors: Future[tuple[Errors, Float32 | None, float, float]]  # codes if asked; when the device began and ended
    launched: float


class Changed(NamedTuple):
    """Sensors of which another thing is to be stored than before."""

    alerts: Collection[str]
    memories: Collection[str] = ()


class Pipeline:
    """Source → windows → device → verdicts → outlet, one batch in flight. Also the source's `Ownership`."""

    def __init__(
        self,
        source: Source,
        store: WindowStore,
        scorer: Scorer,
        outlet: Outlet,
        observer: Observer,
        rules: Rules,
        model: Model,
        settings: Settings,
        *,
        now_ms: Callable[[], float] = lambda: time.time() * 1_000,
        clock: Callable[[], float] = time.perf_counter,
        heartbeats: Heartbeats | None = None,
        learner: Learner | None = None,
    ) -> None:
        self.source, self.store, self.outlet, self.observer = source, store, outlet, observer
        self.now_ms, self.clock = now_ms, clock
        self.owned: dict[Partition, Owned] = {}
        self.judge_by(alike(Judge(scorer, model, rules, settings, heartbeats, learner)))
        self.waiting: list[Partition] = []  # assigned, not reconciled yet
        self.flight: Flight | None = None
        self.looked = -EVERY
        self.suspects: dict[Partition, int] = {}  # up to which offset events are sifted
        self.device = ThreadPoolExecutor(1, thread_name_prefix="device")

    # -- the hot path ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of the loop. After `Unavailable` or `Fenced`: `reset`, then go on turning."""
        batch = self._poll()
        works = [work for part in batch if (work := self._append(part)) is not None]
        works += self._reconcile()  # partitions that are new here, with what earlier owners left undelivered
        launched = self._launch(works)  # the device scores this batch while …
        self._finish()  # … the one before is published
        self.flight = launched
        self._watch()
        self._tell()

    def drain(self) -> None:
        """Publish what is in flight."""
        self._finish()

    def judge_by(self, judges: Grouped[Judge]) -> None:
        """Let others judge from the next batch on; what is in flight is judged by those that scored it.

        All have rules of the same features, length and stride: windows go on as they are.
        """
        self.judges, self.settings, self.heartbeats = judges, judges.common.settings, heartbeats_for(judges)
        self.scorer, self.models = scorer_of(judges), judges.each(lambda judge: judge.model)
        self.rules, self.criteria = rules_for(judges), criteria_for(judges)
        self.learners = judges.each(lambda judge: judge.learner)
        self.lookback = max(
            lookback_of(
                judge.rules,
                with_longest_memory(judge.rules, judge.settings),
                0 if judge.learner is None else judge.learner.reach,
            )
            for judge in judges.things
        )
        for owned in self.owned.values():
            owned.table.rules = self.rules
            if owned.watch is not None and self.heartbeats is not None:
                owned.watch.listen(self.heartbeats)

    def idle(self, timeout: float) -> None:
        """Stay in the group while nothing can be done; only after `reset`."""
        self.source.poll(timeout)

    def _poll(self) -> list[Slice]:
        started = self.clock()
        batch = self.source.poll(0 if self.flight else self.settings.poll.timeout / 1_000)
        self.observer.took("poll", self.clock() - started)
        self.observer.read(batch)
        return batch

    def _append(self, batch: Slice) -> Work | None:
        """Move a partition's windows on by a batch; None if it is not ours or must be loaded again."""
        partition, owned = batch.partition, self.owned.get(batch.partition)
        if owned is None:
            return None
        if batch.start != owned.position:
            self._reopen(partition, Moved(f"the log goes on at {batch.start}, the windows at {owned.position}"))
            return None
        started = self.clock()
        if batch.start < self.suspects.get(partition, 0):
            batch = sift(owned.table, batch)
        try:
            change = advance(owned.table, batch.events, batch.raw)
        except Exception as error:  # a mistake of ours: find the event in the next reading, and go on without it
            log.exception("partition %s: an event between %d and %d is poison", partition, batch.start, batch.end)
            self.suspects[partition] = batch.end
            self._reopen(partition, Moved(f"{type(error).__name__}: {error}"))
            return None
        rejects = sorted([*batch.rejects, *change.rejects], key=lambda reject: reject.offset)
        update = Update(
            life=owned.life,
            layout=owned.layout,
            first=owned.first,
            start=batch.start,
            end=batch.end,
            settled=owned.settled,
            sensors=change.sensors,
            rows=change.rows,
            headers=change.headers,
            keep=change.keep,
            tails=change.tails,
            expired=change.expired,
            pending=pack_waiting(change, rejects),
            waiting=[name for name, tail in zip(change.sensors, change.tails, strict=True) if tail],
            floor=owned.floor,
            alerts=_standing(owned) if owned.first else {},
        )
        try:
            windows = assemble(self.rules, change, self.store.append(partition, update))
        except Moved as moved:
            self._reopen(partition, moved)
            return None
        owned.first, owned.position = False, batch.end
        self.observer.took("append", self.clock() - started)
        self.observer.received(change.counts["accepted"], _reasons(rejects), change.counts)
        added = dict(zip(change.sensors, change.added, strict=True))
        return Work(partition, owned, batch.end, windows, rejects, added, change.swept)

    def _launch(self, works: list[Work]) -> Flight | None:
        """Give all windows of all partitions to the device, in one call."""
        if not works:
            return None
        sensors = [sensor for work in works for sensor in work.windows.sensors]
        values = np.concatenate([work.windows.values for work in works])
        launched = self.clock()
        errors = self.device.submit(self._score, self.scorer, sensors, values)
        return Flight(works, self.scorer, self.models, self.learners, errors, launched)

    def _score(
        self, scorer: Scorer, sensors: Sequence[str], values: Float32
    ) -> tuple[Errors, Float32 | None, float, float]:
        began = self.clock()
        errors = scorer.score(sensors, values)
        codes = scorer.embed(sensors, values) if self.settings.publish.embeddings else None
        return errors, codes, began, self.clock()

    def _finish(self, leaving: Sequence[Partition] = ()) -> None:
        """Judge, publish and settle the batch in flight; partitions that are ``leaving`` are not read on."""
        flight, self.flight = self.flight, None
        if flight is None:
            return
        errors, codes, began, ended = flight.errors.result()
        self.observer.took("queue", began - flight.launched)
        self.observer.took("compute", ended - began)
        started = self.clock()
        delivery, changed, events_ended = self._judge(flight, errors, codes)
        self.observer.took("judge", self.clock() - started)
        started = self.clock()
        if delivery.positions:
            self.outlet.deliver(delivery)
            self.observer.took("deliver", self.clock() - started)
            self.observer.delivered(delivery, (self.now_ms() - events_ended).astype(np.float32))
        started = self.clock()
        for work in flight.works:
            mine = self.owned.get(work.partition) is work.owned
            settled = mine and self._settle(work, changed[work.partition])
            if settled and work.left and work.partition not in leaving:
                self.source.seek(work.partition, work.owned.position)
        self.observer.took("settle", self.clock() - started)

    def _judge(
        self, flight: Flight, errors: Errors, codes: Float32 | None
    ) -> tuple[Delivery, dict[Partition, Changed], Int64]:
        """What to publish, which states changed by partition, and the end times of the published windows."""
        delivery, at = Delivery([], [], [], {}), 0
        changed: dict[Partition, Changed] = {}
        ends: list[Int64] = [np.empty(0, np.int64)]

        def expect(windows: Windows, errors: Errors) -> Float32:  # not behind the batch that the device works on by now
            return expected_by(errors, flight.scorer.expect(windows.sensors, windows.values, errors.names))

        for work in flight.works:
            windows, mine = work.windows, errors.cut(at, at + len(work.windows))
            own = None if codes is None else codes[at : at + len(windows)]
            at += len(windows)
            if self.owned.get(work.partition) is not work.owned:
                continue  # taken away, or to be loaded again: its new owner judges it
            owned = work.owned
            if own is not None:
                unpublished = windows.offsets[:, 1] >= owned.committed
                named = np.flatnonzero(unpublished & np.isfinite(mine.score) & embedded(own))
                delivery.embeddings.extend(embedding_records(work.partition, windows, own, named, flight.models))
            windows, mine, unscored = without_unscored(windows, mine)
            mine, shifted = accept(owned.shifts, windows, mine, self.criteria.alerts, work.swept)
            mine, learnt = learn(flight.learners, owned.memories, windows, mine, work.swept)
            mine, fallen = fall(owned.levels, windows, mine, self.criteria.alerts, self.rules.stride, work.swept)
            known = owned.incidents, self.criteria
            judged = judge(work.partition, windows, mine, *known, expect, owned.floor, work.swept)
            changed[work.partition] = Changed(judged.touched.keys() | fallen | shifted, learnt)
            self.observer.scored(work.partition, windows, mine)
            # What ends before the committed offset has been published by an earlier owner.
            fresh = windows.offsets[:, 1] >= owned.committed
            wanted = {"all": fresh, "anomalous": fresh & (mine.score >= 1), "none": fresh & False}
            chosen = np.flatnonzero(wanted[self.settings.publish.scores])
            about = work.partition, windows, mine
            names = self.rules.features, flight.models
            delivery.scores.extend(score_records(*about, judged.states, chosen, *names))
            changes = [change for change in judged.changes if fresh[change[0]]]
            delivery.alerts.extend(alert_records(*about, changes, expect, *names))
            rejects = sorted([*work.rejects, *unscored], key=lambda reject: reject.offset)
            new = [reject for reject in rejects if reject.offset >= owned.committed]
            delivery.rejects.extend((work.partition, reject) for reject in new)
            ends.append(windows.timestamps[fresh, 1])
            if work.end > owned.committed:
                delivery.positions[work.partition] = work.end
        return delivery, changed, np.concatenate(ends)

    def _settle(self, work: Work, changed: Changed) -> bool:
        """Whether the store took it."""
        owned = work.owned
        owned.committed = max(owned.committed, work.end)
        if not self._store_states(work.partition, owned, work.end, changed):
            return False
        owned.settled = work.end
        owned.table.settled(work.added)
        return True

    def _store_states(self, partition: Partition, owned: Owned, upto: int, changed: Changed) -> bool:
        alerts = {name: owned.standing(name) for name in changed.alerts}
        memories = owned.memories.changed(changed.memories)
        try:
            self.store.settle(partition, owned.life, owned.settled, upto, alerts, memories)
        except Moved as moved:
            self._reopen(partition, moved)
            return False
        return True

    # -- silence --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Alert of sensors that fell silent or are heard again, in partitions that are read to their end."""
        now = self.clock()
        if self.heartbeats is None or now - self.looked < EVERY:
            return
        self.looked, lag = now, self.source.lag()
        for partition, owned in list(self.owned.items()):
            if owned.watch is None:
                owned.watch = Watch(self.heartbeats)
            if not owned.first and lag.get(partition) == 0:  # what has not been read is not missing
                self._announce(partition, owned, owned.watch, now)

    def _announce(self, partition: Partition, owned: Owned, watch: Watch, now: float) -> None:
        """Remembered before it is published, and forgotten after: a crash in between repeats, but loses nothing."""
        table = owned.table
        fallen = [sensor for sensor in watch.silent(table, now) if sensor not in owned.silences]
        owned.silences |= {sensor: begin(partition, sensor, table) for sensor in fallen}
        if fallen and not self._store_states(partition, owned, owned.settled, Changed(fallen)):
            return
        over = [sensor for sensor, silence in owned.silences.items() if ended(silence, sensor, table)]
        records = []
        for sensor, silence in owned.silences.items():
            limit, model = watch.limit(sensor), self.models.of(sensor)
            if sensor in over:
                slot = table.slots[sensor]
                heard = int(table.newest[slot]), int(table.offset[slot])
                records.append(silence_record(partition, sensor, silence, limit, model, heard))
            elif silence.id not in watch.announced:
                records.append(silence_record(partition, sensor, silence, limit, model))
        if records:
            # The position does not move; naming it lets the broker refuse a worker that is no longer the owner.
            delivery = Delivery([], records, [], {partition: owned.committed})
            self.outlet.deliver(delivery)
            self.observer.delivered(delivery, [])
            watch.announced.update(record.id for record in records)
        for sensor in over:
            watch.announced.discard(owned.silences.pop(sensor).id)
        if over:
            self._store_states(partition, owned, owned.settled, Changed(over))

    # -- partitions come and go (`ports.Ownership`) ---------------------------------------------------------------

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Remember them: the source may not be asked anything before its poll has returned."""
        self.waiting.extend(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Publish what is in flight while the partitions are still ours, then let go of them."""
        self._finish(partitions)
        self._drop(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """They are somebody else's already: whatever is in flight of them is abandoned."""
        self._drop(partitions)

    def reset(self) -> None:
        """After an outage or a fencing: forget what is in memory and reconcile every partition again.

        Those that are no longer ours the source takes away in its next poll, before anything is asked about them.
        """
        self.flight = None
        self.waiting = list(dict.fromkeys([*self.waiting, *self.owned]))
        self.owned.clear()
        self.source.pause(self.waiting)

    def close(self) -> None:
        """Leave the group, let go of everything; what is in flight and not drained is left to the next owner."""
        self.device.shutdown(wait=True, cancel_futures=True)
        for part in (self.source, self.outlet, self.store):
            part.close()

    def _drop(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
        self.waiting = [partition for partition in self.waiting if partition not in partitions]

    def _reopen(self, partition: Partition, moved: Moved) -> None:
        log.info("partition %s: %s; loading its windows again", partition, moved)
        owned = self.owned.pop(partition, None)
        if isinstance(moved, Damaged) and owned is not None:
            with contextlib.suppress(Moved):  # then somebody else has already replaced it
                self.store.discard(partition, owned.life)
        self.waiting.append(partition)

    def _reconcile(self) -> list[Work]:
        """Open the partitions that wait for it."""
        works = []
        while self.waiting:
            partition, recall = self.waiting[0], Recall(self.outlet)
            try:
                owned, work, case = reconcile(
                    partition,
                    self.source,
                    self.store,
                    recall,
                    self.rules,
                    self.lookback,
                    latest=self.settings.kafka.auto_offset_reset == "latest",
                    limit=self.criteria.most_recent,
                )
            except Moved:  # somebody else replaced the state first: load again
                continue
            recall.restore(owned.incidents)
            if work is None:
                self.source.seek(partition, owned.position)
            else:  # only when what was left is done, so that it cannot pile up from crash to crash
                self.source.pause([partition])
            self.owned[partition] = owned
            self.waiting.pop(0)
            self.observer.reconciled(partition, case)
            level = logging.INFO if case in EXPECTED else logging.WARNING
            found = partition, case, owned.committed, owned.position
            log.log(level, "partition %s: %s; committed %d, windows at %d", *found)
            if work is not None:
                works.append(work)
        return works

    def _tell(self) -> None:
        self.observer.gauges(
            partitions=self.owned.keys(),
            sensors=sum(len(owned.table) for owned in self.owned.values()),
            pending=sum(len(work.windows) for work in self.flight.works) if self.flight else 0,
            lag=self.source.lag(),
            firing=(alert for owned in self.owned.values() for alert in owned.firing()),
        )


def _standing(owned: Owned) -> dict[str, bytes]:
    """Alert states that a new state of a partition begins with: those recovered from what was published."""
    found = {name: owned.standing(name) for name in {*owned.incidents, *owned.silences, *owned.shifts}}
    return {name: packed for name, packed in found.items() if packed is not None}


def _reasons(rejects: Sequence[Reject]) -> Mapping[str, int]:
    return Counter(reject.reason for reject in rejects)
