"""Pictures of alerts: small, valid, and of any alert."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from stream_detector.adapters.pictures.alert import draw
from stream_detector.events import Alert
from tests.alerts import alert

ALERTS = [
    alert(),
    alert(observed={}, expected={}, contributions={}),
    alert(observed={"pressure": 0.0}, expected={}, score=0.0),
    alert(sensor_id="$x^$ \n" * 100, contributions={f"$f_{n}$" * 9: 0.1 for n in range(50)}),
    alert(observed={f"f{n}": -1e30 for n in range(50)}, expected={f"f{n}": 1e30 for n in range(50)}, score=1e12),
]


@pytest.mark.parametrize("one", ALERTS, ids=range(len(ALERTS)))
def test_any_alert_can_be_drawn(one: Alert) -> None:
    drawn = draw(one)
    assert len(drawn) < 12_000, "in base64 it must fit into a body of 20,000 bytes beside the alert"
    image = Image.open(io.BytesIO(drawn))
    image.load()
    assert image.format == "PNG"
    assert image.size[0] <= 600


def test_it_shows_the_alert() -> None:
    assert draw(alert()) == draw(alert())
    assert draw(alert()) != draw(alert(observed={"pressure": 9.0, "current": 1.1}))
    assert draw(alert()) != draw(alert(score=20.0))
