"""Markdown that reads alike on a code host and in the site."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

NOTE = "<!-- Written by `make reference`; change the code that it is about. -->"


def page(title: str, *parts: str) -> str:
    """A whole page."""
    return "\n\n".join([f"# {title}", NOTE, *(part.strip() for part in parts)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells may hold anything but line breaks."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def prose(docstring: str | None) -> str:
    """The first paragraph of a docstring on one line, its code as Markdown has it."""
    first = inspect.cleandoc(docstring or "").partition("\n\n")[0]
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(first.split()))


def meanings(record: type) -> dict[str, str]:
    """The docstring below each attribute of a class."""
    [body] = [
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(record))).body
        if isinstance(node, ast.ClassDef)
    ]
    return {
        field.target.id: told.value.value
        for field, told in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(told, ast.Expr)
        and isinstance(told.value, ast.Constant)
        and isinstance(told.value.value, str)
    }
