"""Programs of the project as processes of their own that need not import TensorFlow, 13 CPU seconds each time.

They are forked from a process that has imported it, and the project, and has executed nothing. All else is as with
``python -m``: a pid, signals, the end of an interpreter, an exit code. (multiprocessing has such a server too, but one
in a process, and that is the one of `tests.chaos`, which does without TensorFlow.)
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

PRELOADED = (
    "stream_detector.adapters.keras.scorer",
    "stream_detector.app",
    "stream_detector.checks",
    "stream_detector.explain",
    "training.train",
    "training.evaluate",
)
# Variables that count when these are imported: who wants another value starts as a fresh interpreter.
AT_IMPORT = ("KERAS_", "TF_", "XLA_", "JAX_", "OMP_", "OPENBLAS_", "PYTHON")
REQUEST = 200_000  # bytes at most, which a packet holds: an environment, above all


class Process(Protocol):
    """What `subprocess.Popen` and `Forked` have in common."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A child of the process it was forked from, which reports its exit code when it has ended."""

    def __init__(self, pid: int, report: IO[bytes]) -> None:
        self.pid, self._report = pid, report
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self._code is None and select.select([self._report], [], [], timeout)[0]:
            with self._report:
                self._code = int(self._report.read())
        return self._code


class Server(NamedTuple):
    channel: socket.socket
    environment: dict[str, str]


def finished(begin: Callable[[IO[bytes], IO[bytes]], Process], seconds: float) -> tuple[int, str, str]:
    """Exit code, output and error output of what is begun with files for these, when it has ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = begin(out, err)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode())
    return code, told[0], told[1]


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], out: IO[Any], err: IO[Any], folder: Path
) -> Process:
    """``python -m module arguments``."""
    server = _server()
    if _at_import(environment) != server.environment:
        line = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(line, stdout=out, stderr=err, env=environment, cwd=folder)
    request = {"module": module, "arguments": arguments, "environment": dict(environment), "folder": str(folder)}
    reading, writing = os.pipe()
    try:
        socket.send_fds(server.channel, [json.dumps(request).encode()], [out.fileno(), err.fileno(), writing])
    finally:
        os.close(writing)
    return Forked(int(server.channel.recv(REQUEST)), os.fdopen(reading, "rb"))


@functools.cache
def _server() -> Server:
    """Started when it is first asked for; it ends with this process, however that ends."""
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd=Path(__file__).parent.parent,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is not for it
        )

    def end() -> None:
        channel.close()
        process.wait()

    atexit.register(end)
    return Server(channel, _at_import(environment))


def _at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork what is asked for until the channel closes; returns in the children alone, with what they are to be."""
    children: dict[int, tuple[int, int]] = {}  # pid and where its end is to be reported, by its pidfd
    while True:
        watched: list[int] = [channel.fileno(), *children]
        for ready in select.select(watched, [], [])[0]:
            if ready in children:
                pid, report = children.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(report, b"%d" % code)
                os.close(report)
                os.close(ready)
                continue
            request, fds, _, _ = socket.recv_fds(channel, REQUEST, 3)
            if not request:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            out, err, report = fds
            if not (pid := os.fork()):
                for own, given in ((1, out), (2, err)):
                    os.dup2(given, own)
                channel.close()
                for fd in {*fds, *children, *(report for _, report in children.values())}:
                    os.close(fd)
                found: dict[str, Any] = json.loads(request)
                return found
            os.close(out)
            os.close(err)
            children[os.pidfd_open(pid)] = pid, report
            channel.send(b"%d" % pid)


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    from tensorflow.python.eager import context

    assert context.context_safe() is None, "TensorFlow has begun to execute, and cannot be forked any more"
    gc.freeze()  # children need not look at what is there, nor copy it
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
