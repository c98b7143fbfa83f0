"""Alerts to webhook targets: what is due when, in what order and form. Pure; adapters do the talking."""
