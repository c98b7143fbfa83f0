"""Commands run in this process, so that TensorFlow is imported once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stream_detector import cli
from training.plant import Plant


class Done(NamedTuple):
    code: object
    out: str
    err: str


Run = Callable[..., Done]


def invoke(*arguments: object) -> Done:
    """Run a command in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["stream-detector", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


def rows(plant: Plant) -> list[dict[str, str]]:
    with plant.stream.open() as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
