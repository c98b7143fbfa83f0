"""Facts as Prometheus metrics. prometheus-client's only home."""
