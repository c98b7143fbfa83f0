"""*Pipeline*: how fast, how late, where the time goes, and what goes wrong on the way."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import (
    BAD,
    GOOD,
    ODD,
    RATE,
    THIRD,
    J,
    Panel,
    Query,
    board,
    heat,
    lines,
    listing,
    states,
)

STAGE = "stream_detector_stage_duration_seconds"


def pipeline() -> dashboard.Dashboard:
    """Built anew at each call."""
    made = board("pipeline", "Pipeline", "Throughput, lag, stages, batches, device, Redis, and errors of the workers.")
    for title, panels in (
        ("Throughput and lag", _throughput()),
        ("Stages", _stages()),
        ("Device", _device()),
        ("Redis and Kafka", _servers()),
        ("Errors", _errors()),
        ("Processes", _processes()),
        ("Webhooks", _webhooks()),
    ):
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def _throughput() -> list[Panel]:
    return [
        lines(
            "Events, by worker",
            "Accepted, a second.",
            [Query(_rate("stream_detector_events_total", "instance"), "{{instance}}")],
            "cps",
            width=THIRD,
            stacked=True,
        ),
        lines(
            "Windows, by worker",
            "Scored, a second.",
            [Query(_rate("stream_detector_windows_total", "instance"), "{{instance}}")],
            "cps",
            width=THIRD,
            stacked=True,
        ),
        lines(
            "Lag, by partition",
            "Events between what is read and the log's end; the ten largest.",
            [
                Query(
                    f"topk(10, max by (topic, partition) (stream_detector_consumer_lag_events{{{J}}}))",
                    "{{topic}} {{partition}}",
                )
            ],
            width=THIRD,
        ),
        lines(
            "Late, repeated, other rules",
            "Events that a rule of event time applied to, a second.",
            [
                Query(f"sum(rate(stream_detector_late_total{{{J}}}[{RATE}]))", "late"),
                Query(f"sum(rate(stream_detector_duplicate_total{{{J}}}[{RATE}]))", "duplicate"),
                Query(_rate("stream_detector_rules_total", "rule"), "{{rule}}"),
            ],
            "cps",
        ),
        lines(
            "Latency",
            "From a window's last event, by the sensor's clock, to its publication.",
            _quantiles("stream_detector_latency_seconds_bucket"),
            "s",
        ),
    ]


def _stages() -> list[Panel]:
    return [
        lines(
            "Where the time goes",
            "Seconds a second that all workers spend in each stage; compute overlaps with the others.",
            [Query(f"sum by (stage) (rate({STAGE}_sum{{{J}}}[{RATE}]))", "{{stage}}")],
            "s",
            stacked=True,
        ),
        lines(
            "Stages, 99th percentile",
            "Of one turn.",
            [
                Query(
                    f"histogram_quantile(0.99, sum by (stage, le) (rate({STAGE}_bucket{{{J}}}[{RATE}])))",
                    "{{stage}}",
                )
            ],
            "s",
        ),
        heat("Batch sizes", "How many batches had so many windows.", "stream_detector_batch_size_windows"),
        lines(
            "Windows in a batch",
            "On average. Small ones say that there is time to spare.",
            [
                Query(
                    f"sum(rate(stream_detector_windows_total{{{J}}}[{RATE}]))"
                    f" / sum(rate(stream_detector_batches_total{{{J}}}[{RATE}]))",
                    "windows",
                )
            ],
        ),
    ]


def _device() -> list[Panel]:
    return [
        lines(
            "How busy",
            "Share of the time in which the device computes.",
            [Query(f'sum by (instance) (rate({STAGE}_sum{{{J}, stage="compute"}}[{RATE}]))', "{{instance}}")],
            "percentunit",
            width=THIRD,
        ),
        lines(
            "Waiting for the device",
            "99th percentile of a batch's wait and of its computation.",
            [
                Query(
                    "histogram_quantile(0.99, sum by (stage, le) "
                    f'(rate({STAGE}_bucket{{{J}, stage=~"queue|compute"}}[{RATE}])))',
                    "{{stage}}",
                )
            ],
            "s",
            width=THIRD,
        ),
        listing(
            "What the model runs on",
            "Of each worker.",
            f"stream_detector_device_info{{{J}}}",
            {"instance": "Worker", "device": "Device"},
            width=THIRD,
        ),
    ]


def _servers() -> list[Panel]:
    return [
        lines(
            "Redis",
            "99th percentile of appending a batch and of settling it.",
            [
                Query(
                    "histogram_quantile(0.99, sum by (stage, le) "
                    f'(rate({STAGE}_bucket{{{J}, stage=~"append|settle"}}[{RATE}])))',
                    "{{stage}}",
                )
            ],
            "s",
            width=THIRD,
        ),
        lines(
            "Kafka",
            "99th percentile of delivering a batch: one transaction.",
            [
                Query(
                    "histogram_quantile(0.99, sum by (stage, le) "
                    f'(rate({STAGE}_bucket{{{J}, stage="deliver"}}[{RATE}])))',
                    "{{stage}}",
                )
            ],
            "s",
            width=THIRD,
        ),
        lines(
            "State",
            "Sensors, windows that wait, and batches in flight (one for each partition that it holds).",
            [
                Query(f"sum(stream_detector_sensors{{{J}}})", "sensors"),
                Query(f"sum(stream_detector_pending_windows{{{J}}})", "pending windows"),
                Query(f"sum(stream_detector_in_flight_batches{{{J}}})", "in flight"),
            ],
            width=THIRD,
        ),
    ]


def _errors() -> list[Panel]:
    return [
        lines(
            "Interruptions",
            "Times in a minute that everything was loaded again: a server was away, or another worker took over.",
            [Query(f"60 * {_rate('stream_detector_interruptions_total', 'reason')}", "{{reason}}")],
            width=THIRD,
            colours={"unavailable": BAD, "fenced": ODD},
        ),
        lines(
            "Partitions opened, by what was found",
            "Since the start of the workers. What is neither fresh, resumed nor ahead says that something was lost.",
            [Query(f"sum by (case) (stream_detector_partition_restarts_total{{{J}}})", "{{case}}")],
            width=THIRD,
        ),
        lines(
            "Attempts to load a bundle",
            "Since the start of the workers.",
            [Query(f"sum by (outcome) (stream_detector_bundle_reloads_total{{{J}}})", "{{outcome}}")],
            width=THIRD,
            colours={"success": GOOD, "failure": BAD},
        ),
        lines(
            "Since the last delivery",
            "Of each worker; it grows where nothing is to be read.",
            [Query(f"time() - stream_detector_last_delivery_timestamp_seconds{{{J}}}", "{{instance}}")],
            "s",
        ),
        states(
            "Ready",
            "Whether events would be scored, of each worker.",
            Query(f"stream_detector_ready{{{J}}}", "{{instance}}"),
            {"0": ("not ready", BAD), "1": ("ready", GOOD)},
        ),
    ]


def _processes() -> list[Panel]:
    return [
        lines(
            "Memory",
            "Resident, of each worker.",
            [Query(f"process_resident_memory_bytes{{{J}}}", "{{instance}}")],
            "bytes",
            width=THIRD,
        ),
        lines(
            "Processor",
            "Cores in use, of each worker.",
            [Query(f"rate(process_cpu_seconds_total{{{J}}}[{RATE}])", "{{instance}}")],
            width=THIRD,
        ),
        listing(
            "Models",
            "Of each worker.",
            f"stream_detector_model_info{{{J}}}",
            {"instance": "Worker", "group": "Group", "name": "Model", "version": "Version"},
            width=THIRD,
        ),
    ]


def _webhooks() -> list[Panel]:
    return [
        lines(
            "Alerts that wait, by target",
            "From the process stream-detector webhooks.",
            [
                Query(
                    "sum by (target) (stream_detector_webhooks_waiting)"
                    " + sum by (target) (stream_detector_webhooks_consumer_lag)",
                    "{{target}}",
                )
            ],
        ),
        lines(
            "Attempts, by target and outcome",
            "A second.",
            [
                Query(
                    f"sum by (target, outcome) (rate(stream_detector_webhooks_attempts_total[{RATE}]))",
                    "{{target}} {{outcome}}",
                )
            ],
            "cps",
        ),
    ]


def _rate(name: str, label: str) -> str:
    return f"sum by ({label}) (rate({name}{{{J}}}[{RATE}]))"


def _quantiles(name: str) -> list[Query]:
    return [
        Query(f"histogram_quantile({share}, sum by (le) (rate({name}{{{J}}}[{RATE}])))", legend)
        for share, legend in ((0.5, "median"), (0.99, "99 %"))
    ]
