"""How fast training is, next to named peers, in one run: ``python -m benchmarks.training`` (`make training`).

Windows a second that the LSTM autoencoder learns from, on one machine that everything shares: compare ratios.

- ours: `training.fit.fit`, with its validation, checkpoints off
- plain: ``model.fit`` on arrays with `EarlyStopping`, as people write it, on the same model
- torch: PyTorch's ``nn.LSTM`` as an autoencoder of the same shape, a plain loop with Adam

Each way runs in a process of its own, in turn, several rounds; the first epoch, which compiles, does not count.
PyTorch is needed for this alone; `make training` installs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stream_detector.events import Float32

LENGTH, FEATURES, UNITS, BATCH, EPOCHS = 64, 5, 100, 128, 4


def windows(count: int) -> tuple[Float32, Float32]:
    """Windows (count, W, F) to learn from and a seventh of it to validate with."""
    values = np.random.default_rng(0).normal(size=(count + count // 7, LENGTH, FEATURES)).astype(np.float32)
    return values[:count], values[count:]


def ours(kind: str, values: Float32, held: Float32) -> list[float]:
    """Seconds of each epoch."""
    from training.autoencoders import architecture
    from training.fit import fit

    family, times = architecture(kind), [time.perf_counter()]
    model = family.build(LENGTH, FEATURES, units=family.units)

    def after(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        times.append(time.perf_counter())

    fit(family.trainer(model), values, held, epochs=EPOCHS, batch=BATCH, patience=EPOCHS, progress=after)
    return np.diff(times).tolist()


def plain(kind: str, values: Float32, held: Float32) -> list[float]:
    """Seconds of each epoch."""
    import keras

    from training.autoencoders import architecture

    family, times = architecture(kind), [time.perf_counter()]
    model = family.build(LENGTH, FEATURES, units=family.units)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    model.fit(
        values,
        values,
        validation_data=(held, held),
        epochs=EPOCHS,
        batch_size=BATCH,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: times.append(time.perf_counter())),
            keras.callbacks.EarlyStopping("val_loss", patience=EPOCHS, restore_best_weights=True),
        ],
    )
    return np.diff(times).tolist()


def torch(kind: str, values: Float32, held: Float32) -> list[float]:
    """Seconds of each epoch, of the LSTM autoencoder."""
    import torch as pt  # type: ignore[import-not-found, unused-ignore]

    assert kind == "lstm"
    nn = pt.nn
    encoder, decoder = nn.LSTM(FEATURES, UNITS, batch_first=True), nn.LSTM(UNITS, UNITS, batch_first=True)
    step = nn.Linear(UNITS, FEATURES)

    def forward(given: Any) -> Any:
        code = encoder(given)[1][0][-1]  # (n, D)
        return step(decoder(code[:, None].expand(-1, LENGTH, -1))[0])  # (n, W, F)

    weights = [*encoder.parameters(), *decoder.parameters(), *step.parameters()]
    optimiser, loss, times = pt.optim.Adam(weights, 1e-3), nn.MSELoss(), [time.perf_counter()]
    learn, check = pt.from_numpy(values), pt.from_numpy(held)
    for _ in range(EPOCHS):
        for rows in pt.randperm(len(learn)).split(BATCH):
            optimiser.zero_grad()
            loss(forward(learn[rows]), learn[rows]).backward()
            optimiser.step()
        with pt.no_grad():
            assert sum(float(loss(forward(part), part)) for part in check.split(BATCH)) > 0
        times.append(time.perf_counter())
    return np.diff(times).tolist()


WAYS: Mapping[str, Callable[[str, Float32, Float32], list[float]]] = {"ours": ours, "plain": plain, "torch": torch}
KINDS = {"lstm": ("ours", "plain", "torch"), "dense": ("ours", "plain")}


def main() -> int:
    """Run every way in turn, print the table, and write what was measured as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2_048, help="to learn from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for what was measured")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, way = given.one
        print(json.dumps(WAYS[way](kind, *windows(given.windows))))
        return 0
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: `make training` installs it")
    rates: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in ways} for kind, ways in KINDS.items()}
    for _ in range(given.rounds):
        for kind, ways in KINDS.items():
            for way in ways:
                rates[kind][way].append(_rate(kind, way, given.windows * (1 if kind == "lstm" else 8)))
    table = Table(title=f"Windows of {LENGTH} × {FEATURES} learnt from per second (median of {given.rounds})")
    for name in ("model", "way", "windows/s", "lowest to highest", "ours is"):
        table.add_column(name, justify="left" if name in ("model", "way") else "right")
    for kind in rates:
        found_by_way = rates[kind]
        first = statistics.median(found_by_way["ours"])
        for way, found in found_by_way.items():
            rate = statistics.median(found)
            ratio = "" if way == "ours" else f"{first / rate:.2f} × as fast"
            table.add_row(kind, way, f"{rate:,.0f}", f"{min(found):,.0f} to {max(found):,.0f}", ratio)
    Console().print(table)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(rates, file)
    return 0


def _rate(kind: str, way: str, count: int) -> float:
    """Windows a second after the first epoch, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--windows", str(count), "--one", kind, way]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])[1:]
    return count / statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
