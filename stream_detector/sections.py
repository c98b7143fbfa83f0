"""What every section of the settings has in common: strict keys, secrets from files, durations."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    field_validator,
    model_validator,
)

DURATION = 'give a duration such as "30s", "5m", "12h" or "7d"'
LONGEST = 36_500 * 86_400_000  # a century: what is longer is a mistake, and could overflow
UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _milliseconds(value: object) -> object:
    """``"90s"``, ``"5m"``, ``"1h"``, ``"7d"``, ``"250ms"`` as milliseconds; numbers are seconds."""
    if isinstance(value, str):
        text = value.strip()
        for unit in sorted(UNITS, key=len, reverse=True):
            if text.endswith(unit):
                try:
                    return round(float(text[: -len(unit)]) * UNITS[unit])
                except (ValueError, OverflowError):
                    break
        try:
            return round(float(text) * 1_000)
        except (ValueError, OverflowError):
            raise ValueError(DURATION) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(DURATION)
        return round(value * 1_000)
    if isinstance(value, timedelta):
        return round(value.total_seconds() * 1_000)
    return value


def _sensible(value: int) -> int:
    if not 0 <= value <= LONGEST:
        raise ValueError(f"{DURATION}, from 0 to a century")
    return value


Duration = Annotated[int, BeforeValidator(_milliseconds), AfterValidator(_sensible)]
"""Milliseconds, written as ``"5m"``."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)  # docs/reference shows them

    @model_validator(mode="before")
    @classmethod
    def _secrets_from_files(cls, given: Any) -> Any:
        """Replace ``secret_file = PATH`` by ``secret = contents``."""
        if not isinstance(given, dict):
            return given
        resolved = dict(given)
        for key in given:
            stem = key.removesuffix("_file")
            if stem == key or stem not in cls.model_fields or "Secret" not in str(cls.model_fields[stem].annotation):
                continue
            if stem in given:
                raise ValueError(f"give {stem} or {key}, not both")
            try:
                resolved[stem] = Path(resolved.pop(key)).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError, TypeError) as error:
                raise ValueError(f"{key}: cannot read the file: {error}") from None
        return resolved

    @field_validator("*", mode="before")
    @classmethod
    def _no_switches(cls, given: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1; what is no switch must not be one."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(given, bool) and (field is None or field.annotation is not bool):
            raise ValueError("give a value, not true or false")
        return given


def together(section: Section, *keys: str) -> None:
    """Raise if one of these keys is set and another is not."""
    given = [key for key in keys if getattr(section, key) is not None]
    for key in keys:
        if given and key not in given:
            raise ValueError(f"{given[0]} needs {key} too; set both or none")
