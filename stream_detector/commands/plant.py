"""``demo`` and ``simulate``: a plant that is made up."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stream_detector.commands.terminal import Config, import_keras, out, print_address, print_alert, read_settings
from stream_detector.errors import DataError, SettingsError


def demo(
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where bundle, data and report go.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int, typer.Option(help="Of the plant, its faults and the training.")] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Let the live page stay after the end, until Ctrl-C.")] = False,
) -> None:
    """Simulate a small plant with faults, train, stream, and say what was found. No server needed."""
    read_settings(None)  # the environment counts here too, and a mistake in it is told as everywhere
    import_keras()
    from training.demo import demo

    demo(out_, seed, out, print_alert, print_address, stay=serve)


def simulate(
    out_: Annotated[
        Path | None, typer.Option("--out", metavar="CSV", help="Write the plant's past there instead, to train on.")
    ] = None,
    days: Annotated[float, typer.Option(help="With --out: so many days of the plant's life, at most 10.")] = 5,
    pumps: Annotated[int, typer.Option(help="Sensors of the plant.")] = 6,
    speed: Annotated[float, typer.Option(help="Life of the plant per clock; 60: an event a second and pump.")] = 60,
    fault: Annotated[str | None, typer.Option(help="Kind of the faults; all in turn if absent.")] = None,
    fault_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="When the first fault begins; by SIGUSR1 alone if absent.")
    ] = None,
    fault_every: Annotated[str | None, typer.Option(metavar="DURATION", help="From fault to fault; one only.")] = None,
    fault_lasts: Annotated[str, typer.Option(metavar="DURATION", help="How long each lasts.")] = "1m",
    seed: Annotated[int, typer.Option(help="The same seed and number of pumps are the same plant.")] = 7,
    config: Config = None,
) -> None:
    """Send a simulated plant's events to the events topic as time passes, with faults; or write its past to a file."""
    settings = read_settings(config)
    from stream_detector.settings import duration
    from training.plant import KINDS, write_csv
    from training.simulator import Plan, Simulation, Simulator

    kind = next((kind for kind in KINDS if kind == fault), None)
    if kind is None and fault is not None:
        raise SettingsError(f"--fault {fault}: give one of {', '.join(KINDS)}")
    every, lasts = duration("--fault-every", fault_every), duration("--fault-lasts", fault_lasts)
    if every == 0 or not lasts:
        raise SettingsError("--fault-every, --fault-lasts: give more than 0")
    if every is not None and fault_after is None:
        raise SettingsError("--fault-every needs --fault-after too: when the first one begins")
    plan = Plan(kind, duration("--fault-after", fault_after), every, lasts)
    simulation = Simulation(pumps, speed, seed)
    if out_ is not None:
        readings = simulation.past(days, round(time.time() * 1_000))
        try:
            write_csv(out_, readings)
        except OSError as error:
            raise DataError(f"{out_}: {error.strerror or error}; give a file that can be written") from error
        out.print(f"wrote {len(readings.sensors)} events to {escape(str(out_))}", highlight=False)
        return
    from stream_detector.adapters.kafka import Feed

    def tell(line: str) -> None:
        out.print(line, highlight=False, markup=False)

    simulator = Simulator(simulation, Feed(settings), settings.columns, plan, tell, now=time.time, sleep=time.sleep)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, simulator.stop)
    signal.signal(signal.SIGUSR1, simulator.ask)
    sys.exit(simulator.run())
