"""Commands run in this process, so that TensorFlow is imported once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from stream_detector import cli
from training.plant import Plant

# One shape to compile for each scorer, not four: real processes with the defaults are the README's and the demo's.
SMALL = {"STREAM_DETECTOR__DEVICE__MAX_BATCH_WINDOWS": "16"}


class Done(NamedTuple):
    code: object
    out: str
    err: str


Run = Callable[..., Done]


def invoke(*arguments: object) -> Done:
    """Run a command in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    sys.argv = ["stream-detector", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.dict(os.environ, SMALL):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        for number, handler in handlers.items():  # `run` leaves its own: it ends with its process
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())


def rows(plant: Plant) -> list[dict[str, str]]:
    with plant.stream.open() as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
