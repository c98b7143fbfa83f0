"""``make dashboards``: write the JSON that Grafana provisions, one file a dashboard."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.fleet import fleet
from deploy.grafana.pipeline import pipeline
from deploy.grafana.sensor import sensor

FOLDER = Path(__file__).parent / "dashboards"


def generate() -> dict[str, str]:
    """The text of each file, by its name."""
    made = {}
    for name, builder in (("fleet", fleet()), ("sensor", sensor()), ("pipeline", pipeline())):
        built = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
        for number, panel in enumerate(built["panels"], 1):
            panel["id"] = number  # so that a link to a panel stays one
        for variable in built["templating"]["list"]:
            del variable["id"]  # the SDK gives all the same
        for annotation in built.get("annotations", {}).get("list", []):
            # What the SDK's builder does not know of Prometheus' annotations.
            annotation |= {"titleFormat": "{{kind}}", "textFormat": "{{severity}}", "step": "15s", "tagKeys": ""}
        made[f"{name}.json"] = json.dumps(built, indent=2, ensure_ascii=False) + "\n"
    return made


if __name__ == "__main__":
    for name, text in generate().items():
        (FOLDER / name).write_text(text, "utf-8")
