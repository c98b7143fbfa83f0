"""``replay`` and ``explain``: events once more."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stream_detector.commands.terminal import (
    BundlePath,
    Columns,
    Config,
    Data,
    Period,
    import_keras,
    out,
    period_of,
    print_address,
    print_alert,
    read_settings,
)
from stream_detector.errors import SettingsError
from stream_detector.text import visible

if TYPE_CHECKING:
    from stream_detector.explain import Explanation


def replay(
    data: Data,
    bundle: Annotated[str, typer.Option("--bundle", help="Bundle or registry, a folder or a URL.")],
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")],
    speed: Annotated[float | None, typer.Option(help="Event time per real time; as fast as can be if absent.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the live page meanwhile, and after the end until Ctrl-C.")
    ] = False,
    config: Config = None,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """The same pipeline over files, without a server; writes JSON Lines and report.html."""
    settings = read_settings(config)
    if speed is not None and not 0 < speed < float("inf"):
        raise SettingsError(f"--speed {speed}: give a number above 0, or leave it out for as fast as can be")
    import_keras()
    from stream_detector.adapters.pictures.recorder import Recorder
    from stream_detector.adapters.registry import open_bundles
    from stream_detector.app import replay
    from stream_detector.pages import Showing

    def tell(result: Recorder) -> None:
        counts, rejected = result.counts, sum(result.rejects.values())
        told = f"{counts['events']} events, {counts['windows']} windows, {counts['alerts']} alerts, {rejected} rejected"
        out.print(f"{told}; see {escape(str(out_ / 'report.html'))}", highlight=False)
        if serve:
            out.print("the live page stays; Ctrl-C ends it", highlight=False)

    found = open_bundles(settings, bundle)
    replay(
        data,
        found[""],
        settings,
        out_,
        own=found,
        names=columns.split(",") if columns else None,
        period=period_of(period),
        speed=speed,
        heard=print_alert,
        done=tell,
        showing=Showing(settings.page, print_address, stay=True) if serve else None,
    )


def explain(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID", help="The id of an alert: 32 hexadecimal digits.")],
    config: Config = None,
    bundle: BundlePath = None,
    out_: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the picture goes.")] = Path("explained"),
    alerts: Annotated[
        str | None,
        typer.Option(metavar="TOPIC|FILE", help="Where the alert is: topics.alerts; with --data, alerts.jsonl."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="FILE", help="Files of the replay that alerted, instead of a topic; repeatable."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help='Look at alerts since then: "2d" ago, or an RFC 3339 time.')
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far numbers may be apart, relatively: more between CPU and GPU.")
    ] = 1e-5,
    columns: Columns = None,
    period: Period = None,
) -> None:
    """Read an alert's events again, score them again, and say whether it holds; exit code 1 if not."""
    settings = read_settings(config)
    if re.fullmatch("[0-9a-f]{32}", alert_id) is None:
        raise SettingsError(f"{alert_id!r:.60} is no alert's id; give the 32 hexadecimal digits of its `id`")
    if not 0 <= tolerance < 1:
        raise SettingsError(f"--tolerance {tolerance}: give a number from 0 to 1, such as 1e-5")
    since_ms = _moment(since)
    if data and alerts is None:
        raise SettingsError("--data needs --alerts FILE, the alerts.jsonl of that replay")
    import_keras()
    from stream_detector.adapters.pictures.explanation import draw_explanation
    from stream_detector.codec import Decoder
    from stream_detector.explain import (
        alerts_of_file,
        alerts_of_topic,
        bundle_of,
        explain,
        reading_files,
        reading_topic,
    )

    if data:
        found = alerts_of_file(Path(alerts or ""), alert_id)
    else:
        found = alerts_of_topic(settings, alerts or settings.topics.alerts, alert_id, since_ms)
    opened = bundle_of(found[-1], settings, bundle)
    decoder = Decoder(opened.manifest.features, settings.columns, settings.events)
    if data:
        read = reading_files(data, decoder, columns.split(",") if columns else None, period_of(period))
    else:
        read = reading_topic(settings, decoder)
    explanations = explain(found, opened, settings, read)
    worst = max(explanations, key=lambda one: one.alert.score)
    out.print(f"alert {alert_id}: {escape(visible(worst.alert.summary))}", highlight=False)
    for one in explanations:
        out.print(_claims(one, one is worst, tolerance))
        if one.imputed_blindly:
            out.print(
                "a missing value was last measured before what is still there: it may have been imputed otherwise"
            )
    picture = out_ / f"{alert_id}.png"
    draw_explanation(picture, worst)
    holds = all(one.holds(tolerance) for one in explanations)
    out.print(f"picture: {escape(str(picture))}", highlight=False)
    out.print("[green]the verdict holds[/]" if holds else "[red]the verdict does not hold[/]")
    sys.exit(0 if holds else 1)


def _moment(text: str | None) -> int | None:
    """Epoch ms of a time, or of a duration before now."""
    from datetime import UTC

    from stream_detector.settings import duration
    from stream_detector.timestamps import parse

    if text is None:
        return None
    try:
        return parse(text, UTC)
    except ValueError:
        return int(time.time() * 1_000) - (duration("--since", text) or 0)


def _claims(explanation: Explanation, whole: bool, tolerance: float) -> Table:
    """What a record says beside what comes out; of a record that is not the ``whole`` story, what differs."""
    alert = explanation.alert
    held = "holds" if explanation.holds(tolerance) else "does not hold"
    title = f"revision {alert.revision}, {alert.status} {alert.severity}, window ends {_utc(explanation)}: {held}"
    table = Table("", "published", "again", "", title=title, title_justify="left", box=None)
    for number, claim in enumerate(explanation.claims):
        good = claim.holds(tolerance)
        if whole or not good or number == 0:
            mark = "[green]same[/]" if good else "[red]differs[/]"
            table.add_row(escape(visible(claim.name)), _number(claim.published), _number(claim.again), mark)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.9g}"


def _utc(explanation: Explanation) -> str:
    from stream_detector.timestamps import rfc3339

    return rfc3339(int(explanation.ends[-1]))
