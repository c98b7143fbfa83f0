"""*Sensor*: one sensor's score against its threshold, what contributes, and its alerts."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.panels import (
    BAD,
    GOOD,
    HALF,
    ODD,
    PLAIN,
    SOURCE,
    WHOLE,
    J,
    Query,
    board,
    lines,
    listing,
    number,
    states,
)

S = f'{J}, sensor_id="$sensor_id"'
FIRING = f"stream_detector_alert_firing{{{S}}}"
SCORE = f"max(stream_detector_sensor_score{{{S}}})"
THRESHOLD = f"max(stream_detector_sensor_threshold{{{S}}})"
SHARES = f"max by (feature) (stream_detector_sensor_contribution{{{S}}})"


def sensor() -> dashboard.Dashboard:
    """Built anew at each call."""
    made = board(
        "sensor",
        "Sensor",
        "One sensor. Only the worst sensors and those with an open alert have series: others are in the scores topic.",
    ).with_variable(
        dashboard.QueryVariable("sensor_id")
        .label("Sensor")
        .datasource(SOURCE)
        .query(f"label_values(stream_detector_sensor_score{{{J}}}, sensor_id)")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    made.with_panel(
        number(
            "Score",
            "Of the newest window: its error, as a multiple of the threshold.",
            SCORE,
            steps=[(None, GOOD), (1, ODD), (2, BAD)],
        )
    )
    made.with_panel(number("Threshold", "That the error is held against, in the error's own unit.", THRESHOLD))
    made.with_panel(
        number("Open alerts", "Of this sensor.", f"count({FIRING}) or vector(0)", steps=[(None, GOOD), (1, BAD)])
    )
    made.with_panel(
        listing(
            "Alerts now",
            "A sensor has at most one open alert of each kind.",
            f"max by (kind, severity) ({FIRING})",
            {"kind": "Kind", "severity": "Severity"},
            width=15,
            height=4,
        )
    )
    made.with_panel(
        lines(
            "Score over time",
            "From 1 on a window is anomalous: the line. Red marks are alerts.",
            [Query(SCORE, "score")],
            width=WHOLE,
            limit=1,
            colours={"score": PLAIN},
        )
    )
    made.with_panel(
        lines(
            "Error and threshold",
            "In the error's own unit. Another part of the score, or another model, has another threshold.",
            [Query(f"{SCORE} * {THRESHOLD}", "error"), Query(THRESHOLD, "threshold")],
            colours={"error": PLAIN, "threshold": BAD},
        )
    )
    made.with_panel(
        states(
            "Alerts over time",
            "When which alert was open.",
            Query(f"max by (kind, severity) ({FIRING})", "{{kind}}, {{severity}}"),
            {"1": ("open", BAD)},
        )
    )
    made.with_panel(
        lines(
            "Contributions",
            "Share of each feature in the score; they add up to 1. The ten largest.",
            [Query(SHARES, "{{feature}}")],
            "percentunit",
            width=HALF,
            stacked=True,
            most=1,
        )
    )
    made.with_panel(
        listing(
            "Contributions now",
            "Where to look first.",
            f"sort_desc({SHARES})",
            {"feature": "Feature"},
            value="Share",
            unit="percentunit",
            width=HALF,
        )
    )
    return made.annotation(
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(BAD)
        .expr(f"max by (kind, severity) ({FIRING})")
    )
