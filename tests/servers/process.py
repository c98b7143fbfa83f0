"""A server as a child process with a log file: start it, wait until it answers, end it."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 120.0  # the broker needs 3 s on an idle machine; a busy one is given more
STOP_SECONDS = 30.0
LOG_LINES = 40


class Running:
    """What runs until the context ends, and is cleaned up too if it does not come up."""

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End it and remove its data."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Process:
    """One child process; `start` may be called again after `stop` or `kill`."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self, command: Sequence[str], ready: Callable[[], bool], folder: Path | None = None) -> None:
        """Run `command` in `folder` and wait until `ready`; a `RuntimeError` with the log's tail where that fails."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal must not end the server before the test's clean-up.
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
            )
        deadline = time.monotonic() + START_SECONDS
        try:
            while not ready():
                if (code := self._child.poll()) is not None:
                    raise RuntimeError(f"{self.name} ended with exit code {code} while starting\n{self.tail()}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} was not ready after {START_SECONDS:g} s\n{self.tail()}")
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL and a `RuntimeError` where the server does not end."""
        if self._child is None:
            return
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} ignored SIGTERM for {STOP_SECONDS:g} s\n{self.tail()}") from None
        self._child = None

    def kill(self) -> None:
        """SIGKILL: the server writes nothing more and says goodbye to nobody."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(["the end of its log:", *lines])


def new_folder(name: str) -> Path:
    """The path of a folder for temporary files that does not exist yet."""
    return Path(tempfile.gettempdir()) / f"{name}-{uuid.uuid4().hex[:12]}"


def free_port() -> int:
    """A loopback port that nothing listens on.

    Below the range that outgoing connections take theirs from: a server that is restarted must find its port
    free.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
