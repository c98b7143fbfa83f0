"""Simulated flows are consistent with themselves, and as imbalanced as stated."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.events import Float64
from training.traffic import ATTACK_SHARE, ATTACKS, FEATURES, NORMAL, Traffic, simulate, write_traffic


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return simulate(6_000, 4, seed=3)


def column(traffic: Traffic, name: str) -> Float64:
    found: Float64 = traffic.values[:, FEATURES.index(name)]
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(6, 300), st.floats(0, 0.5))
def test_same_seed_same_bytes_and_imbalance_as_stated(seed: int, hosts: int, flows: int, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("first", "same", "other")]
        first, same, other = (
            write_traffic(file, flows=flows, hosts=hosts, share=share, seed=own)
            for file, own in zip(files, (seed, seed, seed + 1), strict=True)
        )
        assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
        assert first.labels.sum() == same.labels.sum() == other.labels.sum() == round(flows * share)
        for host in set(first.hosts):
            assert (np.diff(first.timestamps[np.array(first.hosts) == host]) > 0).all()
        assert (np.diff(first.timestamps) >= 0).all()


def test_79_features_by_name_in_the_file(tmp_path: Path) -> None:
    wrote = write_traffic(tmp_path / "made" / "traffic.csv", flows=200, hosts=2)
    with (tmp_path / "made" / "traffic.csv").open(encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert len(FEATURES) == len(set(FEATURES)) == 79
    assert header == ["sensor_id", "timestamp", *FEATURES, "label"]
    assert len(rows) == 200
    np.testing.assert_allclose([[float(cell) for cell in row[2:-1]] for row in rows], wrote.values, rtol=1e-5)
    assert [int(row[-1]) for row in rows] == wrote.labels.tolist()
    assert sum(wrote.labels) == round(200 * ATTACK_SHARE)


def test_features_depend_on_each_other_as_in_a_meter(traffic: Traffic) -> None:
    assert np.isfinite(traffic.values).all()
    assert (traffic.values >= 0).all()
    packets = column(traffic, "fwd_packets") + column(traffic, "bwd_packets")
    size = column(traffic, "fwd_bytes") + column(traffic, "bwd_bytes")
    seconds = column(traffic, "flow_duration") / 1e6
    np.testing.assert_allclose(column(traffic, "flow_packets_per_s"), packets / seconds)
    np.testing.assert_allclose(column(traffic, "flow_bytes_per_s"), size / seconds)
    np.testing.assert_allclose(column(traffic, "packet_length_mean"), size / packets)
    np.testing.assert_allclose(column(traffic, "packet_length_variance"), column(traffic, "packet_length_std") ** 2)
    assert (column(traffic, "fwd_packet_length_min") <= column(traffic, "fwd_packet_length_max")).all()


def test_every_kind_occurs_and_attacks_come_in_runs(traffic: Traffic) -> None:
    kinds = np.array(traffic.kinds)
    assert set(kinds) == {*NORMAL, *ATTACKS}
    np.testing.assert_array_equal(np.isin(kinds, list(ATTACKS)), traffic.labels == 1)
    hosts = np.array(traffic.hosts)
    starts = sum(int((np.diff(np.r_[0, traffic.labels[hosts == host]]) == 1).sum()) for host in set(traffic.hosts))
    assert traffic.labels.sum() / starts > 6


def test_slow_attacks_hide_among_normal_flows_and_floods_do_not(traffic: Traffic) -> None:
    kinds, normal = np.array(traffic.kinds), traffic.labels == 0
    rate = np.log(column(traffic, "flow_packets_per_s"))
    high = np.quantile(rate[normal], 0.99)
    assert (rate[kinds == "flood"] > high).mean() > 0.9
    low, high = np.quantile(traffic.values[normal], (0.001, 0.999), axis=0)  # (79)
    outside = (traffic.values < low) | (traffic.values > high)  # (n, 79)
    assert outside[kinds == "slow"].mean() < 0.05
    assert outside[kinds == "flood"].mean() > 2 * outside[kinds == "slow"].mean()


@pytest.mark.parametrize(("flows", "hosts", "share"), [(2, 3, 0.1), (10, 0, 0.1), (10, 1, 1.0), (10, 1, -0.1)])
def test_senseless_arguments(flows: int, hosts: int, share: float) -> None:
    with pytest.raises(ValueError, match="flows of"):
        simulate(flows, hosts, share)
