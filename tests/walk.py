"""A reader who does what a document says, in its order, as it stands.

A comment before a block says what it is: `runs` and `python` end, `starts` is a service that stays, `file: NAME` is to
be written, `topics` are Kafka's own commands. Only where the servers are is told through the environment, which wins
over the settings file. ``ALERT_ID`` is the last alert's id that was printed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests import forked
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.service import as_users, environment, wait_for

BLOCK = re.compile(r"<!-- (?P<what>[^>]+?) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)
PATIENCE = 240.0  # seconds for one command
ID = re.compile(r"\b[0-9a-f]{32}\b")


class Walk:
    """In a folder of its own. What is printed is in `told`, what was started in `started`."""

    def __init__(self, folder: Path, broker: KafkaBroker, redis_url: str, fresh: bool) -> None:
        self.folder, self.broker, self.fresh = folder, broker, fresh
        self.port = free_port()
        self.told = ""
        self.started: list[forked.Process] = []
        found = environment(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            STREAM_DETECTOR__KAFKA__BOOTSTRAP_SERVERS=broker.bootstrap,
            STREAM_DETECTOR__REDIS__URL=redis_url,
            STREAM_DETECTOR__METRICS__PORT=str(self.port),
        )
        self.environment = as_users(found) if fresh else found

    def follow(self, document: Path) -> list[str]:
        """Do everything; what kinds of blocks there were."""
        seen = []
        for block in BLOCK.finditer(document.read_text("utf-8")):
            seen.append(block["what"])
            self._do(block["what"], block["text"])
        return seen

    def stop(self) -> None:
        """As Ctrl-C or an orchestrator would."""
        for process in self.started:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143

    def _do(self, what: str, text: str) -> None:
        if what == "runs":
            for line in text.splitlines():
                self._run(*shlex.split(line.replace("ALERT_ID", (ID.findall(self.told) or [""])[-1])))
        elif what == "topics":
            found = re.findall(r"--topic (\S+) --partitions (\d+)", text)
            self.broker.create_topics({name: int(count) for name, count in found})
        elif what == "python":
            self._run(sys.executable, "-c", text)
        elif what == "starts":
            with (self.folder / "started.log").open("ab") as log:
                self.started.append(self._start(shlex.split(text), log, log))
            wait_for(self._ready, "the service to be ready")
        else:
            kind, _, name = what.partition(": ")
            assert kind == "file", what
            (self.folder / name).write_text(text)

    def _run(self, *command: str) -> None:
        code, out, err = forked.finished(lambda out, err: self._start(command, out, err), PATIENCE)
        assert code == 0, f"{command}\n{out}\n{err}"
        self.told += out

    def _start(self, line: Sequence[str], out: IO[bytes], err: IO[bytes]) -> forked.Process:
        if line[0] == "stream-detector" and not self.fresh:
            return forked.start("stream_detector", line[1:], self.environment, out, err, self.folder)
        return subprocess.Popen(line, cwd=self.folder, env=self.environment, stdout=out, stderr=err)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def walk(folder: Path, broker: KafkaBroker, redis_url: str, *, fresh: bool) -> Iterator[Walk]:
    """Nothing that was started outlives it. ``fresh``: the project's commands are what a shell would start."""
    one = Walk(folder, broker, redis_url, fresh)
    try:
        yield one
    finally:
        for process in one.started:
            process.kill()
            process.wait()
