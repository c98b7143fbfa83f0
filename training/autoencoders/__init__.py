"""The autoencoders that can be trained, by the name that ``--model`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.autoencoders import lstm

BUILDERS: dict[str, Callable[..., Any]] = {"lstm": lstm.build}
"""Each takes window length, number of features, ``units`` and ``seed``; (n, W, F) to (n, W, F), scaled."""
