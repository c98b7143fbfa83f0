"""Bodies from a user's Jinja2 template: every value comes out as JSON, so nothing in an alert can break out of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stream_detector.errors import SettingsError
from stream_detector.events import Alert
from stream_detector.targets import Target
from stream_detector.webhooks.bodies import LARGEST, Body, happened, sample


def _json(value: Any) -> str:
    if isinstance(value, StrictUndefined):
        str(value)  # raises, and says what is not there
    return msgspec.json.encode(value).decode()


def template_of(target: Target, name: str) -> Body:
    """The body that the target's template describes. Raises `SettingsError` for one that makes no JSON.

    ``{{ … }}`` writes a JSON value, with quotation marks where it is a text; ``alert`` is the record, ``type``,
    ``timestamp``, ``target`` and ``picture`` (base64 or null) stand beside it.
    """
    where = f"webhooks.targets.{name}.{'template' if target.template_file is None else 'template_file'}"
    try:
        text = target.template or Path(target.template_file or "").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: cannot read the file: {error}") from None
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_json)
    try:
        template = environment.from_string(text)
    except TemplateError as error:
        raise SettingsError(f"{where}: not a valid template: {_line(error)}") from None

    def body(alert: Alert, target: Target, name: str, picture: bytes | None) -> bytes:
        drawn = None if picture is None else base64.b64encode(picture).decode()
        kind = f"{alert.kind}.{alert.status}"
        made = template.render(
            alert=msgspec.to_builtins(alert), type=kind, timestamp=happened(alert), target=name, picture=drawn
        ).encode()
        return body(alert, target, name, None) if picture is not None and len(made) >= LARGEST else made

    for status in ("firing", "resolved"):
        try:
            json.loads(body(sample(status), target, name, None))
        except json.JSONDecodeError as error:
            advice = "write {{ … }} without quotation marks around it: it brings its own"
            told = f"{where}: what it makes of an alert that is {status} is no JSON: {error}; {advice}"
            raise SettingsError(told) from None
        except Exception as error:  # a template may fail in any way
            raise SettingsError(f"{where}: fails on an alert that is {status}: {_line(error)}") from None
    return body


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
