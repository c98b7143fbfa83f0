"""The command line: ``stream-detector …``. Commands import what they need themselves: ``--help`` is quick."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer
from rich.markup import escape

from stream_detector.commands import models, plant, replay, service, training
from stream_detector.commands.terminal import err
from stream_detector.errors import StreamDetectorError, UserError
from stream_detector.text import visible

app = typer.Typer(
    name="stream-detector",
    help="Anomaly detection on sensor streams: Kafka in, Redis windows, batched autoencoder scoring, alerts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(training.train, service.run, replay.replay, training.evaluate, service.check, service.webhooks, replay.explain),
    *(plant.demo, service.topics, plant.simulate, service.size),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(models.app, name="models")


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        app()
    except StreamDetectorError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: StreamDetectorError) -> NoReturn:
    err.print(f"[red]error:[/] {escape(visible(str(error)))}", highlight=False)
    sys.exit(2 if isinstance(error, UserError) else 1)
