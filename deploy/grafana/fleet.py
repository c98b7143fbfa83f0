"""*Fleet*: what is wrong now."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import (
    BAD,
    GOOD,
    ODD,
    PLAIN,
    RATE,
    SEVERITIES,
    THIRD,
    J,
    Query,
    board,
    heat,
    lines,
    listing,
    number,
)

LAG = f"sum(max by (topic, partition) (stream_detector_consumer_lag_events{{{J}}}))"
EVENTS = f"sum(rate(stream_detector_events_total{{{J}}}[{RATE}]))"
WINDOWS = f"sum(rate(stream_detector_windows_total{{{J}}}[{RATE}]))"
OUTSIDE = f"sum by (feature) (rate(stream_detector_windows_outside_training_total{{{J}}}[{RATE}]))"
SHIFTED = f"sum(rate(stream_detector_windows_shifted_total{{{J}}}[{RATE}]))"
REJECTS = f"sum(rate(stream_detector_rejects_total{{{J}}}[{RATE}]))"


def fleet() -> dashboard.Dashboard:
    """Built anew at each call."""
    made = board("fleet", "Fleet", "What is wrong now: open alerts, the worst sensors, rates, the spread of scores.")
    for panel in (
        number(
            "Workers that answer",
            "Targets that Prometheus could scrape.",
            f"sum(up{{{J}}})",
            steps=[(None, BAD), (1, GOOD)],
        ),
        number(
            "Workers that are not ready",
            "Running and not scoring; a spare worker, beyond the number of partitions, is not counted.",
            f"sum((1 - stream_detector_ready{{{J}}}) * on (job, instance) (1 - stream_detector_spare{{{J}}}))",
            steps=[(None, GOOD), (1, ODD)],
        ),
        number(
            "Open alerts",
            "Of all sensors, of every kind: also of those that have no series of their own.",
            f"sum(stream_detector_firing_alerts{{{J}}})",
            steps=[(None, GOOD), (1, ODD)],
        ),
        number("Sensors", "Sensors with state: heard of within window.ttl.", f"sum(stream_detector_sensors{{{J}}})"),
        number("Events", "Accepted, a second.", EVENTS, "cps"),
        number(
            "Rejected",
            "Share of the events that went to the dead-letter topic.",
            f"({REJECTS} or vector(0)) / ({EVENTS} + ({REJECTS} or vector(0)))",
            "percentunit",
            [(None, GOOD), (0.01, ODD), (0.05, BAD)],
        ),
        number(
            "Events behind", "Between what is read and the ends of the log.", LAG, steps=[(None, GOOD), (10_000, ODD)]
        ),
        number(
            "Latency, 99th percentile",
            "From a window's last event, by the sensor's clock, to its publication.",
            f"histogram_quantile(0.99, sum by (le) (rate(stream_detector_latency_seconds_bucket{{{J}}}[{RATE}])))",
            "s",
            [(None, GOOD), (10, ODD), (60, BAD)],
        ),
    ):
        made.with_panel(panel)
    made.with_row(dashboard.Row("Now"))
    made.with_panel(
        listing(
            "The service's own alerts",
            "What Prometheus' rules say of the workers and the stream; docs/runbook.md has a section for each.",
            'ALERTS{alertname=~"StreamDetector.+", alertstate="firing"}',
            {"alertname": "Alert", "instance": "Worker", "severity": "Severity"},
        )
    )
    made.with_panel(
        listing(
            "Sensors with an open alert",
            "The most severe, at most metrics.firing_sensors of each worker; the count above is of all.",
            f"max by (sensor_id, kind, severity) (stream_detector_alert_firing{{{J}}})",
            {"sensor_id": "Sensor", "kind": "Kind", "severity": "Severity"},
        )
    )
    made.with_panel(
        listing(
            "Worst sensors",
            "By the score of their newest window; 1 is the threshold.",
            f"sort_desc(topk(10, max by (sensor_id) (stream_detector_sensor_score{{{J}}})))",
            {"sensor_id": "Sensor"},
            value="Score",
            steps=[(None, GOOD), (1, ODD), (2, BAD)],
        )
    )
    made.with_row(dashboard.Row("Lately"))
    made.with_panel(
        lines(
            "Open alerts, by severity",
            "Of all sensors.",
            [Query(f"sum by (severity) (stream_detector_firing_alerts{{{J}}})", "{{severity}}")],
            width=THIRD,
            stacked=True,
            colours=SEVERITIES,
        )
    )
    made.with_panel(
        lines(
            "Changes of alerts",
            "Published a second: alerts that fire, worsen or resolve.",
            [Query(f"sum by (status) (rate(stream_detector_alerts_total{{{J}}}[{RATE}]))", "{{status}}")],
            "cps",
            width=THIRD,
            colours={"firing": BAD, "resolved": GOOD},
        )
    )
    made.with_panel(
        lines(
            "Scores of the worst sensors",
            "The line is the threshold.",
            [Query(f"topk(10, max by (sensor_id) (stream_detector_sensor_score{{{J}}}))", "{{sensor_id}}")],
            width=THIRD,
            limit=1,
        )
    )
    made.with_panel(
        heat("Scores", "How many windows had which score; what is above 1 is anomalous.", "stream_detector_score")
    )
    made.with_panel(
        lines(
            "Scores, by quantile",
            "When the median moves, the sensors or the model are no longer what they were.",
            [
                Query(
                    f"histogram_quantile({share}, sum by (le) (rate(stream_detector_score_bucket{{{J}}}[{RATE}])))",
                    legend,
                )
                for share, legend in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
            ],
            limit=1,
            colours={"median": PLAIN, "90 %": ODD, "99 %": BAD},
        )
    )
    made.with_panel(
        lines(
            "Events and windows",
            "A second.",
            [Query(EVENTS, "events"), Query(WINDOWS, "windows")],
            "cps",
            width=THIRD,
        )
    )
    made.with_panel(
        lines(
            "Rejected events, by reason",
            "A second; each is in the dead-letter topic.",
            [Query(f"sum by (reason) (rate(stream_detector_rejects_total{{{J}}}[{RATE}]))", "{{reason}}")],
            "cps",
            width=THIRD,
            stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Outside of training",
            "Share of the windows in which a feature is where training never saw it; the model has no say in these. "
            "And of those in a shift that has lasted and is taken as normal.",
            [
                Query(f"topk(10, {OUTSIDE} / on () group_left () {WINDOWS})", "{{feature}}"),
                Query(f"{SHIFTED} / {WINDOWS}", "shifts taken as normal"),
            ],
            "percentunit",
            width=THIRD,
        )
    )
    return made
