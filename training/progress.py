"""How training tells that it goes on: a callback that a bar or plain lines can stand behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Called as often as there is news."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """``done`` of ``total`` steps of a stage ("fit": epochs; "calibrate", "report") are over."""


def silent(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """Tell nobody."""


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Progress]:
    """Bars if the stream (standard error by default) is a terminal, one plain line per step if not."""
    out = sys.stderr if stream is None else stream
    if not out.isatty():

        def line(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            told = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
            out.write(f"{stage} {done}/{total}{told}\n")
            out.flush()

        yield line
        return
    columns = [TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Bars(*columns, TextColumn("{task.fields[told]}"), console=Console(file=out)) as bars:
        tasks = {}

        def bar(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, told="")
            told = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            bars.update(tasks[stage], completed=done, total=total, told=told)

        yield bar
