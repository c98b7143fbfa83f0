"""Embeddings of windows as records: what a model's code makes of each, for search, clusters and models downstream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import identify, rfc3339_all
from stream_detector.events import Bool, Embedding, Float32, Model, Origin, Partition, Windows
from stream_detector.groups import Grouped
from stream_detector.verdicts import short


def embedding_records(
    partition: Partition, windows: Windows, codes: Float32, chosen: NDArray[np.intp], models: Grouped[Model]
) -> list[Embedding]:
    """Records of the embeddings topic for the chosen ones of ``n`` windows with codes (n, D).

    A window's embedding has the id of its score. Codes that are narrower than D end in NaN, which no record has.
    """
    start, end = (rfc3339_all(windows.timestamps[chosen, side]) for side in (0, 1))
    wide = np.isfinite(codes[chosen]).sum(axis=1).tolist()
    columns = zip(
        chosen.tolist(), start, end, windows.offsets[chosen].tolist(), short(codes[chosen]), wide, strict=True
    )
    return [
        Embedding(
            identify(windows.sensors[at], *partition, last),
            windows.sensors[at],
            begun,
            ended,
            code[:width],
            models.of(windows.sensors[at]),
            Origin(*partition, first, last),
        )
        for at, begun, ended, (first, last), code, width in columns
    ]


def embedded(codes: Float32) -> Bool:
    """Which windows have a code among the codes (n, D): one that the device fails on alone has none."""
    return np.asarray(np.isfinite(codes[:, 0]), bool)
