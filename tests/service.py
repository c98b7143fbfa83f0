"""The real command as a child process, and what a `read_committed` reader sees of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests import forked
from tests.commandline import Done, invoke
from tests.servers.process import free_port

DEADLINE = 120.0  # seconds for anything to happen


class RunningService:
    """``stream-detector run`` with settings of its own; ``fresh``: in an interpreter that imports all itself."""

    command = "run"

    def __init__(self, config: Path, *options: str, fresh: bool = False) -> None:
        self.config, self.options, self.fresh = config, options, fresh
        self.port = tomllib.loads(config.read_text())["metrics"]["port"]
        self.process: forked.Process | None = None
        self.log = config.with_suffix(".log")

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self.process = start(
                self.command, "--config", self.config, *self.options, out=log, err=log, fresh=self.fresh
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET on the metrics port; status 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self) -> None:
        wait_for(lambda: self.get("/readyz")[0] == 200, "the service to be ready", self)

    def here(self, enough: Callable[[], bool], what: str) -> Done:
        """The same in this process, with what is compiled in it already, until SIGTERM when there is enough."""
        ended = threading.Event()

        def stop() -> None:
            try:
                wait_for(lambda: ended.is_set() or enough(), what)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, lambda number, frame: None)  # for one that comes too late
        watcher = threading.Thread(target=stop)
        watcher.start()
        try:
            return invoke(self.command, "--config", self.config, *self.options)
        finally:
            ended.set()
            watcher.join()
            signal.signal(signal.SIGTERM, before)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3_000:]


def wait_for(condition: Any, what: str, service: RunningService | None = None) -> None:
    """Poll until the condition holds; fail with the service's log if it does not in time, or if the service ended."""
    until = time.monotonic() + DEADLINE
    while not condition():
        ended = service is not None and service.process is not None and service.process.poll() is not None
        if ended or time.monotonic() > until:
            raise AssertionError(f"waited for {what} in vain\n{service.tail() if service else ''}")
        time.sleep(0.05)  # between looks, not instead of one


def write_config(folder: Path, name: str, broker: str, redis_url: str, bundle: Path, **more: Mapping[str, Any]) -> Path:
    """Settings for a service with topics and a group of its own, named ``name``."""
    topics = {kind: f"{name}-{kind}" for kind in ("events", "scores", "alerts", "dead_letters")}
    sections: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap_servers": broker, "group_id": name, "session_timeout_ms": 6_000},
        "topics": topics,
        "redis": {"url": redis_url},
        "metrics": {"port": free_port()},
        "bundle": {"path": str(bundle)},
        # Two shapes to compile, not four; that a service with the defaults does so is the README's to show.
        "device": {"max_batch_windows": 64},
    }
    for section, values in more.items():
        sections.setdefault(section, {}).update(values)
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def produce(broker: str, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], partitions: int) -> None:
    """Send (key, value) pairs; the partition follows from the key, so that a sensor stays in order."""
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=20)
    for key, value in messages:
        producer.send(topic, key=key, value=value, partition=sum(key or b"") % partitions)
    producer.flush()
    producer.close()


def committed_records(broker: str, topic: str) -> list[Any]:
    """All records of a topic that a `read_committed` reader sees now."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        tps = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(tps)
        consumer.seek_to_beginning(*tps)
        ends = consumer.end_offsets(tps)
        found: list[Any] = []
        until = time.monotonic() + DEADLINE
        while any(consumer.position(tp) < ends[tp] for tp in tps):
            assert time.monotonic() < until, f"{topic} cannot be read to its end"
            for records in consumer.poll(timeout_ms=200).values():
                found += records
        return found
    finally:
        consumer.close(autocommit=False)


def json_values(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in records]


def as_users(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what makes tests quick (see `conftest`)."""
    return {name: value for name, value in environment.items() if name != "XLA_FLAGS"}


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | more


def start(*arguments: str | Path, out: IO[Any], err: IO[Any], fresh: bool = False, **more: str) -> forked.Process:
    """Start a command of the project."""
    line = [*map(str, arguments)]
    if fresh:
        program = [sys.executable, "-m", "stream_detector"]
        return subprocess.Popen([*program, *line], stdout=out, stderr=err, env=as_users(environment(**more)))
    return forked.start("stream_detector", line, environment(**more), out, err, Path.cwd())


def command(*arguments: str | Path, fresh: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project to its end."""

    def begin(out: IO[bytes], err: IO[bytes]) -> forked.Process:
        return start(*arguments, out=out, err=err, fresh=fresh, **more)

    code, out, err = forked.finished(begin, DEADLINE * 2)
    return subprocess.CompletedProcess([*arguments], code, out, err)


def score_count(service: RunningService) -> int:
    """Windows published so far, as the service's own metrics tell."""
    for line in service.get("/metrics")[1].splitlines():
        if line.startswith("stream_detector_windows_total"):
            return int(float(line.split()[-1]))
    return 0


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what differs between two runs of the same data by design: topic names, and so ids."""
    kept = [{key: value for key, value in record.items() if key not in ("id", "source")} for record in records]
    return sorted(kept, key=lambda record: (record["sensor_id"], record.get("window_end", ""), json.dumps(record)))
