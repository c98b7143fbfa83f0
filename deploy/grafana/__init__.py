"""The dashboards, as code: `make dashboards` writes the JSON that Grafana reads."""
