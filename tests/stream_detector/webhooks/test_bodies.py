"""Bodies as their receivers document them, whatever an alert holds."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.errors import SettingsError
from stream_detector.events import Alert
from stream_detector.targets import Target
from stream_detector.webhooks.bodies import BODIES, LARGEST, sample
from stream_detector.webhooks.templates import template_of
from tests.alerts import alert
from tests.receiver import SECRET

KEY = "e93facc04764012d7bfb002500d5d1a6"
TARGETS = {
    "json": Target.model_validate({"url": "https://a.example", "secrets": [SECRET]}),
    "alertmanager": Target.model_validate({"url": "https://a.example", "format": "alertmanager"}),
    "slack": Target.model_validate({"url": "https://a.example", "format": "slack"}),
    "pagerduty": Target.model_validate({"format": "pagerduty", "routing_key": KEY}),
}


class Image(msgspec.Struct, forbid_unknown_fields=True):
    content_type: Literal["image/png"]
    base64: str


class Own(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    timestamp: str
    data: Alert
    trimmed: bool = False
    picture: Image | None = None


class Am(msgspec.Struct, forbid_unknown_fields=True):
    """One of Alertmanager's alerts."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: str  # noqa: N815 - Alertmanager's name
    endsAt: str  # noqa: N815 - Alertmanager's name
    generatorURL: str  # noqa: N815 - Alertmanager's name
    fingerprint: str


class Group(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""

    version: Literal["4"]
    group_key: str
    truncated_alerts: int
    status: Literal["firing", "resolved"]
    receiver: str
    group_labels: dict[str, str]
    common_labels: dict[str, str]
    common_annotations: dict[str, str]
    external_url: str = msgspec.field(name="externalURL")
    alerts: list[Am]


class PagerPayload(msgspec.Struct, forbid_unknown_fields=True, rename={"kind": "class"}):
    summary: str
    source: str
    severity: Literal["critical", "warning", "error", "info"]
    timestamp: str
    component: str
    kind: str
    custom_details: dict[str, Any]


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """PagerDuty's Events API v2, /v2/enqueue."""

    routing_key: str
    event_action: Literal["trigger", "resolve"]
    dedup_key: str
    client: str
    payload: PagerPayload


def body(kind: str, one: Alert, picture: bytes | None = None) -> bytes:
    return BODIES[kind](one, TARGETS[kind], "ops", picture)


def test_own_json_is_the_record_as_the_standard_wants_it() -> None:
    one = alert(revision=2, status="resolved")
    told = msgspec.json.decode(body("json", one), type=Own)
    assert told.type == "anomaly.resolved"
    assert told.timestamp == one.ended_at
    assert told.data == one
    assert not told.trimmed


def test_a_picture_is_in_the_body_as_long_as_there_is_room() -> None:
    told = msgspec.json.decode(body("json", alert(), b"\x89PNG"), type=Own)
    assert told.picture is not None
    assert base64.b64decode(told.picture.base64) == b"\x89PNG"
    told = msgspec.json.decode(body("json", alert(), bytes(LARGEST)), type=Own)
    assert told.picture is None


def test_alertmanager() -> None:
    told = msgspec.json.decode(body("alertmanager", alert()), type=Group)
    [one] = told.alerts
    assert (told.status, told.receiver, one.endsAt) == ("firing", "ops", "0001-01-01T00:00:00Z")
    assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)
    assert one.labels["alertname"] == "StreamDetectorAnomaly"
    assert "pressure (81% of the score): 3.9 where 2.1 was expected" in one.annotations["features"]
    resolved = alert(revision=2, status="resolved", severity="critical")
    later = msgspec.json.decode(body("alertmanager", resolved), type=Group)
    assert later.alerts[0].fingerprint == one.fingerprint
    assert later.group_key == told.group_key
    assert later.alerts[0].endsAt == resolved.ended_at


def test_pagerduty_opens_and_resolves_one_incident() -> None:
    told = msgspec.json.decode(body("pagerduty", alert(severity="minor")), type=Page)
    assert (told.routing_key, told.event_action, told.payload.severity) == (KEY, "trigger", "warning")
    later = msgspec.json.decode(body("pagerduty", alert(revision=2, status="resolved")), type=Page)
    assert later.event_action == "resolve"
    assert told.dedup_key == later.dedup_key == alert().id


def test_slack_calls_nobody_and_links_nowhere() -> None:
    one = alert(sensor_id="`<!channel>`", summary="<https://evil.example|click> & go\n@here")
    told = json.loads(body("slack", one))
    text = json.dumps(told)
    assert "<" not in text
    assert "&lt;!channel&gt;" in text
    assert "\n@here" not in told["text"]
    section = told["attachments"][0]["blocks"][0]["text"]
    assert section["type"] == "mrkdwn"
    assert (
        told["attachments"][0]["color"]
        != json.loads(body("slack", alert(status="resolved")))["attachments"][0]["color"]
    )


NAMES = st.dictionaries(st.text(max_size=300), st.floats(allow_nan=False, allow_infinity=False), max_size=400)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=2_000), st.text(max_size=5_000), NAMES, st.sampled_from(sorted(BODIES)))
def test_any_alert_has_a_body_that_is_small_and_valid(
    sensor: str, summary: str, features: dict[str, float], kind: str
) -> None:
    one = alert(sensor_id=sensor, summary=summary, contributions=features, observed=features, expected=features)
    made = body(kind, one)
    if kind == "json":
        assert len(made) < LARGEST
        told = msgspec.json.decode(made, type=Own)
        assert told.data.id == one.id
        assert told.trimmed or told.data == one
    elif kind == "alertmanager":
        msgspec.json.decode(made, type=Group)
    elif kind == "pagerduty":
        told_page = msgspec.json.decode(made, type=Page)
        assert 0 < len(told_page.payload.summary) <= 1_024 * 4
        assert told_page.payload.source
    else:
        told_slack = json.loads(made)
        assert all(len(block["text"]["text"]) <= 3_000 for block in told_slack["attachments"][0]["blocks"][:1])


def template(text: str) -> Target:
    return Target.model_validate({"url": "https://a.example", "format": "template", "template": text})


GOOD = """{"title": {{ alert.sensor_id ~ ": " ~ alert.summary }}, "ok": {{ alert.status == "resolved" }},
 "worst": [{% for name, share in alert.contributions|dictsort(by="value", reverse=true) %}{{ name }}{% if not loop.last
 %}, {% endif %}{% endfor %}], "image": {{ picture }}, "to": {{ target }}, "at": {{ timestamp }}}"""


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text())
def test_nothing_in_an_alert_breaks_out_of_a_template(sensor: str, summary: str) -> None:
    target = template(GOOD)
    made = template_of(target, "ops")(alert(sensor_id=sensor, summary=summary), target, "ops", b"png")
    told = json.loads(made)
    assert told["title"] == f"{sensor}: {summary}"
    assert told["worst"] == ["pressure", "current"]
    assert base64.b64decode(told["image"]) == b"png"
    assert (told["ok"], told["to"], told["at"]) == (False, "ops", sample().started_at)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": "{{ alert.summary }}"}', "without quotation marks"),
        ('{"a": {{ alert.colour }}}', "colour"),
        ('{"a": {{ }}', "not a valid template"),
        ("{% if alert.status == 'firing' %}{}{% endif %}", "resolved is no JSON"),
        ("{{ alert.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_a_template_that_makes_no_json_is_refused(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=r"^webhooks\.targets\.ops\.template: ") as refused:
        template_of(template(text), "ops")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
