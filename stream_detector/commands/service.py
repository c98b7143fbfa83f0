"""Commands of the service and what stands around it: ``run``, ``check``, ``webhooks``, ``topics``, ``size``."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stream_detector.commands.terminal import BundlePath, Config, import_keras, out, print_finding, read_settings
from stream_detector.errors import SettingsError
from stream_detector.text import visible

if TYPE_CHECKING:
    from stream_detector.settings import Settings


def run(
    config: Config = None,
    bundle: BundlePath = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; their ports count up from metrics.port and page.port.")
    ] = 1,
) -> None:
    """The service: Kafka → Redis → device → Kafka, with Prometheus metrics and health."""
    settings = read_settings(config)
    if workers > 1:
        sys.exit(_supervise(settings, workers))
    logging.getLogger("stream_detector").setLevel(logging.INFO)
    import_keras()
    from stream_detector.adapters.registry import open_bundles
    from stream_detector.app import run_service
    from stream_detector.configured import located

    found = open_bundles(settings, bundle)
    sys.exit(run_service(settings, found[""], located(settings, bundle), found))


def check(config: Config = None, bundle: BundlePath = None) -> None:
    """Preflight: settings, bundle, device, Kafka, Redis; one line each, exit code 1 if any fails."""
    settings = read_settings(config)
    import_keras()
    from stream_detector.checks import findings

    failed = False
    for what, ok, message in findings(settings, bundle):
        failed |= not ok
        print_finding(what, ok, message)
    sys.exit(int(failed))


def webhooks(
    config: Config = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look whether targets can be reached; nothing is sent.")
    ] = False,
    replay_dead_letters: Annotated[
        bool, typer.Option("--replay-dead-letters", help="Only send what is in the dead letters again, once each.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --replay-dead-letters: of this target alone.")
    ] = None,
) -> None:
    """Deliver alerts from the alerts topic to webhook targets, at least once each, in order per alert."""
    settings = read_settings(config)
    if check and replay_dead_letters:
        raise SettingsError("--check, --replay-dead-letters: give one of them")
    if target is not None and not replay_dead_letters:
        raise SettingsError("--target is for --replay-dead-letters alone")
    logging.getLogger("stream_detector").setLevel(logging.INFO)
    from stream_detector.dispatch import check_webhooks, replay_letters, run_webhooks

    failed = False
    if check:
        for what, ok, message in check_webhooks(settings):
            failed |= not ok
            print_finding(what, ok, message)
        sys.exit(int(failed))
    if replay_dead_letters:
        for name, told, ok in replay_letters(settings, target):
            failed |= not ok
            out.print(f"{name}: {told}", highlight=False, markup=False)
        sys.exit(int(failed))
    sys.exit(run_webhooks(settings))


def topics(
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic: as many as you may ever want workers.")] = 4,
    replicas: Annotated[int, typer.Option(min=1, help="Of each partition; 3 where there are as many brokers.")] = 1,
    config: Config = None,
) -> None:
    """Create the topics that the settings use and that are missing; leave the others as they are."""
    settings = read_settings(config)
    from stream_detector.adapters.kafka import create_topics

    created = create_topics(settings, partitions, replicas)
    told = f"created: {', '.join(created)}" if created else "all topics are there already"
    out.print(escape(visible(told)), highlight=False)


def size(
    sensors: Annotated[int, typer.Option(help="How many there are.")],
    rate: Annotated[float, typer.Option(help="Events a second, of all sensors together.")],
    window: Annotated[int, typer.Option(help="Events a window.")] = 64,
    stride: Annotated[int | None, typer.Option(help="Events from window to window (an eighth of the window).")] = None,
    features: Annotated[int, typer.Option(help="Values an event.")] = 8,
) -> None:
    """How many partitions and workers, and how much memory, a load takes; from measured constants."""
    from stream_detector.sizing import Load, size

    load = Load(sensors, rate, window, stride if stride is not None else max(1, window // 8), features)
    table = Table(show_header=False, box=None)
    for row in size(load).table():
        table.add_row(*map(escape, row))
    out.print(table)


def _supervise(settings: Settings, workers: int) -> int:
    """Run ``workers`` processes of this command with one worker each; when one ends, end all."""
    from stream_detector.workers import supervise

    return supervise(sys.argv[1:], workers, settings.metrics.port, settings.page.port)
