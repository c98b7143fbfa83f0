"""Several worker processes under one parent, for a machine with several cores: ``run --workers N``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from stream_detector.settings import worker_environment


def supervise(arguments: Sequence[str], workers: int, port: int, page: int = 0) -> int:
    """Start this program ``workers`` times with one worker each; pass signals on; when one ends, end all.

    Returns the exit code of the first that ended: whoever started us (systemd, Kubernetes) starts us again.
    """
    command = [sys.executable, "-m", "stream_detector", *arguments, "--workers", "1"]  # the last --workers counts
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    def wake(number: int, frame: object) -> None:  # look for another bundle
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGHUP, wake)
    for index in range(workers):
        if not received:
            children.append(subprocess.Popen(command, env=worker_environment(index, port, page)))
    if not children:
        return 128 + received[0]
    while all(child.poll() is None for child in children):
        time.sleep(0.1)
    code = next(child.returncode for child in children if child.returncode is not None)
    for child in children:
        if child.poll() is None and not received:
            child.terminate()
    for child in children:
        child.wait()
    return 128 + received[0] if received else (128 - code if code < 0 else code)
