"""Exactly once, proved on a real broker and a real Redis while they and the workers die. For long: `make chaos`."""
