"""Every key of the settings, from the models that read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.reference import markdown
from docs.reference.markdown import code
from stream_detector.policy import Alerts, Group
from stream_detector.sections import UNITS, Duration, Section
from stream_detector.settings import PREFIX, Settings

INTRODUCTION = """
One TOML file, given with `--config`. Unknown keys and contradictions are refused at start, in one line.

- **Environment**: each key has a variable, which wins over the file. A list or a table is JSON there, such as
  `["pump-1", "pump-2"]`. Where a name stands in the key (`[groups.NAME]`), the variable's is taken in lower case.
- **Secrets** have no default here, and their values are shown nowhere. Each may come from a file: add `_file` to its
  key (`_FILE` to its variable) and give the path.
- **Durations** are text such as `"250ms"`, `"30s"`, `"5m"`, `"12h"` or `"7d"`; a bare number is seconds.
"""

WORDS: dict[object, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret",
}


def page() -> str:
    parts = [part for name, field in Settings.model_fields.items() for part in _part(name, field)]
    return markdown.page("Settings", INTRODUCTION, *parts)


def _part(name: str, field: FieldInfo) -> Iterator[str]:
    """A section with its keys, or one of the tables of sections that carry a name."""
    section = _table(field.annotation) or field.annotation
    assert isinstance(section, type), name
    assert issubclass(section, Section), name
    place = name if section is field.annotation else f"{name}.NAME"
    yield f"## `[{place}]`"
    about = [markdown.prose(section.__doc__), field.description]
    yield " ".join(filter(None, about)) or _missing(place)
    hints = get_type_hints(section, include_extras=True)
    for key, inner in section.model_fields.items():
        if _table(inner.annotation):
            yield from _part(f"{place}.{key}", inner)
        else:
            yield f"### `{place}.{key}`"
            yield meaning(section, place, key)
            yield _facts(f"{place}.{key}", hints[key], inner)


def meaning(section: type[Section], place: str, key: str) -> str:
    """What a key means, in words for people."""
    found = section.model_fields[key].description
    if found is None and section is Group and key in Alerts.model_fields:
        return f"As [`alerts.{key}`](#alerts{key}), for these sensors."
    return found or _missing(f"{place}.{key}")


def _missing(key: str) -> str:
    raise LookupError(f"{key} has no meaning: write a docstring below it")


def _facts(key: str, hint: Any, field: FieldInfo) -> str:
    variable = PREFIX + key.upper().replace(".", "__")
    facts = [kind(hint), *limits(field.metadata), _default(hint, field), code(variable)]
    return " · ".join(facts)


def _default(hint: Any, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ({}, ()):
        return "no default"
    return "default not shown" if "Secret" in str(hint) else f"default {code(_shown(value, hint))}"


def kind(hint: Any) -> str:
    """A type in words for people."""
    if _is_duration(hint):
        return "duration"
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Annotated:
            return kind(arguments[0])
        case origin if origin is Literal:
            return " or ".join(code(f'"{word}"') for word in arguments)
        case origin if origin in (Union, UnionType):
            return " or ".join(kind(one) for one in arguments if one is not NoneType)
        case origin if origin is dict:
            return f"table of {kind(arguments[1])}s"
        case origin if origin is tuple and Ellipsis not in arguments:
            return f"list of {len(arguments)} {kind(arguments[0])}s"
        case origin if origin in (list, tuple):
            one = kind(arguments[0])
            return f"list of {one}" if "`" in one else f"list of {one}s"
    return WORDS[hint]


def limits(metadata: list[Any]) -> list[str]:
    """What pydantic holds a value against, as far as it says so itself."""
    said = {
        "ge": "at least {}",
        "gt": "above {}",
        "le": "at most {}",
        "lt": "below {}",
        "min_length": "not empty",
        "max_length": "at most {} entries",
        "pattern": "matches `{}`",
    }
    found = []
    for one in metadata:
        for name, text in said.items():
            limit = getattr(one, name, None)
            if limit is not None:
                assert name != "min_length" or limit == 1, limit
                found.append(text.format(limit))
    return found


def _shown(value: object, hint: Any) -> str:
    """A default as TOML has it."""
    inner = next((one for one in get_args(hint) if one is not NoneType), None)
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case int() if _is_duration(hint) or _is_duration(inner):
            return f'"{_duration(value)}"'
        case list() | tuple():
            inside = get_args(inner)[0] if get_origin(inner) is tuple else inner
            return f"[{', '.join(_shown(one, inside) for one in value)}]"
    return str(value)


def _duration(milliseconds: int) -> str:
    unit = max((unit for unit in UNITS if milliseconds % UNITS[unit] == 0), key=UNITS.__getitem__)
    return f"{milliseconds // UNITS[unit]}{unit}" if milliseconds else "0s"


def _is_duration(hint: Any) -> bool:
    """Also one with further checks."""
    return get_origin(hint) is Annotated and get_args(hint)[:3] == get_args(Duration)


def _table(hint: Any) -> type[Section] | None:
    """The section in a table of sections."""
    arguments = get_args(hint)
    inner = arguments[1] if get_origin(hint) is dict else None
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None
