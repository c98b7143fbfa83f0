"""What the dashboards are made of: one look for all, and what Grafana's SDK says in twenty lines said in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel: TypeAlias = Builder[model.Panel]
Step: TypeAlias = tuple[float | None, str]  # from this value on, this colour

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
UID = "stream-detector-{}"
GOOD, ODD, BAD, PLAIN, NONE = "green", "orange", "red", "blue", "text"
SEVERITIES = {"minor": "yellow", "major": "orange", "critical": "red"}
J = 'job=~"$job"'
RATE = "$__rate_interval"
HALF, THIRD, WHOLE = 12, 8, 24  # of the grid's columns
HIGH = 8  # rows of the grid


class Query(NamedTuple):
    """``legend`` may name labels as in ``{{topic}}``."""

    expr: str
    legend: str = ""


def number(title: str, text: str, expr: str, unit: str = "short", steps: Sequence[Step] = ((None, PLAIN),)) -> Panel:
    """One value, coloured by ``steps``, with its past behind it."""
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .with_target(_target(Query(expr)))
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(looks.BigValueColorMode.VALUE)
        .graph_mode(looks.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("–")
        .span(3)
        .height(4)
    )


def lines(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str = "short",
    *,
    width: int = HALF,
    stacked: bool = False,
    limit: float | None = None,
    most: float | None = None,
    colours: dict[str, str] | None = None,
) -> Panel:
    """Series over time; ``limit`` draws a dashed line, ``colours`` are by legend."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(looks.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
        .span(width)
        .height(HIGH)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    if limit is not None:
        panel.thresholds(_thresholds([(None, "transparent"), (limit, BAD)]))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED))
    for name, colour in (colours or {}).items():
        fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        panel.override_by_name(name, [fixed])
    for at, query in enumerate(queries):
        panel.with_target(_target(query, at))
    return panel


def heat(title: str, text: str, name: str, unit: str = "short", *, width: int = HALF) -> Panel:
    """A histogram over time: how many values fell into each bucket."""
    query = prometheus.Dataquery().expr(f"sum by (le) (increase({name}_bucket{{{J}}}[{RATE}]))")
    return (
        heatmap.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .with_target(query.legend_format("{{le}}").format(PromQueryFormat.HEATMAP).ref_id("A").datasource(SOURCE))
        .calculate(False)
        .show_tooltip()
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).exponent(0.5))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .span(width)
        .height(HIGH)
    )


def listing(
    title: str,
    text: str,
    expr: str,
    columns: dict[str, str],
    *,
    value: str | None = None,
    unit: str = "short",
    steps: Sequence[Step] = ((None, NONE),),
    width: int = THIRD,
    height: int = HIGH,
    empty: str = "none",
) -> Panel:
    """What there is now: ``columns`` are labels and their headings; ``value`` is the heading of the value, if shown.

    A sensor's id leads to its dashboard.
    """
    shown = [*columns, *(["Value"] if value else [])]
    names = columns | ({"Value": value} if value else {})
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .with_target(_target(Query(expr)).instant().format(PromQueryFormat.TABLE))
        .with_transformation(model.DataTransformerConfig("filterFieldsByName", options={"include": {"names": shown}}))
        .with_transformation(
            model.DataTransformerConfig(
                "organize",
                options={"indexByName": {name: at for at, name in enumerate(shown)}, "renameByName": names},
            )
        )
        .no_value(empty)
        .span(width)
        .height(height)
    )
    if value:
        cell = {"type": "color-text"}
        coloured = [model.DynamicConfigValue("custom.cellOptions", cell), model.DynamicConfigValue("unit", unit)]
        bands = {"mode": "absolute", "steps": [{"value": at, "color": colour} for at, colour in steps]}
        panel.override_by_name(value, [*coloured, model.DynamicConfigValue("thresholds", bands)])
    if "sensor_id" in columns:
        link = {"title": "This sensor", "url": _sensor_url(columns["sensor_id"])}
        panel.override_by_name(columns["sensor_id"], [model.DynamicConfigValue("links", [link])])
    if "severity" in columns:
        colours = {name: {"color": colour, "index": at} for at, (name, colour) in enumerate(SEVERITIES.items())}
        mapped = model.DynamicConfigValue("mappings", [{"type": "value", "options": colours}])
        coloured = [mapped, model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})]
        panel.override_by_name(columns["severity"], coloured)
    return panel


def states(
    title: str, text: str, query: Query, names: dict[str, tuple[str, str]], *, width: int = HALF, empty: str = "none"
) -> Panel:
    """What was so when; ``names`` are text and colour by value."""
    values = {value: model.ValueMappingResult(text=name, color=colour) for value, (name, colour) in names.items()}
    return (
        statetimeline.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .with_target(_target(query))
        .mappings([model.ValueMap(values)])
        .show_value(looks.VisibilityMode.NEVER)
        .row_height(0.8)
        .no_value(empty)
        .span(width)
        .height(HIGH)
    )


def board(name: Literal["fleet", "sensor", "pipeline"], title: str, text: str) -> dashboard.Dashboard:
    """An empty dashboard with what all have: where the data come from, which job, and the way to the others."""
    made = (
        dashboard.Dashboard(f"stream-detector / {title}")
        .uid(UID.format(name))
        .description(text)
        .tags(["stream-detector"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Job")
            .datasource(SOURCE)
            .query("label_values(stream_detector_build_info, job)")
            .refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )
    )
    return made.link(
        dashboard.DashboardLink("stream-detector")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["stream-detector"])
        .include_vars(True)
        .keep_time(True)
    )


def _target(query: Query, at: int = 0) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).datasource(SOURCE).ref_id("ABCDEFGH"[at])
    return made.legend_format(query.legend) if query.legend else made


def _thresholds(steps: Sequence[Step]) -> dashboard.ThresholdsConfig:
    made = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE)
    return made.steps([model.Threshold(value, colour) for value, colour in steps])


def _sensor_url(field: str) -> str:
    kept = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
    return f"/d/{UID.format('sensor')}?{kept}&var-sensor_id=${{__data.fields[{field}]:percentencode}}"
