"""Draw a dashboard from its JSON and what a real Prometheus has of a live service: docs/dashboard.png.

There is no Grafana here. Places, titles, queries, colours and limits are the dashboard's; fonts, axes and legends are
matplotlib's. ``python -m benchmarks.dashboard [fleet|sensor|pipeline] [PATH]``
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from tests.deploy.expressions import DEPLOY, filled
from tests.deploy.session import ILL, session
from tests.servers import KafkaBroker, RedisServer
from tests.servers.prometheus import Prometheus

SPAN, INTERVAL = 150.0, "15s"  # seconds that are shown; the queries' rate interval
UNITS = {"cps": "{:.1f} c/s", "percentunit": "{:.1%}", "s": "{:.2g} s", "bytes": "{:.3g} B", "short": "{:.4g}"}
INK, DIM, BACK, PAPER = "#ccccdc", "#8e8ea0", "#111217", "#181b1f"
COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "yellow": "#fade2a"}
CYCLE = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#ca95e5"]
ROW = 0.36  # inches a row of the grid


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "fleet"
    path = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/dashboard.png")
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / f"{name}.json").read_text("utf-8"))
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaBroker(lasting=True) as broker,
        RedisServer() as redis,
        session(broker, redis, Path(folder)) as live,
    ):
        time.sleep(SPAN)
        draw(dashboard, live.prometheus, path)
    print(f"wrote {path}: {path.stat().st_size / 1e3:.0f} kB")


def draw(dashboard: dict[str, Any], prometheus: Prometheus, path: Path) -> None:
    """Each panel at its place of the grid."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(15, rows * ROW), facecolor=BACK)
    plt.rcParams.update({"text.color": INK, "xtick.color": DIM, "ytick.color": DIM, "font.size": 7})
    for panel in dashboard["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        if panel["type"] == "row":
            figure.text(0.006, 1 - (y + 0.7) / rows, f"▾ {panel['title']}", fontsize=10, weight="bold")
            continue
        area = (x / 24 + 0.003, 1 - (y + h - 0.1) / rows, w / 24 - 0.006, (h - 0.2) / rows)
        frame = figure.add_axes(area, facecolor=PAPER, xticks=[], yticks=[])
        frame.spines[:].set_color("#2c2f36")
        frame.set_title(panel["title"], loc="left", fontsize=8, y=1, pad=-11, x=0.012 * 24 / w, color=INK)
        low = 2.0 if panel["type"] in ("timeseries", "heatmap", "state-timeline") else 0.3
        inner = (area[0] + 0.025, area[1] + low / rows, area[2] - 0.032, area[3] - (low + 1.2) / rows)
        axes = figure.add_axes(inner, facecolor=PAPER)
        axes.spines[:].set_visible(False)
        axes.grid(color="#2c2f36", linewidth=0.5)
        DRAWN[panel["type"]](axes, panel, prometheus)
    figure.savefig(path, dpi=72, facecolor=BACK, pil_kwargs={"optimize": True})
    plt.close(figure)


def asked(panel: dict[str, Any]) -> list[tuple[str, str]]:
    """Expressions and legends."""
    return [(filled(one["expr"], INTERVAL, sensor=ILL), one.get("legendFormat", "")) for one in panel["targets"]]


def series(panel: dict[str, Any], prometheus: Prometheus) -> list[tuple[str, Any, Any]]:
    """Legend, seconds before now (n) and values (n) of each series."""
    end, found = time.time(), []
    for expr, legend in asked(panel):
        for one in prometheus.query_range(expr, end - SPAN, end, 2):
            name = legend
            for label, value in one["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            at, values = np.array(one["values"], float).T
            found.append((name, at - end, values))
    return found


def on_time(axes: Axes) -> None:
    axes.set_xticks(range(0, -round(SPAN), -30), [f"{at} s" if at else "now" for at in range(0, -round(SPAN), -30)])
    axes.tick_params(length=0)


def fixed(panel: dict[str, Any]) -> dict[str, str]:
    """Colours that the dashboard gives to series."""
    found = {}
    for override in panel["fieldConfig"].get("overrides", []):
        for given in override["properties"]:
            if given["id"] == "color":
                found[override["matcher"]["options"]] = COLOURS[given["value"]["fixedColor"]]
    return found


def draw_stat(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    axes.axis("off")
    found = prometheus.query(asked(panel)[0][0])
    value = float(found[0]["value"][1]) if found else math.nan
    defaults = panel["fieldConfig"]["defaults"]
    steps = [step for step in defaults["thresholds"]["steps"] if (step["value"] or -math.inf) <= value]
    text = "–" if math.isnan(value) else UNITS[defaults["unit"]].format(value)
    colour = COLOURS.get(steps[-1]["color"], INK) if steps else INK
    axes.text(0.5, 0.5, text, fontsize=20, ha="center", va="center", color=colour, transform=axes.transAxes)


def draw_lines(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    found, colours = series(panel, prometheus), fixed(panel)
    custom = panel["fieldConfig"]["defaults"]["custom"]
    chosen = [colours.get(name, CYCLE[at % len(CYCLE)]) for at, (name, _, _) in enumerate(found)]
    if custom.get("stacking", {}).get("mode") == "normal":
        times = np.unique(np.concatenate([at for _, at, _ in found]))
        filled_in = [np.interp(times, at, values, left=0, right=0) for _, at, values in found]
        axes.stackplot(times, filled_in, labels=[name for name, _, _ in found], colors=chosen, alpha=0.5)
    else:
        for (name, at, values), colour in zip(found, chosen, strict=True):
            axes.plot(at, values, label=name, color=colour, linewidth=1)
    if custom.get("thresholdsStyle", {}).get("mode") == "dashed":
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=COLOURS[step["color"]], linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    on_time(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=5, fontsize=6, frameon=False, labelcolor=INK)


def draw_table(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    axes.axis("off")
    columns = next(one for one in panel["transformations"] if one["id"] == "organize")["options"]
    names = sorted(columns["renameByName"], key=columns["indexByName"].__getitem__)
    for at, name in enumerate(names):
        axes.text(at / len(names), 1, columns["renameByName"][name], weight="bold", va="top", transform=axes.transAxes)
    for line, one in enumerate(prometheus.query(asked(panel)[0][0])[:9]):
        cells = one["metric"] | {"Value": f"{float(one['value'][1]):.3g}"}
        for at, name in enumerate(names):
            text = cells.get(name, "").replace("$", r"\$")
            axes.text(at / len(names), 0.9 - line / 10, text, va="top", transform=axes.transAxes)


def draw_heat(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    found = sorted(series(panel, prometheus), key=lambda one: float(one[0]))
    within = np.diff(np.array([values for _, _, values in found]), axis=0, prepend=0)
    axes.pcolormesh(found[0][1], np.arange(len(found)), np.ma.masked_less(within, 1e-9), cmap="Oranges_r")
    axes.set_yticks(range(len(found))[::2], [name for name, _, _ in found][::2])
    on_time(axes)


def draw_states(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    names = []
    for line, (name, at, values) in enumerate(series(panel, prometheus)):
        [shown] = panel["fieldConfig"]["defaults"]["mappings"]
        colours = [COLOURS[shown["options"][f"{value:g}"]["color"]] for value in values]
        axes.scatter(at, np.full(len(at), line), c=colours, marker="s", s=60)
        names.append(name)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    on_time(axes)


DRAWN = {
    "stat": draw_stat,
    "timeseries": draw_lines,
    "table": draw_table,
    "heatmap": draw_heat,
    "state-timeline": draw_states,
}

if __name__ == "__main__":
    main()
