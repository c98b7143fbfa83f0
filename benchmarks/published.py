"""What others report on the sets of `benchmarks.quality`, by the sets' own publications: not measured by us."""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "skab": (
        "all 34 runs, F1 / FAR / MAR (github.com/waico/SKAB; autoencoders look into the future of a row):",
        "Conv-AE .78 / 13.55 / 28.02, MSET .78 / 39.73 / 14.13, T2+Q .76 / 26.62 / 24.92, LSTM-AE .74 / 29.96 / 25.92",
        "T2 .66 / 19.21 / 42.60, LSTM-VAE .56 / 9.13 / 55.03, vanilla LSTM .54 / 12.54 / 59.53, AE .39 / 2.59 / 75.15",
        "NAB standard: MSCRED 32.42, isolation forest 26.16, T2+Q 25.35, Conv-AE 23.61, LSTM-AE 23.51, T2 19.54",
    ),
    "asd": (
        "with point adjust and a threshold picked on test labels, which a random score passes too: not comparable",
    ),
    "smd": (
        "with point adjust and a threshold picked on test labels, which a random score passes too: not comparable",
    ),
    "nab": (
        "all 58 files, standard / low FP / low FN (github.com/numenta/NAB):",
        "ARTime 74.9 / 65.1 / 80.4, HTM 70.5-69.7 / 62.6-61.7 / 75.2-74.2, CAD OSE 69.9 / 67.0 / 73.2",
        "KNN CAD 58.0 / 43.4 / 64.8, relative entropy 54.6 / 47.6 / 58.8, random cut forest 51.7 / 38.4 / 59.7",
    ),
}
