"""Pictures and the report of a replay. In the service, matplotlib's only home."""
