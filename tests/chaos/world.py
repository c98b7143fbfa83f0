"""One history: topics, a group and a Redis of its own, workers that come and go, events as they are needed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.chaos.compare import Outputs
from tests.chaos.events import MAX_GAP, PARTITIONS, generate
from tests.chaos.spec import Break, Failpoint, Spec, work
from tests.chaos.worker import REFUSED, UNAVAILABLE, note
from tests.servers import RedisServer
from tests.servers.process import Running

KINDS = ("events", "scores", "alerts", "dead_letters")
SESSION = 1.5  # seconds after which the group does without a silent member
DEADLINE = 400.0  # seconds; three brokers beside other histories are slow
TAIL = 4_000

CONTEXT = multiprocessing.get_context("forkserver")
# Histories run side by side in threads, and two of them that ask a process for its end at once get two answers.
ONE_AT_A_TIME = threading.Lock()
CONTEXT.set_forkserver_preload(["__main__", "tests.chaos.preload"])


@dataclass
class Worker:
    process: ForkServerProcess
    log: Path
    name: str | None  # its group_instance_id
    stopped: float | None = None  # when it was seen to be a zombie
    committed: int = 0  # by the group, at that time
    woken: float | None = None

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it lives."""
        with ONE_AT_A_TIME:
            return self.process.exitcode

    def ended(self, seconds: float | None = None) -> bool:
        """Wait for its end."""
        return bool(wait([self.process.sentinel], seconds))

    def kill(self) -> None:
        """SIGKILL, at whatever moment it is."""
        if self.code is None:
            self.process.kill()
            self.ended()

    def state(self) -> str:
        """R, S, T (stopped), … as the system tells; X if it is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "X"


class World(Running):
    """`close` ends everything that was started here."""

    def __init__(
        self,
        bootstrap: str,
        seed: int,
        *,
        stride: int = 1,
        mode: str = "exactly_once",
        transaction_timeout: str = "3s",
        max_records: int = 60,
        replicas: int = 1,
        broken: Break | None = None,
    ) -> None:
        self.bootstrap, self.seed, self.stride, self.replicas, self.broken = bootstrap, seed, stride, replicas, broken
        self.mode, self.transaction_timeout, self.max_records = mode, transaction_timeout, max_records
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.redis = RedisServer()
        self.name = f"chaos-{seed}-{uuid.uuid4().hex[:8]}"
        self.workers: list[Worker] = []
        self.fed = Counter[int]()  # events by partition
        self._events = generate(seed)
        self._numbers = itertools.count()
        self._producer: Any = None
        self._admin: Any = None

    def start(self) -> None:
        self.redis.start()
        self._admin = KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))
        for run in ("wild", "calm"):
            topics = {name for kind, name in self.topics(run).items() if run == "wild" or kind != "events"}
            self._admin.create_topics(
                {name: {"num_partitions": PARTITIONS, "replication_factor": self.replicas} for name in topics},
                wait_for_metadata=True,
            )
        self._producer = KafkaProducer(
            bootstrap_servers=self.bootstrap.split(","),
            linger_ms=5,
            delivery_timeout_ms=60_000,
            reconnect_backoff_max_ms=500,
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        for client in (self._producer, self._admin):
            if client is not None:
                client.close()
        self.redis.close()

    def topics(self, run: str) -> dict[str, str]:
        """Both runs read the same events, so that ids, which name the topic, are the same."""
        return {kind: f"{self.name}-{'all' if kind == 'events' else run}-{kind}" for kind in KINDS}

    # -- events ---------------------------------------------------------------------------------------------------

    def feed(self, count: int) -> None:
        """Produce the next events and wait until the broker has them."""
        sent = []
        for message in itertools.islice(self._events, count):
            self.fed[message.partition] += 1
            topic = self.topics("wild")["events"]
            sent.append(self._producer.send(topic, message.value, message.key, partition=message.partition))
        for future in sent:
            future.get(timeout=60)

    def committed(self, run: str = "wild") -> int | None:
        """How many events the group has committed; None while the broker does not say."""
        try:
            if self._admin is None:
                self._admin = KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","), bootstrap_timeout_ms=2_000)
            offsets = self._admin.list_group_offsets({f"{self.name}-{run}": None})
        except KafkaError:  # a client that has lost its coordinator goes on asking it
            if self._admin is not None:
                self._admin.close()
                self._admin = None
            return None
        found: dict[TopicPartition, Any] = next(iter(offsets.values()), {})
        return sum(max(0, int(found[tp].offset)) for tp in map(self._tp, range(PARTITIONS)) if tp in found)

    def _tp(self, number: int) -> TopicPartition:
        return TopicPartition(self.topics("wild")["events"], number)

    # -- workers --------------------------------------------------------------------------------------------------

    def spawn(self, failpoint: Failpoint | None = None, *, name: str | None = None, run: str = "wild") -> Worker:
        """Start a worker; ``name`` makes it a static member."""
        kafka: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "group_id": f"{self.name}-{run}",
            "session_timeout_ms": round(SESSION * 1_000),
            "heartbeat_interval_ms": 300,
        }
        if name is not None:
            kafka["group_instance_id"] = name
        settings = {
            "kafka": kafka,
            "topics": self.topics(run),
            "redis": {"url": self.redis.url, "timeout": "2s"},
            "window": {"max_gap": f"{MAX_GAP}ms"},
            "delivery": {"mode": self.mode, "transaction_timeout": self.transaction_timeout},
            "poll": {"max_records": self.max_records, "timeout": "200ms"},
            "metrics": {"port": 0},
        }
        log = self.folder / f"{run}-{next(self._numbers):03}.log"
        broken = self.broken if run == "wild" else None
        spec = Spec(settings, self.stride, str(log), str(self.folder / "lethal"), failpoint, broken)
        process = CONTEXT.Process(target=work, args=(spec,), daemon=True)
        with ONE_AT_A_TIME:
            process.start()
        worker = Worker(process, log, name)
        self.workers.append(worker)
        return worker

    def reap(self) -> list[Worker]:
        """Take away the workers that are gone; an `AssertionError` for one that failed."""
        gone = [worker for worker in self.workers if worker.code is not None]
        for worker in gone:
            self.workers.remove(worker)
            code = worker.code
            refused = code == REFUSED and worker.name is not None  # a zombie whose name somebody else has
            assert code in (-signal.SIGKILL, UNAVAILABLE) or refused, f"a worker ended with {code}\n{tail(worker.log)}"
        return gone

    def kill(self, worker: Worker) -> None:
        """SIGKILL at whatever moment it is, and count it."""
        note(str(self.folder / "lethal"), "kill random")
        worker.kill()

    def dump(self) -> None:
        """Let every worker write the stacks of its threads to its log."""
        for worker in self.workers:
            if worker.code is None and worker.log.exists() and worker.log.stat().st_size:  # before that it would die
                os.kill(worker.pid, signal.SIGUSR1)

    def deaths(self) -> Counter[str]:
        """How often workers were killed or stopped, by place: ``"kill after-append"``, ``"stop before-commit"``."""
        path = self.folder / "lethal"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.rpartition(" ")[0] for line in lines)

    def cases(self) -> Counter[str]:
        """In which cases partitions were found, as the workers logged it."""
        found: Counter[str] = Counter()
        for log in self.folder.glob("wild-*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if "; committed " in line and ", windows at " in line:
                    found[line.partition("; committed ")[0].rpartition(": ")[2]] += 1
        return found

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(self, workers: int = 2) -> None:
        """Let everybody die but a few newcomers, and wait until everything is committed."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        names = [f"calm-{at}" for at in range(workers)] if self.seed % 2 else [None] * workers
        self._complete("wild", [self.spawn(name=name) for name in names])

    def calm(self) -> Outputs:
        """What one undisturbed worker publishes of the same events."""
        self._complete("calm", [self.spawn(run="calm")])
        return Outputs.read(self.bootstrap, self.topics("calm"))

    def wild(self) -> Outputs:
        """What the others published.

        A `read_committed` reader sees nothing beyond an open transaction, such as that of a dead zombie: wait until the
        broker has ended them all.
        """
        names = [name for kind, name in self.topics("wild").items() if kind != "events"]
        tps = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]

        def closed() -> bool:
            ends = []
            for isolation in ("read_committed", "read_uncommitted"):
                consumer = KafkaConsumer(bootstrap_servers=self.bootstrap.split(","), isolation_level=isolation)
                ends.append(consumer.end_offsets(tps))
                consumer.close(autocommit=False)
            return bool(ends[0] == ends[1])

        self.until(closed, lambda: "transactions are open in the output topics")
        return Outputs.read(self.bootstrap, self.topics("wild"))

    def _complete(self, run: str, workers: list[Worker]) -> None:
        total = sum(self.fed.values())

        def complete() -> bool:
            self.reap()
            assert self.workers, "all workers ended\n" + "\n".join(tail(worker.log) for worker in workers)
            return self.committed(run) == total

        self.until(complete, lambda: f"{run}: {self.committed(run)} of {total} events are committed")
        for worker in workers:  # they leave in an orderly way
            if worker.code is None:
                os.kill(worker.pid, signal.SIGTERM)
        for worker in workers:
            assert worker.ended(30), f"a worker does not end\n{tail(worker.log)}"
            self.workers = [one for one in self.workers if one is not worker]

    def until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        """Look again and again; an `AssertionError` with the end of the workers' logs if it takes too long."""
        for _ in looks(DEADLINE):
            if condition():
                return
        self.dump()
        logs = sorted(self.folder.glob("*.log"))[-3:]
        raise AssertionError("\n".join([f"seed {self.seed}: {what()} after {DEADLINE:.0f} s", *map(tail, logs)]))


def looks(seconds: float) -> Iterator[float]:
    """The time since the start, again and again for so many seconds."""
    begun = time.monotonic()
    while (since := time.monotonic() - begun) < seconds:
        yield since
        time.sleep(0.05)  # between looks, not instead of one


def tail(path: Path) -> str:
    text = path.read_text(errors="replace")[-TAIL:] if path.exists() else "(nothing)"
    return f"--- {path}\n{text}"
