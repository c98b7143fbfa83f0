"""``stream-detector models …``: versions of a bundle in a registry, and which of them judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stream_detector.commands.terminal import Config, out, read_settings
from stream_detector.errors import SettingsError
from stream_detector.text import visible

if TYPE_CHECKING:
    from stream_detector.adapters.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Versions of a bundle in a registry: which there are, which one judges.")

Where = Annotated[
    str | None, typer.Option("--registry", metavar="DIR|URL", help="The registry; bundle.path if not given.")
]
Version = Annotated[str, typer.Argument(help="As `models list` names it.")]


@app.command("list")
def list_(registry: Where = None, config: Config = None) -> None:
    """The versions, newest first; the one that judges has a star. Alerts are those expected of normal data."""
    found = _registry(registry, config)
    pointer = found.current()
    table = Table(box=None)
    for name in ("", "version", "name", "model", "learnt from", "windows", "alerts/day"):
        table.add_column(name)
    for made in found.versions():
        mark = "*" if pointer is not None and made.version == pointer.version else ""
        windows = f"{made.length}/{made.stride} × {len(made.features)}"
        span = "…".join(end[:10] for end in made.span)
        told = (made.version, made.name, made.kind, span, windows)
        table.add_row(mark, *(escape(visible(text)) for text in told), f"{made.expected_alerts_per_day:.2g}")
    out.print(table)
    if not table.row_count:
        out.print("no versions; `stream-detector models add BUNDLE` adds one")


@app.command()
def show(version: Version, registry: Where = None, config: Config = None) -> None:
    """What a version is: its manifest, as JSON."""
    import msgspec

    made = msgspec.json.format(msgspec.json.encode(_registry(registry, config).manifest(version)), indent=2)
    out.print(escape(made.decode()), highlight=False)


@app.command()
def add(
    bundle: Annotated[Path, typer.Argument(help="A folder that `train` wrote.")],
    registry: Where = None,
    promote: Annotated[bool, typer.Option("--promote", help="Let it judge at once.")] = False,
    config: Config = None,
) -> None:
    """Put a bundle into the registry."""
    found = _registry(registry, config)
    made = found.add(bundle)
    out.print(f"added {made.name} {made.version}", highlight=False)
    if promote:
        found.promote(made.version)
        _point(made.version)


@app.command()
def promote(version: Version, registry: Where = None, config: Config = None) -> None:
    """Let a version judge: services that follow the registry take it within `bundle.reload`."""
    _point(_registry(registry, config).promote(version).version)


@app.command()
def rollback(registry: Where = None, config: Config = None) -> None:
    """Let the version judge that did before."""
    _point(_registry(registry, config).rollback().version)


def _point(version: str) -> None:
    out.print(f"{version} judges from now on", highlight=False)


def _registry(location: str | None, config: Path | None) -> Registry:
    from stream_detector.adapters.registry import Registry

    location = location or read_settings(config).bundle.path
    if location is None:
        raise SettingsError("no registry: give --registry DIR or a URL, or set bundle.path")
    return Registry(location)
