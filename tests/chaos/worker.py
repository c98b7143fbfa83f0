"""One worker: the service as `stream_detector.app.run_service` puts it together, with places where it kills itself.

Only the model is a stand-in, on NumPy, since a worker lives for a few seconds: TensorFlow takes longer to load.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import logging
import os
import signal
import sys
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np

from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.bundle import Bundle
from stream_detector.contents import ErrorStatistics, Manifest, Novelty, Scaler
from stream_detector.errors import Fenced, Refused, Unavailable
from stream_detector.events import Errors, Float32, Partition, Slice
from stream_detector.ports import NOTHING, Delivery, Ownership, Stored, Update
from stream_detector.settings import Settings
from tests.chaos.events import FEATURES
from tests.chaos.spec import REVOKED, Failpoint, Spec

LENGTH = 8
UNAVAILABLE, REFUSED, FENCED = 3, 4, 5  # exit codes; a supervisor would start it again
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class Failpoints:
    """Counts how often each place was reached, and ends or stops the process where it is told to."""

    def __init__(self, plan: Failpoint | None, lethal: str) -> None:
        self.plan, self.lethal = plan, lethal
        self.hits: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        self.hits[name] += 1
        if self.plan is None or self.plan.name != name or self.plan.hit != self.hits[name]:
            return
        note(self.lethal, f"{self.plan.how} {name}")
        os.kill(os.getpid(), signal.SIGKILL if self.plan.how == "kill" else signal.SIGSTOP)


def note(path: str, text: str) -> None:
    """Append one line, whole or not at all."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{text} {os.getpid()}\n".encode())
    os.close(file)


class Source(KafkaSource):
    points: Failpoints
    unstable = False  # negative control: the committed offset is read without waiting for open transactions

    def open(self, ownership: Ownership) -> None:
        super().open(ownership)
        if self.unstable:
            # The group's coordinator alone, so that what is read of topics is as ever.
            self._consumer._coordinator._isolation_level = 0

    def poll(self, timeout: float) -> list[Slice]:
        slices = super().poll(timeout)
        if slices:
            self.points.hit("in-poll")
        return slices

    def _on_revoked(self, tps: list[Any]) -> None:
        super()._on_revoked(tps)
        self.points.hit(REVOKED)


class Store(RedisStore):
    points: Failpoints

    def load(self, partition: Partition) -> Stored | None:
        stored = super().load(partition)
        self.points.hit("after-load")
        return stored

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        self.points.hit("before-append")
        tails = super().append(partition, update)
        self.points.hit("after-append")
        return tails

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        super().settle(partition, life, since, upto, alerts, memories)
        self.points.hit("after-settle")


class Unfenced(Store):
    """Negative control: whatever is expected of the stored state is taken to be so."""

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        self.points.hit("before-append")
        stored = super().load(partition)
        if stored is not None:
            update = dataclasses.replace(
                update, life=stored.life, start=stored.position, end=max(update.end, stored.position)
            )
        tails = RedisStore.append(self, partition, update)
        self.points.hit("after-append")
        return tails

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        stored = super().load(partition)
        if stored is not None:
            life, since, upto = stored.life, stored.settled, min(upto, stored.position)
        super().settle(partition, life, since, upto, alerts, memories)


class Outlet(KafkaOutlet):
    points: Failpoints

    def open(self) -> None:
        super().open()
        if self._exactly_once:
            commit = self._producer.commit_transaction

            def deadly() -> None:
                self.points.hit("before-commit")  # results and positions are with the broker
                commit()

            self._producer.commit_transaction = deadly

    def deliver(self, delivery: Delivery) -> None:
        super().deliver(delivery)
        self.points.hit("after-commit")


class RmsScorer:
    """Error = root mean square of the window; threshold 1."""

    features: tuple[str, ...] = FEATURES
    length = LENGTH
    device = "numpy"

    def __init__(self, *_: object, **__: object) -> None:
        """No model, no device."""

    def load(self) -> None:
        """Nothing to load."""

    def warm(self) -> None:
        """Nothing to compile."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        codes: Float32 = values.mean(axis=1)
        return codes

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        squares = values**2
        error = np.sqrt(squares.mean(axis=(1, 2), dtype=np.float32))
        total = squares.sum(axis=1, dtype=np.float32)
        shares = total / np.maximum(total.sum(axis=1, keepdims=True), np.float32(1e-9))
        worst = squares.sum(axis=2).argmax(axis=1).astype(np.int32) if len(values) else np.empty(0, np.int32)
        return Errors(error, error, np.ones_like(error), shares, worst)

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        return values * 0


def stand_in(stride: int, learns: bool) -> Bundle:
    """A bundle with a manifest and next to nothing else, for `RmsScorer`.

    If it ``learns`` on, as those of single metrics do, then by its first feature: what is stored of that must survive.
    """
    manifest = Manifest(
        name="rms",
        kind="rms",
        features=FEATURES,
        length=LENGTH,
        stride=stride,
        means=(0.0,) * len(FEATURES),
        created="2026-01-01T00:00:00Z",
        seed=0,
        backend="numpy",
        version="1",
    )
    novelty = Novelty(events=40, neighbours=2, windows={"": 20}) if learns else None
    errors = ErrorStatistics("mse", novelty=novelty)
    scaler = Scaler((0.0,) * len(FEATURES), (1.0,) * len(FEATURES))
    return cast(Bundle, types.SimpleNamespace(manifest=manifest, errors=errors, scaler=scaler))


def without_keras() -> None:
    """Let `stream_detector.app` be imported without TensorFlow. Only in a process that is a worker."""
    name = "stream_detector.adapters.keras.scorer"
    sys.modules.setdefault(name, cast(Any, types.SimpleNamespace(KerasScorer=RmsScorer)))


def run(spec: Spec) -> int:
    """The worker's life; its exit code, if it comes to that."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    # Where it hangs, if it does. By a handler of Python's, between two instructions: faulthandler's own looks at the
    # stacks of threads that run on meanwhile, and crashes once in a while.
    signal.signal(signal.SIGUSR1, lambda *_: faulthandler.dump_traceback())
    logging.info("pid %d: %s", os.getpid(), spec.failpoint)
    without_keras()
    from stream_detector import app

    points = Failpoints(spec.failpoint, spec.lethal)
    store = Unfenced if spec.broken == "position" else Store
    Source.points = Store.points = Outlet.points = points
    Source.unstable = spec.broken == "stable"
    try:
        with mock.patch.multiple(app, KafkaSource=Source, RedisStore=store, KafkaOutlet=Outlet):
            return app.run_service(Settings.model_validate(spec.settings), stand_in(spec.stride, spec.learns))
    except (Unavailable, Refused, Fenced) as error:
        logging.warning("ended: %s", error)
        return {Unavailable: UNAVAILABLE, Refused: REFUSED}.get(type(error), FENCED)


if __name__ == "__main__":
    sys.exit(run(Spec.read(Path(sys.argv[1]))))
