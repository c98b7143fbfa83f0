"""What commands share: options, the terminal, settings, and Keras without its noise."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stream_detector.errors import SettingsError
from stream_detector.text import visible

if TYPE_CHECKING:
    from stream_detector.events import Alert
    from stream_detector.settings import Settings

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML); the environment wins over it.")]
BundlePath = Annotated[
    str | None, typer.Option("--bundle", help="Bundle or registry, a folder or a URL; wins over bundle.path.")
]
Data = Annotated[list[str], typer.Argument(metavar="DATA…", help="CSV (also .gz), JSON Lines or Parquet files.")]
Columns = Annotated[
    str | None, typer.Option(help="Comma-separated column names, for files without a header.", metavar="NAMES")
]
Period = Annotated[
    str | None, typer.Option(help='Time between rows, for files without timestamps: "5m", "1s".', metavar="DURATION")
]


def import_keras() -> None:
    """Import Keras and its backend; what TensorFlow's C++ side says before it can be told to be quiet goes nowhere."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            importlib.import_module("stream_detector.adapters.keras.scorer")
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def read_settings(config: Path | None) -> Settings:
    from stream_detector.settings import load_settings

    return load_settings(config)


def period_of(text: str | None) -> int | None:
    from stream_detector.settings import duration

    period = duration("--period", text)
    if period == 0:
        raise SettingsError(f"--period {text}: give the time between two rows, more than 0")
    return period


def print_finding(what: str, ok: bool, message: str) -> None:
    mark = "[green]ok  [/]" if ok else "[red]FAIL[/]"
    out.print(f"{mark} {escape(what)}: {escape(message)}", highlight=False)


def print_address(address: str) -> None:
    out.print(f"live page: {escape(address)}", highlight=False)


def print_alert(alert: Alert) -> None:
    when = alert.ended_at or alert.started_at
    line = f"{when[:19].replace('T', ' ')}  {alert.status:8}  {alert.severity:8}  {visible(alert.summary)}"
    out.print(line, style="green" if alert.status == "resolved" else "red", highlight=False, markup=False)
