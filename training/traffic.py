"""Simulated network traffic: one row a flow, its 79 features as flow meters compute them, and whether it is an attack.

Flows are drawn by kind (web, name look-ups, mail, backups, …), and the features follow from packets, bytes and
times as they do in a real meter: they depend on each other, and many are 0 nearly always. Normal traffic has
its own rarities (backups, updates) that look unlike the rest; of the attacks, floods look unlike it too, scans
less so, and slow attacks (connections held open, data let out bit by bit) are close to ordinary web traffic.
Reconstruction alone cannot tell the rarities from the attacks; labels can.

Feature names are those of CICFlowMeter as in Sharafaldin et al. 2018, *Toward Generating a New Intrusion
Detection Dataset and Intrusion Traffic Characterization*, and the protocol.

``python -m training.traffic OUT.csv`` writes such a file.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import numpy as np

from stream_detector.events import Float64, Int64
from stream_detector.timestamps import parse, rfc3339_all


def _each(name: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in parts)


SPREAD = ("mean", "std", "max", "min")
FEATURES = (
    *("destination_port", "protocol", "flow_duration"),
    *("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes"),
    *_each("fwd_packet_length", *SPREAD),
    *_each("bwd_packet_length", *SPREAD),
    *("flow_bytes_per_s", "flow_packets_per_s"),
    *_each("flow_iat", *SPREAD),
    *_each("fwd_iat", "total", *SPREAD),
    *_each("bwd_iat", "total", *SPREAD),
    *("fwd_psh_flags", "bwd_psh_flags", "fwd_urg_flags", "bwd_urg_flags", "fwd_header_length", "bwd_header_length"),
    *("fwd_packets_per_s", "bwd_packets_per_s"),
    *_each("packet_length", "min", "max", "mean", "std", "variance"),
    *_each("flag_count", "fin", "syn", "rst", "psh", "ack", "urg", "cwe", "ece"),
    *("down_up_ratio", "average_packet_size", "fwd_segment_size", "bwd_segment_size", "fwd_header_length_1"),
    *_each("fwd_bulk", "bytes", "packets", "rate"),
    *_each("bwd_bulk", "bytes", "packets", "rate"),
    *_each("subflow", "fwd_packets", "fwd_bytes", "bwd_packets", "bwd_bytes"),
    *("init_window_fwd", "init_window_bwd", "fwd_data_packets", "fwd_segment_size_min"),
    *_each("active", *SPREAD),
    *_each("idle", *SPREAD),
)
START = parse("2026-09-07T00:00:00Z", UTC)
PERIOD = 2_000  # ms between the flows of a host, on average
ATTACK_SHARE = 0.03  # of the flows
EPISODE = 24  # flows of an attack, at most
TCP, UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Flow:
    """What a kind of flow is like: medians, where the spread is that of a lognormal."""

    share: float  # of its side: of normal traffic or of the attacks
    port: int  # 0: any
    protocol: int
    fwd: float  # packets
    bwd: float
    fwd_size: float  # bytes of a packet
    bwd_size: float
    gap: float  # µs between packets
    idle: float  # µs of each pause
    pauses: float  # per flow
    spread: float  # of the logarithms
    syn: int = 0
    rst: int = 0
    fin: int = 1


NORMAL = {
    "web": Flow(0.55, 443, TCP, 12, 16, 120, 820, 40e3, 6e6, 0.3, 0.55),
    "names": Flow(0.30, 53, UDP, 2, 2, 45, 130, 25e3, 0, 0.0, 0.3, fin=0),
    "mail": Flow(0.10, 993, TCP, 10, 10, 90, 240, 80e3, 9e6, 1.5, 0.5),
    "session": Flow(0.03, 443, TCP, 30, 28, 70, 110, 300e3, 12e6, 6.0, 0.5),  # held open for long, like an attack
    "update": Flow(0.012, 80, TCP, 250, 900, 60, 1_400, 1.5e3, 0, 0.0, 0.4),
    "backup": Flow(0.008, 873, TCP, 1_500, 500, 1_380, 60, 1e3, 0, 0.0, 0.4),
}
ATTACKS = {
    "flood": Flow(0.2, 80, TCP, 700, 3, 40, 20, 60, 0, 0.0, 0.3, syn=1, fin=0),
    "scan": Flow(0.3, 0, TCP, 1, 1, 12, 6, 15e3, 0, 0.0, 0.2, syn=1, rst=1, fin=0),
    "slow": Flow(0.3, 443, TCP, 16, 7, 60, 90, 250e3, 9e6, 5.0, 0.4, fin=0),
    "exfiltration": Flow(0.2, 443, TCP, 22, 9, 700, 90, 45e3, 6e6, 0.3, 0.4),
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Flows in time order. ``n`` flows."""

    hosts: list[str]  # (n)
    timestamps: Int64  # (n) epoch ms, rising per host
    values: Float64  # (n, 79)
    labels: Int64  # (n) 1: attack
    kinds: list[str]  # (n)


def write_traffic(
    path: Path, *, flows: int = 20_000, hosts: int = 8, share: float = ATTACK_SHARE, seed: int = 0
) -> Traffic:
    """Write ``sensor_id,timestamp``, the features and ``label``; the same bytes for the same arguments."""
    traffic = simulate(flows, hosts, share, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.write(",".join(["sensor_id", "timestamp", *FEATURES, "label"]) + "\n")
        rows = zip(traffic.hosts, rfc3339_all(traffic.timestamps), traffic.values.tolist(), traffic.labels, strict=True)
        for host, stamp, values, label in rows:
            stream.write(f"{host},{stamp},{','.join(f'{value:.6g}' for value in values)},{label}\n")
    return traffic


def simulate(flows: int, hosts: int, share: float = ATTACK_SHARE, seed: int = 0) -> Traffic:
    """Flows of all hosts, merged in time order; ``share`` of them are attacks, rounded to whole flows."""
    if not 1 <= hosts <= flows or not 0 <= share < 1:
        raise ValueError(f"{flows} flows of {hosts} hosts, {share} attacks: no more hosts than flows, a share below 1")
    rng = np.random.default_rng(seed)
    owners = np.sort(np.arange(flows) % hosts)  # (n) by host, for now
    attack = _episodes(rng, flows, round(flows * share))  # (n) index of the attack's kind + 1
    normal = rng.choice(len(NORMAL), flows, p=[flow.share for flow in NORMAL.values()])
    names = [*NORMAL, *ATTACKS]
    kinds = np.where(attack > 0, attack - 1 + len(NORMAL), normal)
    values = _measure(rng, [{**NORMAL, **ATTACKS}[names[kind]] for kind in kinds])
    gaps = np.maximum(1, rng.exponential(PERIOD, flows)).astype(np.int64)
    passed = np.cumsum(gaps)
    first = np.searchsorted(owners, np.arange(hosts))
    times = START + passed - passed[first][owners] + rng.integers(0, PERIOD, hosts)[owners]
    order = np.argsort(times, kind="stable")
    return Traffic(
        [f"host-{owners[row] + 1}" for row in order],
        times[order],
        values[order],
        (attack[order] > 0).astype(np.int64),
        [names[kinds[row]] for row in order],
    )


def _episodes(rng: np.random.Generator, flows: int, wanted: int) -> Int64:
    """Attacks come in runs of one kind: 0, or the kind + 1, of each flow (n); ``wanted`` flows in all."""
    attack = np.zeros(flows, np.int64)
    shares = [flow.share for flow in ATTACKS.values()]
    left = wanted
    while left:
        length = min(left, int(rng.integers(EPISODE // 2, EPISODE + 1)))
        begin = int(rng.integers(0, flows))
        free = begin + np.flatnonzero(attack[begin : begin + length] == 0)
        attack[free] = rng.choice(len(ATTACKS), p=shares) + 1
        left -= len(free)
    return attack


def _measure(rng: np.random.Generator, flows: list[Flow]) -> Float64:
    """Features (n, 79) from what each flow is like."""
    n = len(flows)

    def told(name: str) -> Float64:
        return np.array([getattr(flow, name) for flow in flows], np.float64)

    def drawn(name: str, least: float = 0.0) -> Float64:
        return np.maximum(least, told(name) * np.exp(told("spread") * rng.standard_normal(n)))

    fwd, bwd = np.ceil(drawn("fwd", 1)), np.floor(drawn("bwd") + 0.5)
    sizes = {"fwd": np.minimum(1_460, drawn("fwd_size")), "bwd": np.minimum(1_460, drawn("bwd_size")) * (bwd > 0)}
    varied = {side: rng.uniform(0.2, 0.8, n) for side in ("fwd", "bwd", "iat")}
    packets, bytes_ = fwd + bwd, fwd * sizes["fwd"] + bwd * sizes["bwd"]
    gap, pauses = drawn("gap", 1), rng.poisson(told("pauses")).astype(np.float64)
    idle = drawn("idle") * (pauses > 0)
    active = gap * (packets - 1)
    duration = np.maximum(1, active + pauses * idle)
    tcp = (told("protocol") == TCP).astype(np.float64)
    port = np.where(told("port") > 0, told("port"), rng.integers(1, 49_152, n))
    length = bytes_ / packets
    deviation = np.sqrt(
        (fwd * (sizes["fwd"] - length) ** 2 + bwd * (sizes["bwd"] - length) ** 2) / packets
        + (length * varied["fwd"]) ** 2 * (packets > 2)
    )

    def spread(mean: Float64, many: Float64, how: Float64) -> list[Float64]:
        """Mean, deviation, greatest and least of ``many``."""
        std = mean * how * (many > 1)
        return [mean, std, mean + std * np.sqrt(np.minimum(many, 9)), np.maximum(0, mean - 1.2 * std)]

    def between(many: Float64) -> list[Float64]:
        """Total and spread of the times between ``many`` packets."""
        some = (many > 1).astype(np.float64)
        mean = duration / np.maximum(1, many - 1) * some
        return [duration * some, *spread(mean, many, varied["iat"] + 2 * (pauses > 0))]

    ack = tcp * np.maximum(0, packets - 1)
    psh = tcp * np.floor(0.3 * packets)
    zero = np.zeros(n)
    heavy = (bytes_ > 2e5).astype(np.float64)
    columns = [
        *(port, told("protocol"), duration, fwd, bwd, fwd * sizes["fwd"], bwd * sizes["bwd"]),
        *spread(sizes["fwd"], fwd, varied["fwd"]),
        *spread(sizes["bwd"], bwd, varied["bwd"]),
        *(1e6 * bytes_ / duration, 1e6 * packets / duration),
        *between(packets)[1:],
        *between(fwd),
        *between(bwd),
        *((psh > 0) * 1.0, zero, zero, zero, 20 * fwd, 20 * bwd),
        *(1e6 * fwd / duration, 1e6 * bwd / duration),
        *(np.maximum(0, length - deviation), length + 2 * deviation, length, deviation, deviation**2),
        *(told("fin"), told("syn"), told("rst"), psh, ack, zero, zero, zero),
        *(np.floor(bwd / fwd), length * (1 + 1 / packets), sizes["fwd"], sizes["bwd"], 20 * fwd),
        *(heavy * sizes["fwd"] * 4, heavy * 4, heavy * 1e6 * fwd * sizes["fwd"] / duration),
        *(heavy * sizes["bwd"] * 4, heavy * 4, heavy * 1e6 * bwd * sizes["bwd"] / duration),
        *(x / (1 + pauses) for x in (fwd, fwd * sizes["fwd"], bwd, bwd * sizes["bwd"])),
        *(tcp * 8_192 * rng.integers(1, 8, n), tcp * 8_192 * (bwd > 0) * rng.integers(1, 8, n)),
        *(np.floor(fwd * (sizes["fwd"] > 0) * 0.6), 20.0 + 12 * tcp),
        *(x * (pauses > 0) for x in spread(active / (1 + pauses), pauses, varied["fwd"])),
        *spread(idle, pauses, varied["bwd"]),
    ]
    return np.column_stack(columns)


def main() -> None:
    """Write flows as the command line says; a mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(
        "python -m training.traffic", description="Write flows of a network, labelled per row."
    )
    parser.add_argument("out", type=Path, metavar="OUT.csv")
    parser.add_argument("--flows", type=int, default=20_000, help=f"of which {ATTACK_SHARE:.0%}% are attacks (20000)")
    parser.add_argument("--hosts", type=int, default=8, help="that they belong to (8)")
    parser.add_argument("--seed", type=int, default=0, help="the same one writes the same bytes (0)")
    given = parser.parse_args()
    try:
        traffic = write_traffic(given.out, flows=given.flows, hosts=given.hosts, seed=given.seed)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    parser.exit(0, f"wrote {len(traffic.hosts)} flows, {traffic.labels.sum()} of attacks, to {given.out}\n")


if __name__ == "__main__":
    main()
