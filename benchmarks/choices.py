"""What each choice of the default is worth: ``python -m benchmarks.choices --data FOLDER`` (`make choices`).

Every set goes through training, bundle and replay as in `benchmarks.quality`, once as it comes and once for each part
of the score that is left out, each error without the parts beside it, and each other way to scale and to threshold.
Prints the figures behind the tables of `docs/quality.md`: medians over seeds, of the F1 the range too.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from benchmarks.quality import PLANS, Figures, Plan, figures, learn, stream_through
from benchmarks.sets import read_set
from stream_detector.bundle import load_bundle, write_bundle
from stream_detector.errors import StreamDetectorError
from training.options import Session, TrainOptions

PARTS = ("change", "level", "bias", "spread", "novelty", "model")
NEVER = 1e6  # times a threshold: no error reaches that
OTHERS: tuple[tuple[str, dict[str, Any]], ...] = (  # than what the default has
    *((f"{error} alone", {"error": error, "partners": False}) for error in ("newest", "mahalanobis", "mse", "mae")),
    ("conformal thresholds", {"threshold": "conformal"}),
    ("robust scaling", {"scaling": "robust"}),
    ("windows of 64, stride 8", {"length": 64, "stride": 8}),
)
HEAD = "| set | detector | F1 | precision | recall | FAR % | false alarms a sensor and day | NAB, low FP | VUS-PR |"

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=str(__doc__).partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds the sets")
    parser.add_argument("--sets", default=",".join(PLANS), help="some of them, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    given = parser.parse_args(arguments)
    if unknown := set(given.sets.split(",")) - set(PLANS):
        parser.error(f"--sets {', '.join(sorted(unknown))}: give some of {', '.join(PLANS)}")
    lines = [HEAD, "|---|---|" + "---:|" * 7]
    try:
        for name in given.sets.split(","):
            found: dict[str, list[Figures]] = {}
            for seed in range(given.seeds):
                for who, one in measure(name, given.data, seed):
                    found.setdefault(who, []).append(one)
                    console.print(row(name, who, [one]), highlight=False, soft_wrap=True)
            lines += [row(name, who, each) for who, each in found.items()]
    except StreamDetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def measure(name: str, data: Path, seed: int) -> Iterator[tuple[str, Figures]]:
    """What a set comes to, one choice after the other."""
    streams, plan = read_set(name, data), PLANS[name]
    scored = [stream for stream in streams if len(stream.test)]
    options = TrainOptions(length=plan.window, stride=plan.stride, seed=seed)
    with tempfile.TemporaryDirectory(prefix="choices-") as folder:
        work = Path(folder)
        session = Session(work / "checkpoints", resume=True, keep=True, pictures=False)

        def streamed(bundle: Path, plan: Plan = plan) -> Figures:
            return figures(name, scored, stream_through(bundle, scored, plan, work))

        learn(streams, options, work / "default", session)
        yield "as it comes", streamed(work / "default")
        for part in PARTS:
            if leave_out(work / "default", part, work / "less"):
                yield f"without {part}", streamed(work / "less")
        for who, other in OTHERS:
            anew = Session(pictures=False) if "scaling" in other or "length" in other else session
            learn(streams, replace(options, **other), work / "other", anew)
            yield who, streamed(work / "other", replace(plan, stride=other.get("stride", plan.stride)))


def leave_out(bundle: Path, part: str, out: Path) -> bool:
    """Write a bundle in which a part of the score says nothing, the others what they say; False if it has no such part.

    What the part could spend of the budget stays unspent.
    """
    whole = load_bundle(bundle)
    errors, thresholds = whole.errors, whole.thresholds
    if part == "model":
        high = tuple(msgspec.structs.replace(one, threshold=NEVER * one.threshold) for one in thresholds.entries)
        thresholds = msgspec.structs.replace(thresholds, entries=high)
    elif part == "novelty" and errors.novelty is not None:
        errors = msgspec.structs.replace(errors, novelty=None)
    elif part not in thresholds.partners:
        return False
    else:
        errors = msgspec.structs.replace(errors, partners=tuple(one for one in errors.partners if one.name != part))
        rest = {name: table for name, table in thresholds.partners.items() if name != part}
        thresholds = msgspec.structs.replace(thresholds, partners=rest)
    told: dict[str, Any] = {"scaler": whole.scaler, "errors": errors, "thresholds": thresholds}
    write_bundle(out, whole.manifest, model=bundle / "model.keras", **told)
    return True


def row(name: str, who: str, seeds: Sequence[Figures]) -> str:
    """One line of the table."""
    columns = [np.array(column) for column in zip(*seeds, strict=True)]
    middle = Figures(*(math.nan if np.isnan(column).all() else float(np.nanmedian(column)) for column in columns))
    low, high = (f"{end(one.f1 for one in seeds):.2f}" for end in (min, max))
    told = [f"{middle.f1:.2f}" + (f" ({low}–{high})" if low != high else ""), f"{middle.precision:.2f}"]
    told += [f"{middle.recall:.2f}", f"{middle.far:.2f}", f"{middle.false_per_day:.2g}"]
    told += [
        "" if math.isnan(middle.standard) else f"{middle.standard:.1f}, {middle.low_fp:.1f}",
        f"{middle.vus_pr:.2f}",
    ]
    return f"| {name} | {who} | {' | '.join(told)} |"


if __name__ == "__main__":
    sys.exit(main())
