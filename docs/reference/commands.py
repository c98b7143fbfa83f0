"""The command line, from the program that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from docs.reference import markdown
from docs.reference.markdown import code
from stream_detector import cli

INTRODUCTION = """
`stream-detector COMMAND …`, also `python -m stream_detector COMMAND …`. `--help` after a command says the same as
here.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 and 143 after SIGINT and SIGTERM. `explain` has
[more](../explain.md).
"""

WORDS: dict[object, str] = {int: "N", float: "N", str: "TEXT", Path: "PATH"}


def page() -> str:
    group: Any = typer.main.get_command(cli.app)
    return markdown.page("Command line", INTRODUCTION, *_commands(group, "stream-detector"))


def _commands(group: Any, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before} {name}")
            continue
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        asked = [_name(one) for one in options if one.required]
        yield f"## `{name}`" if before == "stream-detector" else f"## `{before.partition(' ')[2]} {name}`"
        yield markdown.prose(command.help)
        usage = [before, name, *map(_name, arguments), *asked]
        optional = ["[OPTIONS]"] if len(asked) < len(options) else []
        yield f"```text\n{' '.join([*usage, *optional])}\n```"
        if command.params:
            yield markdown.table(("", "default", ""), map(_row, (*arguments, *options)))


def _row(parameter: Any) -> tuple[str, str, str]:
    name, default, told = _name(parameter), parameter.default, parameter.help or _missing(parameter.name)
    shown = "required" if parameter.required else "" if default is None or default is False else code(default)
    least = "" if getattr(parameter, "min", None) is None else f" At least {parameter.min}."
    return code(name), shown, told + least


def _name(parameter: Any) -> str:
    """As it is written; an option with what follows it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    follows = "" if parameter.is_flag else parameter.metavar or WORDS[parameter.type_descriptor.annotation]
    return f"{parameter.opts[0]} {follows}".strip()


def _missing(name: str) -> str:
    raise LookupError(f"{name} has no help: write one")
