"""The service as users start it, in a process of its own, and what can be seen of it from outside. Linux: `/proc`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from stream_detector.settings import PREFIX
from tests.servers.process import free_port

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300.0  # TensorFlow's import and one compilation a batch size, on a busy machine
STOP_SECONDS = 60.0
GLANCE = 0.02  # seconds between looks at readiness and at committed offsets
LOG_LINES = 30


class Usage(NamedTuple):
    """What a process has used since it started."""

    cpu: float  # seconds, of all threads
    peak_rss: int  # bytes


class Service:
    """``stream-detector run`` in a child process; settings and log lie in ``folder``.

    ``program`` is what follows ``python -m``, for one that is watched.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Mapping[str, Any]], program: Sequence[str] = ("stream_detector",)
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._program = program
        self._config, self._log = folder / "settings.toml", folder / "service.log"
        write_settings(self._config, {**settings, "metrics": {"port": self.port}})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", *self._program, "run", "--config", str(self._config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running().poll() is None:
            self._running().kill()
        self._running().wait()

    def wait_ready(self) -> None:
        """Return as soon as ``/readyz`` says yes: the model is warm, partitions are assigned."""
        self._wait(START_SECONDS, "not ready", self._ready)

    def wait_committed(self, bootstrap: str, group: str, events: int, seconds: float) -> None:
        """Return as soon as the group has committed ``events`` offsets over all partitions: its lag is 0.

        To be called when it is ready: before, the group may not have a coordinator yet.
        """
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            self._wait(seconds, "not done", lambda: committed(admin, group) >= events)
        finally:
            admin.close()

    def stop(self) -> int:
        """SIGTERM, as an orchestrator would; the exit code."""
        self._running().send_signal(signal.SIGTERM)
        return self._running().wait(STOP_SECONDS)

    def usage(self) -> Usage:
        """CPU time and peak memory up to now."""
        folder = Path("/proc") / str(self._running().pid)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime, stime
        peak = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) * 1024)

    def metrics(self) -> dict[tuple[str, str], float]:
        """What ``/metrics`` says: value by sample name and label values, these joined by a comma."""
        text = self._get("metrics")
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def log_tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _ready(self) -> bool:
        try:
            self._get("readyz")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    def _wait(self, seconds: float, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if (code := self._running().poll()) is not None:
                raise RuntimeError(f"the service ended by itself with exit code {code}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the service was {what} after {seconds:g} s\n{self.log_tail()}")
            time.sleep(GLANCE)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


def environment() -> dict[str, str]:
    """Ours for a child process, without variables that would change its settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def run_command(*arguments: str, log: Path | None = None) -> None:
    """Run ``stream-detector`` with these arguments to its end; what it says goes to our terminal, or to ``log``."""
    command = [sys.executable, "-m", "stream_detector", *arguments]
    stream = None if log is None else log.open("wb")
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=stream, stderr=stream)
    if stream is not None:
        stream.close()
    if done.returncode:
        said = "" if log is None else f"\n{log.read_text(errors='replace')}"
        raise RuntimeError(f"stream-detector {arguments[0]} ended with exit code {done.returncode}{said}")


def write_settings(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """A TOML file; of text, numbers, booleans and lists of them, whose TOML is their JSON."""
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
    path.write_text("\n".join(lines), "utf-8")


def committed(admin: Any, group: str) -> int:
    """Committed offsets of a group, summed over its partitions."""
    offsets = admin.list_group_offsets({group: None}).get(group, {})
    return sum(max(0, place.offset) for place in offsets.values())


@contextmanager
def reading(bootstrap: str, topic: str, **options: Any) -> Iterator[Any]:
    """A consumer of no group at the beginning of all partitions of a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, **options)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        yield consumer
    finally:
        consumer.close()


def read_committed(bootstrap: str, topic: str) -> list[Any]:
    """All records of a topic, those of aborted transactions left out; each partition's in order."""
    records: list[Any] = []
    with reading(bootstrap, topic, isolation_level="read_committed") as consumer:
        ends = consumer.end_offsets(consumer.assignment())
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for some in consumer.poll(timeout_ms=500).values():
                records += some
    return records
