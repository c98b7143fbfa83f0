"""The protocol model's histories, on the real pipeline and the real stores.

Workers are killed at every call, turn into zombies, hand over; the store is rolled back under living workers, or
wiped. What was committed must equal what one undisturbed run commits.
"""

from __future__ import annotations

import copy
import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
import redis
from pydantic import SecretStr

from stream_detector.adapters.memory import MemoryStore
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.contents import Novelty, Scaler
from stream_detector.criteria import Criteria
from stream_detector.errors import Moved
from stream_detector.events import Partition
from stream_detector.levels import fall
from stream_detector.memories import Memories
from stream_detector.novelty import Learner
from stream_detector.ports import NOTHING, Update, WindowStore
from stream_detector.recall import Recall
from stream_detector.reconcile import Owned
from stream_detector.settings import Redis as RedisSettings
from stream_detector.settings import Settings
from tests.simulated import RULES, Broker, LocalScorer, Record, ShiftScorer, Worker


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Each worker says where it begins; to keep ten thousand of these takes a quarter of the time."""
    caplog.set_level(logging.ERROR, logger="stream_detector")


Snapshot = Callable[[], Callable[[], None]]  # take one; what it returns restores it


def make_log(rng: random.Random) -> list[Record]:
    """Events of three sensors; some are late, repeated, after a gap, or unreadable."""
    log: list[Record] = []
    time = 0
    for _ in range(rng.randint(5, 60)):
        time += rng.choice([0, 1, 1, 1, 5, 300 if rng.random() < 0.1 else 1])
        late = rng.choice([0, 0, 0, 0, 0, 7])
        log.append((rng.choice("abc"), max(time - late, 0), rng.choice([0.0, 1.0, 2.0, 9.0, 9.0, None])))
    return log


def undisturbed(log: list[Record]) -> list[str]:
    broker, worker = Broker(log), None
    worker = Worker(broker, MemoryStore(), random.Random(0))
    while not worker.done:
        worker.step()
    assert worker.failure is None
    return sorted(map(repr, broker.published))


def history(
    seed: int, store: WindowStore, snapshot: Snapshot, wipe: Callable[[], object], *, stable: bool = True
) -> bool:
    """Whether one random history ends in what an undisturbed run publishes."""
    rng = random.Random(seed)
    log = make_log(rng)
    broker, workers, snapshots = Broker(log), list[Worker](), list[Callable[[], None]]()
    broker.stable = stable
    for step in range(3_000):
        calm = step > 300
        if not workers or (not calm and rng.random() < 0.03):
            workers.append(Worker(broker, store, rng))
        worker = workers[-1] if calm else rng.choice(workers)  # all but the newest are zombies
        if not calm and rng.random() < 0.04:
            worker.kill()
            workers.remove(worker)
            continue
        if not calm and rng.random() < 0.02 and snapshots:
            rng.choice(snapshots)()
        if not calm and rng.random() < 0.005:
            wipe()
        if not calm and rng.random() < 0.2:
            snapshots = [*snapshots, snapshot()][-4:]
        worker.step()
        if worker.done:
            workers.remove(worker)
            if worker.failure is not None:
                raise worker.failure
            if calm and not workers and broker.committed == len(log):
                break
    for worker in workers:
        worker.kill()
    return sorted(map(repr, broker.published)) == undisturbed(log)


class Memory(MemoryStore):
    def snapshot(self) -> Callable[[], None]:
        saved = copy.deepcopy(self.states)
        return lambda: setattr(self, "states", copy.deepcopy(saved))

    def wipe(self) -> None:
        self.states = {}


def in_memory(seed: int, store: Memory | None = None, *, stable: bool = True) -> bool:
    store = store or Memory()
    return history(seed, store, store.snapshot, store.wipe, stable=stable)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_any_history_ends_as_an_undisturbed_run_in_memory(first: int) -> None:
    assert [seed for seed in range(first, first + 100) if not in_memory(seed)] == []


KINDS = ("anomaly", "fault")
GROUP = {"quick": {"sensors": "a", "min_windows": 1}}
RANGE = {
    "alerts": {"min_windows": 2, "resolve_windows": 2, "limit": 2, "limit_within": "60ms"},
    "groups": GROUP,
    "features": {"x": {"range": [0, 8], "stuck_events": 3, "direction": "above_expected", "min_deviation": 1}},
    "delivery": {"lookback_limit": 1_000_000},
}
OWN = RANGE | {"groups": {"quick": GROUP["quick"] | {"features": {"x": {"range": [0, 6], "stuck_events": 5}}}}}
LIMIT = {"limit": 1, "limit_within": "40ms"}
STUCK = RANGE | {"alerts": {"min_windows": 1, "resolve_windows": 2, **LIMIT}, "features": {"x": {"stuck_events": 3}}}
DURATIONS = {"min_duration": "3ms", "keep_firing_for": "5ms", "cooldown": "20ms", **LIMIT}
TIMED = STUCK | {"alerts": {"min_windows": 1, "resolve_windows": 1, **DURATIONS}}


@pytest.mark.parametrize("asked", [RANGE, OWN, STUCK], ids=["range", "of a group", "stuck"])
def test_faults_and_groups_survive_any_history(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(asked))
    assert [seed for seed in range(100) if not in_memory(seed)] == []


LEARNER = Learner(Novelty(8, 2, {"": 6}), Scaler((0.0,), (1.0,)), length=3, stride=2)
REACHED = {"delivery": {"lookback_limit": 1_000_000}, "alerts": {"min_windows": 1, "resolve_windows": 1}}


@pytest.mark.parametrize("asked", [REACHED, STUCK], ids=["plain", "stuck"])
def test_what_learns_on_survives_any_history(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(asked))
    monkeypatch.setattr("tests.simulated.LEARNER", LEARNER)
    monkeypatch.setattr("stream_detector.memories.CHUNK", 4)
    assert [seed for seed in range(100) if not in_memory(seed)] == []


def test_without_storing_what_was_learnt_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(REACHED))
    monkeypatch.setattr("tests.simulated.LEARNER", LEARNER)
    monkeypatch.setattr(Memories, "changed", lambda self, sensors: {})
    assert any(not in_memory(seed) for seed in range(50))


FALLS = {  # of one sensor so many that some are of the same events, of the others fewer
    "alerts": {"min_windows": 1, "resolve_windows": 1, "budget": 8e6},
    "groups": {"quick": {"sensors": "a", "budget": 2e7}},
    "delivery": {"lookback_limit": 1_000_000},
}


def test_thresholds_that_fall_survive_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(FALLS))
    assert [seed for seed in range(100) if not in_memory(seed)] == []


def test_without_storing_how_far_they_fell_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(FALLS))
    monkeypatch.setattr("stream_detector.pipeline.fall", lambda *given: (fall(*given)[0], set()))
    assert any(not in_memory(seed) for seed in range(50))


LASTS = {
    "alerts": {"min_windows": 1, "resolve_windows": 2, "accept_after": "8ms"},
    "groups": {"quick": {"sensors": "a", "accept_after": "3ms"}, "never": {"sensors": "c", "accept_after": "off"}},
    "delivery": {"lookback_limit": 1_000_000},
}


def test_accepted_shifts_survive_any_history_in_which_the_state_is_not_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a state that was lost, what was accepted last is known all along what is read again."""
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(LASTS))
    monkeypatch.setattr("tests.simulated.SumScorer", ShiftScorer)
    monkeypatch.setattr(Memory, "wipe", lambda self: None)
    assert [seed for seed in range(100) if not in_memory(seed)] == []


def test_without_storing_what_was_accepted_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(LASTS))
    monkeypatch.setattr("tests.simulated.SumScorer", ShiftScorer)
    monkeypatch.setattr(Memory, "wipe", lambda self: None)
    whole = Owned.standing
    monkeypatch.setattr(Owned, "standing", lambda self, sensor: whole(replace(self, shifts={}), sensor))
    assert any(not in_memory(seed) for seed in range(100))


def test_what_cannot_be_seen_to_be_over_survives_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SumScorer", LocalScorer)
    assert [seed for seed in range(100) if not in_memory(seed)] == []


def test_without_storing_that_it_cannot_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SumScorer", LocalScorer)
    whole = Owned.standing

    def without(self: Owned, sensor: str) -> Any:
        incident = self.incidents.get(sensor)
        known = {} if incident is None else {sensor: msgspec.structs.replace(incident, local=False)}
        return whole(replace(self, incidents=self.incidents | known), sensor)

    monkeypatch.setattr(Owned, "standing", without)
    assert any(not in_memory(seed) for seed in range(100))


def test_without_recovering_faults_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(RANGE))
    monkeypatch.setattr(Recall, "restore", lambda self, incidents: None)
    assert any(not in_memory(seed) for seed in range(50))


def test_without_recovering_what_was_recent_the_histories_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(STUCK))
    monkeypatch.setattr(Criteria, "most_recent", 0)
    assert any(not in_memory(seed) for seed in range(100))


def test_some_histories_have_anomalies_that_become_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(STUCK))
    told = [one for seed in range(30) for one in undisturbed(make_log(random.Random(seed))) if one.startswith("Alert")]
    by_kind = {kind: {re.findall("id='(.*?)'", one)[0] for one in told if f"kind='{kind}'" in one} for kind in KINDS}
    assert by_kind["anomaly"] & by_kind["fault"]
    assert by_kind["anomaly"] - by_kind["fault"]


def test_durations_survive_any_history_in_which_the_state_is_not_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cooldown is nowhere but in the state; after a loss of it an alert may fire earlier."""
    monkeypatch.setattr("tests.simulated.SETTINGS", Settings.model_validate(TIMED))
    monkeypatch.setattr(Memory, "wipe", lambda self: None)
    assert [seed for seed in range(100) if not in_memory(seed)] == []


def test_what_is_forgotten_with_a_sensor_survives_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors expire all the time here, in the middle of what is pending, and come back; see `verdicts.forget`.

    Where the state is lost, time begins anew with the look-back, and what had expired by then may not have.
    """
    monkeypatch.setattr(f"{__name__}.Worker", partial(Worker, rules=replace(RULES, ttl=16)))
    monkeypatch.setattr(Memory, "wipe", lambda self: None)
    assert [seed for seed in range(200) if not in_memory(seed)] == []


def test_any_history_ends_as_an_undisturbed_run_on_redis(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    store = RedisStore(RedisSettings(url=SecretStr(redis_url)), "histories")

    def snapshot() -> Callable[[], None]:
        saved = {key: client.dump(key) for key in client.scan_iter()}

        def restore() -> None:
            client.flushdb()
            for key, value in saved.items():
                client.restore(key, 0, value or b"")

        return restore

    def evict(chance: random.Random) -> None:
        """What a server with another maxmemory-policy than noeviction does."""
        for key in sorted(client.scan_iter()):
            if chance.random() < 0.3:
                client.delete(key)

    def run(seed: int) -> bool:
        client.flushdb()
        chance = random.Random(seed)
        return history(seed, store, snapshot, client.flushdb if seed % 2 else lambda: evict(chance))

    assert [seed for seed in range(60) if not run(seed)] == []


class Unfenced(Memory):
    """Negative control: no compare-and-set on positions."""

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        state = self.states.get(partition)
        if state is not None:
            state.life, state.position = update.life, update.start
        return super().append(partition, update)

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        state = self.states.get(partition)
        if state is not None:
            state.life, state.settled, state.position = life, since, max(state.position, upto)
        super().settle(partition, life, since, upto, alerts, memories)


def test_without_compare_and_set_the_histories_break() -> None:
    def broken(seed: int) -> bool:
        try:
            return not in_memory(seed, Unfenced())
        except (Moved, KeyError, IndexError, ValueError):
            return True

    assert any(broken(seed) for seed in range(50))


def test_without_waiting_for_open_transactions_the_histories_break() -> None:
    assert any(not in_memory(seed, stable=False) for seed in range(200))
