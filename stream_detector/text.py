"""Text from outside, made fit to be shown: sensor ids may hold line feeds, escape sequences or worse."""

from __future__ import annotations


def visible(text: str) -> str:
    """Control characters and whatever else cannot be printed as ``\\xNN``, so that a line stays a line."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
